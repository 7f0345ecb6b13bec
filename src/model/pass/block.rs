//! One block, forward and backward, on any machine: the only place where the order of its operations stands.

use super::super::layers::Block;
use super::beside::Beside;
use super::cross::CrossActivations;
use super::dense::WayBack;
use super::experts::ExpertBalance;
use super::feed::{Feed, FeedActivations};
use super::layer_gate::LayerGateActivations;
use super::machine::{Given, Machine, Unscaled};
use super::mixer::{MixerActivations, MixerBetween};
use crate::error::Result;

/// What a block keeps for its backward pass.
pub(super) struct BlockActivations<M: Machine> {
    /// Input (n, d).
    x: M::Act,
    mixed: MixerActivations<M>,
    /// Of attention over what an encoder made.
    cross: Option<CrossActivations<M>>,
    /// What the feed-forward's norm read (n, d), where that is not the input.
    middle: Option<M::Act>,
    fed: FeedActivations<M>,
    /// What the mixer and the feed-forward gave (n, d), where a norm reads it.
    post: [Option<M::Act>; 2],
    gated: Option<LayerGateActivations<M>>,
    unscaled: Unscaled<M>,
}

impl<M: Machine> BlockActivations<M> {
    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> BlockActivations<N> {
        let BlockActivations { x, mixed, cross, middle, fed, post, gated, unscaled } = self;
        let (mixed, fed, gated) = (mixed.on(), fed.on(), gated.map(LayerGateActivations::on));
        BlockActivations { x, mixed, cross: cross.map(CrossActivations::on), middle, fed, post, gated, unscaled }
    }

    /// Adds how its experts were met.
    pub(super) fn count(&self, balance: &mut ExpertBalance) {
        if let FeedActivations::Experts(kept) | FeedActivations::Both { experts: kept, .. } = &self.fed {
            kept.count(balance);
        }
    }

    pub(super) fn free(self, m: &mut M) {
        let BlockActivations { x, mixed, cross, middle, fed, post, gated, unscaled } = self;
        mixed.free(m);
        cross.into_iter().for_each(|cross| cross.free(m));
        fed.free(m);
        gated.into_iter().for_each(|gated| gated.free(m));
        let unscaled = unscaled.into_iter().map(|(_, z)| z);
        [x].into_iter().chain(middle).chain(post.into_iter().flatten()).chain(unscaled).for_each(|act| m.free(act));
    }
}

impl Block {
    fn feed(&self) -> Feed<'_> {
        Feed { mlp: &self.mlp, norm: &self.mlp_norm, post: &self.post_mlp_norm }
    }

    /// `x` (n, d) becomes the output of this block; returns what the backward pass needs.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        beside: &mut Beside<M>,
        x: &mut M::Wide,
    ) -> Result<BlockActivations<M>> {
        let mut unscaled = Vec::new();
        let [normed, kept_x] = m.norm(&self.attention_norm, x)?;
        let mut early = if self.parallel { Some(m.norm(&self.mlp_norm, x)?) } else { None };
        let behind = &self.post_attention_norm;
        let (mixed, post_mixer) = self.mixer.forward(m, (given, beside), normed, behind, x, &mut unscaled)?;
        let cross = self.cross.as_ref().map(|cross| cross.forward(m, (given, beside), x, &mut unscaled)).transpose()?;
        let [normed, middle] = match early.take() {
            Some(early) => early,
            None => m.norm(&self.mlp_norm, x)?,
        };
        let (fed, post_mlp) = self.feed().forward(m, given, normed, x, &mut unscaled)?;
        // What both norms read is kept once.
        let middle = match self.parallel {
            true => {
                m.free(middle);
                None
            }
            false => Some(middle),
        };
        let gate = self.layer_gate.as_ref();
        let gated = gate.map(|gate| gate.forward(m, given, (self.layer, beside), x, &mut unscaled)).transpose()?;
        if let Some(by) = self.scale {
            m.scale(by, x)?;
        }
        Ok(BlockActivations { x: kept_x, mixed, cross, middle, fed, post: [post_mixer, post_mlp], gated, unscaled })
    }

    /// Turns `way.dx` from the gradient of the block's output into that of its input (unless nothing `below` wants it), and adds
    /// the gradients of its pairs.
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (way, beside): (&mut WayBack<M>, &mut Beside<M>),
        mut kept: BlockActivations<M>,
        below: bool,
    ) -> Result<()> {
        if let Some(by) = self.scale {
            m.scale(by, &mut way.dx)?;
            let before = std::mem::replace(&mut way.rounded, m.rounded(&way.dx)?);
            m.free(before);
        }
        if let Some((gate, gated)) = self.layer_gate.as_ref().zip(kept.gated.take()) {
            gate.backward(m, given, (self.layer, beside), way, gated, &kept.unscaled)?;
        }
        // Where both read the block's input, each goes back from the gradient of the output.
        let early = if self.parallel { Some(self.mixer_back(m, given, (way, beside), &mut kept, below)?) } else { None };
        let middle = kept.middle.as_ref().unwrap_or(&kept.x);
        self.feed().backward(m, given, way, (&mut kept.fed, &kept.post[1]), middle, &kept.unscaled)?;
        if let Some((cross, kept_cross)) = self.cross.as_ref().zip(kept.cross.as_ref()) {
            cross.backward(m, given, (way, beside), kept_cross, &kept.unscaled)?;
        }
        let d_normed = match early {
            Some(early) => early,
            None => self.mixer_back(m, given, (way, beside), &mut kept, below)?,
        };
        if let Some(d_normed) = d_normed {
            m.norm_back(&self.attention_norm, &kept.x, d_normed, &mut way.dx, &mut way.rounded)?;
        }
        kept.free(m);
        Ok(())
    }

    fn mixer_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (way, beside): (&WayBack<M>, &mut Beside<M>),
        BlockActivations { x, mixed, post, unscaled, .. }: &mut BlockActivations<M>,
        below: bool,
    ) -> Result<Option<M::Wide>> {
        let between = MixerBetween { before: &self.attention_norm, behind: &self.post_attention_norm, x, post: &post[0] };
        self.mixer.backward(m, (given, beside), way, mixed, between, (unscaled, below))
    }
}
