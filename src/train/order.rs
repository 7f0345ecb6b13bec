//! Which examples a step sees: a pure function of settings, lengths and step, so that resuming needs no position but the
//! step.

use std::cell::RefCell;
use std::rc::Rc;

use crate::data::Examples;
use crate::error::{Error, Result};
use crate::recipe;
use crate::train::mixture::{Mixture, Share};
use crate::train::pack::{self, PackedRows};

/// Rows of a micro-batch; each is the indices of its examples: one, or several that are packed together.
pub type Micro = Vec<Vec<usize>>;

/// The stream of rows of a run, epoch after epoch, each in its own shuffled order (and packed anew).
#[derive(Debug)]
pub struct Order<'a> {
    /// Optimiser steps of the run.
    pub steps: usize,
    mixture: &'a Mixture,
    /// Tokens of each example.
    lengths: Vec<usize>,
    /// Room of a packed row in tokens; `None`: one example a row.
    room: Option<usize>,
    batch: usize,
    /// Rows of a step.
    per_step: usize,
    /// Rows of the run.
    total: usize,
    seed: u64,
    /// Rows before each epoch, as far as was asked.
    starts: RefCell<Vec<usize>>,
    /// The newest epoch asked for; laying one out costs far more than reading it.
    newest: RefCell<Option<(usize, Rc<PackedRows>)>>,
}

impl<'a> Order<'a> {
    /// # Errors
    /// When there is nothing to train on.
    pub fn new(settings: &recipe::Train, mixture: &'a Mixture, examples: &Examples) -> Result<Order<'a>> {
        if examples.is_empty() || mixture.rows(0) == 0 {
            return Err(Error::usage(
                "training data",
                "no example is left to train on",
                "look at `lorakit data show` for what was dropped",
            ));
        }
        let full = settings.batch_size * settings.accumulate;
        let mut order = Order {
            steps: 0,
            mixture,
            lengths: examples.lengths(),
            room: settings.packing.then_some(settings.max_length),
            batch: settings.batch_size,
            per_step: full,
            total: 0,
            seed: settings.seed,
            starts: RefCell::new(vec![0]),
            newest: RefCell::new(None),
        };
        (order.steps, order.total) = match settings.steps {
            Some(steps) => (steps, steps.saturating_mul(full)),
            None => {
                // An epoch of fewer rows than a step takes is a step of its own.
                order.per_step = full.min(order.start(1)).max(1);
                let total = order.rows_of(settings.epochs).max(1);
                (total.div_ceil(order.per_step), total)
            }
        };
        Ok(order)
    }

    /// Rows of the first `epochs` epochs; of a part of one, its share.
    fn rows_of(&self, epochs: f64) -> usize {
        if self.mixture.is_plain() {
            return (self.start(1) as f64 * epochs).round() as usize;
        }
        let whole = epochs.floor() as usize;
        let part = epochs - whole as f64;
        let rest = if part > 0.0 { (self.rows(whole) as f64 * part).round() as usize } else { 0 };
        self.start(whole) + rest
    }

    /// Rows of an epoch, packed ones if they are packed.
    fn rows(&self, epoch: usize) -> usize {
        match self.room {
            None => self.mixture.rows(epoch),
            // How many packed rows there are depends on the lengths alone.
            Some(room) if self.mixture.is_plain() => pack::count(&self.lengths, room),
            Some(_) => self.epoch(epoch).len(),
        }
    }

    /// Rows before an epoch.
    fn start(&self, epoch: usize) -> usize {
        while self.starts.borrow().len() <= epoch {
            let known = self.starts.borrow().len();
            let last = self.starts.borrow()[known - 1];
            let rows = if self.mixture.is_plain() && known > 1 { self.starts.borrow()[1] } else { self.rows(known - 1) };
            self.starts.borrow_mut().push(last + rows);
        }
        self.starts.borrow()[epoch]
    }

    /// The micro-batches of step `step`; the last step of an epoch count may be short.
    pub fn micro_batches(&self, step: usize) -> Vec<Micro> {
        let start = step * self.per_step;
        let end = (start + self.per_step).min(self.total);
        let mut epoch = 0;
        let mut row = |i: usize| {
            while self.start(epoch + 1) <= i {
                epoch += 1;
            }
            self.epoch(epoch).row(i - self.start(epoch)).iter().map(|e| *e as usize).collect()
        };
        let stream: Vec<Vec<usize>> = (start..end).map(&mut row).collect();
        stream.chunks(self.batch).map(<[Vec<usize>]>::to_vec).collect()
    }

    /// What came of the mixture in the first `steps` steps.
    pub fn drawn(&self, steps: usize) -> Vec<Share> {
        let examples = (0..steps).flat_map(|step| self.micro_batches(step).concat().concat());
        self.mixture.drawn(examples, |example| self.lengths[example])
    }

    fn epoch(&self, epoch: usize) -> Rc<PackedRows> {
        let mut newest = self.newest.borrow_mut();
        match newest.as_ref() {
            Some((e, rows)) if *e == epoch => Rc::clone(rows),
            _ => Rc::clone(&newest.insert((epoch, Rc::new(self.lay_out(epoch)))).1),
        }
    }

    fn lay_out(&self, epoch: usize) -> PackedRows {
        let Some(room) = self.room else { return PackedRows::single(self.mixture.draws(self.seed, epoch)) };
        if self.mixture.is_plain() {
            return pack::pack(&self.lengths, room, self.seed, epoch as u64);
        }
        let draws = self.mixture.draws(self.seed, epoch);
        let lengths: Vec<usize> = draws.iter().map(|e| self.lengths[*e]).collect();
        pack::pack(&lengths, room, self.seed, epoch as u64).of(&draws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Example;
    use crate::random;

    fn examples() -> Examples {
        let lengths = (0..50).map(|i| 4 + i * i % 29);
        lengths.map(|n| Example { ids: vec![1; n], trained: vec![true; n], source: 0, line: 1 }).collect()
    }

    /// Two of three of them in a part that is seen twice an epoch, the others in a part with a share of 2 in 3.
    fn mixed() -> Mixture {
        let source = |name: &str, weight| recipe::Source { path: name.into(), weight: Some(weight), ..recipe::Source::default() };
        let mut data = recipe::Data::of(vec![source("a", 1.0), source("b", 2.0)]);
        data.mixture = recipe::Mixture { strategy: recipe::Strategy::Weights, rows: Some(101), ..recipe::Mixture::default() };
        Mixture::plan_of(&data, examples().iter().enumerate().map(|(i, e)| (usize::from(i % 3 == 0), e.ids.len()))).unwrap()
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
        let (examples, plain) = (examples(), Mixture::plain(50));
        let order =
            Order::new(&settings(&["train.epochs=3.0", "train.batch_size=2", "train.accumulate=3"]), &plain, &examples).unwrap();
        let rows = order.start(1);
        assert!(rows < 40, "{rows} rows");
        assert_eq!(order.steps, (rows * 3).div_ceil(6));
        let mut seen = seen(&order);
        assert_eq!(seen.len(), 150);
        let first = seen[..50].to_vec();
        assert_ne!(first, seen[50..100], "another order in the second epoch");
        seen.sort_unstable();
        assert_eq!(seen, (0..50).flat_map(|i| [i; 3]).collect::<Vec<_>>());
        assert!(!order.micro_batches(order.steps - 1).is_empty() && order.micro_batches(order.steps).is_empty());
    }

    #[test]
    fn an_epoch_of_fewer_rows_than_a_step_takes_is_a_step() {
        let (examples, plain) = (examples(), Mixture::plain(50));
        let set = ["train.epochs=3.0", "train.packing=false", "train.batch_size=32", "train.accumulate=4"];
        let order = Order::new(&settings(&set), &plain, &examples).unwrap();
        assert_eq!(order.steps, 3);
        for step in 0..3 {
            let micros = order.micro_batches(step);
            assert_eq!(micros.iter().map(Vec::len).collect::<Vec<_>>(), [32, 18]);
            let mut seen = micros.concat().concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..50).collect::<Vec<_>>());
        }
        let steps = Order::new(&settings(&["train.steps=3", "train.packing=false", "train.batch_size=64"]), &plain, &examples);
        assert_eq!(steps.unwrap().micro_batches(1)[0].len(), 64, "where steps are counted, each is as large as was asked");
    }

    #[test]
    fn part_of_an_epoch_is_that_part_of_its_rows() {
        let (examples, plain) = (examples(), Mixture::plain(50));
        let half = Order::new(&settings(&["train.epochs=0.5", "train.batch_size=1"]), &plain, &examples).unwrap();
        assert_eq!(half.steps, (half.start(1) as f64 / 2.0).round() as usize);
        let whole = Order::new(&settings(&["train.epochs=1.0", "train.batch_size=1"]), &plain, &examples).unwrap();
        assert_eq!(seen(&half), seen(&whole)[..seen(&half).len()]);
        let steps = Order::new(&settings(&["train.steps=70", "train.batch_size=1"]), &plain, &examples).unwrap();
        assert_eq!((steps.steps, seen(&steps)[..50].to_vec()), (70, seen(&whole)));
    }

    #[test]
    fn a_step_asked_for_alone_is_that_of_the_whole_run() {
        for (mixture, packing) in [(Mixture::plain(50), true), (mixed(), true), (mixed(), false)] {
            let packing = format!("train.packing={packing}");
            let settings = settings(&["train.steps=40", "train.batch_size=3", "train.accumulate=2", &packing]);
            let order = || Order::new(&settings, &mixture, &examples()).unwrap();
            let whole = order();
            let all: Vec<_> = (0..40).map(|step| whole.micro_batches(step)).collect();
            assert!(all.iter().all(|micros| micros.len() == 2 && micros.iter().all(|m| m.len() == 3)));
            for step in [39, 0, 17, 5] {
                assert_eq!(order().micro_batches(step), all[step], "step {step}");
            }
        }
    }

    #[test]
    fn without_packing_a_row_is_an_example_and_the_order_is_that_of_earlier_versions() {
        let plain = Mixture::plain(50);
        let order = Order::new(&settings(&["train.packing=false", "train.batch_size=50"]), &plain, &examples()).unwrap();
        assert_eq!(order.micro_batches(0)[0].concat(), random::order(50, 42, "order", &[0]));
        assert!(order.micro_batches(0)[0].iter().all(|row| row.len() == 1));
    }

    #[test]
    fn epochs_of_a_mixture_have_its_rows_whether_packed_or_not() {
        let (examples, mixture) = (examples(), mixed());
        for (packing, epochs) in [("true", 3.0), ("false", 3.0), ("false", 2.5)] {
            let set = [format!("train.packing={packing}"), format!("train.epochs={epochs}"), "train.batch_size=4".into()];
            let order = Order::new(&settings(&set.each_ref().map(String::as_str)), &mixture, &examples).unwrap();
            let seen = seen(&order);
            assert_eq!(seen.len(), f64::round(101.0 * epochs) as usize);
            // Part b: two of three rows drawn, though one of three there are.
            let b = seen.iter().filter(|i| *i % 3 == 0).count();
            assert!((b as f64 - seen.len() as f64 * 2.0 / 3.0).abs() < 1.5, "{b} of {}", seen.len());
            assert_eq!(order.drawn(order.steps)[1].drawn, b as f64);
        }
    }
}
