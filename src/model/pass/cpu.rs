//! A pass on the CPU, in f32 or in bf16: kernels over plain buffers, which are used again.

use candle_core::Tensor;
use rayon::prelude::*;

use super::super::layers::{Attention, DeltaNet, LayerInputs, Norm, SiteLinear};
use super::super::{Model, Targets};
use super::machine::{Given, Machine, Parts, Sites, Turned, Unscaled};
use super::sums::Sums;
use super::texts::PackedTexts;
use super::workspace::{Buffer, Pooled, Workspace};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::delta_rule;
use crate::kernels::element::{add_to_rows, convert, join_rows, split_rows};
use crate::kernels::engine::{Attended, AttentionGradient, Dest};
use crate::kernels::host;

/// Numbers that one task scales.
const SCALED: usize = 1 << 14;

/// Where tokens find those before them.
pub(super) trait Past<T> {
    /// From turned queries and keys, and values, to the output.
    fn attend(&mut self, attention: &Attention, qkv: [&[T]; 3], out: &mut [T]) -> Attended;
    /// From what its projections made to the output, in `room`.
    fn delta(&mut self, net: &DeltaNet, parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]);
}

/// In their own texts, which are whole.
impl<T: Pooled> Past<T> for &PackedTexts {
    fn attend(&mut self, attention: &Attention, qkv: [&[T]; 3], out: &mut [T]) -> Attended {
        T::attend(&self.spans(attention), qkv, out)
    }

    fn delta(&mut self, net: &DeltaNet, parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]) {
        delta_rule::forward(&net.frozen(), &self.spans, parts, room, out);
    }
}

/// The CPU, with activations of `T`.
pub(super) struct Cpu<'a, T: Pooled> {
    pub model: &'a Model,
    pub scratch: &'a mut Workspace,
    pub past: &'a mut dyn Past<T>,
    /// The whole texts that a way back goes over.
    pub texts: Option<&'a PackedTexts>,
    pub sums: &'a mut Sums,
}

impl<T: Pooled> Cpu<'_, T> {
    /// A buffer (n, width) for the tokens of `given`.
    pub(super) fn take<X: Pooled>(&mut self, given: &Given, width: usize) -> Buffer<X> {
        match given.chosen {
            None => self.scratch.take(given.tokens(), width),
            Some(_) => self.scratch.take_part(given.tokens(), width),
        }
    }
}

/// Adds the bias of a site.
fn biased<T: Pooled>(site: &SiteLinear, y: &mut [T]) -> Result<()> {
    if let Some(bias) = &site.linear.bias {
        add_to_rows(y, &bias.to_vec1::<f32>()?);
    }
    Ok(())
}

impl<T: Pooled> Machine for Cpu<'_, T> {
    type Wide = Buffer<f32>;
    type Act = Buffer<T>;
    type Saved = Attended;

    fn free(&mut self, act: Buffer<T>) {
        self.scratch.give(act);
    }

    fn free_wide(&mut self, wide: Buffer<f32>) {
        self.scratch.give(wide);
    }

    fn copied(&mut self, x: &Buffer<f32>) -> Result<Buffer<f32>> {
        let d = self.model.config.width;
        let mut copy = self.scratch.take::<f32>(x.len() / d, d);
        copy.copy_from_slice(x);
        Ok(copy)
    }

    fn rounded(&mut self, x: &Buffer<f32>) -> Result<Buffer<T>> {
        let d = self.model.config.width;
        let mut rounded = self.scratch.take::<T>(x.len() / d, d);
        convert(x, &mut rounded);
        Ok(rounded)
    }

    fn widened(&mut self, given: &Given, x: &Buffer<T>) -> Result<Buffer<f32>> {
        let mut wide = self.zeros_of(given, x)?;
        convert(x, &mut wide);
        Ok(wide)
    }

    fn narrowed(&mut self, given: &Given, x: Buffer<f32>) -> Result<Buffer<T>> {
        let mut narrow = self.take::<T>(given, x.len() / given.tokens());
        convert(&x, &mut narrow);
        self.scratch.give(x);
        Ok(narrow)
    }

    fn again(&mut self, given: &Given, x: &Buffer<f32>) -> Result<Buffer<f32>> {
        let mut copy = self.take::<f32>(given, x.len() / given.tokens());
        copy.copy_from_slice(x);
        Ok(copy)
    }

    fn zeros_of(&mut self, given: &Given, x: &Buffer<T>) -> Result<Buffer<f32>> {
        let mut zeros = self.take::<f32>(given, x.len() / given.tokens());
        zeros.fill(0.0);
        Ok(zeros)
    }

    fn add(&mut self, x: &mut Buffer<f32>, y: Buffer<f32>) -> Result<()> {
        add_to_rows(x, &y);
        self.scratch.give(y);
        Ok(())
    }

    fn sum(&mut self, given: &Given, x: Buffer<T>, y: Buffer<T>) -> Result<Buffer<T>> {
        let [mut sum, more] = [self.widened(given, &x)?, self.widened(given, &y)?];
        self.add(&mut sum, more)?;
        let mut x = x;
        convert(&sum, &mut x);
        self.scratch.give(sum);
        self.scratch.give(y);
        Ok(x)
    }

    fn scale(&mut self, by: f32, x: &mut Buffer<f32>) -> Result<()> {
        x.par_chunks_mut(SCALED).for_each(|x| x.iter_mut().for_each(|x| *x *= by));
        Ok(())
    }

    fn embed(&mut self, given: &Given) -> Result<Buffer<f32>> {
        let (model, d) = (self.model, self.model.config.width);
        model.check(given.ids, given.positions)?;
        let mut x = self.take::<f32>(given, d);
        for (rows, adapter) in given.acting {
            let each = given.ids[rows.clone()].iter().zip(x[rows.start * d..rows.end * d].chunks_exact_mut(d));
            match &adapter.full_embedding {
                None => each.for_each(|(id, x)| model.embedding.matrix.weight.read(*id as usize, 0, x)),
                Some(full) => host::read(full, |full| {
                    each.for_each(|(id, x)| x.copy_from_slice(&full[*id as usize * d..][..d]));
                    Ok(())
                })?,
            }
        }
        if let Some(scale) = given.shared.embedding_scale {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(table) = &model.embedding.positions {
            let mut place = vec![0f32; d];
            for (position, x) in given.positions.iter().zip(x.chunks_exact_mut(d)) {
                table.weight.read(*position as usize, 0, &mut place);
                x.iter_mut().zip(&place).for_each(|(x, p)| *x += p);
            }
        }
        Ok(x)
    }

    fn embed_back(&mut self, given: &Given, dx: &Buffer<f32>) -> Result<()> {
        if let Some(embedding) = &mut self.sums.embedding {
            let scale = given.shared.embedding_scale.unwrap_or(1.0);
            for (id, g) in given.ids.iter().zip(dx.chunks_exact(self.model.config.width)) {
                let row = &mut embedding[*id as usize * g.len()..][..g.len()];
                row.iter_mut().zip(g).for_each(|(sum, g)| *sum += scale * g);
            }
        }
        Ok(())
    }

    fn norm(&mut self, norm: &Norm, x: &Buffer<f32>) -> Result<[Buffer<T>; 2]> {
        let d = self.model.config.width;
        let [mut normed, mut kept] = [(); 2].map(|()| self.scratch.take::<T>(x.len() / d, d));
        norm.frozen().keep(x, &mut normed, &mut kept);
        Ok([normed, kept])
    }

    fn norm_again(&mut self, norm: &Norm, kept: &Buffer<T>) -> Result<Buffer<T>> {
        let d = self.model.config.width;
        let mut normed = self.scratch.take::<T>(kept.len() / d, d);
        norm.frozen().forward(kept, &mut normed);
        Ok(normed)
    }

    fn norm_back(
        &mut self,
        norm: &Norm,
        kept: &Buffer<T>,
        d_normed: Buffer<f32>,
        dx: &mut Buffer<f32>,
        rounded: &mut Buffer<T>,
    ) -> Result<()> {
        norm.frozen().backward_add(kept, &d_normed, dx, rounded);
        self.scratch.give(d_normed);
        Ok(())
    }

    fn norm_add(&mut self, norm: &Norm, y: Buffer<f32>, x: &mut Buffer<f32>) -> Result<Buffer<T>> {
        let mut normed = self.copied(&y)?;
        norm.frozen().forward(&y, &mut normed);
        add_to_rows(x, &normed);
        let kept = self.rounded(&y)?;
        [y, normed].into_iter().for_each(|wide| self.scratch.give(wide));
        Ok(kept)
    }

    fn norm_add_back(&mut self, norm: &Norm, kept: &Buffer<T>, dx: &Buffer<f32>) -> Result<Buffer<T>> {
        let (mut dy, mut rounded) = (self.copied(dx)?, self.rounded(dx)?);
        dy.fill(0.0);
        norm.frozen().backward_add(kept, dx, &mut dy, &mut rounded);
        self.scratch.give(dy);
        Ok(rounded)
    }

    fn project(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &Buffer<T>,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Buffer<f32>>> {
        let mut out: Vec<_> = sites.iter().map(|s| self.take::<f32>(given, s.linear.outputs())).collect();
        self.multiply(given, sites, x, out.iter_mut().map(|y| Dest::Set(y)).collect(), unscaled);
        sites.iter().zip(&mut out).try_for_each(|(site, y)| biased(site, y))?;
        Ok(out)
    }

    fn project_rounded(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &Buffer<T>,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Buffer<T>>> {
        let mut out: Vec<_> = sites.iter().map(|s| self.take::<T>(given, s.linear.outputs())).collect();
        self.multiply(given, sites, x, out.iter_mut().map(|y| Dest::Store(y)).collect(), unscaled);
        sites.iter().zip(&mut out).try_for_each(|(site, y)| biased(site, y))?;
        Ok(out)
    }

    fn project_add(
        &mut self,
        given: &Given,
        site: &SiteLinear,
        x: &Buffer<T>,
        y: &mut Buffer<f32>,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<()> {
        self.multiply(given, &[site], x, vec![Dest::Add(y)], unscaled);
        biased(site, y)
    }

    fn gradients(&mut self, given: &Given, sites: &Sites<Self>, x: Option<&Buffer<T>>, unscaled: &Unscaled<Self>) -> Result<()> {
        self.back(given, sites, x, unscaled, None);
        Ok(())
    }

    fn project_back(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Buffer<T>>,
        unscaled: &Unscaled<Self>,
    ) -> Result<Buffer<f32>> {
        let mut dx = self.take::<f32>(given, sites[0].0.linear.inputs());
        self.back(given, sites, x, unscaled, Some(Dest::Set(&mut dx)));
        Ok(dx)
    }

    fn project_back_rounded(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Buffer<T>>,
        unscaled: &Unscaled<Self>,
    ) -> Result<Buffer<T>> {
        let mut dx = self.take::<T>(given, sites[0].0.linear.inputs());
        self.back(given, sites, x, unscaled, Some(Dest::Store(&mut dx)));
        Ok(dx)
    }

    fn split(&mut self, given: &Given, fused: Buffer<f32>, widths: &[usize], groups: usize) -> Result<Vec<Buffer<f32>>> {
        let mut parts: Vec<_> = widths.iter().map(|w| self.take::<f32>(given, *w)).collect();
        let mut slices: Vec<&mut [f32]> = parts.iter_mut().map(|part| &mut **part).collect();
        split_rows(&fused, given.tokens(), groups, &mut slices);
        self.scratch.give(fused);
        Ok(parts)
    }

    fn join(&mut self, given: &Given, parts: Vec<Buffer<T>>, groups: usize) -> Result<Buffer<T>> {
        let mut fused = self.take::<T>(given, parts.iter().map(|part| part.len()).sum::<usize>() / given.tokens());
        join_rows(&parts.iter().map(|part| &**part).collect::<Vec<_>>(), given.tokens(), groups, &mut fused);
        parts.into_iter().for_each(|p| self.scratch.give(p));
        Ok(fused)
    }

    fn halve(&mut self, given: &Given, fused: Buffer<T>, groups: usize) -> Result<[Buffer<T>; 2]> {
        let width = fused.len() / given.tokens() / 2;
        let mut parts = [(); 2].map(|()| self.take::<T>(given, width));
        let [gate, up] = &mut parts;
        split_rows(&fused, given.tokens(), groups, &mut [gate, up]);
        self.scratch.give(fused);
        Ok(parts)
    }

    fn unite(&mut self, given: &Given, gate: &Buffer<T>, up: &Buffer<T>, groups: usize) -> Result<Buffer<T>> {
        let mut fused = self.take::<T>(given, 2 * gate.len() / given.tokens());
        join_rows(&[gate, up], given.tokens(), groups, &mut fused);
        Ok(fused)
    }

    fn turn(&mut self, given: &Given, attention: &Attention, parts: Parts<Buffer<f32>>) -> Result<Turned<Self>> {
        Ok(self.normed_and_turned(given, attention, parts))
    }

    fn turn_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        bare: &Parts<Buffer<T>>,
        grads: Parts<Buffer<f32>>,
    ) -> Result<Parts<Buffer<T>>> {
        Ok(self.turned_and_normed_back(given, attention, bare, grads))
    }

    fn attend(&mut self, given: &Given, attention: &Attention, [q, k, v]: [&Buffer<T>; 3]) -> Result<(Buffer<T>, Attended)> {
        let mut out = self.take::<T>(given, attention.shape.widths()[0]);
        let saved = self.past.attend(attention, [q, k, v], &mut out);
        Ok((out, saved))
    }

    fn delta(&mut self, given: &Given, net: &DeltaNet, parts: [&Buffer<T>; 4]) -> Result<Buffer<T>> {
        Ok(self.delta_rule(given, net, parts))
    }

    fn delta_back(&mut self, given: &Given, net: &DeltaNet, parts: [&Buffer<T>; 4], grad: Buffer<T>) -> Result<[Buffer<T>; 4]> {
        Ok(self.delta_rule_back(given, net, parts, grad))
    }

    fn attend_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        [q, k, v]: [&Buffer<T>; 3],
        out: &Buffer<T>,
        saved: &Attended,
        grad: Buffer<T>,
    ) -> Result<[Buffer<f32>; 3]> {
        let widths = attention.shape.widths();
        let mut grads = widths.map(|w| self.take::<f32>(given, if T::EACH_HEAD { widths[0] } else { w }));
        let texts = self.texts.unwrap_or_else(|| unreachable!("a way back goes over whole texts"));
        let [dq, dk, dv] = &mut grads;
        let behind = AttentionGradient { out, grad: &grad, saved };
        T::attend_back(&texts.spans(attention), [q, k, v], behind, [dq, dk, dv]);
        self.scratch.give(grad);
        Ok(grads)
    }

    fn gate(&mut self, given: &Given, act: Activation, gate: Option<&Buffer<T>>, up: &Buffer<T>) -> Result<Buffer<T>> {
        let mut out = self.take::<T>(given, up.len() / given.tokens());
        match gate {
            Some(gate) => act.gate(gate, up, &mut out),
            None => act.forward(up, &mut out),
        }
        Ok(out)
    }

    fn gate_back(
        &mut self,
        _: &Given,
        act: Activation,
        gate: Option<&mut Buffer<T>>,
        up: &mut Buffer<T>,
        grad: Buffer<T>,
    ) -> Result<()> {
        match gate {
            Some(gate) => act.gate_backward_in_place(gate, up, &grad),
            None => act.backward_in_place(up, &grad),
        }
        self.scratch.give(grad);
        Ok(())
    }

    fn layer_inputs(&mut self, given: &Given, inputs: &LayerInputs, projected: Buffer<f32>) -> Result<[Buffer<T>; 2]> {
        Ok(self.made_layer_inputs(given, inputs, projected))
    }

    fn layer_inputs_back(
        &mut self,
        given: &Given,
        inputs: &LayerInputs,
        kept: &Buffer<T>,
        grad: Buffer<f32>,
    ) -> Result<Buffer<T>> {
        Ok(self.layer_inputs_gradient(given, inputs, kept, grad))
    }

    fn layer_input(&mut self, given: &Given, all: &Buffer<T>, layer: usize) -> Result<Buffer<T>> {
        Ok(self.one_layer_input(given, all, layer))
    }

    fn add_layer_input(&mut self, given: &Given, layer: usize, grad: Buffer<T>, all: &mut Buffer<f32>) -> Result<()> {
        self.add_to_layer(given, layer, grad, all);
        Ok(())
    }

    fn route(&mut self, given: &Given, router: &SiteLinear, x: &Buffer<T>) -> Result<Vec<f32>> {
        self.router_logits(given, router, x)
    }

    fn route_back(
        &mut self,
        given: &Given,
        router: &SiteLinear,
        x: &Buffer<T>,
        d_logits: &[f32],
        dx: &mut Buffer<f32>,
    ) -> Result<()> {
        self.router_back(given, router, x, d_logits, dx);
        Ok(())
    }

    fn zeros_like(&mut self, x: &Buffer<f32>) -> Result<Buffer<f32>> {
        let mut zeros = self.copied(x)?;
        zeros.fill(0.0);
        Ok(zeros)
    }

    fn gather(&mut self, given: &Given, x: &Buffer<T>) -> Result<Buffer<T>> {
        Ok(self.gathered(given, x))
    }

    fn scatter_add(&mut self, given: &Given, y: Buffer<f32>, weights: Option<&[f32]>, x: &mut Buffer<f32>) -> Result<()> {
        self.scattered(given, y, weights, x);
        Ok(())
    }

    fn weigh(&mut self, weights: &[f32], x: &mut Buffer<T>) -> Result<()> {
        Self::weigh_rows(weights, x);
        Ok(())
    }

    fn dots(&mut self, given: &Given, a: &Buffer<T>, b: &Buffer<T>) -> Result<Vec<f32>> {
        Ok(Self::row_dots(given.tokens(), a, b))
    }

    fn dots_with(&mut self, given: &Given, a: &Buffer<T>, b: &Tensor) -> Result<Vec<f32>> {
        let row: Vec<f32> = b.to_vec1()?;
        let mut wide = self.widened(given, a)?;
        let dots = wide.chunks_exact_mut(row.len()).map(|a| a.iter().zip(&row).map(|(a, b)| a * b).sum()).collect();
        self.scratch.give(wide);
        Ok(dots)
    }

    fn loss(&mut self, given: &Given, x: &Buffer<f32>, targets: &Targets, weights: &[f32]) -> Result<(Vec<f32>, Buffer<f32>)> {
        self.head_loss(given, x, targets, weights)
    }

    fn logps(&mut self, given: &Given, x: &Buffer<f32>, targets: &Targets) -> Result<Vec<f32>> {
        Ok(self.target_logps(given, x, targets))
    }

    fn logits(&mut self, given: &Given, x: &Buffer<f32>, rows: &[usize]) -> Result<Vec<f32>> {
        Ok(self.row_logits(given, x, rows))
    }
}
