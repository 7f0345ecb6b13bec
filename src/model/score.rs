//! The loss of a model with an adapter on texts, without gradients.

use super::{Adapt, Model, Recompute, Workspace};
use crate::error::Result;

/// Texts to score.
#[derive(Clone, Copy)]
pub struct Marked<'a> {
    /// The tokens of each.
    pub ids: &'a [&'a [u32]],
    /// `trained(text, i)` tells whether token `i` of a text carries loss.
    pub trained: &'a dyn Fn(usize, usize) -> bool,
}

/// A sum of losses and what it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    /// Sum of the cross-entropies in nats.
    pub sum: f64,
    /// Trained tokens.
    pub tokens: usize,
}

impl LossSum {
    /// Mean per trained token in nats (NaN over nothing).
    pub fn loss(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

impl Model {
    /// Loss over the trained tokens of `texts`, `rows` of similar length at a time; `progress` hears how many
    /// texts are done; an error of its own ends the work.
    ///
    /// # Errors
    /// As [`Model::target_logps`], and what `progress` returns.
    pub fn score(
        &self,
        adapt: &dyn Adapt,
        texts: Marked,
        rows: usize,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<LossSum> {
        let each = self.score_each(adapt, texts, rows, progress)?;
        let add = |all: LossSum, one: LossSum| LossSum { sum: all.sum + one.sum, tokens: all.tokens + one.tokens };
        Ok(each.into_iter().fold(LossSum::default(), add))
    }

    /// As [`Model::score`], one result for each text, in their order.
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn score_each(
        &self,
        adapt: &dyn Adapt,
        texts: Marked,
        rows: usize,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<LossSum>> {
        let order = by_length(texts.ids);
        let mut scratch = Workspace::new(Recompute::Never);
        let adapter = self.prepare(adapt)?;
        let mut scores = vec![LossSum::default(); texts.ids.len()];
        for (i, chunk) in order.chunks(rows.max(1)).enumerate() {
            let ids: Vec<&[u32]> = chunk.iter().map(|text| texts.ids[*text]).collect();
            let trained = |row: usize, t: usize| (texts.trained)(chunk[row], t);
            let logps = self.logps(&mut scratch, &adapter, &ids, &trained)?;
            for (text, logps) in chunk.iter().zip(logps) {
                let sum = logps.iter().map(|logp| -f64::from(*logp)).sum();
                scores[*text] = LossSum { sum, tokens: logps.len() };
            }
            progress((i * rows + chunk.len()).min(texts.ids.len()))?;
        }
        Ok(scores)
    }
}

/// The texts, short ones first.
fn by_length(ids: &[&[u32]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|i| ids[*i].len());
    order
}
