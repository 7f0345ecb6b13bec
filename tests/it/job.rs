//! A job as a library user runs it: it prints nothing, tells everything, and stops where nothing is lost.

use std::path::Path;
use std::time::Instant;

use lorakit::files::sha256_file;
use lorakit::job::{self, Control, Existing, JobEvent, TrainJob};
use lorakit::recipe::Recipe;
use lorakit::train::Event;

use crate::training::recipe_file;

fn recipe() -> Recipe {
    Recipe::load(&recipe_file(), &["train.steps=6".to_string(), "train.save_every=0".to_string()]).unwrap()
}

/// What of a run must not depend on whether it was stopped.
fn adapter(out: &Path) -> String {
    sha256_file(&out.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_stopped_job_goes_on_to_the_same_adapter() {
    let (recipe, dir) = (recipe(), tempfile::tempdir().unwrap());
    let (whole, halves) = (dir.path().join("whole"), dir.path().join("halves"));
    let (mut steps, mut ready, mut judged) = (0, false, 0);
    let done = job::train(&recipe, &whole, &mut |event| {
        match event {
            JobEvent::Ready { seconds, parts } => ready = seconds >= 0.0 && parts.iter().any(|(what, _)| *what == "data"),
            JobEvent::Training { event: Event::Step { step, .. }, .. } => steps = *step,
            JobEvent::EvaluationDone { .. } => judged += 1,
            _ => {}
        }
        Ok(Control::Go)
    })
    .unwrap();
    assert_eq!((steps, ready, judged), (6, true, 2));
    let fresh = done.fresh.unwrap();
    assert_eq!(done.results["adapter"]["loss"].as_f64(), Some(fresh.evaluation.heldout.adapter.loss));

    let stopped = job::train(&recipe, &halves, &mut |event| {
        let third = matches!(event, JobEvent::Training { event: Event::Step { step: 3, .. }, .. });
        Ok(if third { Control::Stop } else { Control::Go })
    });
    assert_eq!(stopped.err().unwrap().exit_code(), 130);
    let taken = job::train(&recipe, &halves, &mut |_| Ok(Control::Go)).err().unwrap();
    assert!(taken.to_string().contains("there is a run here already"), "{taken}");

    let go_on = TrainJob { recipe: &recipe, out: &halves, existing: Existing::Resume, began: Instant::now() };
    let mut after = None;
    let mut listener = |event: JobEvent<'_>| {
        if let JobEvent::Resuming { progress, .. } = event {
            after = progress.map(|p| p.step);
        }
        Ok(Control::Go)
    };
    assert_eq!(go_on.run(&mut listener).unwrap().results, done.results);
    assert!(go_on.run(&mut listener).unwrap().fresh.is_none());
    assert_eq!(after, Some(3));
    assert_eq!(adapter(&halves), adapter(&whole));
}
