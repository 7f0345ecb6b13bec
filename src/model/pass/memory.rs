//! What a call holds, from its sizes alone.

use half::bf16;

use super::super::Model;
use super::block;
use super::workspace::{self, BatchTokens, Recompute};
use crate::kernels::engine::Engine;
use crate::model::Adapt;

/// Bytes that the written-out path holds at its peak, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassMemory {
    /// Tokens that go through the model at once.
    pub tokens: usize,
    /// Kept for the backward pass.
    pub activations: u64,
    /// Logits and their gradient.
    pub logits: u64,
    /// Other buffers of a step.
    pub workspace: u64,
    /// Whether blocks run again on the way back.
    pub recomputed: bool,
}

impl Model {
    /// The memory of [`Model::gradients`] for micro-batches of such sizes (a share of `trained` of their tokens targets), the adapter
    /// `adapt`, and `recompute`.
    pub fn pass_memory(&self, of: BatchTokens, trained: f64, adapt: &dyn Adapt, recompute: Recompute) -> PassMemory {
        let tokens = workspace::group_tokens(of);
        let lowest = self.lowest(|site| adapt.term(site).is_some());
        let (size, row, most_logits) = match self.multiplies_in_bf16() {
            _ if adapt.term(self.head.site).is_some() => (self.activation_size(), size_of::<f32>(), f32::LOGIT_ROWS),
            #[cfg(target_arch = "x86_64")]
            true => (size_of::<bf16>(), size_of::<bf16>(), bf16::LOGIT_ROWS),
            _ => (size_of::<f32>(), size_of::<f32>(), f32::LOGIT_ROWS),
        };
        let recomputed = recomputes(recompute, self.kept_bytes(tokens, lowest, size, adapt));
        let activations = match recomputed {
            true => {
                (self.blocks.len() - lowest) as u64 * (tokens * self.config.width * 4) as u64
                    + self.kept_bytes(tokens, self.blocks.len().saturating_sub(1), size, adapt)
            }
            false => self.kept_bytes(tokens, lowest, size, adapt),
        };
        let targets = (tokens as f64 * trained).ceil() as usize;
        let logits = targets.min(most_logits) * self.config.vocab * row;
        let widest =
            self.blocks.iter().map(|b| block::kept_per_token(b, self.config.width, &self.shared, adapt)).max().unwrap_or(0);
        // Gradients of a block's parts live while its activations do; residual stream, its gradient, chosen rows.
        let workspace = tokens * (widest * size + 8 * self.config.width * 4);
        PassMemory { tokens, activations, logits: logits as u64, workspace: workspace as u64, recomputed }
    }

    /// Bytes of an activation.
    fn activation_size(&self) -> usize {
        if self.multiplies_in_bf16() { size_of::<bf16>() } else { size_of::<f32>() }
    }

    /// Bytes that the blocks from `lowest` on keep.
    pub(super) fn kept_bytes(&self, tokens: usize, lowest: usize, size: usize, adapt: &dyn Adapt) -> u64 {
        let kept = self.blocks[lowest..].iter().map(|b| block::kept_per_token(b, self.config.width, &self.shared, adapt) * size);
        kept.map(|bytes| (bytes * tokens) as u64).sum()
    }

    /// Whether a group of `tokens` is run with recomputation.
    pub(super) fn recomputes(&self, recompute: Recompute, tokens: usize, lowest: usize, adapt: &dyn Adapt) -> bool {
        match recompute {
            _ if !self.in_kernels() => self.tensors_run_again(recompute),
            _ => recomputes(recompute, self.kept_bytes(tokens, lowest, self.activation_size(), adapt)),
        }
    }
}

fn recomputes(recompute: Recompute, bytes: u64) -> bool {
    match recompute {
        Recompute::Never => false,
        Recompute::Always => true,
        Recompute::Within(budget) => bytes > budget,
    }
}
