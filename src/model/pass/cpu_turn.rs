//! What the CPU does with queries, keys and values between their projections and attention: norms, positions.

use super::super::layers::Turn;
use super::cpu::Cpu;
use super::machine::{Given, Turned};
use super::workspace::{Buffer, Pooled};
use crate::kernels::element::convert;
use crate::kernels::rope::{Rotation, turn_parts};

impl<T: Pooled> Cpu<'_, T> {
    /// Queries, keys and values, the first two turned; heads that share one are summed.
    fn turned<X: Pooled>(&mut self, given: &Given, turn: &Turn, parts: [Buffer<f32>; 3], inverse: bool) -> [Buffer<X>; 3] {
        let (table, head_dim) = (turn.rope.map(|at| &given.shared.ropes[at]), given.shared.head_dim);
        let mut out = given.shared.widths().map(|w| self.take::<X>(given, w));
        let [to_q, to_k, to_v] = &mut out;
        let rotation = Rotation { table, positions: given.positions, head_dim, inverse };
        turn_parts(&rotation, [&parts[0], &parts[1], &parts[2]], [to_q, to_k, to_v]);
        parts.into_iter().for_each(|f| self.scratch.give(f));
        out
    }

    /// Norms where there are any, then positions; with what the norms read.
    pub(super) fn normed_and_turned(&mut self, given: &Given, turn: &Turn, parts: [Buffer<f32>; 3]) -> Turned<Self> {
        let (mut normed, mut bare) = (Vec::with_capacity(3), [None, None, None]);
        for ((part, norm), bare) in parts.into_iter().zip(&turn.norms).zip(&mut bare) {
            let Some(norm) = norm else {
                normed.push(part);
                continue;
            };
            let mut out = self.take::<f32>(given, part.len() / given.tokens());
            norm.frozen().forward(&part, &mut out);
            let mut kept = self.take::<T>(given, part.len() / given.tokens());
            convert(&part, &mut kept);
            self.scratch.give(part);
            *bare = Some(kept);
            normed.push(out);
        }
        let normed = normed.try_into().unwrap_or_else(|_| unreachable!("queries, keys and values"));
        (self.turned(given, turn, normed, false), bare)
    }

    /// The way back of [`Cpu::normed_and_turned`].
    pub(super) fn turned_and_normed_back(
        &mut self,
        given: &Given,
        turn: &Turn,
        bare: &[Option<Buffer<T>>; 3],
        grads: [Buffer<f32>; 3],
    ) -> [Buffer<T>; 3] {
        if turn.norms.iter().all(Option::is_none) {
            return self.turned(given, turn, grads, true);
        }
        let turned = self.turned::<f32>(given, turn, grads, true);
        let back = turned.into_iter().zip(&turn.norms).zip(bare).map(|((grad, norm), bare)| {
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
            rounded
        });
        let back: Vec<Buffer<T>> = back.collect();
        back.try_into().unwrap_or_else(|_| unreachable!("queries, keys and values"))
    }
}
