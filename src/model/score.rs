//! The loss of a model with an adapter on texts, without gradients.

use super::{Adapt, Batch, Ctx, Model, Targets};
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
    /// As [`Model::hidden`], and what `progress` returns.
    pub fn score(
        &self,
        adapt: &dyn Adapt,
        texts: Marked,
        rows: usize,
        pad: u32,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<LossSum> {
        let order = by_length(texts.ids);
        let mut score = LossSum::default();
        for (i, chunk) in order.chunks(rows.max(1)).enumerate() {
            let ids: Vec<&[u32]> = chunk.iter().map(|text| texts.ids[*text]).collect();
            let batch = Batch::right_padded(&ids, pad);
            let targets = Targets::shifted(&batch, |row, t| (texts.trained)(chunk[row], t));
            if !targets.is_empty() {
                score.sum += f64::from(self.loss_sum(&mut Ctx::new(adapt), &batch, &targets)?.to_scalar::<f32>()?);
                score.tokens += targets.len();
            }
            progress((i * rows + chunk.len()).min(texts.ids.len()))?;
        }
        Ok(score)
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
        pad: u32,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<LossSum>> {
        let order = by_length(texts.ids);
        let mut scores = vec![LossSum::default(); texts.ids.len()];
        for (i, chunk) in order.chunks(rows.max(1)).enumerate() {
            let ids: Vec<&[u32]> = chunk.iter().map(|text| texts.ids[*text]).collect();
            let batch = Batch::right_padded(&ids, pad);
            let targets = Targets::shifted(&batch, |row, t| (texts.trained)(chunk[row], t));
            let logps = if targets.is_empty() { Vec::new() } else { self.target_logps(adapt, &batch, &targets)? };
            for (at, logp) in targets.at.iter().zip(logps) {
                let score = &mut scores[chunk[*at as usize / batch.len]];
                score.sum -= f64::from(logp);
                score.tokens += 1;
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
