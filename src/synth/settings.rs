//! What the rows of a run depend on, and which values of it are possible.
//!
//! Refuses to know how requests are worded and answered.

use serde::{Deserialize, Serialize};

use super::prompts::Choice;
use crate::error::{Error, Result};

/// Which way rows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    SelfInstruct,
    Alpaca,
}

/// What the rows of a run depend on, beside the seeds and the generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynthesisSettings {
    pub variant: Variant,
    pub seed: u64,
    /// Requests for instructions (or tasks) before what came is judged and may be shown itself.
    pub per_round: usize,
    /// Instances kept of one instruction.
    pub instances: usize,
    /// ROUGE-L from which an instruction is too similar to another: 0.7.
    pub threshold: f64,
    /// Requests that a local model works on at once, which decides the last bits of its sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// For instructions, and for whole tasks.
    pub tasks: Choice,
    /// For instances.
    pub answers: Choice,
}

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    pub rows: usize,
    /// Rounds in a row that may bring no row.
    pub patience: u64,
}

impl SynthesisSettings {
    /// The papers' settings, with `max_new_tokens` of their scripts.
    pub fn of(variant: Variant) -> SynthesisSettings {
        let choice = |temperature, top_p, max_new_tokens| Choice { temperature, top_p, repetition_penalty: 1.0, max_new_tokens };
        let tasks = match variant {
            Variant::SelfInstruct => choice(0.7, 0.5, 1024),
            Variant::Alpaca => choice(1.0, 1.0, 3072),
        };
        let answers = choice(0.0, 1.0, 350);
        SynthesisSettings { variant, seed: 0, per_round: 8, instances: 5, threshold: 0.7, batch: None, tasks, answers }
    }

    /// Refuses what is not possible, in the words of the command line.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first such value.
    pub fn check(&self, goal: Goal) -> Result<()> {
        let fail = |what: &str, value: f64, help: &str| Err(Error::usage(what, format!("{value} is not possible"), help));
        if self.answers.repetition_penalty != 1.0 && self.batch.is_none() {
            let why = "only a base on this machine has it";
            return Err(Error::usage("--repetition-penalty", why, "leave it out, or use --base"));
        }
        if goal.rows == 0 {
            return fail("--count", 0.0, "give at least 1");
        }
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            return fail("--similarity", self.threshold, "give an F-measure above 0 and up to 1; the papers' is 0.7");
        }
        for choice in [self.tasks, self.answers] {
            if !(choice.temperature.is_finite() && (0.0..=100.0).contains(&choice.temperature)) {
                return fail("temperature", choice.temperature, "give 0 (always the most likely token) or more, e.g. 0.7");
            }
            if !(choice.top_p > 0.0 && choice.top_p <= 1.0) {
                return fail("--top-p", choice.top_p, "give a probability above 0 and up to 1");
            }
            if choice.max_new_tokens == 0 {
                return fail("tokens", 0.0, "give at least 1");
            }
        }
        Ok(())
    }
}
