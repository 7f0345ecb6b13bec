//! What the CPU does with queries, keys and values between their projections and attention: norms, positions.

use super::super::layers::Attention;
use super::cpu::Cpu;
use super::machine::{Given, Parts, Turned};
use super::workspace::{Buffer, Pooled};
use crate::kernels::element::convert;
use crate::kernels::rope::{Rotation, turn_parts};

impl<T: Pooled> Cpu<'_, T> {
    /// Queries, keys and values, the first two turned; heads that share one are summed.
    fn turned<X: Pooled>(
        &mut self,
        given: &Given,
        attention: &Attention,
        parts: Parts<Buffer<f32>>,
        inverse: bool,
    ) -> Parts<Buffer<X>> {
        let Attention { shape, rope, .. } = attention;
        let table = rope.map(|at| &given.shared.ropes[at]);
        let [q, k, v] = shape.widths();
        let [from_q, from_k, from_v] = &parts;
        let mut out =
            [(from_q, q), (from_k, k), (from_v, v)].map(|(from, width)| from.as_ref().map(|_| self.take::<X>(given, width)));
        let [to_q, to_k, to_v] = &mut out;
        let rotation = Rotation { table, positions: given.positions, head_dim: shape.head_dim, inverse };
        let from = [from_q, from_k, from_v].map(|from| from.as_deref().unwrap_or(&[]));
        turn_parts(&rotation, from, [to_q, to_k, to_v].map(|to| to.as_deref_mut().unwrap_or(&mut [])));
        parts.into_iter().flatten().for_each(|f| self.scratch.give(f));
        out
    }

    /// Norms where there are any, then positions; with what the norms read.
    pub(super) fn normed_and_turned(
        &mut self,
        given: &Given,
        attention: &Attention,
        mut parts: Parts<Buffer<f32>>,
    ) -> Turned<Self> {
        let mut bare = [None, None, None];
        for ((part, norm), bare) in parts.iter_mut().zip(&attention.norms).zip(&mut bare) {
            let (Some(norm), Some(read)) = (norm, part.as_ref()) else { continue };
            let width = read.len() / given.tokens();
            let (mut normed, mut kept) = (self.take::<f32>(given, width), self.take::<T>(given, width));
            norm.frozen().forward(read, &mut normed);
            convert(read, &mut kept);
            part.replace(normed).into_iter().for_each(|read| self.scratch.give(read));
            *bare = Some(kept);
        }
        (self.turned(given, attention, parts, false), bare)
    }

    /// The way back of [`Cpu::normed_and_turned`].
    pub(super) fn turned_and_normed_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        bare: &Parts<Buffer<T>>,
        grads: Parts<Buffer<f32>>,
    ) -> Parts<Buffer<T>> {
        if attention.norms.iter().all(Option::is_none) {
            return self.turned(given, attention, grads, true);
        }
        let turned = self.turned::<f32>(given, attention, grads, true);
        let mut back = [None, None, None];
        for (((grad, norm), bare), back) in turned.into_iter().zip(&attention.norms).zip(bare).zip(&mut back) {
            let Some(grad) = grad else { continue };
            let width = grad.len() / given.tokens();
            let mut rounded = self.take::<T>(given, width);
            if let Some((norm, bare)) = norm.as_ref().zip(bare.as_ref()) {
                let mut sum = self.take::<f32>(given, width);
                sum.fill(0.0);
                norm.frozen().backward_add(bare, &grad, &mut sum, &mut rounded);
                self.scratch.give(sum);
            } else {
                convert(&grad, &mut rounded);
            }
            self.scratch.give(grad);
            *back = Some(rounded);
        }
        back
    }
}
