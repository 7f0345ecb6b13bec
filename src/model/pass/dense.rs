//! A feed-forward for all tokens, there and back, and what both halves of a block end with: a layer whose output is added to the stream.

use super::super::layers::{FeedForward, Inner, Norm, SiteLinear};
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// What goes back through the blocks, from the last to the first that is adapted.
pub(super) struct WayBack<M: Machine> {
    /// The gradient (n, d) of a block's output, and then of its input.
    pub dx: M::Wide,
    /// `dx` in the precision of activations.
    pub rounded: M::Act,
}

/// Adds what a site makes of `act`, through the norm after it where there is one, to `x`; returns what that norm read.
pub(super) fn add_output<M: Machine>(
    m: &mut M,
    given: &Given,
    (site, post): (&SiteLinear, &Option<Norm>),
    act: &M::Act,
    x: &mut M::Wide,
    unscaled: &mut Unscaled<M>,
) -> Result<Option<M::Act>> {
    let Some(norm) = post else { return m.project_add(given, site, act, x, unscaled).map(|()| None) };
    let y = m.project(given, &[site], act, unscaled)?.remove(0);
    m.norm_add(norm, y, x).map(Some)
}

/// The gradient of what [`add_output`] normed; without a norm it is that of the sum.
pub(super) fn output_back<M: Machine>(
    m: &mut M,
    post: &Option<Norm>,
    kept: &Option<M::Act>,
    way: &WayBack<M>,
) -> Result<Option<M::Act>> {
    post.as_ref().zip(kept.as_ref()).map(|(norm, kept)| m.norm_add_back(norm, kept, &way.dx)).transpose()
}

/// Gate, where there is one, and up (n, f).
pub(super) type Made<M> = (Option<<M as Machine>::Act>, <M as Machine>::Act);

impl FeedForward {
    /// Gate and up of `x` (n, d).
    pub(super) fn made<M: Machine>(&self, m: &mut M, given: &Given, x: &M::Act, unscaled: &mut Unscaled<M>) -> Result<Made<M>> {
        let mut made = m.project_rounded(given, &self.inner(), x, unscaled)?;
        let up = made.pop().unwrap_or_else(|| unreachable!("every feed-forward has a layer"));
        Ok(match self.inner {
            Inner::Fused { groups, .. } => {
                let [gate, up] = m.halve(given, up, groups)?;
                (Some(gate), up)
            }
            _ => (made.pop(), up),
        })
    }

    /// What the last layer reads.
    pub(super) fn act<M: Machine>(&self, m: &mut M, given: &Given, (gate, up): &Made<M>) -> Result<M::Act> {
        m.gate(given, self.activation, gate.as_ref(), up)
    }

    /// The gradient (n, d) of what [`FeedForward::made`] read, which `read` makes again, given that of [`FeedForward::act`]; gate and up
    /// become their gradients.
    pub(super) fn made_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        d_act: M::Act,
        (gate, up): &mut Made<M>,
        read: impl FnOnce(&mut M) -> Result<M::Act>,
        unscaled: &Unscaled<M>,
    ) -> Result<M::Wide> {
        m.gate_back(given, self.activation, gate.as_mut(), up, d_act)?;
        let inner = self.inner();
        let x = if given.adapts(&inner) { Some(read(m)?) } else { None };
        let fused = match (&self.inner, &*gate) {
            (Inner::Fused { groups, .. }, Some(gate)) => Some(m.unite(given, gate, up, *groups)?),
            _ => None,
        };
        let grads: Vec<&M::Act> = match &fused {
            Some(fused) => vec![fused],
            None => gate.iter().chain([&*up]).collect(),
        };
        let sites: Vec<_> = inner.into_iter().zip(grads).collect();
        let dx = m.project_back(given, &sites, x.as_ref(), unscaled)?;
        x.into_iter().chain(fused).for_each(|act| m.free(act));
        Ok(dx)
    }

    /// As [`FeedForward::made_back`], given the gradient (n, d) of what the last layer made.
    pub(super) fn back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        d_out: &M::Act,
        made: &mut Made<M>,
        read: impl FnOnce(&mut M) -> Result<M::Act>,
        unscaled: &Unscaled<M>,
    ) -> Result<M::Wide> {
        let act = if given.adapts(&[&self.down]) { Some(self.act(m, given, made)?) } else { None };
        let d_act = m.project_back_rounded(given, &[(&self.down, d_out)], act.as_ref(), unscaled)?;
        act.into_iter().for_each(|act| m.free(act));
        self.made_back(m, given, d_act, made, read, unscaled)
    }
}
