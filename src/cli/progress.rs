//! Progress on standard error: a bar with rate and ETA on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between plain lines.
const EVERY: Duration = Duration::from_secs(5);

/// The progress of one piece of work.
pub(super) struct ProgressDisplay {
    bar: Option<ProgressBar>,
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
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            let counts = if unit == Unit::Bytes { "{bytes}/{total_bytes} {bytes_per_sec}" } else { "{pos}/{len}" };
            let template = format!("{{prefix}} {{wide_bar:.green/dim}} {counts} ETA {{eta}} {{msg}}");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_string());
            bar
        });
        let now = Instant::now();
        ProgressDisplay { bar, what: what.to_string(), total, unit, started: now, said: now }
    }

    /// Moves on to `done`; `note` stands behind the bar.
    pub(super) fn set(&mut self, done: u64, note: &str) {
        match &self.bar {
            Some(bar) => {
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
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
