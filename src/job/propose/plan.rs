//! What a recipe for these rows says, and why.
//!
//! Refuses to know how it is written down.

use super::NamedData;
use super::columns::ColumnMapping;
use super::facts::Facts;
use super::open::OpenedBase;
use crate::error::{Error, Result};
use crate::recipe::{Base, Shape};

/// Fewest rows that something can be learnt from and judged by.
const FEWEST: usize = 5;
/// Most rows that are held out: enough for an interval of a few per cent.
const HELD_OUT: f64 = 200.0;
/// Longest rows that are proposed, in tokens; longer ones take memory and time out of proportion.
const LONGEST: usize = 2048;
/// Most words of an answer that can be compared to the letter.
const SHORT_ANSWER: u32 = 12;

/// A recipe before it is written.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) base: Base,
    pub(super) train: Vec<(NamedData, ColumnMapping, Option<Shape>)>,
    pub(super) heldout: Vec<NamedData>,
    /// Where no file is held out.
    pub(super) fraction: Option<f64>,
    /// Where the base has no template of its own.
    pub(super) template: Option<&'static str>,
    pub(super) system: Option<String>,
    pub(super) max_length: usize,
    /// Rows of more tokens than that.
    pub(super) longer: usize,
    /// Rows to train on.
    pub(super) rows: usize,
    pub(super) epochs: usize,
    pub(super) lr: f64,
    pub(super) batch_size: usize,
    pub(super) accumulate: usize,
    /// Answers are short enough to be compared to the letter.
    pub(super) exact: bool,
    /// There are answers at all.
    pub(super) answers: bool,
    pub(super) max_new_tokens: usize,
}

impl Plan {
    /// From the facts alone: rows as long as the base allows.
    ///
    /// # Errors
    /// When there are too few rows.
    pub(super) fn first(
        base: &Base,
        train: Vec<NamedData>,
        heldout: Vec<NamedData>,
        mapped: Vec<ColumnMapping>,
        facts: &Facts,
        opened: &OpenedBase,
    ) -> Result<Plan> {
        if facts.rows < FEWEST {
            let what = train.iter().map(|data| data.spelled.as_str()).collect::<Vec<_>>().join(", ");
            let why = format!("{} usable rows are too few to train on and to judge by", facts.rows);
            return Err(Error::usage(what, why, format!("give at least {FEWEST} rows; a few hundred are a good beginning")));
        }
        let fraction = (HELD_OUT / facts.rows as f64).min(0.1).max(1.0 / facts.rows as f64);
        let fraction = if facts.rows < 20 { 0.2 } else { (fraction * 1000.0).round() / 1000.0 };
        let answers = facts.shapes.iter().any(|shape| *shape != Shape::Text);
        let system = mapped[0].classes.as_ref().filter(|_| !mapped[0].columns.is_empty()).map(|classes| classes.system());
        let shapes = facts.shapes.iter().copied().map(Some).chain(std::iter::repeat(None));
        let train = train.into_iter().zip(mapped).zip(shapes).map(|((data, map), shape)| (data, map, shape)).collect();
        Ok(Plan {
            base: base.clone(),
            train,
            fraction: heldout.is_empty().then_some(fraction),
            heldout,
            template: opened.tokenizer.chat_template().is_none().then_some("instruction"),
            system,
            max_length: opened.model.config.max_positions,
            longer: 0,
            rows: facts.rows,
            epochs: 1,
            lr: rate(opened.model.config.width),
            batch_size: 1,
            accumulate: 1,
            exact: answers && facts.answer_words.1 <= SHORT_ANSWER,
            answers,
            max_new_tokens: (facts.answer_words.1 as usize * 2).next_multiple_of(16).clamp(32, 256),
        })
    }

    /// With what follows from the tokens of the rows.
    pub(super) fn settled(self, lengths: Vec<usize>, opened: &OpenedBase) -> Plan {
        let max_length = longest(&lengths).min(opened.model.config.max_positions);
        let batch_size = match max_length {
            0..=512 => 8,
            513..=1024 => 4,
            _ => 2,
        };
        let epochs = match lengths.len() {
            0..=2000 => 3,
            2001..=20_000 => 2,
            _ => 1,
        };
        let batch_size = batch_size.min(lengths.len().max(1));
        Plan {
            longer: lengths.iter().filter(|n| **n > max_length).count(),
            rows: lengths.len(),
            accumulate: (8 / batch_size).max(1).min(lengths.len().div_ceil(batch_size).max(1)),
            max_length,
            batch_size,
            epochs,
            ..self
        }
    }

    /// Optimiser steps of the run.
    pub(super) fn steps(&self) -> usize {
        self.rows.div_ceil(self.batch_size * self.accumulate).max(1) * self.epochs
    }
}

/// A multiple of 64 that no row, or (of long ones) one in twenty, is longer than.
fn longest(lengths: &[usize]) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let most = sorted.last().copied().unwrap_or(1);
    let common = sorted.get((sorted.len() * 19) / 20).copied().unwrap_or(most);
    let room = |n: usize| n.next_multiple_of(64);
    if room(most) <= LONGEST / 2 { room(most) } else { room(common).min(LONGEST) }
}

/// A rate to begin with: small models bear more.
fn rate(width: usize) -> f64 {
    match width {
        0..1024 => 1e-3,
        1024..2560 => 5e-4,
        _ => 2e-4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_long_as_nearly_all_of_them_need() {
        assert_eq!(longest(&[3, 60, 64]), 64);
        assert_eq!(longest(&[3, 65]), 128);
        let mut lengths = vec![700; 100];
        lengths.push(9000);
        assert_eq!(longest(&lengths), 704);
        assert_eq!(longest(&[9000; 3]), 2048);
    }
}
