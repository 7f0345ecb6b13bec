//! A machine that computes nothing and counts what another one holds: run through the same program, it takes and gives back the same
//! buffers in the same order, and adds what each operation holds besides.
//!
//! Refuses to know: the order of operations, which is [`super::block`]'s and [`super::trace`]'s.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use super::super::layers::{KeysOf, Norm, Sight, SiteLinear, Turn};
use super::super::linear::FrozenLinear;
use super::super::site::{Adapt, LowRankPair, Site, Term};
use super::super::{Model, Targets};
use super::count_rules::Rules;
use super::machine::{Given, Machine, Sites, Turned, Unscaled};
use super::workspace::part_tokens;
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::engine::Engine;
use crate::kernels::linear::Side;

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

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

/// What is counted, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PassCount {
    /// Kept at the loss for the way back.
    pub kept: u64,
    /// Logits, their gradient in the same place.
    pub logits: u64,
    /// All buffers that are taken and given back.
    pub pool: u64,
    pub peak: u64,
}

/// Counts a machine that goes by `rules`.
pub(super) struct Counting<'a> {
    model: &'a Model,
    rules: Rules,
    tokens: usize,
    free: HashMap<Size, usize>,
    /// Taken and not given back.
    live: u64,
    left: Rc<Cell<u64>>,
    /// The room for logits, where it is kept.
    scratch: u64,
    count: PassCount,
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
    fn tokens(&self, given: &Given) -> usize {
        given.chosen.map_or(self.tokens, |chosen| part_tokens(chosen.len()))
    }

    /// An operation holds `bytes` besides.
    fn besides(&mut self, bytes: u64) {
        let buffers = if self.rules.pooled { self.count.pool } else { self.live };
        self.count.peak = self.count.peak.max(buffers + self.left.get() + self.scratch + bytes);
    }

    fn take(&mut self, tokens: usize, width: usize, element: usize) -> Size {
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

    fn act_of(&mut self, given: &Given, width: usize) -> Size {
        self.take(self.tokens(given), width, self.rules.element)
    }

    fn give(&mut self, size: Size) {
        self.live -= self.bytes(&size);
        *self.free.entry(size).or_default() += 1;
    }

    /// Tensor operations make anew what they change: f32 of `width`. Of a linear layer that is its product, what the pair adds, and
    /// the sum.
    fn anew(&mut self, width: usize) {
        if !self.rules.pooled {
            self.besides((self.tokens * width * F32) as u64);
        }
    }

    /// Products there: outputs before their magnitudes, and what pairs hold.
    fn multiply(&mut self, given: &Given, sites: &[&SiteLinear], unscaled: &mut Unscaled<Self>) {
        for site in sites.iter().filter(|s| is_scaled(given, s.site)) {
            let z = self.act_of(given, site.linear.outputs());
            unscaled.push((site.site, z));
        }
        self.besides(self.pairs(given, sites.iter().copied(), 1));
        self.anew(3 * sites.iter().map(|s| s.linear.outputs()).max().unwrap_or(0));
    }

    /// The way back of [`Counting::multiply`].
    fn back(&mut self, given: &Given, sites: &Sites<Self>) {
        let scaled = sites.iter().filter(|(s, _)| is_scaled(given, s.site));
        self.anew(3 * sites.iter().map(|(s, _)| s.linear.inputs()).max().unwrap_or(0));
        let inner: Vec<Size> = scaled.map(|(s, _)| self.act_of(given, s.linear.outputs())).collect();
        self.besides(self.pairs(given, sites.iter().map(|(s, _)| *s), 2));
        inner.into_iter().for_each(|dz| self.give(dz));
    }

    /// Bytes that pairs hold: their inputs where some of these are dropped, `narrow` products with one side of the pair, and on the
    /// way back sums. In f32 one site after another.
    fn pairs<'s>(&self, given: &Given, sites: impl Iterator<Item = &'s SiteLinear>, narrow: usize) -> u64 {
        if !self.rules.pooled {
            return 0;
        }
        let of = |site: &SiteLinear| {
            let Some(pair) = pair(given, site.site) else { return 0 };
            let (inputs, outputs, rank) = (site.linear.inputs(), site.linear.outputs(), pair.a.dims()[0]);
            let dropped = if pair.dropout.is_some() { inputs } else { 0 };
            let sums = if narrow > 1 { rank * (inputs + outputs) * F32 } else { 0 };
            (self.tokens(given) * (dropped + narrow * rank) * self.rules.element + sums) as u64
        };
        if self.rules.element == F32 { sites.map(of).max().unwrap_or(0) } else { sites.map(of).sum() }
    }

    /// Queries, keys and values, turned.
    fn turned(&mut self, given: &Given, parts: impl IntoIterator<Item = Size>, element: usize) -> [Size; 3] {
        let out = given.shared.widths().map(|width| self.take(self.tokens, width, element));
        self.anew(2 * given.shared.widths()[0]);
        parts.into_iter().for_each(|part| self.give(part));
        out
    }

    /// Bytes of the logits of `targets` and of what is rounded for them.
    fn loss_rows(&mut self, given: &Given, targets: usize) -> u64 {
        let (head, adapter) = (&self.model.head, given.only());
        let [d, vocab] = [self.model.config.width, self.model.config.vocab].map(|width| width as u64);
        let (targets, half) = (targets as u64, self.rules.element != F32);
        let exact = targets.min(f32::LOGIT_ROWS as u64) * vocab * F32 as u64;
        let (logits, rounded) = if adapter.acts(head.site) {
            (exact * if is_scaled(given, head.site) { 2 } else { 1 }, 0)
        } else if half && head.linear.side == Side::Transposed && vocab.is_multiple_of(2) {
            let logits = targets.min(self.rules.logit_rows as u64) * vocab * self.rules.element as u64;
            self.scratch = self.scratch.max(logits);
            (logits, targets * d * self.rules.element as u64)
        } else {
            // Where activations are in half of it, once more in f32.
            (exact, targets * d * (self.rules.element + if half { F32 } else { 0 }) as u64)
        };
        self.count.logits = self.count.logits.max(logits);
        logits - self.scratch.min(logits) + rounded
    }

    /// Bytes of `n` chosen rows (n, d) in f32, `times`.
    fn chosen(&self, n: usize, times: usize) -> u64 {
        (times * n * self.model.config.width * F32) as u64
    }
}

fn pair<'g>(given: &'g Given, site: Site) -> Option<LowRankPair<'g>> {
    if let Some(Term::LowRank(pair)) = given.only().term(site) { Some(pair) } else { None }
}

/// Whether outputs have magnitudes.
fn is_scaled(given: &Given, site: Site) -> bool {
    pair(given, site).is_some_and(|pair| pair.magnitude.is_some())
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

    fn split(&mut self, given: &Given, fused: Size, _: usize) -> Result<[Size; 3]> {
        Ok(self.turned(given, [fused], F32))
    }

    fn join(&mut self, given: &Given, parts: [Size; 3], _: usize) -> Result<Size> {
        let fused = self.act(given.shared.widths().iter().sum());
        parts.into_iter().for_each(|part| self.give(part));
        Ok(fused)
    }

    fn halve(&mut self, _: &Given, fused: Size) -> Result<[Size; 2]> {
        let parts = [(); 2].map(|()| self.act(fused.width / 2));
        self.give(fused);
        Ok(parts)
    }

    fn unite(&mut self, _: &Given, gate: &Size, _: &Size) -> Result<Size> {
        Ok(self.act(2 * gate.width))
    }

    fn turn(&mut self, given: &Given, turn: &Turn, parts: [Size; 3]) -> Result<Turned<Self>> {
        let (mut normed, mut bare) = (Vec::with_capacity(3), [None, None, None]);
        for ((part, norm), bare) in parts.into_iter().zip(&turn.norms).zip(&mut bare) {
            if norm.is_none() {
                normed.push(part);
                continue;
            }
            normed.push(self.wide(part.width));
            *bare = Some(self.act(part.width));
            self.give(part);
        }
        Ok((self.turned(given, normed, self.rules.element), bare))
    }

    fn turn_back(&mut self, given: &Given, turn: &Turn, _: &[Option<Size>; 3], grads: [Size; 3]) -> Result<[Size; 3]> {
        if turn.norms.iter().all(Option::is_none) {
            return Ok(self.turned(given, grads, self.rules.element));
        }
        let [q, k, v] = self.turned(given, grads, F32);
        let mut back = |grad: Size, norm: &Option<Norm>| {
            let rounded = self.act(grad.width);
            if norm.is_some() {
                let sum = self.wide(grad.width);
                self.give(sum);
            }
            self.give(grad);
            rounded
        };
        Ok([back(q, &turn.norms[0]), back(k, &turn.norms[1]), back(v, &turn.norms[2])])
    }

    fn attend(&mut self, given: &Given, _: usize, _: Scores, _: &[Size; 3]) -> Result<(Size, Left)> {
        let widths = given.shared.widths();
        let out = self.act(widths[0]);
        let bytes = (self.tokens * given.shared.heads * self.rules.attended) as u64;
        self.left.set(self.left.get() + bytes);
        let [there, _] = (self.rules.attending)(self.tokens, widths);
        self.besides(there);
        Ok((out, Left { bytes, all: Rc::clone(&self.left) }))
    }

    fn attend_back(&mut self, given: &Given, _: Scores, _: &[Size; 3], _: &Size, _: &Left, grad: Size) -> Result<[Size; 3]> {
        let widths = given.shared.widths();
        let grads = widths.map(|width| self.wide(if self.rules.each_head { widths[0] } else { width }));
        let [_, back] = (self.rules.attending)(self.tokens, widths);
        self.besides(back);
        self.give(grad);
        Ok(grads)
    }

    /// In f32, of which all is a copy.
    fn attend_over(&mut self, given: &Given, _: usize, _: &Sight, _: &Size, _: Option<[&Size; 2]>) -> Result<(Size, Left)> {
        let width = given.shared.widths()[0];
        let out = self.act(width);
        let bytes = (self.tokens * given.shared.heads * f32::ATTENDED) as u64;
        self.left.set(self.left.get() + bytes);
        self.besides((5 * self.tokens * width * F32) as u64);
        Ok((out, Left { bytes, all: Rc::clone(&self.left) }))
    }

    fn attend_over_back(
        &mut self,
        given: &Given,
        sight: &Sight,
        _: [&Size; 3],
        _: (&Size, &Left),
        grad: Size,
    ) -> Result<[Size; 3]> {
        let width = given.shared.widths()[0];
        self.give(grad);
        self.besides((11 * self.tokens * width * F32) as u64);
        let keys = given.source.filter(|_| sight.keys == KeysOf::Across).unwrap_or(given);
        Ok([given, keys, keys].map(|given| self.act_of(given, width)))
    }

    fn gate(&mut self, given: &Given, _: Option<&Size>, up: &Size) -> Result<Size> {
        Ok(self.act_of(given, up.width))
    }

    fn gate_back(&mut self, _: &Given, gate: Option<&mut Size>, _: &mut Size, grad: Size) -> Result<()> {
        self.anew(grad.width * if gate.is_some() { 2 } else { 1 });
        self.give(grad);
        Ok(())
    }

    /// Tokens are spread evenly over the experts.
    fn route(&mut self, given: &Given, router: &FrozenLinear, _: &Size) -> Result<Vec<f32>> {
        let (experts, tokens) = (router.outputs(), given.tokens());
        let each = |token: usize| (0..experts).map(move |expert| -(((expert + experts - token % experts) % experts) as f32));
        Ok((0..tokens).flat_map(each).collect())
    }

    fn route_back(&mut self, _: &Given, _: &FrozenLinear, _: &[f32], _: &mut Size) -> Result<()> {
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
