//! What the CPU does to send tokens to experts and back.

use rayon::prelude::*;

use super::super::layers::SiteLinear;
use super::cpu::Cpu;
use super::machine::Given;
use super::workspace::{Buffer, Pooled};
use crate::error::Result;
use crate::kernels::element::{add_to_rows, convert};
use crate::kernels::engine::{Back, Dest, Engine};

impl<T: Pooled> Cpu<'_, T> {
    /// In f32 whatever the activations are: which expert comes first hangs on the last digits.
    pub(super) fn router_logits(&mut self, given: &Given, router: &SiteLinear, x: &[T]) -> Result<Vec<f32>> {
        let mut wide = vec![0f32; x.len()];
        convert(x, &mut wide);
        let mut logits = vec![0f32; given.tokens() * router.linear.outputs()];
        let parts = given.acting.iter().map(|(rows, adapter)| (rows.clone(), Self::layer(given, adapter, router)));
        f32::forward_mixed(given.phase, &wide, &parts.collect::<Vec<_>>(), Dest::Set(&mut logits));
        if let Some(bias) = &router.linear.bias {
            add_to_rows(&mut logits, &bias.to_vec1::<f32>()?);
        }
        Ok(logits)
    }

    /// The way back of [`Cpu::router_logits`].
    pub(super) fn router_back(&mut self, given: &Given, router: &SiteLinear, x: &[T], d_logits: &[f32], dx: &mut [f32]) {
        let (layer, mut wide) = (Self::layer(given, given.only(), router), Vec::new());
        if layer.pair.is_some() {
            wide.resize(x.len(), 0f32);
            convert(x, &mut wide);
        }
        let gradient = self.sums.sites[router.site.0].pair.as_mut();
        f32::backward(vec![Back { layer, x: &wide, dy: d_logits, gradient }], Some(Dest::Add(dx)));
    }

    /// The chosen tokens of `x`.
    pub(super) fn gathered(&mut self, given: &Given, x: &[T]) -> Buffer<T> {
        let d = self.model.config.width;
        let chosen = given.chosen.unwrap_or(&[]);
        let mut own = self.take::<T>(given, d);
        own.par_chunks_exact_mut(d).zip(chosen).for_each(|(to, at)| to.copy_from_slice(&x[*at as usize * d..][..d]));
        own
    }

    /// Adds `y` to the chosen tokens of `x`.
    pub(super) fn scattered(&mut self, given: &Given, y: Buffer<f32>, weights: Option<&[f32]>, x: &mut [f32]) {
        let d = self.model.config.width;
        for (i, (at, y)) in given.chosen.unwrap_or(&[]).iter().zip(y.chunks_exact(d)).enumerate() {
            let weight = weights.map_or(1.0, |weights| weights[i]);
            x[*at as usize * d..][..d].iter_mut().zip(y).for_each(|(x, y)| *x += weight * y);
        }
        self.scratch.give(y);
    }

    /// Each row of `x` by its weight.
    pub(super) fn weigh_rows(weights: &[f32], x: &mut [T]) {
        let mut wide = vec![0f32; x.len()];
        convert(x, &mut wide);
        wide.par_chunks_exact_mut(x.len() / weights.len().max(1)).zip(weights).for_each(|(row, weight)| {
            row.iter_mut().for_each(|x| *x *= weight);
        });
        convert(&wide, x);
    }

    /// The product of each of `rows` rows of `a` with that of `b`.
    pub(super) fn row_dots(rows: usize, a: &[T], b: &[T]) -> Vec<f32> {
        let [x, y] = [a, b].map(|from| {
            let mut wide = vec![0f32; from.len()];
            convert(from, &mut wide);
            wide
        });
        let d = a.len() / rows;
        let each = x.par_chunks_exact(d).zip(y.par_chunks_exact(d));
        each.map(|(x, y)| x.iter().zip(y).map(|(x, y)| x * y).sum()).collect()
    }
}
