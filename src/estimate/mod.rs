//! What a run will take, before it is started: steps, tokens, memory by part, time.
//!
//! Memory comes from sizes alone: nothing is run for it. Time is that of a few real steps. Refuses to know: recipes as
//! files, printing.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `device`, `time` | memory of a device by part; time from a few steps |
//! | 1 | `memory` | memory of this machine by part |
//! | 2 | `fit` | the setting that fits |

mod device;
pub mod memory;
mod time;
mod fit;

use crate::error::Result;
use crate::train::TrainSetup;
use crate::train::order::Order;

pub use device::DeviceMemory;
pub use fit::{Setting, fitting};
pub use memory::MemoryEstimate;
pub use time::{Time, measure};

/// How much a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PlannedRun {
    /// Optimiser steps.
    pub steps: usize,
    /// Micro-batches of all steps.
    pub micro_batches: usize,
    /// Over all steps, so that an example of two epochs counts twice.
    pub tokens: usize,
    /// Those of them that carry loss.
    pub trained_tokens: usize,
    /// Evaluations on the held-out rows.
    pub evaluations: usize,
    /// Tokens of the longest example.
    pub longest: usize,
}

impl PlannedRun {
    /// Counts the examples of every step.
    ///
    /// # Errors
    /// When there is nothing to train on.
    pub fn of(run: &TrainSetup) -> Result<PlannedRun> {
        let order = Order::new(run.settings, run.mixture, run.examples)?;
        let mut work = PlannedRun {
            steps: order.steps,
            micro_batches: 0,
            tokens: 0,
            trained_tokens: 0,
            evaluations: evaluations(run, order.steps),
            longest: (0..run.examples.len()).map(|i| run.examples.length(i)).max().unwrap_or(0),
        };
        for micros in (0..order.steps).map(|step| order.micro_batches(step)) {
            work.micro_batches += micros.len();
            for example in micros.iter().flatten().flatten().map(|i| run.examples.get(*i)) {
                work.tokens += example.ids.len();
                work.trained_tokens += example.targets();
            }
        }
        Ok(work)
    }
}

/// Every `eval_every` steps and after the last one.
fn evaluations(run: &TrainSetup, steps: usize) -> usize {
    match run.settings.eval_every {
        every if every > 0 && !run.heldout.is_empty() => steps.div_ceil(every),
        _ => 0,
    }
}
