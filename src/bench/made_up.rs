//! Steps of training over made-up rows: an adapter and settings that stand in for a recipe's.
//!
//! Refuses to know how steps are timed.

use super::train::{BenchReport, BenchRun, train};
use crate::adapter::Adapter;
use crate::data::{Example, Examples};
use crate::device::Compute;
use crate::error::Result;
use crate::model::Model;
use crate::{random, recipe};

/// What is trained when there is no recipe.
#[derive(Debug, Clone)]
pub struct MadeUp {
    /// Rows of a step.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Share of each row, at its end, that carries loss.
    pub trained: f64,
    pub rank: usize,
    pub targets: recipe::TargetModules,
    pub compute: Compute,
    /// Steps that are timed.
    pub steps: usize,
}

impl MadeUp {
    /// Times steps of training on `model`.
    ///
    /// # Errors
    /// When no module of the model is a target; whatever training reports.
    pub fn train(&self, model: &Model) -> Result<BenchReport> {
        let wanted = recipe::Adapter::lora(self.rank, self.targets.clone());
        let adapter = Adapter::new(&wanted, None, model, 0)?;
        let (examples, settings) = (self.rows(model.config.vocab), self.settings());
        let (compute, steps) = (self.compute, self.steps);
        train(&BenchRun { model, adapter: &adapter, examples: &examples, settings: &settings, compute, steps })
    }

    /// Rows of random ids.
    fn rows(&self, vocab: usize) -> Examples {
        let seq = self.seq;
        let first = (((1.0 - self.trained) * seq as f64).round() as usize).max(1);
        let ids = |row: u64| (0..seq as u64).map(|i| (random::indexed(row, i) % vocab as u64) as u32).collect();
        let example = |row: u64| Example {
            ids: ids(row),
            trained: (0..seq).map(|i| i >= first).collect(),
            source: 0,
            line: row as usize + 1,
        };
        (0..self.batch as u64).map(example).collect()
    }

    /// Every step trains all rows.
    fn settings(&self) -> recipe::Train {
        recipe::Train {
            batch_size: self.batch,
            max_length: self.seq,
            lr: 1e-4,
            schedule: recipe::Schedule::Constant,
            warmup: recipe::Warmup::Steps(0),
            ..recipe::Train::default()
        }
    }
}
