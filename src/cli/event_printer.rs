//! The events of a job on the terminal: lines and bars. Refuses to know arguments and what came of the job.

use super::progress::{ProgressDisplay, Unit};
use super::run_clock::RunClock;
use super::{forecast, mixture_shares, stop};
use crate::adapter::Adapter;
use crate::data::{self as rows, Loaded};
use crate::error::Result;
use crate::job::{Control, FreshRun, JobEvent, Sought, before_and_after};
use crate::model::resolve::Note;
use crate::train;
use crate::train::mixture::Mixture;
use crate::train::pack::Fill;

/// Draws what a job tells, and answers whether a signal asked to stop.
pub(super) struct EventPrinter {
    /// Nothing is said of where the base is looked for, unless it is fetched.
    quiet: bool,
    /// Standard output is kept for something else.
    aside: bool,
    /// The bar that is drawn, and what it is of.
    bar: Option<(String, ProgressDisplay)>,
    /// The bar of an evaluation during training, below the one of training.
    judging: Option<ProgressDisplay>,
    clock: RunClock,
    /// Tokens of a held-out row.
    heldout_row: f64,
}

impl EventPrinter {
    pub(super) fn new(quiet: bool) -> EventPrinter {
        EventPrinter { quiet, aside: false, bar: None, judging: None, clock: RunClock::default(), heldout_row: 0.0 }
    }

    /// With the lines of a run on standard error.
    pub(super) fn aside(self, aside: bool) -> EventPrinter {
        EventPrinter { aside, ..self }
    }

    /// As a job takes it.
    pub(super) fn listener(mut self) -> impl FnMut(JobEvent<'_>) -> Result<Control> {
        move |event| {
            self.draw(event);
            Ok(if stop::asked() { Control::Stop } else { Control::Go })
        }
    }

    /// A line of a run.
    fn say(&self, line: &str) {
        say(self.aside, line);
    }

    fn draw(&mut self, event: JobEvent<'_>) {
        match event {
            JobEvent::Looking { sought, note } => self.looking(sought, note),
            JobEvent::Reading(at) => self.reading(at),
            JobEvent::KeptTokens(text) => eprintln!("data: {text}"),
            JobEvent::Warning(text) => eprintln!("warning: {text}"),
            JobEvent::Remark(text) => eprintln!("note: {text}"),
            JobEvent::Complete(out) => self.say(&format!("{} is complete: nothing is left to do", out.display())),
            JobEvent::Prepared { adapter, loaded, mixture, packing } => self.prepared(adapter, loaded, mixture, packing),
            JobEvent::Resuming { progress: Some(progress), .. } => goes_on(progress),
            JobEvent::Resuming { out, progress: None } => {
                eprintln!("nothing was saved in {} yet: training from the beginning", out.display());
            }
            JobEvent::Stoppable => stop::save_first(),
            JobEvent::Ready { seconds, parts } => {
                let said: Vec<String> = parts.iter().map(|(what, seconds)| format!("{what} {seconds:.2}")).collect();
                eprintln!("ready in {seconds:.2} s ({})", said.join(", "));
            }
            JobEvent::Training { event, heldout, tokens_per_second } => self.training(event, heldout, tokens_per_second),
            JobEvent::Trained { step, seconds } => {
                self.say(&format!("trained to step {step} in {seconds:.0} s; now the proof"));
            }
            JobEvent::Evaluating { who, what, done, all } => {
                self.bar(&format!("{who}: {what}"), all as u64, Unit::Items).set(done as u64, "");
            }
            JobEvent::Merging { done, all } => {
                self.bar("merging", 0, Unit::Items).set(done as u64, &format!("{done} of {all} tensors"));
            }
            JobEvent::RowsRead | JobEvent::EvaluationDone { .. } | JobEvent::Merged => self.bar = None,
            JobEvent::AdapterSaved(_) | JobEvent::Text(_) => {}
        }
    }

    /// The bar of `what`, a new one if another is drawn.
    fn bar(&mut self, what: &str, total: u64, unit: Unit) -> &mut ProgressDisplay {
        let other = self.bar.take().filter(|(drawn, _)| drawn == what);
        &mut self.bar.insert(other.unwrap_or_else(|| (what.to_string(), ProgressDisplay::new(what, total, unit)))).1
    }

    fn looking(&mut self, sought: Sought, note: Note) {
        let name = match sought {
            Sought::Base => "base",
            Sought::Data => "data",
        };
        // The last that is said of a data set is that it was found, or that it was not; a base is looked for elsewhere then.
        let last = matches!(&note, Note::Found(_)) || (sought == Sought::Data && matches!(&note, Note::Failed(_)));
        match note {
            Note::Progress { done, total, what } => {
                // One bar for all that is fetched.
                let bar = || (what.clone(), ProgressDisplay::new(&what, total.unwrap_or(0), Unit::Bytes));
                self.bar.get_or_insert_with(bar).1.set(done, "");
            }
            // Where a base was looked for in vain is said when it is nowhere, by the error.
            Note::Trying(what) if sought == Sought::Data => eprintln!("{name}: trying {what}"),
            Note::Failed(what) if sought == Sought::Data => eprintln!("{name}: {what}"),
            Note::Found(what) if !self.silent(sought) => eprintln!("{name}: {what}"),
            _ => {}
        }
        if last {
            self.bar = None;
        }
    }

    fn silent(&self, sought: Sought) -> bool {
        self.quiet && sought == Sought::Base
    }

    fn reading(&mut self, at: rows::LoadProgress) {
        let bar = self.bar("data", at.total, Unit::Bytes);
        bar.set(at.bytes, &format!("{} rows, {} tokens, {:.0} rows/s", at.rows, at.tokens, at.rows as f64 / bar.seconds()));
    }

    fn prepared(&mut self, adapter: &Adapter, loaded: &Loaded, mixture: &Mixture, packing: Option<Fill>) {
        let report = &loaded.report.train;
        self.heldout_row = loaded.report.heldout.tokens as f64 / (loaded.heldout.len() as f64).max(1.0);
        self.say(&format!(
            "training {} values on {} rows, {} held out; {} tokens, {:.0} % of them trained",
            adapter.param_count(),
            loaded.train.len(),
            loaded.heldout.len(),
            report.tokens,
            report.share_trained() * 100.0
        ));
        let shares = mixture_shares::planned(mixture);
        if !shares.is_empty() {
            self.say(shares.trim_end());
        }
        if let Some(fill) = packing {
            self.say(&format!("packed {fill}"));
        }
    }

    fn training(&mut self, event: &train::Event, heldout: Option<f64>, rate: f64) {
        match event {
            train::Event::Started { steps, heldout, eval_every, .. } => {
                let eval_tokens = self.heldout_row * *heldout as f64;
                self.clock = RunClock::new(*steps, *eval_every, eval_tokens);
                self.bar = Some(("training".into(), ProgressDisplay::timed_elsewhere("training", *steps as u64, Unit::Items)));
            }
            train::Event::Step { step, loss, balance, seconds, .. } => {
                self.clock.stepped(*seconds);
                let heldout = heldout.map(|l| format!(", held out {l:.4}")).unwrap_or_default();
                let left = match self.clock.left(*step, rate) {
                    left if left > 0.0 => format!(", {} left", forecast::duration(left)),
                    _ => String::new(),
                };
                if let Some((_, bar)) = &mut self.bar {
                    let balance = balance.map(|balance| format!(", balance {balance:.3}")).unwrap_or_default();
                    bar.set(*step as u64, &format!("loss {loss:.4}{heldout}{balance}, {rate:.0} tokens/s{left}"));
                }
            }
            train::Event::Judging { step, done, all } => {
                self.clock.judges();
                if let Some((_, training)) = &self.bar {
                    let new = || training.within(&format!("evaluation after step {step}"), *all as u64, Unit::Items);
                    self.judging.get_or_insert_with(new).set(*done as u64, "");
                }
            }
            train::Event::Eval { .. } => {
                self.clock.has_judged();
                self.judging = None;
            }
            train::Event::Finished { .. } => (self.judging, self.bar) = (None, None),
            _ => {}
        }
    }
}

/// A line on standard output, or on standard error where that is kept for something else.
pub(super) fn say(aside: bool, line: &str) {
    if aside { eprintln!("{line}") } else { println!("{line}") }
}

/// What came of a run that was trained now.
pub(super) fn results(fresh: &FreshRun, aside: bool) {
    if !fresh.drawn.is_empty() {
        say(aside, &format!("\n{}", mixture_shares::drawn(&fresh.mixture, &fresh.drawn).trim_end()));
    }
    say(aside, &format!("\n{}{}", fresh.evaluation.table(), before_and_after(&fresh.samples)));
}

fn goes_on(after: &train::TrainProgress) {
    match after.within.micro {
        0 => eprintln!("going on after step {}", after.step),
        micro => eprintln!("going on after step {}, {micro} micro-steps into the next", after.step),
    }
}
