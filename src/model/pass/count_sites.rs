//! What the counting machine counts at sites, between them and at the head.

use super::super::layers::{Attention, DeltaNet, SiteLinear};
use super::super::site::{Adapt, LowRankPair, Site, Term};
use super::count::{Counting, F32, Size};
use super::machine::{Given, Parts, Sites, Unscaled};
use crate::kernels::engine::Engine;
use crate::kernels::linear::Side;

impl Counting<'_> {
    /// Products there: outputs before their magnitudes, and what pairs hold.
    pub(super) fn multiply(&mut self, given: &Given, sites: &[&SiteLinear], unscaled: &mut Unscaled<Self>) {
        for site in sites.iter().filter(|s| is_scaled(given, s.site)) {
            let z = self.act_of(given, site.linear.outputs());
            unscaled.push((site.site, z));
        }
        self.besides(self.pairs(given, sites.iter().copied(), 1));
        self.anew(3 * sites.iter().map(|s| s.linear.outputs()).max().unwrap_or(0));
    }

    /// The way back of [`Counting::multiply`].
    pub(super) fn back(&mut self, given: &Given, sites: &Sites<Self>) {
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

    /// Bytes of the logits of `targets` and of what is rounded for them.
    pub(super) fn loss_rows(&mut self, given: &Given, targets: usize) -> u64 {
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

    /// The parts of a delta rule in f32, and what it makes.
    pub(super) fn delta_rule(&mut self, given: &Given, net: &DeltaNet) -> Size {
        let wide = self.delta_parts(net);
        let out = self.act_of(given, net.sizes.values());
        wide.into_iter().for_each(|size| self.give(size));
        out
    }

    /// The parts of a delta rule, its output and its room, in f32.
    pub(super) fn delta_parts(&mut self, net: &DeltaNet) -> Vec<Size> {
        let widths = net.widths().into_iter().chain([net.sizes.values(), net.sizes.room()]);
        widths.map(|width| self.take(self.tokens, width, F32)).collect()
    }

    /// Queries, keys and values, turned.
    pub(super) fn turned(&mut self, attention: &Attention, parts: Parts<Size>, element: usize) -> Parts<Size> {
        let widths = attention.shape.widths();
        let mut out = [None, None, None];
        for ((out, part), width) in out.iter_mut().zip(&parts).zip(widths) {
            *out = part.as_ref().map(|_| self.take(self.tokens, width, element));
        }
        self.anew(2 * widths[0]);
        parts.into_iter().flatten().for_each(|part| self.give(part));
        out
    }

    /// Bytes of `n` chosen rows (n, d) in f32, `times`.
    pub(super) fn chosen(&self, n: usize, times: usize) -> u64 {
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
