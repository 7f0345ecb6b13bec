//! What a call holds, from its sizes alone: its own program run over a machine that counts.

use super::super::{Model, Targets};
use super::count::Counting;
use super::count_rules::{PassCount, Rules};
use super::machine::Given;
use super::prepared::PreparedAdapter;
use super::workspace::{self, BatchTokens, Recompute};
use crate::kernels::engine::Phase;
use crate::model::Adapt;

/// Bytes that the written-out path holds at its peak, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassMemory {
    /// Tokens that go through the model at once.
    pub tokens: usize,
    /// Kept for the backward pass, where it begins.
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
        let (tokens, adapter) = (workspace::group_tokens(of), PreparedAdapter::unprepared(self, adapt));
        let recomputed = self.recomputes(recompute, tokens, &adapter);
        let targets = (tokens as f64 * trained).ceil() as usize;
        let PassCount { kept, logits, peak, .. } = self.counted(self.cpu_rules(), [tokens, targets], recomputed, &adapter);
        PassMemory { tokens, activations: kept, logits, workspace: peak - kept - logits, recomputed }
    }

    /// Of the precision that activations have on the CPU.
    pub(super) fn cpu_rules(&self) -> Rules {
        match self.multiplies_in_bf16() {
            #[cfg(target_arch = "x86_64")]
            true => Rules::cpu::<half::bf16>(),
            _ => Rules::cpu::<f32>(),
        }
    }

    /// What a group of `tokens`, of which `targets` carry loss, takes there and back; blocks run `again` on the way back.
    pub(super) fn counted(
        &self,
        rules: Rules,
        [tokens, targets]: [usize; 2],
        again: bool,
        adapter: &PreparedAdapter,
    ) -> PassCount {
        let (acting, ids) = ([(0..tokens, adapter)], vec![0; tokens]);
        let given = Given {
            acting: &acting,
            phase: Phase::Blocked,
            ids: &ids,
            positions: &ids,
            rows: &[],
            shared: &self.shared,
            chosen: None,
            source: None,
        };
        // Either stack may have most of the tokens.
        let both = Given { source: self.encoder.as_ref().map(|_| &given), ..given };
        let targets = Targets { at: vec![0; targets], ids: vec![0; targets] };
        let (mut m, lowest) = (Counting::new(self, rules, tokens), self.lowest(|site| adapter.acts(site)));
        let run = self.traced(&mut m, &both, lowest, again);
        let run = run.and_then(|trace| self.loss_at_head(&mut m, &both, trace, &targets, &[]));
        let run = run.and_then(|(_, back)| self.blocks_back(&mut m, &both, lowest, back));
        run.unwrap_or_else(|_| unreachable!("counting reads nothing"));
        m.count()
    }

    /// Whether a group of `tokens` is run with recomputation.
    pub(super) fn recomputes(&self, recompute: Recompute, tokens: usize, adapter: &PreparedAdapter) -> bool {
        match recompute {
            _ if !self.in_kernels() => self.tensors_run_again(recompute),
            Recompute::Never => false,
            Recompute::Always => true,
            Recompute::Within(budget) => self.counted(self.cpu_rules(), [tokens, 0], false, adapter).kept > budget,
        }
    }
}
