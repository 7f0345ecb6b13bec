//! Progress on standard error: a bar with rate and ETA on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between plain lines.
const EVERY: Duration = Duration::from_secs(5);

/// The progress of one piece of work.
pub(super) struct ProgressDisplay {
    bar: Option<(ProgressBar, MultiProgress)>,
    /// Whoever draws it says itself how long it will take.
    timed_elsewhere: bool,
    what: String,
    total: u64,
    unit: Unit,
    started: Instant,
    said: Instant,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Items,
    Bytes,
}

impl ProgressDisplay {
    /// `total` = 0 when it is not known.
    pub(super) fn new(what: &str, total: u64, unit: Unit) -> ProgressDisplay {
        ProgressDisplay::among(ProgressDisplay::terminal(), what, total, unit, false)
    }

    /// As [`ProgressDisplay::new`], where the notes say how much time is left.
    pub(super) fn timed_elsewhere(what: &str, total: u64, unit: Unit) -> ProgressDisplay {
        ProgressDisplay::among(ProgressDisplay::terminal(), what, total, unit, true)
    }

    /// Progress of something within this work, drawn below it.
    pub(super) fn within(&self, what: &str, total: u64, unit: Unit) -> ProgressDisplay {
        ProgressDisplay::among(self.bar.as_ref().map(|(_, all)| all.clone()), what, total, unit, false)
    }

    /// Where bars are drawn, if there is a terminal.
    fn terminal() -> Option<MultiProgress> {
        std::io::stderr().is_terminal().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)))
    }

    fn among(all: Option<MultiProgress>, what: &str, total: u64, unit: Unit, timed_elsewhere: bool) -> ProgressDisplay {
        let bar = all.map(|all| {
            let bar = all.add(ProgressBar::new(total));
            let counts = if unit == Unit::Bytes { "{bytes}/{total_bytes} {bytes_per_sec}" } else { "{pos}/{len}" };
            let eta = if timed_elsewhere { "" } else { " ETA {eta}" };
            let template = format!("{{prefix}} {{wide_bar:.green/dim}} {counts}{eta} {{msg}}");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_string());
            (bar, all)
        });
        let now = Instant::now();
        ProgressDisplay { bar, timed_elsewhere, what: what.to_string(), total, unit, started: now, said: now }
    }

    /// Moves on to `done`; `note` stands behind the bar.
    pub(super) fn set(&mut self, done: u64, note: &str) {
        match &self.bar {
            Some((bar, _)) => {
                bar.set_position(done);
                bar.set_message(note.to_string());
            }
            None if self.said.elapsed() >= EVERY || (done == self.total && done > 0 && !note.is_empty()) => {
                self.said = Instant::now();
                eprintln!("{}", self.line(done, note));
            }
            None => {}
        }
    }

    /// Seconds since the beginning, never 0.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(1e-3)
    }

    fn line(&self, done: u64, note: &str) -> String {
        let show = |n: u64| match self.unit {
            Unit::Items => n.to_string(),
            Unit::Bytes => format!("{:.1} MB", n as f64 / 1e6),
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let left = match done {
            0 => String::new(),
            _ if self.timed_elsewhere => String::new(),
            _ if self.total > done => format!(", {:.0} s left", seconds / done as f64 * (self.total - done) as f64),
            _ => String::new(),
        };
        let of = if self.total > 0 { format!(" of {}", show(self.total)) } else { String::new() };
        let note = if note.is_empty() { String::new() } else { format!(", {note}") };
        format!("{}: {}{of}{note}{left}", self.what, show(done))
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Some((bar, _)) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
