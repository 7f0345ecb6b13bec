//! Rows being made, with progress; the user may ask to stop.

use std::path::Path;

use crate::cli::progress::{ProgressDisplay, Unit};
use crate::cli::stop;
use crate::error::Result;
use crate::synth::{self, Generator, GoOn, Goal, Seeds, SynthesisSettings, SynthesisSummary};

/// What is made of what, and where.
pub(super) struct Making<'a> {
    pub(super) out: &'a Path,
    pub(super) settings: &'a SynthesisSettings,
    pub(super) goal: Goal,
    pub(super) seeds: &'a Seeds,
}

impl Making<'_> {
    /// Makes the rows.
    ///
    /// # Errors
    /// As [`synth::run`]; the user asked to stop.
    pub(super) fn by(&self, generator: &mut dyn Generator) -> Result<SynthesisSummary> {
        stop::save_first();
        let mut bar = ProgressDisplay::new("rows", self.goal.rows as u64, Unit::Items);
        let go_on: GoOn = &|| {
            if stop::asked() {
                return Err(stop::stopped(format!("all answers are in {}; the same command goes on", self.out.display())));
            }
            Ok(())
        };
        synth::run(self.out, self.settings, self.goal, self.seeds, generator, go_on, &mut |p| {
            let note = format!("round {}, {} instructions kept, {} candidates", p.round + 1, p.instructions, p.candidates);
            bar.set(p.rows as u64, &note);
        })
    }
}
