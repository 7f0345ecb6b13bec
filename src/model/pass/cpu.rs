//! A pass on the CPU, in f32 or in bf16: kernels over plain buffers, which are used again.

use super::super::layers::{Norm, SiteLinear, Turn};
use super::super::{Model, Targets};
use super::machine::{Given, Machine, Sites, Turned, Unscaled};
use super::prepared::PreparedAdapter;
use super::sums::{SiteSums, Sums};
use super::workspace::{Buffer, Pooled, Workspace};
use crate::error::Result;
use crate::kernels::adapted_head::{Finish, HeadGradients, adapted_linear_cross_entropy, head_logps};
use crate::kernels::attention::{Scores, Varlen};
use crate::kernels::cross_entropy::WeightedTargets;
use crate::kernels::dropout::TokenMask;
use crate::kernels::element::{add_to_rows, convert, join_rows, split_rows};
use crate::kernels::engine::{Attended, AttentionGradient, Back, Dest, Engine, Layer};
use crate::kernels::host;
use crate::kernels::linear::Side;
use crate::kernels::soft_cap::soft_cap;

/// How queries find keys: from block, scores, turned queries and keys, and values, to the output.
pub(super) type Attend<'a, T> = &'a mut dyn FnMut(usize, Scores, [&[T]; 3], &mut [T]) -> Attended;

/// The CPU, with activations of `T`.
pub(super) struct Cpu<'a, T: Pooled> {
    pub model: &'a Model,
    pub scratch: &'a mut Workspace,
    pub attend: Attend<'a, T>,
    /// The whole texts that a way back goes over.
    pub spans: Option<&'a dyn Fn(Scores) -> Varlen<'a>>,
    pub sums: &'a mut Sums,
}

impl<T: Pooled> Cpu<'_, T> {
    fn layer<'a>(given: &'a Given, adapter: &'a PreparedAdapter, site: &'a SiteLinear) -> Layer<'a> {
        let drop = adapter.masks[site.site.0].map(|mask| TokenMask { mask, rows: given.rows });
        Layer { matrix: &site.linear.matrix, side: site.linear.side, pair: adapter.pairs[site.site.0].as_ref(), drop }
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
                    let mut z = self.scratch.take::<T>(given.tokens(), site.linear.outputs());
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
                        let mut z = self.scratch.take::<T>(rows.len(), outputs);
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
                let mut dz = self.scratch.take::<T>(given.tokens(), s.linear.outputs());
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
        let mut x = self.scratch.take::<f32>(given.tokens(), d);
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
        let mut out: Vec<_> = sites.iter().map(|s| self.scratch.take::<f32>(given.tokens(), s.linear.outputs())).collect();
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
        let mut out: Vec<_> = sites.iter().map(|s| self.scratch.take::<T>(given.tokens(), s.linear.outputs())).collect();
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
        let mut dx = self.scratch.take::<f32>(given.tokens(), sites[0].0.linear.inputs());
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
        let mut dx = self.scratch.take::<T>(given.tokens(), sites[0].0.linear.inputs());
        self.back(given, sites, x, unscaled, Some(Dest::Store(&mut dx)));
        Ok(dx)
    }

    fn split(&mut self, given: &Given, fused: Buffer<f32>, groups: usize) -> Result<[Buffer<f32>; 3]> {
        let mut parts = given.shared.widths().map(|w| self.scratch.take::<f32>(given.tokens(), w));
        let [q, k, v] = &mut parts;
        split_rows(&fused, given.tokens(), groups, &mut [q, k, v]);
        self.scratch.give(fused);
        Ok(parts)
    }

    fn join(&mut self, given: &Given, parts: [Buffer<T>; 3], groups: usize) -> Result<Buffer<T>> {
        let mut fused = self.scratch.take::<T>(given.tokens(), given.shared.widths().iter().sum());
        join_rows(&[&parts[0], &parts[1], &parts[2]], given.tokens(), groups, &mut fused);
        parts.into_iter().for_each(|p| self.scratch.give(p));
        Ok(fused)
    }

    fn halve(&mut self, given: &Given, fused: Buffer<T>) -> Result<[Buffer<T>; 2]> {
        let width = fused.len() / given.tokens() / 2;
        let mut parts = [(); 2].map(|()| self.scratch.take::<T>(given.tokens(), width));
        let [gate, up] = &mut parts;
        split_rows(&fused, given.tokens(), 1, &mut [gate, up]);
        self.scratch.give(fused);
        Ok(parts)
    }

    fn unite(&mut self, given: &Given, gate: &Buffer<T>, up: &Buffer<T>) -> Result<Buffer<T>> {
        let mut fused = self.scratch.take::<T>(given.tokens(), 2 * gate.len() / given.tokens());
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
        let mut out = self.scratch.take::<T>(given.tokens(), given.shared.widths()[0]);
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
        let mut grads = widths.map(|w| self.scratch.take::<f32>(given.tokens(), if T::EACH_HEAD { widths[0] } else { w }));
        let spans = self.spans.unwrap_or_else(|| unreachable!("a way back goes over whole texts"))(scores);
        let [dq, dk, dv] = &mut grads;
        let behind = AttentionGradient { out, grad: &grad, saved };
        T::attend_back(&spans, [&qkv[0], &qkv[1], &qkv[2]], behind, [dq, dk, dv]);
        self.scratch.give(grad);
        Ok(grads)
    }

    fn gate(&mut self, given: &Given, gate: Option<&Buffer<T>>, up: &Buffer<T>) -> Result<Buffer<T>> {
        let mut act = self.scratch.take::<T>(given.tokens(), up.len() / given.tokens());
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

    fn loss(&mut self, given: &Given, x: &Buffer<f32>, targets: &Targets, weights: &[f32]) -> Result<(Vec<f32>, Buffer<f32>)> {
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
        let mut dx = self.scratch.take::<f32>(given.tokens(), d);
        dx.fill(0.0);
        for (at, g) in targets.at.iter().zip(d_chosen.chunks_exact(d)) {
            dx[*at as usize * d..][..d].copy_from_slice(g);
        }
        Ok((losses, dx))
    }

    fn logps(&mut self, given: &Given, x: &Buffer<f32>, targets: &Targets) -> Result<Vec<f32>> {
        let adapter = given.only();
        let [_, normed] = self.chosen(x, targets.at.iter().map(|at| *at as usize));
        let rows: Vec<u64> = targets.at.iter().map(|at| given.rows[*at as usize]).collect();
        Ok(head_logps(&normed, self.head_layer(adapter, &rows), self.finish(adapter), &targets.ids))
    }

    fn logits(&mut self, given: &Given, x: &Buffer<f32>, rows: &[usize]) -> Result<Vec<f32>> {
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
            return Ok(logits);
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
        Ok(logits)
    }
}
