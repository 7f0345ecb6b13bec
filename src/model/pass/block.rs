//! One block, forward and backward, on any machine: the only place where the order of its operations stands.

use super::super::layers::{Block, Mlp, Norm, Qkv, SiteLinear};
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// What a block keeps for its backward pass.
pub(super) struct BlockActivations<M: Machine> {
    /// Input (n, d).
    x: M::Act,
    /// Turned queries (n, h·e), turned keys and values (n, g·e).
    qkv: [M::Act; 3],
    /// The same as their norms read them, where these are.
    bare: [Option<M::Act>; 3],
    /// Attention's output (n, h·e).
    attended: M::Act,
    saved: M::Saved,
    /// What the feed-forward's norm read (n, d), where that is not the input.
    middle: Option<M::Act>,
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
        let BlockActivations { x, qkv, bare, attended, saved, middle, gate, up, post, unscaled } = self;
        BlockActivations { x, qkv, bare, attended, saved, middle, gate, up, post, unscaled }
    }

    pub(super) fn free(self, m: &mut M) {
        let BlockActivations { x, qkv, bare, attended, saved: _, middle, gate, up, post, unscaled } = self;
        let unscaled = unscaled.into_iter().map(|(_, z)| z);
        [x, attended, up]
            .into_iter()
            .chain(middle)
            .chain(gate)
            .chain(qkv)
            .chain(bare.into_iter().chain(post).flatten())
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
            Qkv::Fused { qkv, .. } => vec![qkv],
        }
    }

    /// The layers that read the feed-forward's normed input (gate and up, both in one, or up alone), and the one after them.
    pub(super) fn feed_forward(&self) -> (Vec<&SiteLinear>, &SiteLinear) {
        match &self.mlp {
            Mlp::Gated { gate, up, down } => (vec![gate, up], down),
            Mlp::GatedFused { gate_up, down } => (vec![gate_up], down),
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
        let mut early = if self.parallel { Some(m.norm(&self.mlp_norm, x)?) } else { None };
        let mut parts = m.project(given, &self.queries_keys_values(), &normed, &mut unscaled)?;
        m.free(normed);
        let parts = match &self.qkv {
            Qkv::Fused { groups, .. } => m.split(given, parts.remove(0), *groups)?,
            Qkv::Split { .. } => three(parts),
        };
        let (qkv, bare) = m.turn(given, &self.turn, parts)?;
        let (attended, saved) = m.attend(given, layer, self.scores, &qkv)?;
        let post_attention = add_output(m, given, (&self.output, &self.post_attention_norm), &attended, x, &mut unscaled)?;
        let [normed, middle] = match early.take() {
            Some(early) => early,
            None => m.norm(&self.mlp_norm, x)?,
        };
        let (inner, down) = self.feed_forward();
        let made = m.project_rounded(given, &inner, &normed, &mut unscaled)?;
        m.free(normed);
        let (gate, up) = self.gate_and_up(m, given, made)?;
        let act = m.gate(given, gate.as_ref(), &up)?;
        let post_mlp = add_output(m, given, (down, &self.post_mlp_norm), &act, x, &mut unscaled)?;
        m.free(act);
        // What both norms read is kept once.
        let middle = match self.parallel {
            true => {
                m.free(middle);
                None
            }
            false => Some(middle),
        };
        let post = [post_attention, post_mlp];
        Ok(BlockActivations { x: kept_x, qkv, bare, attended, saved, middle, gate, up, post, unscaled })
    }

    /// Gate, where there is one, and up, of what [`Block::feed_forward`]'s first layers made.
    fn gate_and_up<M: Machine>(&self, m: &mut M, given: &Given, mut made: Vec<M::Act>) -> Result<(Option<M::Act>, M::Act)> {
        let up = made.pop().unwrap_or_else(|| unreachable!("every feed-forward has a layer"));
        if let Mlp::GatedFused { .. } = self.mlp {
            let [gate, up] = m.halve(given, up)?;
            return Ok((Some(gate), up));
        }
        Ok((made.pop(), up))
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
        // Where both read the block's input, each goes back from the gradient of the output.
        let early = if self.parallel { Some(self.attend_back(m, given, way, &kept, below)?) } else { None };
        self.feed_back(m, given, way, &mut kept)?;
        let d_normed = match early {
            Some(early) => early,
            None => self.attend_back(m, given, way, &kept, below)?,
        };
        if let Some(d_normed) = d_normed {
            m.norm_back(&self.attention_norm, &kept.x, d_normed, &mut way.dx, &mut way.rounded)?;
        }
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
        let middle = kept.middle.as_ref().unwrap_or(&kept.x);
        let normed = given.adapts(&inner).then(|| m.norm_again(&self.mlp_norm, middle)).transpose()?;
        let fused = match (&self.mlp, &kept.gate) {
            (Mlp::GatedFused { .. }, Some(gate)) => Some(m.unite(given, gate, &kept.up)?),
            _ => None,
        };
        let grads: Vec<&M::Act> = match &fused {
            Some(fused) => vec![fused],
            None => kept.gate.iter().chain([&kept.up]).collect(),
        };
        let sites: Vec<(&SiteLinear, &M::Act)> = inner.into_iter().zip(grads).collect();
        let d_normed = m.project_back(given, &sites, normed.as_ref(), &kept.unscaled)?;
        normed.into_iter().chain(fused).for_each(|act| m.free(act));
        m.norm_back(&self.mlp_norm, middle, d_normed, &mut way.dx, &mut way.rounded)
    }

    /// Attention: the gradient (n, d) of what its projections read, where something `below` wants it.
    fn attend_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        way: &WayBack<M>,
        kept: &BlockActivations<M>,
        below: bool,
    ) -> Result<Option<M::Wide>> {
        let attended = Some(&kept.attended);
        let dy = output_back(m, &self.post_attention_norm, &kept.post[0], way)?;
        let site = (&self.output, dy.as_ref().unwrap_or(&way.rounded));
        let grad = m.project_back_rounded(given, &[site], attended, &kept.unscaled)?;
        dy.into_iter().for_each(|dy| m.free(dy));
        let grads = m.attend_back(given, self.scores, &kept.qkv, &kept.attended, &kept.saved, grad)?;
        let grads = m.turn_back(given, &self.turn, &kept.bare, grads)?;
        let grads: Vec<M::Act> = match &self.qkv {
            Qkv::Fused { groups, .. } => vec![m.join(given, grads, *groups)?],
            Qkv::Split { .. } => grads.into(),
        };
        let sites = self.queries_keys_values();
        let normed = given.adapts(&sites).then(|| m.norm_again(&self.attention_norm, &kept.x)).transpose()?;
        let sites: Vec<(&SiteLinear, &M::Act)> = sites.into_iter().zip(&grads).collect();
        let d_normed = match below {
            true => Some(m.project_back(given, &sites, normed.as_ref(), &kept.unscaled)?),
            false => {
                m.gradients(given, &sites, normed.as_ref(), &kept.unscaled)?;
                None
            }
        };
        normed.into_iter().chain(grads).for_each(|act| m.free(act));
        Ok(d_normed)
    }
}
