//! A machine that computes nothing and counts what another one holds: run through the same program, it takes and gives back the same
//! buffers in the same order, and adds what each operation holds besides.
//!
//! Refuses to know: the order of operations, which is [`super::block`]'s and [`super::trace`]'s.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::Tensor;

use super::super::layers::{Attention, DeltaNet, LayerInputs, Norm, Sight, SiteLinear};
use super::super::{Model, Targets};
use super::count_rules::{PassCount, Rules};
use super::machine::{Given, Machine, Parts, Sites, Turned, Unscaled};
use super::workspace::part_tokens;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::engine::Engine;

/// Bytes of an f32.
pub(super) const F32: usize = size_of::<f32>();

/// Instead of a buffer: its tokens, its width, and the bytes of an element.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Size {
    tokens: usize,
    width: usize,
    element: usize,
}

/// What attention leaves, until it is dropped.
pub(super) struct Left {
    bytes: u64,
    all: Rc<Cell<u64>>,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// Counts a machine that goes by `rules`.
pub(super) struct Counting<'a> {
    pub(super) model: &'a Model,
    pub(super) rules: Rules,
    pub(super) tokens: usize,
    free: HashMap<Size, usize>,
    /// Taken and not given back.
    live: u64,
    left: Rc<Cell<u64>>,
    /// The room for logits, where it is kept.
    pub(super) scratch: u64,
    pub(super) count: PassCount,
}

impl<'a> Counting<'a> {
    /// Of a group of `tokens`.
    pub(super) fn new(model: &'a Model, rules: Rules, tokens: usize) -> Counting<'a> {
        let (free, left) = (HashMap::new(), Rc::default());
        Counting { model, rules, tokens, free, live: 0, left, scratch: 0, count: PassCount::default() }
    }

    pub(super) fn count(&self) -> PassCount {
        self.count
    }

    fn bytes(&self, size: &Size) -> u64 {
        (size.tokens * size.width * size.element) as u64
    }

    /// Tokens that a buffer for `given` is made for.
    pub(super) fn tokens(&self, given: &Given) -> usize {
        given.chosen.map_or(self.tokens, |chosen| part_tokens(chosen.len()))
    }

    /// An operation holds `bytes` besides.
    pub(super) fn besides(&mut self, bytes: u64) {
        let buffers = if self.rules.pooled { self.count.pool } else { self.live };
        self.count.peak = self.count.peak.max(buffers + self.left.get() + self.scratch + bytes);
    }

    pub(super) fn take(&mut self, tokens: usize, width: usize, element: usize) -> Size {
        let size = Size { tokens, width, element };
        let bytes = self.bytes(&size);
        self.live += bytes;
        match self.free.get_mut(&size) {
            Some(free) if *free > 0 => *free -= 1,
            _ => self.count.pool += bytes,
        }
        self.besides(0);
        size
    }

    fn wide(&mut self, width: usize) -> Size {
        self.take(self.tokens, width, F32)
    }

    fn act(&mut self, width: usize) -> Size {
        self.take(self.tokens, width, self.rules.element)
    }

    /// For the tokens of `given`.
    fn wide_of(&mut self, given: &Given, width: usize) -> Size {
        self.take(self.tokens(given), width, F32)
    }

    pub(super) fn act_of(&mut self, given: &Given, width: usize) -> Size {
        self.take(self.tokens(given), width, self.rules.element)
    }

    pub(super) fn give(&mut self, size: Size) {
        self.live -= self.bytes(&size);
        *self.free.entry(size).or_default() += 1;
    }

    /// Tensor operations make anew what they change: f32 of `width`. Of a linear layer that is its product, what the pair adds, and
    /// the sum.
    pub(super) fn anew(&mut self, width: usize) {
        if !self.rules.pooled {
            self.besides((self.tokens * width * F32) as u64);
        }
    }
}

/// Numbers are none of this machine's: where some are asked for there are none.
impl Machine for Counting<'_> {
    type Wide = Size;
    type Act = Size;
    type Saved = Left;

    fn free(&mut self, act: Size) {
        self.give(act);
    }

    fn free_wide(&mut self, wide: Size) {
        self.give(wide);
    }

    fn copied(&mut self, x: &Size) -> Result<Size> {
        Ok(self.wide(x.width))
    }

    fn rounded(&mut self, x: &Size) -> Result<Size> {
        Ok(self.act(x.width))
    }

    fn widened(&mut self, given: &Given, x: &Size) -> Result<Size> {
        Ok(self.wide_of(given, x.width))
    }

    fn narrowed(&mut self, given: &Given, x: Size) -> Result<Size> {
        let narrow = self.act_of(given, x.width);
        self.give(x);
        Ok(narrow)
    }

    fn again(&mut self, given: &Given, x: &Size) -> Result<Size> {
        Ok(self.wide_of(given, x.width))
    }

    fn zeros_of(&mut self, given: &Given, x: &Size) -> Result<Size> {
        Ok(self.wide_of(given, x.width))
    }

    fn add(&mut self, x: &mut Size, y: Size) -> Result<()> {
        self.anew(x.width);
        self.give(y);
        Ok(())
    }

    fn sum(&mut self, given: &Given, x: Size, y: Size) -> Result<Size> {
        let wide = [self.wide_of(given, x.width), self.wide_of(given, y.width)];
        wide.into_iter().chain([y]).for_each(|size| self.give(size));
        Ok(x)
    }

    fn scale(&mut self, _: f32, x: &mut Size) -> Result<()> {
        self.anew(x.width);
        Ok(())
    }

    fn embed(&mut self, _: &Given) -> Result<Size> {
        Ok(self.wide(self.model.config.width))
    }

    fn embed_back(&mut self, _: &Given, _: &Size) -> Result<()> {
        Ok(())
    }

    fn norm(&mut self, _: &Norm, x: &Size) -> Result<[Size; 2]> {
        Ok([(); 2].map(|()| self.act(x.width)))
    }

    fn norm_again(&mut self, _: &Norm, kept: &Size) -> Result<Size> {
        Ok(self.act(kept.width))
    }

    fn norm_back(&mut self, _: &Norm, _: &Size, d_normed: Size, _: &mut Size, _: &mut Size) -> Result<()> {
        self.anew(2 * d_normed.width);
        self.give(d_normed);
        Ok(())
    }

    fn norm_add(&mut self, _: &Norm, y: Size, _: &mut Size) -> Result<Size> {
        let (normed, kept) = (self.wide(y.width), self.act(y.width));
        [y, normed].into_iter().for_each(|wide| self.give(wide));
        Ok(kept)
    }

    fn norm_add_back(&mut self, _: &Norm, _: &Size, dx: &Size) -> Result<Size> {
        let (dy, rounded) = (self.wide(dx.width), self.act(dx.width));
        self.give(dy);
        Ok(rounded)
    }

    fn project(&mut self, given: &Given, sites: &[&SiteLinear], _: &Size, unscaled: &mut Unscaled<Self>) -> Result<Vec<Size>> {
        let out = sites.iter().map(|s| self.wide_of(given, s.linear.outputs())).collect();
        self.multiply(given, sites, unscaled);
        Ok(out)
    }

    fn project_rounded(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        _: &Size,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Size>> {
        let out = sites.iter().map(|s| self.act_of(given, s.linear.outputs())).collect();
        self.multiply(given, sites, unscaled);
        Ok(out)
    }

    fn project_add(
        &mut self,
        given: &Given,
        site: &SiteLinear,
        _: &Size,
        _: &mut Size,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<()> {
        let sum = if self.rules.pooled { None } else { Some(self.wide(site.linear.outputs())) };
        self.multiply(given, &[site], unscaled);
        sum.into_iter().for_each(|sum| self.give(sum));
        Ok(())
    }

    fn gradients(&mut self, given: &Given, sites: &Sites<Self>, _: Option<&Size>, _: &Unscaled<Self>) -> Result<()> {
        self.back(given, sites);
        Ok(())
    }

    fn project_back(&mut self, given: &Given, sites: &Sites<Self>, _: Option<&Size>, _: &Unscaled<Self>) -> Result<Size> {
        let dx = self.wide_of(given, sites[0].0.linear.inputs());
        self.back(given, sites);
        Ok(dx)
    }

    fn project_back_rounded(&mut self, given: &Given, sites: &Sites<Self>, _: Option<&Size>, _: &Unscaled<Self>) -> Result<Size> {
        let dx = self.act_of(given, sites[0].0.linear.inputs());
        self.back(given, sites);
        Ok(dx)
    }

    fn split(&mut self, given: &Given, fused: Size, widths: &[usize], _: usize) -> Result<Vec<Size>> {
        let parts = widths.iter().map(|width| self.wide_of(given, *width)).collect();
        self.anew(2 * widths[0]);
        self.give(fused);
        Ok(parts)
    }

    fn join(&mut self, given: &Given, parts: Vec<Size>, _: usize) -> Result<Size> {
        let fused = self.act_of(given, parts.iter().map(|part| part.width).sum());
        parts.into_iter().for_each(|part| self.give(part));
        Ok(fused)
    }

    fn halve(&mut self, given: &Given, fused: Size, _: usize) -> Result<[Size; 2]> {
        let parts = [(); 2].map(|()| self.act_of(given, fused.width / 2));
        self.give(fused);
        Ok(parts)
    }

    fn unite(&mut self, given: &Given, gate: &Size, _: &Size, _: usize) -> Result<Size> {
        Ok(self.act_of(given, 2 * gate.width))
    }

    fn turn(&mut self, _: &Given, attention: &Attention, mut parts: Parts<Size>) -> Result<Turned<Self>> {
        let mut bare = [None, None, None];
        for ((part, norm), bare) in parts.iter_mut().zip(&attention.norms).zip(&mut bare) {
            let (Some(_), Some(read)) = (norm, part.as_ref()) else { continue };
            let normed = self.wide(read.width);
            *bare = Some(self.act(normed.width));
            part.replace(normed).into_iter().for_each(|read| self.give(read));
        }
        Ok((self.turned(attention, parts, self.rules.element), bare))
    }

    fn turn_back(&mut self, _: &Given, attention: &Attention, _: &Parts<Size>, grads: Parts<Size>) -> Result<Parts<Size>> {
        if attention.norms.iter().all(Option::is_none) {
            return Ok(self.turned(attention, grads, self.rules.element));
        }
        let mut back = [None, None, None];
        for ((grad, norm), back) in self.turned(attention, grads, F32).into_iter().zip(&attention.norms).zip(&mut back) {
            let Some(grad) = grad else { continue };
            *back = Some(self.act(grad.width));
            if norm.is_some() {
                let sum = self.wide(grad.width);
                self.give(sum);
            }
            self.give(grad);
        }
        Ok(back)
    }

    fn attend(&mut self, _: &Given, attention: &Attention, _: [&Size; 3]) -> Result<(Size, Left)> {
        let widths = attention.shape.widths();
        let out = self.act(widths[0]);
        let bytes = (self.tokens * attention.shape.heads * self.rules.attended) as u64;
        self.left.set(self.left.get() + bytes);
        let [there, _] = (self.rules.attending)(self.tokens, widths);
        self.besides(there);
        Ok((out, Left { bytes, all: Rc::clone(&self.left) }))
    }

    fn attend_back(
        &mut self,
        _: &Given,
        attention: &Attention,
        _: [&Size; 3],
        _: &Size,
        _: &Left,
        grad: Size,
    ) -> Result<[Size; 3]> {
        let widths = attention.shape.widths();
        let grads = widths.map(|width| self.wide(if self.rules.each_head { widths[0] } else { width }));
        let [_, back] = (self.rules.attending)(self.tokens, widths);
        self.besides(back);
        self.give(grad);
        Ok(grads)
    }

    /// In f32, of which all is a copy.
    fn attend_over(&mut self, _: &Given, attention: &Attention, _: &Size, _: Option<[&Size; 2]>) -> Result<(Size, Left)> {
        let width = attention.shape.widths()[0];
        let out = self.act(width);
        let bytes = (self.tokens * attention.shape.heads * f32::ATTENDED) as u64;
        self.left.set(self.left.get() + bytes);
        self.besides((self.tokens * 5 * width * F32) as u64);
        Ok((out, Left { bytes, all: Rc::clone(&self.left) }))
    }

    fn attend_over_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        _: [&Size; 3],
        _: (&Size, &Left),
        grad: Size,
    ) -> Result<[Size; 3]> {
        let widths = attention.shape.widths();
        self.give(grad);
        self.besides((self.tokens * 11 * widths[0] * F32) as u64);
        let keys = given.source.filter(|_| attention.sight == Sight::Across).unwrap_or(given);
        Ok([(given, widths[0]), (keys, widths[1]), (keys, widths[2])].map(|(given, width)| self.act_of(given, width)))
    }

    fn delta(&mut self, given: &Given, net: &DeltaNet, _: [&Size; 4]) -> Result<Size> {
        Ok(self.delta_rule(given, net))
    }

    fn delta_back(&mut self, given: &Given, net: &DeltaNet, _: [&Size; 4], grad: Size) -> Result<[Size; 4]> {
        let wide = self.delta_parts(net);
        let of_qkv = self.take(self.tokens, net.sizes.channels(), F32);
        let grads = net.widths().map(|width| self.act_of(given, width));
        wide.into_iter().chain([of_qkv, grad]).for_each(|size| self.give(size));
        Ok(grads)
    }

    fn gate(&mut self, given: &Given, _: Activation, _: Option<&Size>, up: &Size) -> Result<Size> {
        Ok(self.act_of(given, up.width))
    }

    fn gate_back(&mut self, _: &Given, _: Activation, gate: Option<&mut Size>, _: &mut Size, grad: Size) -> Result<()> {
        self.anew(grad.width * if gate.is_some() { 2 } else { 1 });
        self.give(grad);
        Ok(())
    }

    fn layer_inputs(&mut self, _: &Given, _: &LayerInputs, projected: Size) -> Result<[Size; 2]> {
        let sum = self.wide(projected.width);
        let made = [(); 2].map(|()| self.act(projected.width));
        [sum, projected].into_iter().for_each(|wide| self.give(wide));
        Ok(made)
    }

    fn layer_inputs_back(&mut self, _: &Given, _: &LayerInputs, kept: &Size, grad: Size) -> Result<Size> {
        let (sum, rounded) = (self.wide(kept.width), self.act(kept.width));
        [sum, grad].into_iter().for_each(|wide| self.give(wide));
        Ok(rounded)
    }

    fn layer_input(&mut self, _: &Given, all: &Size, _: usize) -> Result<Size> {
        Ok(self.act(all.width / self.model.blocks.len()))
    }

    fn add_layer_input(&mut self, _: &Given, _: usize, grad: Size, _: &mut Size) -> Result<()> {
        let wide = self.wide(grad.width);
        [wide, grad].into_iter().for_each(|size| self.give(size));
        Ok(())
    }

    /// Tokens are spread evenly over the experts.
    fn route(&mut self, given: &Given, router: &SiteLinear, _: &Size) -> Result<Vec<f32>> {
        let (experts, tokens) = (router.linear.outputs(), given.tokens());
        let each = |token: usize| (0..experts).map(move |expert| -(((expert + experts - token % experts) % experts) as f32));
        Ok((0..tokens).flat_map(each).collect())
    }

    fn route_back(&mut self, _: &Given, _: &SiteLinear, _: &Size, _: &[f32], _: &mut Size) -> Result<()> {
        Ok(())
    }

    fn zeros_like(&mut self, x: &Size) -> Result<Size> {
        Ok(self.wide(x.width))
    }

    fn gather(&mut self, given: &Given, x: &Size) -> Result<Size> {
        Ok(self.act_of(given, x.width))
    }

    fn scatter_add(&mut self, _: &Given, y: Size, _: Option<&[f32]>, _: &mut Size) -> Result<()> {
        self.anew(y.width);
        self.give(y);
        Ok(())
    }

    fn weigh(&mut self, _: &[f32], _: &mut Size) -> Result<()> {
        Ok(())
    }

    fn dots(&mut self, given: &Given, _: &Size, _: &Size) -> Result<Vec<f32>> {
        Ok(vec![0.0; given.tokens()])
    }

    fn dots_with(&mut self, given: &Given, a: &Size, _: &Tensor) -> Result<Vec<f32>> {
        let wide = self.wide_of(given, a.width);
        self.give(wide);
        Ok(vec![0.0; given.tokens()])
    }

    fn loss(&mut self, given: &Given, x: &Size, targets: &Targets, _: &[f32]) -> Result<(Vec<f32>, Size)> {
        let n = targets.at.len();
        self.count.kept = self.live + self.left.get() - self.bytes(x);
        if self.rules.pooled {
            let logits = self.loss_rows(given, n);
            // Rows, normed, the gradient there; then that of the rows and a copy.
            self.besides(self.chosen(n, 3) + logits);
        }
        let dx = self.wide(x.width);
        if self.rules.pooled {
            self.besides(self.chosen(n, 5));
        }
        Ok((Vec::new(), dx))
    }

    fn logps(&mut self, given: &Given, x: &Size, targets: &Targets) -> Result<Vec<f32>> {
        let rows: Vec<usize> = targets.at.iter().map(|at| *at as usize).collect();
        Machine::logits(self, given, x, &rows)
    }

    fn logits(&mut self, _: &Given, _: &Size, rows: &[usize]) -> Result<Vec<f32>> {
        let logits = (rows.len().min(f32::LOGIT_ROWS) * self.model.config.vocab * F32) as u64;
        self.count.logits = self.count.logits.max(logits);
        self.besides(self.chosen(rows.len(), 2) + logits);
        Ok(Vec::new())
    }
}

#[cfg(test)]
#[path = "count_tests.rs"]
mod tests;
