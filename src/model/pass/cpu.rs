//! A pass on the CPU, in f32 or in bf16: kernels over plain buffers, which are used again.

use super::super::layers::{Norm, Sight, SiteLinear, Turn};
use super::super::linear::FrozenLinear;
use super::super::{Model, Targets};
use super::machine::{Given, Machine, Sites, Turned, Unscaled};
use super::prepared::PreparedAdapter;
use super::sums::Sums;
use super::workspace::{Buffer, Pooled, Workspace};
use crate::error::Result;
use crate::kernels::attention::{Scores, Varlen};
use crate::kernels::dropout::TokenMask;
use crate::kernels::element::{add_to_rows, convert, join_rows, split_rows};
use crate::kernels::engine::{Attended, AttentionGradient, Back, Dest, Engine, Layer};
use crate::kernels::host;

/// How queries find keys: from block, scores, turned queries and keys, and values, to the output.
pub(super) type Attend<'a, T> = &'a mut dyn FnMut(usize, Scores, [&[T]; 3], &mut [T]) -> Attended;

/// How queries find keys in a model with an encoder: from block, sight, queries, keys and values if there are new ones, to the output.
pub(super) type AttendOver<'a> = &'a mut dyn FnMut(usize, &Sight, &[f32], Option<[&[f32]; 2]>, &mut [f32]);

/// The CPU, with activations of `T`.
pub(super) struct Cpu<'a, T: Pooled> {
    pub model: &'a Model,
    pub scratch: &'a mut Workspace,
    pub attend: Attend<'a, T>,
    /// Nothing over whole texts.
    pub over: Option<AttendOver<'a>>,
    /// The whole texts that a way back goes over.
    pub spans: Option<&'a dyn Fn(Scores) -> Varlen<'a>>,
    pub sums: &'a mut Sums,
}

impl<T: Pooled> Cpu<'_, T> {
    fn layer<'a>(given: &'a Given, adapter: &'a PreparedAdapter, site: &'a SiteLinear) -> Layer<'a> {
        let drop = adapter.masks[site.site.0].map(|mask| TokenMask { mask, rows: given.rows });
        Layer { matrix: &site.linear.matrix, side: site.linear.side, pair: adapter.pairs[site.site.0].as_ref(), drop }
    }

    /// A buffer (n, width) for the tokens of `given`.
    pub(super) fn take<X: Pooled>(&mut self, given: &Given, width: usize) -> Buffer<X> {
        match given.chosen {
            None => self.scratch.take(given.tokens(), width),
            Some(_) => self.scratch.take_part(given.tokens(), width),
        }
    }

    /// `x` through several sites, each to its own place, without biases.
    fn multiply(&mut self, given: &Given, sites: &[&SiteLinear], x: &[T], dests: Vec<Dest<T>>, unscaled: &mut Unscaled<Self>) {
        let [(_, adapter)] = given.acting else { return self.multiply_mixed(given, sites, x, dests) };
        let layers: Vec<Layer> = sites.iter().map(|s| Self::layer(given, adapter, s)).collect();
        if sites.iter().all(|s| adapter.columns[s.site.0].is_none()) {
            return T::forward(given.phase, x, &layers, dests);
        }
        for ((site, layer), dest) in sites.iter().zip(layers).zip(dests) {
            match &adapter.columns[site.site.0] {
                None => T::forward(given.phase, x, &[layer], vec![dest]),
                Some(columns) => {
                    let mut z = self.take::<T>(given, site.linear.outputs());
                    T::forward(given.phase, x, &[layer], vec![Dest::Store(&mut z)]);
                    columns.apply(&z, dest);
                    unscaled.push((site.site, z));
                }
            }
        }
    }

    /// As [`Cpu::multiply`], with several adapters, without a way back.
    fn multiply_mixed(&mut self, given: &Given, sites: &[&SiteLinear], x: &[T], dests: Vec<Dest<T>>) {
        for (site, mut dest) in sites.iter().zip(dests) {
            if given.acting.iter().all(|(_, adapter)| adapter.columns[site.site.0].is_none()) {
                let parts = given.acting.iter().map(|(rows, adapter)| (rows.clone(), Self::layer(given, adapter, site)));
                T::forward_mixed(given.phase, x, &parts.collect::<Vec<_>>(), dest);
                continue;
            }
            let (inputs, outputs) = (site.linear.inputs(), site.linear.outputs());
            for (rows, adapter) in given.acting {
                let x = &x[rows.start * inputs..rows.end * inputs];
                let to = dest.part(rows.start * outputs..rows.end * outputs);
                let layer = Self::layer(given, adapter, site);
                match &adapter.columns[site.site.0] {
                    None => T::forward(given.phase, x, &[layer], vec![to]),
                    Some(columns) => {
                        let mut z = self.scratch.take_part::<T>(rows.len(), outputs);
                        T::forward(given.phase, x, &[layer], vec![Dest::Store(&mut z)]);
                        columns.apply(&z, to);
                        self.scratch.give(z);
                    }
                }
            }
        }
    }

    /// The gradients of sites with a common input `x`, and of that input.
    fn back(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Buffer<T>>,
        unscaled: &Unscaled<Self>,
        dx: Option<Dest<T>>,
    ) {
        let adapter = given.only();
        let x: &[T] = x.map_or(&[], |x| x);
        // Where outputs are scaled, what goes back is the gradient before the factors.
        let mut inner: Vec<Option<Buffer<T>>> = Vec::new();
        for (s, dy) in sites {
            let scaled = adapter.columns[s.site.0].as_ref().zip(unscaled.iter().find(|(site, _)| *site == s.site));
            inner.push(scaled.map(|(columns, (_, z))| {
                if let Some(sum) = &mut self.sums.sites[s.site.0].magnitude {
                    columns.add_gradient(dy, z, sum);
                }
                let mut dz = self.take::<T>(given, s.linear.outputs());
                columns.apply(dy, Dest::Store(&mut dz));
                dz
            }));
        }
        let mut taken: Vec<_> = sites.iter().map(|(s, _)| self.sums.sites[s.site.0].pair.take()).collect();
        let layers = sites.iter().zip(&mut taken).zip(&inner).map(|(((s, dy), g), inner)| {
            let dy: &[T] = inner.as_deref().unwrap_or(dy);
            Back { layer: Self::layer(given, adapter, s), x, dy, gradient: g.as_mut() }
        });
        T::backward(layers.collect(), dx);
        for ((s, _), pair) in sites.iter().zip(taken) {
            self.sums.sites[s.site.0].pair = pair;
        }
        inner.into_iter().flatten().for_each(|dz| self.scratch.give(dz));
    }
}

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

    fn split(&mut self, given: &Given, fused: Buffer<f32>, groups: usize) -> Result<[Buffer<f32>; 3]> {
        let mut parts = given.shared.widths().map(|w| self.take::<f32>(given, w));
        let [q, k, v] = &mut parts;
        split_rows(&fused, given.tokens(), groups, &mut [q, k, v]);
        self.scratch.give(fused);
        Ok(parts)
    }

    fn join(&mut self, given: &Given, parts: [Buffer<T>; 3], groups: usize) -> Result<Buffer<T>> {
        let mut fused = self.take::<T>(given, given.shared.widths().iter().sum());
        join_rows(&[&parts[0], &parts[1], &parts[2]], given.tokens(), groups, &mut fused);
        parts.into_iter().for_each(|p| self.scratch.give(p));
        Ok(fused)
    }

    fn halve(&mut self, given: &Given, fused: Buffer<T>) -> Result<[Buffer<T>; 2]> {
        let width = fused.len() / given.tokens() / 2;
        let mut parts = [(); 2].map(|()| self.take::<T>(given, width));
        let [gate, up] = &mut parts;
        split_rows(&fused, given.tokens(), 1, &mut [gate, up]);
        self.scratch.give(fused);
        Ok(parts)
    }

    fn unite(&mut self, given: &Given, gate: &Buffer<T>, up: &Buffer<T>) -> Result<Buffer<T>> {
        let mut fused = self.take::<T>(given, 2 * gate.len() / given.tokens());
        join_rows(&[gate, up], given.tokens(), 1, &mut fused);
        Ok(fused)
    }

    fn turn(&mut self, given: &Given, turn: &Turn, parts: [Buffer<f32>; 3]) -> Result<Turned<Self>> {
        Ok(self.normed_and_turned(given, turn, parts))
    }

    fn turn_back(
        &mut self,
        given: &Given,
        turn: &Turn,
        bare: &[Option<Buffer<T>>; 3],
        grads: [Buffer<f32>; 3],
    ) -> Result<[Buffer<T>; 3]> {
        Ok(self.turned_and_normed_back(given, turn, bare, grads))
    }

    fn attend(&mut self, given: &Given, layer: usize, scores: Scores, qkv: &[Buffer<T>; 3]) -> Result<(Buffer<T>, Attended)> {
        let mut out = self.take::<T>(given, given.shared.widths()[0]);
        let saved = (self.attend)(layer, scores, [&qkv[0], &qkv[1], &qkv[2]], &mut out);
        Ok((out, saved))
    }

    fn attend_back(
        &mut self,
        given: &Given,
        scores: Scores,
        qkv: &[Buffer<T>; 3],
        out: &Buffer<T>,
        saved: &Attended,
        grad: Buffer<T>,
    ) -> Result<[Buffer<f32>; 3]> {
        let widths = given.shared.widths();
        let mut grads = widths.map(|w| self.take::<f32>(given, if T::EACH_HEAD { widths[0] } else { w }));
        let spans = self.spans.unwrap_or_else(|| unreachable!("a way back goes over whole texts"))(scores);
        let [dq, dk, dv] = &mut grads;
        let behind = AttentionGradient { out, grad: &grad, saved };
        T::attend_back(&spans, [&qkv[0], &qkv[1], &qkv[2]], behind, [dq, dk, dv]);
        self.scratch.give(grad);
        Ok(grads)
    }

    fn attend_over(
        &mut self,
        given: &Given,
        layer: usize,
        sight: &Sight,
        q: &Buffer<T>,
        kv: Option<[&Buffer<T>; 2]>,
    ) -> Result<(Buffer<T>, Attended)> {
        Ok(self.attended_over(given, layer, sight, q, kv))
    }

    fn attend_over_back(
        &mut self,
        given: &Given,
        sight: &Sight,
        qkv: [&Buffer<T>; 3],
        made: (&Buffer<T>, &Attended),
        grad: Buffer<T>,
    ) -> Result<[Buffer<T>; 3]> {
        Ok(self.attended_over_back(given, sight, qkv, made, grad))
    }

    fn gate(&mut self, given: &Given, gate: Option<&Buffer<T>>, up: &Buffer<T>) -> Result<Buffer<T>> {
        let mut act = self.take::<T>(given, up.len() / given.tokens());
        match gate {
            Some(gate) => given.shared.activation.gate(gate, up, &mut act),
            None => given.shared.activation.forward(up, &mut act),
        }
        Ok(act)
    }

    fn gate_back(&mut self, given: &Given, gate: Option<&mut Buffer<T>>, up: &mut Buffer<T>, grad: Buffer<T>) -> Result<()> {
        match gate {
            Some(gate) => given.shared.activation.gate_backward_in_place(gate, up, &grad),
            None => given.shared.activation.backward_in_place(up, &grad),
        }
        self.scratch.give(grad);
        Ok(())
    }

    fn route(&mut self, given: &Given, router: &FrozenLinear, x: &Buffer<T>) -> Result<Vec<f32>> {
        self.router_logits(given, router, x)
    }

    fn route_back(&mut self, _: &Given, router: &FrozenLinear, d_logits: &[f32], dx: &mut Buffer<f32>) -> Result<()> {
        let layer = Layer { matrix: &router.matrix, side: router.side, pair: None, drop: None };
        f32::backward(vec![Back { layer, x: &[], dy: d_logits, gradient: None }], Some(Dest::Add(dx)));
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
