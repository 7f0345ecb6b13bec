//! What the CPU does with what layers are given of each token beside the stream.

use rayon::prelude::*;

use super::super::layers::LayerInputs;
use super::cpu::Cpu;
use super::machine::Given;
use super::workspace::{Buffer, Pooled};
use crate::kernels::element::convert;

impl<T: Pooled> Cpu<'_, T> {
    /// `(norm(projected · its scale) + embedding · its scale) · scale` (transformers' `Gemma4TextModel.project_per_layer_inputs`);
    /// with what the norm reads.
    pub(super) fn made_layer_inputs(&mut self, given: &Given, of: &LayerInputs, mut projected: Buffer<f32>) -> [Buffer<T>; 2] {
        let width = projected.len() / given.tokens();
        let mut sum = self.take::<f32>(given, width);
        let [mut all, mut kept] = [(); 2].map(|()| self.take::<T>(given, width));
        projected.par_chunks_exact_mut(width).for_each(|row| row.iter_mut().for_each(|x| *x *= of.projection_scale));
        convert(&projected, &mut kept);
        of.norm.frozen().forward(&projected, &mut sum);
        let rows = sum.par_chunks_exact_mut(width).zip(projected.par_chunks_exact_mut(width)).zip(given.ids);
        rows.for_each(|((sum, own), id)| {
            of.embedding.weight.read(*id as usize, 0, own);
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum = (*sum + of.embedding_scale * *own) * of.scale);
        });
        convert(&sum, &mut all);
        [sum, projected].into_iter().for_each(|wide| self.scratch.give(wide));
        [all, kept]
    }

    /// The gradient of what [`Cpu::made_layer_inputs`] read.
    pub(super) fn layer_inputs_gradient(
        &mut self,
        given: &Given,
        of: &LayerInputs,
        kept: &Buffer<T>,
        mut grad: Buffer<f32>,
    ) -> Buffer<T> {
        let width = grad.len() / given.tokens();
        let mut sum = self.take::<f32>(given, width);
        let mut rounded = self.take::<T>(given, width);
        grad.par_chunks_exact_mut(width).for_each(|row| row.iter_mut().for_each(|x| *x *= of.scale * of.projection_scale));
        sum.fill(0.0);
        of.norm.frozen().backward_add(kept, &grad, &mut sum, &mut rounded);
        [sum, grad].into_iter().for_each(|wide| self.scratch.give(wide));
        rounded
    }

    /// The part of one layer.
    pub(super) fn one_layer_input(&mut self, given: &Given, all: &[T], layer: usize) -> Buffer<T> {
        let (width, own) = self.layer_widths();
        let mut part = self.take::<T>(given, own);
        let rows = part.par_chunks_exact_mut(own).zip(all.par_chunks_exact(width));
        rows.for_each(|(to, from)| to.copy_from_slice(&from[layer * own..][..own]));
        part
    }

    /// Adds `grad` to the part of one layer.
    pub(super) fn add_to_layer(&mut self, given: &Given, layer: usize, grad: Buffer<T>, all: &mut [f32]) {
        let (width, own) = self.layer_widths();
        let mut wide = self.take::<f32>(given, own);
        convert(&grad, &mut wide);
        let rows = all.par_chunks_exact_mut(width).zip(wide.par_chunks_exact(own));
        rows.for_each(|(to, from)| to[layer * own..][..own].iter_mut().zip(from).for_each(|(to, from)| *to += from));
        self.scratch.give(wide);
        self.scratch.give(grad);
    }

    /// Numbers that a token has for all layers, and for one.
    fn layer_widths(&self) -> (usize, usize) {
        let own = self.model.layer_inputs.as_ref().map_or(0, |inputs| inputs.width);
        (own * self.model.blocks.len(), own)
    }
}
