//! Which examples a step sees: a pure function of settings and step, so that resuming needs no position but the step.

use crate::error::{Error, Result};
use crate::{random, recipe};

/// The stream of examples of a run, epoch after epoch, each in its own shuffled order.
#[derive(Debug)]
pub struct Order {
    /// Optimiser steps of the run.
    pub steps: usize,
    examples: usize,
    batch: usize,
    accumulate: usize,
    /// Length of the stream.
    total: usize,
    seed: u64,
}

impl Order {
    /// # Errors
    /// When there is nothing to train on.
    pub fn new(settings: &recipe::Train, examples: usize) -> Result<Order> {
        if examples == 0 {
            return Err(Error::usage(
                "training data",
                "no example is left to train on",
                "look at `lorakit data show` for what was dropped",
            ));
        }
        let per_step = settings.batch_size * settings.accumulate;
        let (steps, total) = match settings.steps {
            Some(steps) => (steps, steps.saturating_mul(per_step)),
            None => {
                let total = ((examples as f64 * settings.epochs).round() as usize).max(1);
                (total.div_ceil(per_step), total)
            }
        };
        Ok(Order { steps, examples, batch: settings.batch_size, accumulate: settings.accumulate, total, seed: settings.seed })
    }

    /// Indices of the examples of step `step`, by micro-batch; the last step of an epoch count may be short.
    pub fn micro_batches(&self, step: usize) -> Vec<Vec<usize>> {
        let start = step * self.batch * self.accumulate;
        let end = (start + self.batch * self.accumulate).min(self.total);
        let mut epochs: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut at = |i: usize| {
            let epoch = i / self.examples;
            if epochs.last().is_none_or(|(e, _)| *e != epoch) {
                epochs.push((epoch, random::order(self.examples, self.seed, "order", &[epoch as u64])));
            }
            epochs.last().map_or(0, |(_, order)| order[i % self.examples])
        };
        let stream: Vec<usize> = (start..end).map(&mut at).collect();
        stream.chunks(self.batch).map(<[usize]>::to_vec).collect()
    }
}
