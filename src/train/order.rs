//! Which examples a step sees: a pure function of settings, lengths and step, so that resuming needs no position but the
//! step.

use std::cell::RefCell;
use std::rc::Rc;

use crate::data::Examples;
use crate::data::pack::{self, Rows};
use crate::error::{Error, Result};
use crate::{random, recipe};

/// Rows of a micro-batch; each is the indices of its examples: one, or several that are packed together.
pub type Micro = Vec<Vec<usize>>;

/// The stream of rows of a run, epoch after epoch, each in its own shuffled order (and packed anew).
#[derive(Debug)]
pub struct Order {
    /// Optimiser steps of the run.
    pub steps: usize,
    /// Tokens of each example.
    lengths: Vec<usize>,
    /// Room of a packed row in tokens; `None`: one example a row.
    room: Option<usize>,
    /// Rows of an epoch.
    rows: usize,
    batch: usize,
    accumulate: usize,
    /// Rows of the run.
    total: usize,
    seed: u64,
    /// The newest epoch asked for; laying one out costs far more than reading it.
    newest: RefCell<Option<(usize, Rc<Rows>)>>,
}

impl Order {
    /// # Errors
    /// When there is nothing to train on.
    pub fn new(settings: &recipe::Train, examples: &Examples) -> Result<Order> {
        if examples.is_empty() {
            return Err(Error::usage(
                "training data",
                "no example is left to train on",
                "look at `lorakit data show` for what was dropped",
            ));
        }
        let lengths: Vec<usize> = examples.lengths();
        let room = settings.packing.then_some(settings.max_length);
        let rows = room.map_or(lengths.len(), |room| pack::count(&lengths, room));
        let per_step = settings.batch_size * settings.accumulate;
        let (steps, total) = match settings.steps {
            Some(steps) => (steps, steps.saturating_mul(per_step)),
            None => {
                let total = ((rows as f64 * settings.epochs).round() as usize).max(1);
                (total.div_ceil(per_step), total)
            }
        };
        let (batch, accumulate, seed) = (settings.batch_size, settings.accumulate, settings.seed);
        Ok(Order { steps, lengths, room, rows, batch, accumulate, total, seed, newest: RefCell::new(None) })
    }

    /// The micro-batches of step `step`; the last step of an epoch count may be short.
    pub fn micro_batches(&self, step: usize) -> Vec<Micro> {
        let start = step * self.batch * self.accumulate;
        let end = (start + self.batch * self.accumulate).min(self.total);
        let row = |i: usize| self.epoch(i / self.rows).row(i % self.rows).iter().map(|e| *e as usize).collect();
        let stream: Vec<Vec<usize>> = (start..end).map(row).collect();
        stream.chunks(self.batch).map(<[Vec<usize>]>::to_vec).collect()
    }

    fn epoch(&self, epoch: usize) -> Rc<Rows> {
        let mut newest = self.newest.borrow_mut();
        match newest.as_ref() {
            Some((e, rows)) if *e == epoch => Rc::clone(rows),
            _ => Rc::clone(&newest.insert((epoch, Rc::new(self.lay_out(epoch as u64)))).1),
        }
    }

    fn lay_out(&self, epoch: u64) -> Rows {
        match self.room {
            Some(room) => pack::pack(&self.lengths, room, self.seed, epoch),
            None => Rows::single(random::order(self.lengths.len(), self.seed, "order", &[epoch])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Example;

    fn examples() -> Examples {
        let lengths = (0..50).map(|i| 4 + i * i % 29);
        lengths.map(|n| Example { ids: vec![1; n], trained: vec![true; n], source: 0, line: 1 }).collect()
    }

    fn settings(set: &[&str]) -> recipe::Train {
        let text = "[base]\nmodel = \"a/b\"\n[data]\ntrain = \"Cargo.toml\"\n[train]\nmax_length = 40\npacking = true";
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipe.toml");
        recipe::Recipe::parse(text, &path, &set).unwrap().train
    }

    /// The examples of the whole run, step by step.
    fn seen(order: &Order) -> Vec<usize> {
        (0..order.steps).flat_map(|step| order.micro_batches(step).concat().concat()).collect()
    }

    #[test]
    fn every_packed_epoch_has_every_example_once_and_the_number_of_steps_is_exact() {
        let examples = examples();
        let order = Order::new(&settings(&["train.epochs=3.0", "train.batch_size=2", "train.accumulate=3"]), &examples).unwrap();
        assert!(order.rows < 40, "{} rows", order.rows);
        assert_eq!(order.steps, (order.rows * 3).div_ceil(6));
        let mut seen = seen(&order);
        assert_eq!(seen.len(), 150);
        let first = seen[..50].to_vec();
        assert_ne!(first, seen[50..100], "another order in the second epoch");
        seen.sort_unstable();
        assert_eq!(seen, (0..50).flat_map(|i| [i; 3]).collect::<Vec<_>>());
        assert!(!order.micro_batches(order.steps - 1).is_empty() && order.micro_batches(order.steps).is_empty());
    }

    #[test]
    fn part_of_an_epoch_is_that_part_of_its_rows() {
        let examples = examples();
        let half = Order::new(&settings(&["train.epochs=0.5", "train.batch_size=1"]), &examples).unwrap();
        assert_eq!(half.steps, (half.rows as f64 / 2.0).round() as usize);
        let whole = Order::new(&settings(&["train.epochs=1.0", "train.batch_size=1"]), &examples).unwrap();
        assert_eq!(seen(&half), seen(&whole)[..seen(&half).len()]);
        let steps = Order::new(&settings(&["train.steps=70", "train.batch_size=1"]), &examples).unwrap();
        assert_eq!((steps.steps, seen(&steps)[..50].to_vec()), (70, seen(&whole)));
    }

    #[test]
    fn a_step_asked_for_alone_is_that_of_the_whole_run() {
        let (examples, settings) = (examples(), settings(&["train.steps=40", "train.batch_size=3", "train.accumulate=2"]));
        let order = Order::new(&settings, &examples).unwrap();
        let all: Vec<_> = (0..40).map(|step| order.micro_batches(step)).collect();
        for step in [39, 0, 17, 5] {
            assert_eq!(Order::new(&settings, &examples).unwrap().micro_batches(step), all[step]);
        }
    }

    #[test]
    fn without_packing_a_row_is_an_example_and_the_order_is_that_of_earlier_versions() {
        let order = Order::new(&settings(&["train.packing=false", "train.batch_size=50"]), &examples()).unwrap();
        assert_eq!(order.micro_batches(0)[0].concat(), random::order(50, 42, "order", &[0]));
        assert!(order.micro_batches(0)[0].iter().all(|row| row.len() == 1));
    }
}
