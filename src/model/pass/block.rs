//! One block, forward and backward, on any machine: the only place where the order of its operations stands.

use super::super::layers::{Block, Mlp, Norm, Qkv, SiteLinear};
use super::cross::{Beside, CrossActivations, Memory};
use super::experts::ExpertActivations;
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
    /// Of attention over what an encoder made.
    cross: Option<CrossActivations<M>>,
    /// What the feed-forward's norm read (n, d), where that is not the input.
    middle: Option<M::Act>,
    fed: FeedActivations<M>,
    /// What attention and the feed-forward gave (n, d), where a norm reads it.
    post: [Option<M::Act>; 2],
    unscaled: Unscaled<M>,
}

/// What a feed-forward keeps.
enum FeedActivations<M: Machine> {
    /// (n, f) each; the gate where there is one.
    Dense {
        gate: Option<M::Act>,
        up: M::Act,
    },
    Experts(ExpertActivations<M>),
}

impl<M: Machine> BlockActivations<M> {
    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> BlockActivations<N> {
        let BlockActivations { x, qkv, bare, attended, saved, cross, middle, fed, post, unscaled } = self;
        let cross = cross.map(CrossActivations::on);
        let fed = match fed {
            FeedActivations::Dense { gate, up } => FeedActivations::Dense { gate, up },
            FeedActivations::Experts(kept) => FeedActivations::Experts(kept.on()),
        };
        BlockActivations { x, qkv, bare, attended, saved, cross, middle, fed, post, unscaled }
    }

    pub(super) fn free(self, m: &mut M) {
        let BlockActivations { x, qkv, bare, attended, saved: _, cross, middle, fed, post, unscaled } = self;
        cross.into_iter().for_each(|cross| cross.free(m));
        match fed {
            FeedActivations::Dense { gate, up } => gate.into_iter().chain([up]).for_each(|act| m.free(act)),
            FeedActivations::Experts(kept) => kept.free(m),
        }
        let unscaled = unscaled.into_iter().map(|(_, z)| z);
        [x, attended]
            .into_iter()
            .chain(middle)
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

/// What attention read and made.
struct Seen<M: Machine> {
    qkv: [M::Act; 3],
    bare: [Option<M::Act>; 3],
    attended: M::Act,
    saved: M::Saved,
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

impl Mlp {
    /// The layers that read the normed input: gate and up, both in one, or up alone. Experts have theirs.
    fn inner(&self) -> Vec<&SiteLinear> {
        match self {
            Mlp::Gated { gate, up, .. } => vec![gate, up],
            Mlp::GatedFused { gate_up, .. } => vec![gate_up],
            Mlp::Plain { up, .. } => vec![up],
            Mlp::Experts(_) => Vec::new(),
        }
    }

    /// The layer after them.
    fn down(&self) -> &SiteLinear {
        match self {
            Mlp::Gated { down, .. } | Mlp::GatedFused { down, .. } | Mlp::Plain { down, .. } => down,
            Mlp::Experts(_) => unreachable!("experts have theirs"),
        }
    }
}

impl Block {
    /// The projections that read the block's normed input: q, k and v, or all of them in one.
    pub(super) fn queries_keys_values(&self) -> Vec<&SiteLinear> {
        match &self.qkv {
            Qkv::Split { q, k, v } => vec![q, k, v],
            Qkv::Fused { qkv, .. } => vec![qkv],
        }
    }

    /// `x` (n, d) becomes the output of this block, the `layer`th; returns what the backward pass needs.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        layer: usize,
        memory: Option<&Memory<M>>,
        x: &mut M::Wide,
    ) -> Result<BlockActivations<M>> {
        let mut unscaled = Vec::new();
        let [normed, kept_x] = m.norm(&self.attention_norm, x)?;
        let mut early = if self.parallel { Some(m.norm(&self.mlp_norm, x)?) } else { None };
        let Seen { qkv, bare, attended, saved } = self.attend(m, given, layer, normed, &mut unscaled)?;
        let post_attention = add_output(m, given, (&self.output, &self.post_attention_norm), &attended, x, &mut unscaled)?;
        let cross = self.cross.as_ref().map(|cross| cross.forward(m, given, (layer, memory), x, &mut unscaled)).transpose()?;
        let [normed, middle] = match early.take() {
            Some(early) => early,
            None => m.norm(&self.mlp_norm, x)?,
        };
        let (fed, post_mlp) = self.feed(m, given, normed, x, &mut unscaled)?;
        // What both norms read is kept once.
        let middle = match self.parallel {
            true => {
                m.free(middle);
                None
            }
            false => Some(middle),
        };
        let post = [post_attention, post_mlp];
        Ok(BlockActivations { x: kept_x, qkv, bare, attended, saved, cross, middle, fed, post, unscaled })
    }

    /// Attention of `normed` (n, d), which is given back.
    fn attend<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        layer: usize,
        normed: M::Act,
        unscaled: &mut Unscaled<M>,
    ) -> Result<Seen<M>> {
        if let Some(sight) = &self.sight {
            let qkv = three(m.project_rounded(given, &self.queries_keys_values(), &normed, unscaled)?);
            m.free(normed);
            let (attended, saved) = m.attend_over(given, layer, sight, &qkv[0], Some([&qkv[1], &qkv[2]]))?;
            return Ok(Seen { qkv, bare: [None, None, None], attended, saved });
        }
        let mut parts = m.project(given, &self.queries_keys_values(), &normed, unscaled)?;
        m.free(normed);
        let parts = match &self.qkv {
            Qkv::Fused { groups, .. } => m.split(given, parts.remove(0), *groups)?,
            Qkv::Split { .. } => three(parts),
        };
        let (qkv, bare) = m.turn(given, &self.turn, parts)?;
        let (attended, saved) = m.attend(given, layer, self.scores, &qkv)?;
        Ok(Seen { qkv, bare, attended, saved })
    }

    /// The feed-forward of `normed` (n, d), added to `x`; with what the norm behind it read.
    fn feed<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        normed: M::Act,
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<(FeedActivations<M>, Option<M::Act>)> {
        if let Mlp::Experts(experts) = &self.mlp {
            let kept = experts.forward(m, given, &normed, x, unscaled)?;
            m.free(normed);
            return Ok((FeedActivations::Experts(kept), None));
        }
        let mut made = m.project_rounded(given, &self.mlp.inner(), &normed, unscaled)?;
        m.free(normed);
        let up = made.pop().unwrap_or_else(|| unreachable!("every feed-forward has a layer"));
        let (gate, up) = match &self.mlp {
            Mlp::GatedFused { .. } => {
                let [gate, up] = m.halve(given, up)?;
                (Some(gate), up)
            }
            _ => (made.pop(), up),
        };
        let act = m.gate(given, gate.as_ref(), &up)?;
        let post = add_output(m, given, (self.mlp.down(), &self.post_mlp_norm), &act, x, unscaled)?;
        m.free(act);
        Ok((FeedActivations::Dense { gate, up }, post))
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
        beside: Option<&mut Beside<M>>,
    ) -> Result<()> {
        // Where both read the block's input, each goes back from the gradient of the output.
        let early = if self.parallel { Some(self.attend_back(m, given, way, &kept, below)?) } else { None };
        self.feed_back(m, given, way, &mut kept)?;
        if let (Some(cross), Some(kept_cross), Some(beside)) = (&self.cross, &kept.cross, beside) {
            cross.backward(m, given, kept_cross, &kept.unscaled, (&mut way.dx, &mut way.rounded), beside)?;
        }
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
        let middle = kept.middle.as_ref().unwrap_or(&kept.x);
        let d_normed = match &mut kept.fed {
            FeedActivations::Experts(fed) => {
                let Mlp::Experts(experts) = &self.mlp else { unreachable!("kept by experts") };
                let normed = m.norm_again(&self.mlp_norm, middle)?;
                let d_normed = experts.backward(m, given, (&way.rounded, &way.dx), fed, &normed, &kept.unscaled)?;
                m.free(normed);
                d_normed
            }
            FeedActivations::Dense { gate, up } => {
                let dy = output_back(m, &self.post_mlp_norm, &kept.post[1], way)?;
                let d_out = dy.as_ref().unwrap_or(&way.rounded);
                let d_normed = self.dense_back(m, given, d_out, (gate, up), middle, &kept.unscaled)?;
                dy.into_iter().for_each(|dy| m.free(dy));
                d_normed
            }
        };
        m.norm_back(&self.mlp_norm, middle, d_normed, &mut way.dx, &mut way.rounded)
    }

    /// A feed-forward of one: the gradient of what it read, given that of what it made; gate and up become their gradients.
    fn dense_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        d_out: &M::Act,
        (gate, up): (&mut Option<M::Act>, &mut M::Act),
        middle: &M::Act,
        unscaled: &Unscaled<M>,
    ) -> Result<M::Wide> {
        let (inner, down) = (self.mlp.inner(), self.mlp.down());
        let act = match given.adapts(&[down]) {
            true => Some(m.gate(given, gate.as_ref(), up)?),
            false => None,
        };
        let d_act = m.project_back_rounded(given, &[(down, d_out)], act.as_ref(), unscaled)?;
        act.into_iter().for_each(|act| m.free(act));
        m.gate_back(given, gate.as_mut(), up, d_act)?;
        let normed = given.adapts(&inner).then(|| m.norm_again(&self.mlp_norm, middle)).transpose()?;
        let fused = match (&self.mlp, &*gate) {
            (Mlp::GatedFused { .. }, Some(gate)) => Some(m.unite(given, gate, up)?),
            _ => None,
        };
        let grads: Vec<&M::Act> = match &fused {
            Some(fused) => vec![fused],
            None => gate.iter().chain([&*up]).collect(),
        };
        let sites: Vec<(&SiteLinear, &M::Act)> = inner.into_iter().zip(grads).collect();
        let d_normed = m.project_back(given, &sites, normed.as_ref(), unscaled)?;
        normed.into_iter().chain(fused).for_each(|act| m.free(act));
        Ok(d_normed)
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
        let grads = match &self.sight {
            Some(sight) => m.attend_over_back(given, sight, kept.qkv.each_ref(), (&kept.attended, &kept.saved), grad)?,
            None => {
                let grads = m.attend_back(given, self.scores, &kept.qkv, &kept.attended, &kept.saved, grad)?;
                m.turn_back(given, &self.turn, &kept.bare, grads)?
            }
        };
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
