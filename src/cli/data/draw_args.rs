//! The arguments that say how candidates are drawn.

use clap::Args;

use crate::synth::{SynthesisSettings, Variant};

/// How candidates are drawn.
#[derive(Debug, Args)]
pub(super) struct DrawArgs {
    /// Everything drawn is a function of it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Requests for new tasks in a round, before what came may be shown itself
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    per_round: u16,
    /// Instances of one instruction, at most
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    instances: u16,
    /// ROUGE-L from which an instruction is too similar to one before it
    #[arg(long, value_name = "F", default_value_t = 0.7)]
    similarity: f64,
    /// Randomness of new tasks (default: 0.7; 1 for alpaca)
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Probability that the tokens chosen among reach together (default: 0.5; 1 for alpaca)
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Randomness of instances
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    answer_temperature: f64,
    /// Makes tokens already in the text less likely, for a base on this machine; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Longest list of new tasks, in tokens (default: 1024; 3072 for alpaca)
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Longest answer with instances, in tokens
    #[arg(long, value_name = "N", default_value_t = 350)]
    answer_tokens: usize,
    /// Rounds in a row without a row before giving up
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) patience: u64,
}

impl DrawArgs {
    /// Settings of a variant; `batch` as a local model's.
    pub(super) fn settings(&self, variant: Variant, batch: Option<usize>) -> SynthesisSettings {
        let mut settings = SynthesisSettings::of(variant);
        settings.seed = self.seed;
        (settings.per_round, settings.instances) = (self.per_round.into(), self.instances.into());
        settings.threshold = self.similarity;
        settings.batch = batch;
        let tasks = &mut settings.tasks;
        (tasks.temperature, tasks.top_p) = (self.temperature.unwrap_or(tasks.temperature), self.top_p.unwrap_or(tasks.top_p));
        tasks.max_new_tokens = self.max_new_tokens.unwrap_or(tasks.max_new_tokens);
        (settings.answers.temperature, settings.answers.max_new_tokens) = (self.answer_temperature, self.answer_tokens);
        settings.tasks.repetition_penalty = self.repetition_penalty;
        settings.answers.repetition_penalty = self.repetition_penalty;
        settings
    }
}
