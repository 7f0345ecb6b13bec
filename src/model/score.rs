//! The loss of a model with an adapter on texts, without gradients.

use super::{Adapt, Batch, Model, Recompute, Targets, Workspace};
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
        let each = self.score_each(adapt, texts, rows, pad, progress)?;
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
        pad: u32,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<LossSum>> {
        let order = by_length(texts.ids);
        let mut room = Workspace::new(Recompute::Never);
        let adapter = if self.device.is_cpu() { Some(self.prepare(adapt)?) } else { None };
        let mut scores = vec![LossSum::default(); texts.ids.len()];
        for (i, chunk) in order.chunks(rows.max(1)).enumerate() {
            let ids: Vec<&[u32]> = chunk.iter().map(|text| texts.ids[*text]).collect();
            let trained = |row: usize, t: usize| (texts.trained)(chunk[row], t);
            let logps = match &adapter {
                Some(adapter) => self.direct_logps(&mut room, adapter, &ids, &trained)?,
                None => self.padded_logps(adapt, &ids, pad, &trained)?,
            };
            for (text, logps) in chunk.iter().zip(logps) {
                let sum = logps.iter().map(|logp| -f64::from(*logp)).sum();
                scores[*text] = LossSum { sum, tokens: logps.len() };
            }
            progress((i * rows + chunk.len()).min(texts.ids.len()))?;
        }
        Ok(scores)
    }

    /// Log-probability of each target by text, on a device without a pass of its own.
    fn padded_logps(
        &self,
        adapt: &dyn Adapt,
        ids: &[&[u32]],
        pad: u32,
        trained: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<f32>>> {
        let batch = Batch::right_padded(ids, pad);
        let targets = Targets::shifted(&batch, |row, t| t < ids[row].len() && trained(row, t));
        let mut logps = vec![Vec::new(); ids.len()];
        if !targets.is_empty() {
            for (at, logp) in targets.at.iter().zip(self.target_logps(adapt, &batch, &targets)?) {
                logps[*at as usize / batch.len].push(logp);
            }
        }
        Ok(logps)
    }
}

/// The texts, short ones first.
fn by_length(ids: &[&[u32]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|i| ids[*i].len());
    order
}
