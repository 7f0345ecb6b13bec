//! The loss of a model with an adapter on examples, without gradients.

use super::{Adapt, Batch, Ctx, Model, Targets};
use crate::data::{ExampleRef, Examples};
use crate::error::Result;

/// A sum of losses and what it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Sum of the cross-entropies in nats.
    pub sum: f64,
    /// Trained tokens.
    pub tokens: usize,
}

impl Score {
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
    /// Loss over the trained tokens of `examples`, `rows` of similar length at a time; `progress` hears how many
    /// examples are done; an error of its own ends the work.
    ///
    /// # Errors
    /// As [`Model::hidden`], and what `progress` returns.
    pub fn score(
        &self,
        adapt: &dyn Adapt,
        examples: &Examples,
        rows: usize,
        pad: u32,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Score> {
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|i| examples.length(*i));
        let mut score = Score::default();
        for (i, chunk) in order.chunks(rows.max(1)).enumerate() {
            let chunk: Vec<ExampleRef> = chunk.iter().map(|i| examples.get(*i)).collect();
            let ids: Vec<&[u32]> = chunk.iter().map(|e| e.ids).collect();
            let batch = Batch::right_padded(&ids, pad);
            let targets = Targets::shifted(&batch, |row, t| chunk[row].trained.get(t));
            if !targets.is_empty() {
                score.sum += f64::from(self.loss_sum(&mut Ctx::new(adapt), &batch, &targets)?.to_scalar::<f32>()?);
                score.tokens += targets.len();
            }
            progress((i * rows + chunk.len()).min(examples.len()))?;
        }
        Ok(score)
    }

    /// As [`Model::score`], one result for each example, in their order.
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn score_each(
        &self,
        adapt: &dyn Adapt,
        examples: &[ExampleRef],
        rows: usize,
        pad: u32,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Score>> {
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|i| examples[*i].ids.len());
        let mut scores = vec![Score::default(); examples.len()];
        for (i, chunk) in order.chunks(rows.max(1)).enumerate() {
            let ids: Vec<&[u32]> = chunk.iter().map(|e| examples[*e].ids).collect();
            let batch = Batch::right_padded(&ids, pad);
            let trained = |row: usize, t| examples[chunk[row]].trained.get(t);
            let targets = Targets::shifted(&batch, trained);
            let logps = if targets.is_empty() { Vec::new() } else { self.target_logps(adapt, &batch, &targets)? };
            for (at, logp) in targets.at.iter().zip(logps) {
                let score = &mut scores[chunk[*at as usize / batch.len]];
                score.sum -= f64::from(logp);
                score.tokens += 1;
            }
            progress((i * rows + chunk.len()).min(examples.len()))?;
        }
        Ok(scores)
    }
}
