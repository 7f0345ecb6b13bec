//! What the CPU does for the gated delta rule: in f32 whatever the activations are.

use super::super::layers::DeltaNet;
use super::cpu::Cpu;
use super::machine::Given;
use super::workspace::{Buffer, Pooled};
use crate::kernels::delta_rule;
use crate::kernels::element::convert;

impl<T: Pooled> Cpu<'_, T> {
    /// From what the projections made to the output (n, values).
    pub(super) fn delta_rule(&mut self, given: &Given, net: &DeltaNet, parts: [&Buffer<T>; 4]) -> Buffer<T> {
        let wide = self.delta_parts(given, net, parts);
        let mut out = self.take::<f32>(given, net.sizes.values());
        let mut room = self.take::<f32>(given, net.sizes.room());
        self.past.delta(net, wide.each_ref().map(|part| &**part), &mut room, &mut out);
        let mut rounded = self.take::<T>(given, net.sizes.values());
        convert(&out, &mut rounded);
        wide.into_iter().chain([room, out]).for_each(|wide| self.scratch.give(wide));
        rounded
    }

    /// Gradients of what [`Cpu::delta_rule`] read.
    pub(super) fn delta_rule_back(
        &mut self,
        given: &Given,
        net: &DeltaNet,
        parts: [&Buffer<T>; 4],
        grad: Buffer<T>,
    ) -> [Buffer<T>; 4] {
        let texts = self.texts.unwrap_or_else(|| unreachable!("a way back goes over whole texts"));
        let wide = self.delta_parts(given, net, parts);
        let mut d_out = self.take::<f32>(given, net.sizes.values());
        convert(&grad, &mut d_out);
        let [mut room, mut d_qkv] = [net.sizes.room(), net.sizes.channels()].map(|width| self.take::<f32>(given, width));
        let spans = &texts.spans;
        let wide_parts = wide.each_ref().map(|part| &**part);
        let [a, b] = delta_rule::backward(&net.frozen(), spans, wide_parts, &mut room, [&mut d_out, &mut d_qkv]);
        let grads = [&d_qkv[..], &d_out, &a, &b];
        let mut grads = grads.iter();
        let rounded = net.widths().map(|width| {
            let mut rounded = self.take::<T>(given, width);
            grads.next().into_iter().for_each(|grad| convert(grad, &mut rounded));
            rounded
        });
        wide.into_iter().chain([room, d_out, d_qkv]).for_each(|wide| self.scratch.give(wide));
        self.scratch.give(grad);
        rounded
    }

    fn delta_parts(&mut self, given: &Given, net: &DeltaNet, parts: [&Buffer<T>; 4]) -> [Buffer<f32>; 4] {
        let (mut parts, widths) = (parts.into_iter(), net.widths());
        widths.map(|width| {
            let mut wide = self.take::<f32>(given, width);
            parts.next().into_iter().for_each(|part| convert(part, &mut wide));
            wide
        })
    }
}
