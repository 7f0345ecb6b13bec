//! Which positions carry loss: the head never sees the rest.

use super::batch::Batch;

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
