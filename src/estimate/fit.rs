//! The setting under which a run fits the memory there is.

use super::MemoryEstimate;
use crate::recipe;
use crate::recipe::Recomputation;
use crate::train::TrainSetup;

/// Fewest tokens of a row that are proposed.
const SHORTEST: usize = 32;

/// Settings that differ from the recipe's.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Setting {
    #[serde(rename = "checkpoint")]
    pub recomputation: Recomputation,
    pub batch_size: usize,
    /// Grown as the batch shrinks, so that a step stays what it was.
    pub accumulate: usize,
    pub max_length: usize,
    /// Rows judged at a time.
    pub eval_batch_size: usize,
    /// Peak under it, in bytes.
    pub total: u64,
}

/// The first of these that stays below `budget` bytes: blocks run again; fewer rows at a time (and more times); fewer rows judged at
/// a time; shorter rows. `None` when none does.
pub fn fitting(run: &TrainSetup, eval: &recipe::Eval, program: u64, budget: u64) -> Option<Setting> {
    let halves = |most: usize, least: usize| std::iter::successors(Some(most), move |n| (n / 2 >= least).then_some(n / 2));
    for max_length in halves(run.settings.max_length, SHORTEST) {
        for eval_batch_size in halves(eval.batch_size, 1) {
            let eval = recipe::Eval { batch_size: eval_batch_size, ..eval.clone() };
            for recomputation in [run.settings.recomputation, Recomputation::Block] {
                for (batch_size, accumulate) in batches(run.settings) {
                    let settings = recipe::Train { recomputation, batch_size, accumulate, max_length, ..run.settings.clone() };
                    let total = MemoryEstimate::of(&TrainSetup { settings: &settings, ..*run }, &eval, program).total();
                    if total <= budget {
                        return Some(Setting { recomputation, batch_size, accumulate, max_length, eval_batch_size, total });
                    }
                }
            }
        }
    }
    None
}

/// (rows, times) whose product is that of the settings, fewer rows each time.
fn batches(settings: &recipe::Train) -> Vec<(usize, usize)> {
    let rows = settings.batch_size * settings.accumulate;
    let divides = |b: &usize| rows.is_multiple_of(*b);
    (1..=settings.batch_size).rev().filter(divides).map(|b| (b, rows / b)).collect()
}

impl Setting {
    /// The arguments that make it.
    pub fn arguments(&self, from: &recipe::Train, eval: &recipe::Eval) -> String {
        let mut all = Vec::new();
        if self.recomputation != from.recomputation {
            all.push("--set train.checkpoint=block".to_string());
        }
        if self.batch_size != from.batch_size {
            all.push(format!("--set train.batch_size={} --set train.accumulate={}", self.batch_size, self.accumulate));
        }
        if self.max_length != from.max_length {
            all.push(format!("--set train.max_length={}", self.max_length));
        }
        if self.eval_batch_size != eval.batch_size {
            all.push(format!("--set eval.batch_size={}", self.eval_batch_size));
        }
        all.join(" ")
    }
}
