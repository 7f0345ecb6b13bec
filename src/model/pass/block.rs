//! One block, forward and backward, on any machine: the only place where the order of its operations stands.

use super::super::layers::{Block, Mlp, Norm, Qkv, SiteLinear};
use super::super::site::{Adapt, Term};
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// What a block keeps for its backward pass.
pub(super) struct BlockActivations<M: Machine> {
    /// Input (n, d).
    x: M::Act,
    /// Turned queries (n, h·e), turned keys and values (n, g·e).
    qkv: [M::Act; 3],
    /// Attention's output (n, h·e).
    attended: M::Act,
    saved: M::Saved,
    /// Between attention and feed-forward (n, d).
    middle: M::Act,
    /// (n, f) each; the gate where there is one.
    gate: Option<M::Act>,
    up: M::Act,
    /// What attention and the feed-forward gave (n, d), where a norm reads it.
    post: [Option<M::Act>; 2],
    unscaled: Unscaled<M>,
}

impl<M: Machine> BlockActivations<M> {
    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> BlockActivations<N> {
        let BlockActivations { x, qkv, attended, saved, middle, gate, up, post, unscaled } = self;
        BlockActivations { x, qkv, attended, saved, middle, gate, up, post, unscaled }
    }

    pub(super) fn free(self, m: &mut M) {
        let BlockActivations { x, qkv, attended, saved: _, middle, gate, up, post, unscaled } = self;
        let unscaled = unscaled.into_iter().map(|(_, z)| z);
        [x, attended, middle, up]
            .into_iter()
            .chain(gate)
            .chain(qkv)
            .chain(post.into_iter().flatten())
            .chain(unscaled)
            .for_each(|act| m.free(act));
    }
}

/// What goes back through the blocks, from the last to the first that is adapted.
pub(super) struct WayBack<M: Machine> {
    /// The gradient (n, d) of a block's output, and then of its input.
    pub dx: M::Wide,
    /// `dx` in the precision of activations.
    pub rounded: M::Act,
}

/// Numbers kept a token: the width, and those of [`BlockActivations`].
pub(super) fn kept_per_token(block: &Block, width: usize, adapt: &dyn Adapt) -> usize {
    let of = |sites: &[&SiteLinear]| sites.iter().map(|s| s.linear.outputs()).sum::<usize>();
    let scaled = |s: &&SiteLinear| matches!(adapt.term(s.site), Some(Term::LowRank(pair)) if pair.magnitude.is_some());
    let unscaled: Vec<&SiteLinear> = block.linears().into_iter().filter(scaled).collect();
    let (inner, _) = block.feed_forward();
    let post = [&block.post_attention_norm, &block.post_mlp_norm].into_iter().flatten().count();
    of(&unscaled) + (2 + post) * width + of(&block.queries_keys_values()) + block.output.linear.inputs() + of(&inner)
}

/// Three of what a block has three of.
fn three<T>(parts: Vec<T>) -> [T; 3] {
    parts.try_into().unwrap_or_else(|_| unreachable!("queries, keys and values"))
}

/// Adds what a site makes of `act`, through the norm after it where there is one, to `x`; returns what that norm read.
fn add_output<M: Machine>(
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
fn output_back<M: Machine>(m: &mut M, post: &Option<Norm>, kept: &Option<M::Act>, way: &WayBack<M>) -> Result<Option<M::Act>> {
    post.as_ref().zip(kept.as_ref()).map(|(norm, kept)| m.norm_add_back(norm, kept, &way.dx)).transpose()
}

impl Block {
    /// The projections that read the block's normed input: q, k and v, or all of them in one.
    pub(super) fn queries_keys_values(&self) -> Vec<&SiteLinear> {
        match &self.qkv {
            Qkv::Split { q, k, v } => vec![q, k, v],
            Qkv::Fused(qkv) => vec![qkv],
        }
    }

    /// The layers that read the feed-forward's normed input (gate and up, or up alone), and the one after them.
    pub(super) fn feed_forward(&self) -> (Vec<&SiteLinear>, &SiteLinear) {
        match &self.mlp {
            Mlp::Gated { gate, up, down } => (vec![gate, up], down),
            Mlp::Plain { up, down } => (vec![up], down),
        }
    }

    /// `x` (n, d) becomes the output of this block, the `layer`th; returns what the backward pass needs.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        layer: usize,
        x: &mut M::Wide,
    ) -> Result<BlockActivations<M>> {
        let mut unscaled = Vec::new();
        let [normed, kept_x] = m.norm(&self.attention_norm, x)?;
        let mut parts = m.project(given, &self.queries_keys_values(), &normed, &mut unscaled)?;
        m.free(normed);
        let parts = match parts.len() {
            1 => m.split(given, parts.remove(0))?,
            _ => three(parts),
        };
        let qkv = m.turn(given, parts)?;
        let (attended, saved) = m.attend(given, layer, self.scores, &qkv)?;
        let post_attention = add_output(m, given, (&self.output, &self.post_attention_norm), &attended, x, &mut unscaled)?;
        let [normed, middle] = m.norm(&self.mlp_norm, x)?;
        let (inner, down) = self.feed_forward();
        let mut made = m.project_rounded(given, &inner, &normed, &mut unscaled)?;
        m.free(normed);
        let up = made.pop().unwrap_or_else(|| unreachable!("every feed-forward has a layer"));
        let gate = made.pop();
        let act = m.gate(given, gate.as_ref(), &up)?;
        let post_mlp = add_output(m, given, (down, &self.post_mlp_norm), &act, x, &mut unscaled)?;
        m.free(act);
        Ok(BlockActivations { x: kept_x, qkv, attended, saved, middle, gate, up, post: [post_attention, post_mlp], unscaled })
    }

    /// Turns `way.dx` from the gradient of the block's output into that of its input (unless nothing `below` wants it), and adds
    /// the gradients of its pairs.
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        way: &mut WayBack<M>,
        mut kept: BlockActivations<M>,
        below: bool,
    ) -> Result<()> {
        self.feed_back(m, given, way, &mut kept)?;
        self.attend_back(m, given, way, &kept, below)?;
        kept.free(m);
        Ok(())
    }

    /// Feed-forward: `dx` becomes the gradient at `middle`; gate and up become their gradients.
    fn feed_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        way: &mut WayBack<M>,
        kept: &mut BlockActivations<M>,
    ) -> Result<()> {
        let (inner, down) = self.feed_forward();
        let act = match given.adapts(&[down]) {
            true => Some(m.gate(given, kept.gate.as_ref(), &kept.up)?),
            false => None,
        };
        let dy = output_back(m, &self.post_mlp_norm, &kept.post[1], way)?;
        let site = (down, dy.as_ref().unwrap_or(&way.rounded));
        let d_act = m.project_back_rounded(given, &[site], act.as_ref(), &kept.unscaled)?;
        dy.into_iter().for_each(|dy| m.free(dy));
        act.into_iter().for_each(|act| m.free(act));
        m.gate_back(given, kept.gate.as_mut(), &mut kept.up, d_act)?;
        let normed = given.adapts(&inner).then(|| m.norm_again(&self.mlp_norm, &kept.middle)).transpose()?;
        let grads = kept.gate.iter().chain([&kept.up]);
        let sites: Vec<(&SiteLinear, &M::Act)> = inner.into_iter().zip(grads).collect();
        let d_normed = m.project_back(given, &sites, normed.as_ref(), &kept.unscaled)?;
        normed.into_iter().for_each(|normed| m.free(normed));
        m.norm_back(&self.mlp_norm, &kept.middle, d_normed, &mut way.dx, &mut way.rounded)
    }

    /// Attention: `dx` becomes the gradient at the block's input.
    fn attend_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        way: &mut WayBack<M>,
        kept: &BlockActivations<M>,
        below: bool,
    ) -> Result<()> {
        let attended = Some(&kept.attended);
        let dy = output_back(m, &self.post_attention_norm, &kept.post[0], way)?;
        let site = (&self.output, dy.as_ref().unwrap_or(&way.rounded));
        let grad = m.project_back_rounded(given, &[site], attended, &kept.unscaled)?;
        dy.into_iter().for_each(|dy| m.free(dy));
        let grads = m.attend_back(given, self.scores, &kept.qkv, &kept.attended, &kept.saved, grad)?;
        let grads = m.turn_back(given, grads)?;
        let sites = self.queries_keys_values();
        let grads: Vec<M::Act> = match sites.len() {
            1 => vec![m.join(given, grads)?],
            _ => grads.into(),
        };
        let normed = given.adapts(&sites).then(|| m.norm_again(&self.attention_norm, &kept.x)).transpose()?;
        let sites: Vec<(&SiteLinear, &M::Act)> = sites.into_iter().zip(&grads).collect();
        if below {
            let d_normed = m.project_back(given, &sites, normed.as_ref(), &kept.unscaled)?;
            m.norm_back(&self.attention_norm, &kept.x, d_normed, &mut way.dx, &mut way.rounded)?;
        } else {
            m.gradients(given, &sites, normed.as_ref(), &kept.unscaled)?;
        }
        normed.into_iter().chain(grads).for_each(|act| m.free(act));
        Ok(())
    }
}
