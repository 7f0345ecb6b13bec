//! What a call in tensor operations holds on its device, from its sizes alone: candle tells nothing of a device's memory.

use std::collections::HashSet;

use super::super::Model;
use super::super::site::{Adapt, LowRankPair, Site, Term};
use super::count_rules::Rules;
use super::prepared::PreparedAdapter;
use super::texts;
use super::workspace::Recompute;
use crate::kernels::tensors::{attention, head, mlp};

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

/// Bytes at the peak of [`Model::gradients`] in tensor operations, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePassMemory {
    /// Tokens that go through the model at once.
    pub tokens: usize,
    /// Frozen matrices: quantised ones as their blocks, others in the precision of activations.
    pub weights: u64,
    /// The largest of them while it is expanded, or goes over.
    pub expanded: u64,
    /// Kept for the backward pass.
    pub activations: u64,
    /// A piece of logits with what is made of it.
    pub logits: u64,
    /// A tile of scores with what is made of it, and a text's queries, keys and values in f32.
    pub attention: u64,
    /// Masks of dropout, a bit an element; the host makes them.
    pub masks: u64,
    /// Other buffers of a step.
    pub workspace: u64,
    /// Whether blocks run again on the way back.
    pub recomputed: bool,
}

impl Model {
    /// The memory of [`Model::gradients`] in tensor operations for `batch` tokens in rows of at most `longest` (a share of
    /// `trained` of them targets), the adapter `adapt`, and `recompute`.
    pub fn device_pass_memory(
        &self,
        longest: usize,
        batch: usize,
        trained: f64,
        adapt: &dyn Adapt,
        recompute: Recompute,
    ) -> DevicePassMemory {
        let (c, tokens) = (&self.config, batch.min(texts::most(0, longest, texts::DEVICE_TOKENS)));
        let recomputed = self.tensors_run_again(recompute);
        let targets = (tokens as f64 * trained).ceil() as usize;
        let prepared = PreparedAdapter::unprepared(self, adapt);
        let count = |size| self.counted(Rules::tensors(size), [tokens, targets], recomputed, &prepared);
        // What is not kept is f32 at some time.
        let (kept, full) = (count(self.dtype.size_in_bytes()).kept, count(F32));
        // A pair on the head, or its magnitudes, make the logits once more.
        let more = usize::from(self.shared.final_cap.is_some()) + usize::from(adapt.term(self.head.site).is_some());
        let [weights, expanded] = self.device_weights();
        let (masks, dropped) = self.mask_bytes(tokens, adapt);
        // Buffers between operations; chosen rows, there and back.
        let buffers = full.peak - full.kept + (4 * targets * c.width * F32) as u64;
        DevicePassMemory {
            tokens,
            weights,
            expanded,
            activations: kept,
            logits: head::working_bytes(targets, c.vocab, more),
            attention: attention::working_bytes(longest.max(attention::TILE).min(tokens), [c.heads, c.kv_heads, c.head_dim]),
            masks,
            workspace: buffers + dropped + mlp::working_bytes(tokens * c.ffn),
            recomputed,
        }
    }

    /// Whether blocks run again in tensor operations. How much memory of a device is free is not known here.
    pub(super) fn tensors_run_again(&self, recompute: Recompute) -> bool {
        match recompute {
            Recompute::Never => false,
            Recompute::Always => true,
            Recompute::Within(_) => !self.device.is_cpu(),
        }
    }

    /// Bytes of all frozen matrices on the device, and of the largest on its way into the dtype of products.
    fn device_weights(&self) -> [u64; 2] {
        let linears = self.linears().map(|l| &l.linear.matrix);
        let (mut seen, mut sum) = (HashSet::new(), [0, 0]);
        // Rows of a quantised embedding are read on the host.
        let inputs = self.layer_inputs.as_ref().map(|inputs| &inputs.embedding);
        let tables = [Some(&self.embedding.matrix), self.embedding.positions.as_ref(), inputs];
        let tables = tables.into_iter().flatten().filter(|table| table.weight.dtype.block() == 1);
        for matrix in linears.chain(tables) {
            if seen.insert(matrix.weight.data.bytes().as_ptr() as usize) {
                let [kept, made] = matrix.on_device_bytes(self.dtype);
                sum = [sum[0] + kept, sum[1].max(made)];
            }
        }
        sum
    }

    /// Bytes of all masks of `adapt`, and of the widest one as factors with what it makes.
    fn mask_bytes(&self, tokens: usize, adapt: &dyn Adapt) -> (u64, u64) {
        let drops = |i: usize| matches!(adapt.term(Site(i)), Some(Term::LowRank(LowRankPair { dropout: Some(_), .. })));
        let widths = || self.sites.iter().enumerate().filter(|(i, _)| drops(*i)).map(|(_, site)| site.inputs);
        let bits = widths().map(|width| tokens * width.div_ceil(8)).sum::<usize>();
        (bits as u64, (2 * tokens * widths().max().unwrap_or(0) * self.dtype.size_in_bytes()) as u64)
    }

    /// Bytes of the host for a pass on a device: rows of a quantised embedding, and masks on their way.
    pub fn host_bytes_of_tensors(&self, memory: &DevicePassMemory) -> u64 {
        let rows = if self.embedding.matrix.weight.dtype.block() == 1 { 0 } else { memory.tokens * self.config.width * F32 };
        rows as u64 + memory.masks
    }
}
