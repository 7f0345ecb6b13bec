//! Exact resume, inside one process: stopped at each of its events, a run goes on to the same bytes and losses.

use std::path::Path;

use lorakit::train::{Control, Event, State, StopReason};

use crate::training::Fixture;

/// Accumulation, packing, evaluations, checkpoints between; gradients are written out.
const SMALL: &[&str] = &[
    "train.steps=5",
    "train.accumulate=3",
    "train.batch_size=2",
    "train.packing=true",
    "train.eval_every=2",
    "train.save_every=3",
    "train.lr=0.05",
];

/// A module that is trained whole.
const WHOLE_HEAD: &str = r#"adapter.modules_to_save=["lm_head"]"#;

fn fixture(more: &[&str]) -> Fixture {
    Fixture::new(&[SMALL, more].concat())
}

/// What a run leaves.
#[derive(Debug, PartialEq)]
struct Ended {
    reason: StopReason,
    adapter: Vec<u8>,
    /// Bits of the losses of every step and evaluation.
    losses: Vec<(&'static str, usize, u64)>,
    best: Vec<Vec<f32>>,
}

/// Runs on from `state`; at the `stop`-th event the listener asks for `ask`. Gives what the run left, the newest state it
/// offered, and the number of events.
fn run(f: &Fixture, state: Option<State>, stop: usize, ask: Control) -> (Ended, Option<Vec<u8>>, usize) {
    let adapter = f.adapter();
    let (mut losses, mut best, mut saved, mut events) = (Vec::new(), Vec::new(), None, 0);
    let reason = f.run(&adapter, state, &mut |event| {
        match event {
            Event::Step { step, loss, balance, .. } => {
                losses.push(("step", step, loss.to_bits()));
                losses.extend(balance.map(|balance| ("balance", step, balance.to_bits())));
            }
            Event::Eval { step, loss, .. } => losses.push(("eval", step, loss.to_bits())),
            Event::Save { state, .. } => saved = Some(state.to_bytes()?),
            Event::Finished { best: values, .. } => {
                let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
                best = values.iter().map(flat).collect();
            }
            _ => {}
        }
        events += 1;
        Ok(if events == stop { ask } else { Control::Go })
    });
    let ended = Ended { reason: reason.unwrap(), adapter: adapter.to_safetensors().unwrap(), losses, best };
    (ended, saved, events)
}

fn read(bytes: &[u8]) -> State {
    State::from_bytes(bytes, Path::new("memory")).unwrap()
}

/// Stops at every event in turn and goes on from the state saved then.
fn stopped_everywhere(f: &Fixture) {
    let (want, _, events) = run(f, None, usize::MAX, Control::Go);
    assert!(!want.best.is_empty(), "an evaluation chose a best adapter");
    let (mut within, mut unjudged) = (0, 0);
    for stop in 1..events {
        let (first, saved, _) = run(f, None, stop, Control::Stop);
        let state = read(&saved.unwrap());
        within += usize::from(state.progress.within.micro > 0);
        unjudged += usize::from(state.progress.step > 0 && state.progress.judged == 0 && state.progress.step.is_multiple_of(2));
        let (second, ..) = run(f, Some(state), usize::MAX, Control::Go);
        let losses = [first.losses, second.losses].concat();
        assert!(Ended { losses, ..second } == want, "stopped at event {stop} of {events}, it ended otherwise");
    }
    println!("{events} events; {within} stops within a step, {unjudged} before its evaluation");
    assert!(within >= 5 && unjudged >= 1);
}

#[test]
fn stopped_at_any_event_it_ends_the_same_with_a_module_trained_whole() {
    stopped_everywhere(&fixture(&["adapter.dropout=0.1", WHOLE_HEAD]));
}

#[test]
fn stopped_at_any_event_it_ends_the_same() {
    stopped_everywhere(&fixture(&["adapter.dropout=0.1"]));
}

/// What gate and up of an expert share is one matrix then, with one state.
#[test]
fn stopped_at_any_event_it_ends_the_same_with_parameters_of_experts() {
    for f in [Fixture::of_experts(SMALL), Fixture::of_experts(SMALL).in_tensors()] {
        stopped_everywhere(&f);
        let (ended, ..) = run(&f, None, usize::MAX, Control::Go);
        let balances: Vec<f64> =
            ended.losses.iter().filter(|(what, ..)| *what == "balance").map(|l| f64::from_bits(l.2)).collect();
        // Two experts a token, met as evenly as that.
        assert!(balances.len() == 5 && balances.iter().all(|balance| (1.9..3.0).contains(balance)), "{balances:?}");
    }
}

/// Values and moments are one buffer each then, and the state is the same file.
#[test]
fn stopped_at_any_event_it_ends_the_same_in_tensor_operations() {
    let f = fixture(&["adapter.dropout=0.1"]).in_tensors();
    stopped_everywhere(&f);
    let (in_kernels, saved, _) = run(&fixture(&["adapter.dropout=0.1"]), None, 12, Control::Stop);
    let (mixed, ..) = run(&f, Some(read(&saved.unwrap())), usize::MAX, Control::Go);
    let losses = [in_kernels.losses, mixed.losses].concat();
    let (want, ..) = run(&f, None, usize::MAX, Control::Go);
    assert_eq!(losses.len(), want.losses.len());
    for ((what, step, got), (.., want)) in losses.iter().zip(&want.losses) {
        let [got, want] = [got, want].map(|bits| f64::from_bits(*bits));
        assert!((got - want).abs() < 1e-3 * want, "{what} {step}: begun in kernels {got}, in tensor operations {want}");
    }
}

#[test]
fn stopped_at_any_event_a_mixture_goes_on_with_the_draws_that_were_due() {
    let tiny = crate::training::recipe_file();
    let path = |name: &str| tiny.with_file_name(name).display().to_string();
    let (train, few) = (path("train.jsonl"), path("few.jsonl"));
    let weights = format!(r#"data.train=[{{path="{train}", weight=1}}, {{path="{few}", name="few", weight=2}}]"#);
    let f = fixture(&[&weights, "data.mixture.rows=17", "adapter.dropout=0.1"]);
    assert!(!f.mixture.is_plain());
    stopped_everywhere(&f);
}

#[test]
fn an_early_stop_that_was_due_is_due_after_resuming() {
    let f = fixture(&["train.steps=400", "train.accumulate=1", "train.lr=0.3", "train.early_stop=2", "train.schedule=constant"]);
    let (want, saved, _) = run(&f, None, usize::MAX, Control::Go);
    assert_eq!(want.reason, StopReason::EarlyStop);
    let (again, more, events) = run(&f, Some(read(&saved.unwrap())), usize::MAX, Control::Go);
    assert_eq!((again.reason, events, more), (StopReason::EarlyStop, 2, None), "nothing is left to do or to save");
    assert!(again.adapter == want.adapter && again.best == want.best);
}

#[test]
fn a_state_asked_for_is_offered_and_changes_nothing() {
    let f = fixture(&["adapter.dropout=0.1", "train.save_every=0", "train.eval_every=0"]);
    let (want, ..) = run(&f, None, usize::MAX, Control::Go);
    let mut saves = Vec::new();
    let adapter = f.adapter();
    let reason = f.run(&adapter, None, &mut |event| {
        if let Event::Save { state, .. } = &event {
            saves.push((state.progress.step, state.progress.within.micro));
        }
        Ok(if matches!(event, Event::Micro { step: 2, .. }) { Control::Save } else { Control::Go })
    });
    assert_eq!(reason.unwrap(), StopReason::Complete);
    assert_eq!(saves, [(1, 1), (1, 2), (5, 0)], "after each micro-step that asked, and at the end");
    assert!(adapter.to_safetensors().unwrap() == want.adapter);
}

#[test]
fn the_number_of_threads_does_not_change_the_adapter() {
    for more in ["adapter.dropout=0.1", "adapter.dropout=0.0", WHOLE_HEAD] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fixture(&[more]).undisturbed())
        };
        assert!(run(1) == run(2), "one thread and two give different bytes or losses with {more}");
    }
}
