//! Cross-entropy on chosen positions only: the head never sees the rest.

use candle_core::Tensor;

use super::batch::Batch;
use super::{Ctx, Model};
use crate::error::Result;
use crate::kernels::{cross_entropy, head_loss};

/// Positions that carry loss and the token each must predict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// `row · len + column` of the position *before* the target.
    pub at: Vec<u32>,
    /// The token there to predict.
    pub ids: Vec<u32>,
}

impl Targets {
    /// From a mask over tokens: token `i` of a row, if `trained`, is predicted from position `i - 1` of that row; the
    /// first token of a text has none before it, also where another text of a packed row ends there.
    pub fn shifted(batch: &Batch, trained: impl Fn(usize, usize) -> bool) -> Targets {
        let mut targets = Targets::default();
        for row in 0..batch.rows {
            for i in 1..batch.len {
                if batch.positions[row * batch.len + i] > 0 && trained(row, i) {
                    targets.at.push((row * batch.len + i - 1) as u32);
                    targets.ids.push(batch.ids[row * batch.len + i]);
                }
            }
        }
        targets
    }

    /// Number of trained tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing carries loss.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Model {
    /// Sum (not mean) of the cross-entropy over the targets, in nats: a scalar, differentiable in the adapter.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn loss_sum(&self, ctx: &mut Ctx, batch: &Batch, targets: &Targets) -> Result<Tensor> {
        let chosen = self.chosen(ctx, batch, targets)?;
        let adapt = ctx.adapt;
        if adapt.term(self.head.site).is_some() || self.shared.final_cap.is_some() || !self.device.is_cpu() {
            return cross_entropy::cross_entropy_sum(&self.logits(adapt, &chosen)?, &targets.ids);
        }
        head_loss::head_loss_sum(&chosen, &self.head.linear.matrix, self.head.linear.side, &targets.ids)
    }

    /// Hidden states of the chosen positions: (n, d).
    fn chosen(&self, ctx: &mut Ctx, batch: &Batch, targets: &Targets) -> Result<Tensor> {
        let hidden = self.hidden(ctx, batch)?.reshape((batch.rows * batch.len, self.config.width))?;
        let at = Tensor::from_slice(&targets.at, targets.at.len(), &self.device)?;
        Ok(hidden.index_select(&at, 0)?)
    }
}
