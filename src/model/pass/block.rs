//! One block, forward and backward, on any machine: the only place where the order of its operations stands.

use super::super::layers::{Block, Qkv, SiteLinear};
use super::beside::Beside;
use super::dense::{WayBack, add_output, output_back};
use super::experts::ExpertBalance;
use super::feed::{Feed, FeedActivations};
use super::layer_gate::LayerGateActivations;
use super::machine::{Given, Machine, Parts, Unscaled};
use crate::error::Result;

/// What a block keeps for its backward pass.
pub(super) struct BlockActivations<M: Machine> {
    /// Input (n, d).
    x: M::Act,
    /// Turned queries (n, h·e), turned keys and values (n, g·e); those that are lent are [`Beside`]'s.
    qkv: Parts<M::Act>,
    /// The same as their norms read them, where these are.
    bare: Parts<M::Act>,
    /// Attention's output (n, h·e).
    attended: M::Act,
    saved: M::Saved,
    /// What the feed-forward's norm read (n, d), where that is not the input.
    middle: Option<M::Act>,
    fed: FeedActivations<M>,
    /// What attention and the feed-forward gave (n, d), where a norm reads it.
    post: [Option<M::Act>; 2],
    gated: Option<LayerGateActivations<M>>,
    unscaled: Unscaled<M>,
}

impl<M: Machine> BlockActivations<M> {
    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> BlockActivations<N> {
        let BlockActivations { x, qkv, bare, attended, saved, middle, fed, post, gated, unscaled } = self;
        let (fed, gated) = (fed.on(), gated.map(LayerGateActivations::on));
        BlockActivations { x, qkv, bare, attended, saved, middle, fed, post, gated, unscaled }
    }

    /// Adds how its experts were met.
    pub(super) fn count(&self, balance: &mut ExpertBalance) {
        if let FeedActivations::Experts(kept) | FeedActivations::Both { experts: kept, .. } = &self.fed {
            kept.count(balance);
        }
    }

    pub(super) fn free(self, m: &mut M) {
        let BlockActivations { x, qkv, bare, attended, saved: _, middle, fed, post, gated, unscaled } = self;
        fed.free(m);
        gated.into_iter().for_each(|gated| gated.free(m));
        let unscaled = unscaled.into_iter().map(|(_, z)| z);
        let some = qkv.into_iter().chain(bare).chain(post).flatten();
        [x, attended].into_iter().chain(middle).chain(some).chain(unscaled).for_each(|act| m.free(act));
    }
}

/// Queries, keys and values as attention reads them: the block's own or what is lent.
fn read<'a, M: Machine>(of: usize, [q, k, v]: &'a Parts<M::Act>, beside: &'a Beside<M>) -> [&'a M::Act; 3] {
    let q = q.as_ref().unwrap_or_else(|| unreachable!("every block has queries"));
    match (k, v) {
        (Some(k), Some(v)) => [q, k, v],
        _ => {
            let [k, v] = beside.lent(of);
            [q, k, v]
        }
    }
}

impl Block {
    /// The projections that read the block's normed input: q, k and v, all of them in one, or some alone.
    pub(super) fn queries_keys_values(&self) -> Vec<&SiteLinear> {
        match &self.qkv {
            Qkv::Split { q, k, v } => vec![q, k, v],
            Qkv::Fused { qkv, .. } => vec![qkv],
            Qkv::KeysAsValues { q, k } => vec![q, k],
            Qkv::QueriesAlone { q } => vec![q],
        }
    }

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
        let (mut unscaled, layer) = (Vec::new(), self.attention.layer);
        let [normed, kept_x] = m.norm(&self.attention_norm, x)?;
        let mut early = if self.parallel { Some(m.norm(&self.mlp_norm, x)?) } else { None };
        let parts = self.parts(m, given, normed, &mut unscaled)?;
        let (mut qkv, bare) = m.turn(given, &self.attention, parts)?;
        if self.attention.lends
            && let (Some(k), Some(v)) = (qkv[1].take(), qkv[2].take())
        {
            beside.lend(m, layer, [k, v]);
        }
        let (attended, saved) = m.attend(given, &self.attention, read(self.attention.keys_of, &qkv, beside))?;
        let post_attention = add_output(m, given, (&self.output, &self.post_attention_norm), &attended, x, &mut unscaled)?;
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
        let gated = gate.map(|gate| gate.forward(m, given, (layer, beside), x, &mut unscaled)).transpose()?;
        if let Some(by) = self.scale {
            m.scale(by, x)?;
        }
        let post = [post_attention, post_mlp];
        Ok(BlockActivations { x: kept_x, qkv, bare, attended, saved, middle, fed, post, gated, unscaled })
    }

    /// What the projections make of `normed` (n, d).
    fn parts<M: Machine>(&self, m: &mut M, given: &Given, normed: M::Act, unscaled: &mut Unscaled<M>) -> Result<Parts<M::Wide>> {
        let mut parts = m.project(given, &self.queries_keys_values(), &normed, unscaled)?;
        m.free(normed);
        match &self.qkv {
            Qkv::Fused { groups, .. } => parts = m.split(given, parts.remove(0), &self.attention.shape.widths(), *groups)?,
            Qkv::KeysAsValues { .. } => {
                let values = m.again(given, &parts[1])?;
                parts.push(values);
            }
            Qkv::Split { .. } | Qkv::QueriesAlone { .. } => {}
        }
        let mut parts = parts.into_iter();
        Ok([(); 3].map(|()| parts.next()))
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
            gate.backward(m, given, (self.attention.layer, beside), way, gated, &kept.unscaled)?;
        }
        // Where both read the block's input, each goes back from the gradient of the output.
        let early = if self.parallel { Some(self.attend_back(m, given, (way, beside), &kept, below)?) } else { None };
        let middle = kept.middle.as_ref().unwrap_or(&kept.x);
        self.feed().backward(m, given, way, (&mut kept.fed, &kept.post[1]), middle, &kept.unscaled)?;
        let d_normed = match early {
            Some(early) => early,
            None => self.attend_back(m, given, (way, beside), &kept, below)?,
        };
        if let Some(d_normed) = d_normed {
            m.norm_back(&self.attention_norm, &kept.x, d_normed, &mut way.dx, &mut way.rounded)?;
        }
        kept.free(m);
        Ok(())
    }

    /// Attention: the gradient (n, d) of what its projections read, where something `below` wants it.
    fn attend_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (way, beside): (&WayBack<M>, &mut Beside<M>),
        kept: &BlockActivations<M>,
        below: bool,
    ) -> Result<Option<M::Wide>> {
        let attended = Some(&kept.attended);
        let dy = output_back(m, &self.post_attention_norm, &kept.post[0], way)?;
        let site = (&self.output, dy.as_ref().unwrap_or(&way.rounded));
        let grad = m.project_back_rounded(given, &[site], attended, &kept.unscaled)?;
        dy.into_iter().for_each(|dy| m.free(dy));
        let qkv = read(self.attention.keys_of, &kept.qkv, beside);
        let [dq, mut dk, mut dv] = m.attend_back(given, &self.attention, qkv, &kept.attended, &kept.saved, grad)?;
        let grads = if self.attention.borrows() {
            beside.give_back(m, self.attention.keys_of, [dk, dv])?;
            [Some(dq), None, None]
        } else {
            if let Some([more_k, more_v]) = beside.given_back(self.attention.layer) {
                m.add(&mut dk, more_k)?;
                m.add(&mut dv, more_v)?;
            }
            [Some(dq), Some(dk), Some(dv)]
        };
        let grads = m.turn_back(given, &self.attention, &kept.bare, grads)?;
        let mut grads: Vec<M::Act> = grads.into_iter().flatten().collect();
        match &self.qkv {
            Qkv::Fused { groups, .. } => grads = vec![m.join(given, grads, *groups)?],
            Qkv::KeysAsValues { .. } => {
                if let (Some(dv), Some(dk)) = (grads.pop(), grads.pop()) {
                    grads.push(m.sum(given, dk, dv)?);
                }
            }
            Qkv::Split { .. } | Qkv::QueriesAlone { .. } => {}
        }
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
