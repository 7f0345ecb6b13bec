//! The CPU's head: norm, logits, loss, and the way back.

use super::super::Targets;
use super::cpu::Cpu;
use super::machine::Given;
use super::prepared::PreparedAdapter;
use super::sums::SiteSums;
use super::workspace::{Buffer, Pooled};
use crate::error::Result;
use crate::kernels::adapted_head::{Finish, HeadGradients, adapted_linear_cross_entropy, head_logps};
use crate::kernels::cross_entropy::WeightedTargets;
use crate::kernels::dropout::TokenMask;
use crate::kernels::engine::{Dest, Engine, Layer};
use crate::kernels::linear::Side;
use crate::kernels::soft_cap::soft_cap;

impl<T: Pooled> Cpu<'_, T> {
    /// The head with what the adapter does there; `rows` are those of its input for dropout.
    fn head_layer<'b>(&'b self, adapter: &'b PreparedAdapter, rows: &'b [u64]) -> Layer<'b> {
        let site = self.model.head.site.0;
        let (matrix, side) = match &adapter.full_head {
            Some(full) => (&**full, Side::Transposed),
            None => (&*self.model.head.linear.matrix, self.model.head.linear.side),
        };
        let drop = adapter.masks[site].map(|mask| TokenMask { mask, rows });
        Layer { matrix, side, pair: adapter.pairs[site].as_ref(), drop }
    }

    fn finish<'b>(&self, adapter: &'b PreparedAdapter) -> Finish<'b> {
        let cap = self.model.shared.final_cap.map(|cap| cap as f32);
        Finish { columns: adapter.columns[self.model.head.site.0].as_ref(), cap }
    }

    /// Rows of `x` (.., d), normed in f32.
    fn chosen(&self, x: &[f32], at: impl Iterator<Item = usize>) -> [Vec<f32>; 2] {
        let d = self.model.config.width;
        let chosen: Vec<f32> = at.flat_map(|at| &x[at * d..][..d]).copied().collect();
        let mut normed = vec![0f32; chosen.len()];
        self.model.final_norm.frozen().forward(&chosen, &mut normed);
        [chosen, normed]
    }

    /// See [`super::machine::Machine::loss`].
    pub(super) fn head_loss(
        &mut self,
        given: &Given,
        x: &Buffer<f32>,
        targets: &Targets,
        weights: &[f32],
    ) -> Result<(Vec<f32>, Buffer<f32>)> {
        let (adapter, d) = (given.only(), self.model.config.width);
        let [chosen, normed] = self.chosen(x, targets.at.iter().map(|at| *at as usize));
        let (linear, site) = (&self.model.head.linear, self.model.head.site.0);
        let norm = self.model.final_norm.frozen();
        let mut d_normed = vec![0f32; chosen.len()];
        let weighted = WeightedTargets { ids: &targets.ids, weights };
        let losses = if let (None, None) = (&adapter.pairs[site], &adapter.full_head) {
            let mut rounded = vec![T::default(); chosen.len()];
            norm.forward(&chosen, &mut rounded);
            let mut logits = self.scratch.scratch::<T>();
            let cap = given.shared.final_cap.map(|cap| cap as f32);
            let losses =
                T::linear_cross_entropy(&rounded, &linear.matrix, linear.side, weighted, cap, &mut d_normed, &mut logits);
            self.scratch.give_scratch(logits);
            losses
        } else {
            let rows: Vec<u64> = targets.at.iter().map(|at| given.rows[*at as usize]).collect();
            let SiteSums { mut pair, mut magnitude } = std::mem::take(&mut self.sums.sites[site]);
            let mut full = self.sums.head.take();
            let grads = HeadGradients {
                x: &mut d_normed,
                pair: pair.as_mut(),
                full: full.as_deref_mut(),
                magnitude: magnitude.as_deref_mut(),
            };
            let layer = self.head_layer(adapter, &rows);
            let losses = adapted_linear_cross_entropy(&normed, layer, self.finish(adapter), weighted, grads);
            self.sums.sites[site] = SiteSums { pair, magnitude };
            self.sums.head = full;
            losses
        };
        let [mut d_chosen, mut copy] = [(); 2].map(|()| vec![0f32; chosen.len()]);
        norm.backward_add(&chosen, &d_normed, &mut d_chosen, &mut copy);
        let mut dx = self.take::<f32>(given, d);
        dx.fill(0.0);
        for (at, g) in targets.at.iter().zip(d_chosen.chunks_exact(d)) {
            dx[*at as usize * d..][..d].copy_from_slice(g);
        }
        Ok((losses, dx))
    }

    /// See [`super::machine::Machine::logps`].
    pub(super) fn target_logps(&self, given: &Given, x: &Buffer<f32>, targets: &Targets) -> Vec<f32> {
        let adapter = given.only();
        let [_, normed] = self.chosen(x, targets.at.iter().map(|at| *at as usize));
        let rows: Vec<u64> = targets.at.iter().map(|at| given.rows[*at as usize]).collect();
        head_logps(&normed, self.head_layer(adapter, &rows), self.finish(adapter), &targets.ids)
    }

    /// See [`super::machine::Machine::logits`].
    pub(super) fn row_logits(&self, given: &Given, x: &Buffer<f32>, rows: &[usize]) -> Vec<f32> {
        let (d, vocab, site) = (self.model.config.width, self.model.config.vocab, self.model.head.site.0);
        let [_, normed] = self.chosen(x, rows.iter().copied());
        let mut logits = vec![0f32; rows.len() * vocab];
        // The chosen rows of each adapter lie together, as its tokens do.
        let mut parts = Vec::new();
        for (tokens, adapter) in given.acting {
            let [from, to] = [tokens.start, tokens.end].map(|end| rows.partition_point(|row| *row < end));
            parts.push((from..to, *adapter));
        }
        if parts.iter().all(|(_, a)| a.full_head.is_none() && a.columns[site].is_none()) {
            let parts: Vec<_> = parts.into_iter().map(|(rows, adapter)| (rows, self.head_layer(adapter, &[]))).collect();
            f32::forward_mixed(given.phase, &normed, &parts, Dest::Set(&mut logits));
            given.shared.final_cap.into_iter().for_each(|cap| soft_cap(&mut logits, cap as f32));
            return logits;
        }
        for (rows, adapter) in parts {
            let (x, y) = (&normed[rows.start * d..rows.end * d], &mut logits[rows.start * vocab..rows.end * vocab]);
            f32::forward(given.phase, x, &[self.head_layer(adapter, &[])], vec![Dest::Set(y)]);
            if let Some(columns) = &adapter.columns[site] {
                let z = y.to_vec();
                columns.apply(&z, Dest::Set(y));
            }
        }
        given.shared.final_cap.into_iter().for_each(|cap| soft_cap(&mut logits, cap as f32));
        logits
    }
}
