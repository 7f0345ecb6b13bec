//! Time of a run, from a few of its steps.

use std::time::{Duration, Instant};

use super::PlannedRun;
use crate::data::Examples;
use crate::error::Result;
use crate::model::Marked;
use crate::recipe;
use crate::train::{self, Control, Event, TrainSetup};

/// Steps that are timed after one that is not, and when there are enough of them.
const STEPS: usize = 3;
const ENOUGH: Duration = Duration::from_secs(10);

/// How long a run takes on this machine, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Time {
    /// Tokens a second while training.
    pub tok_s: f64,
    /// Seconds of all steps.
    pub training: f64,
    /// Seconds of all evaluations on the held-out rows; the proof at the end is not in it.
    pub evaluation: f64,
}

/// Trains `run.adapter` for a few micro-batches of the run's own rows and judges a few held-out ones. The adapter is not
/// to be used after it.
///
/// # Errors
/// What training reports.
pub fn measure(run: &TrainSetup, work: &PlannedRun) -> Result<Time> {
    let settings = recipe::Train {
        steps: Some(STEPS + 1),
        accumulate: 1,
        eval_every: 0,
        save_every: 0,
        early_stop: None,
        ..run.settings.clone()
    };
    let none = Examples::default();
    let job = TrainSetup { heldout: &none, settings: &settings, ..*run };
    let (began, mut timed, mut spent) = (Instant::now(), 0, 0.0);
    train::run(&job, None, &mut |event| {
        if let Event::Step { step, tokens, seconds, .. } = event {
            // The first step pays for what is made once, and counts only when it is all there is.
            if step == 2 {
                (timed, spent) = (0, 0.0);
            }
            timed += tokens;
            spent += seconds;
        }
        Ok(if began.elapsed() > ENOUGH { Control::Stop } else { Control::Go })
    })?;
    let tok_s = timed as f64 / spent;
    Ok(Time { tok_s, training: work.tokens as f64 / tok_s, evaluation: work.evaluations as f64 * judging(run)? })
}

/// Seconds of one evaluation, from one batch of held-out rows.
fn judging(run: &TrainSetup) -> Result<f64> {
    let some = &run.heldout.first(run.settings.batch_size);
    let tokens = |rows: &Examples| (0..rows.len()).map(|i| rows.length(i)).sum::<usize>() as f64;
    if some.is_empty() || run.settings.eval_every == 0 {
        return Ok(0.0);
    }
    let started = Instant::now();
    let ids: Vec<&[u32]> = some.iter().map(|e| e.ids).collect();
    let texts = Marked { ids: &ids, trained: &|text, i| some.get(text).trained.get(i) };
    run.model.score(&run.adapter.frozen(), texts, run.settings.batch_size, &mut |_| Ok(()))?;
    Ok(started.elapsed().as_secs_f64() * tokens(run.heldout) / tokens(some))
}
