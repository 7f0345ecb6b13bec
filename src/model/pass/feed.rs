//! What a feed-forward does, there and back: one for all tokens, a choice of experts, or both side by side.

use super::super::layers::{DenseAndExperts, Mlp, Norm};
use super::dense::{Made, WayBack, add_output, output_back};
use super::experts::ExpertActivations;
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// What a feed-forward keeps.
pub(super) enum FeedActivations<M: Machine> {
    Dense(Made<M>),
    Experts(ExpertActivations<M>),
    /// With what the norms of both sides' outputs read.
    Both {
        made: Made<M>,
        experts: ExpertActivations<M>,
        outputs: [M::Act; 2],
    },
}

impl<M: Machine> FeedActivations<M> {
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> FeedActivations<N> {
        match self {
            FeedActivations::Dense(made) => FeedActivations::Dense(made),
            FeedActivations::Experts(kept) => FeedActivations::Experts(kept.on()),
            FeedActivations::Both { made, experts, outputs } => FeedActivations::Both { made, experts: experts.on(), outputs },
        }
    }

    pub(super) fn free(self, m: &mut M) {
        let (made, experts, outputs) = match self {
            FeedActivations::Dense(made) => (Some(made), None, None),
            FeedActivations::Experts(kept) => (None, Some(kept), None),
            FeedActivations::Both { made, experts, outputs } => (Some(made), Some(experts), Some(outputs)),
        };
        let made = made.into_iter().flat_map(|(gate, up)| gate.into_iter().chain([up]));
        made.chain(outputs.into_iter().flatten()).for_each(|act| m.free(act));
        experts.into_iter().for_each(|kept| kept.free(m));
    }
}

/// A feed-forward between its norms: the one before it, and the one, if any, behind.
pub(super) struct Feed<'a> {
    pub mlp: &'a Mlp,
    pub norm: &'a Norm,
    pub post: &'a Option<Norm>,
}

impl Feed<'_> {
    /// The feed-forward of `normed` (n, d), added to `x`; with what the norm behind it read.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        normed: M::Act,
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<(FeedActivations<M>, Option<M::Act>)> {
        let dense = match self.mlp {
            Mlp::Dense(dense) => dense,
            Mlp::Experts(experts) => {
                let kept = experts.forward(m, given, [&normed, &normed], x, unscaled)?;
                m.free(normed);
                return Ok((FeedActivations::Experts(kept), None));
            }
            Mlp::Both(both) => return self.both(m, given, both, normed, x, unscaled),
        };
        let made = dense.made(m, given, &normed, unscaled)?;
        m.free(normed);
        let act = dense.act(m, given, &made)?;
        let post = add_output(m, given, (&dense.down, self.post), &act, x, unscaled)?;
        m.free(act);
        Ok((FeedActivations::Dense(made), post))
    }

    fn both<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        both: &DenseAndExperts,
        normed: M::Act,
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<(FeedActivations<M>, Option<M::Act>)> {
        let DenseAndExperts { dense, dense_norm, experts, experts_norms: [read, given_norm] } = both;
        let mut sum = m.zeros_like(x)?;
        let made = dense.made(m, given, &normed, unscaled)?;
        m.free(normed);
        let act = dense.act(m, given, &made)?;
        let y = m.project(given, &[&dense.down], &act, unscaled)?.remove(0);
        m.free(act);
        let first = m.norm_add(dense_norm, y, &mut sum)?;
        let mut normed = |norm: &Norm| -> Result<M::Act> {
            let [normed, kept] = m.norm(norm, x)?;
            m.free(kept);
            Ok(normed)
        };
        let own = normed(read)?;
        let routed = experts.router_norm.as_ref().map(normed).transpose()?;
        let mut y = m.zeros_like(x)?;
        let kept = experts.forward(m, given, [&own, routed.as_ref().unwrap_or(&own)], &mut y, unscaled)?;
        [own].into_iter().chain(routed).for_each(|act| m.free(act));
        let second = m.norm_add(given_norm, y, &mut sum)?;
        let post = match self.post {
            Some(norm) => Some(m.norm_add(norm, sum, x)?),
            None => {
                m.add(x, sum)?;
                None
            }
        };
        Ok((FeedActivations::Both { made, experts: kept, outputs: [first, second] }, post))
    }

    /// The way back: `way` becomes the gradient at `middle`, which the norm read; `post` is what the norm behind read.
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        way: &mut WayBack<M>,
        (fed, post): (&mut FeedActivations<M>, &Option<M::Act>),
        middle: &M::Act,
        unscaled: &Unscaled<M>,
    ) -> Result<()> {
        let dy = output_back(m, self.post, post, way)?;
        let d_out = dy.as_ref().unwrap_or(&way.rounded);
        let d_normed = match (self.mlp, fed) {
            (Mlp::Dense(dense), FeedActivations::Dense(made)) => {
                dense.back(m, given, d_out, made, |m| m.norm_again(self.norm, middle), unscaled)?
            }
            (Mlp::Experts(experts), FeedActivations::Experts(kept)) => {
                let normed = m.norm_again(self.norm, middle)?;
                let mut d_normed = m.zeros_like(&way.dx)?;
                let d_logits = experts.backward(m, given, d_out, kept, (&normed, &mut d_normed), unscaled)?;
                m.route_back(given, &experts.router, &normed, &d_logits, &mut d_normed)?;
                m.free(normed);
                d_normed
            }
            (Mlp::Both(both), FeedActivations::Both { made, experts, outputs }) => {
                let sum = m.widened(given, d_out)?;
                both.back(m, given, (experts, &outputs[1]), &sum, (way, middle), unscaled)?;
                let d_first = m.norm_add_back(&both.dense_norm, &outputs[0], &sum)?;
                let d = both.dense.back(m, given, &d_first, made, |m| m.norm_again(self.norm, middle), unscaled)?;
                m.free(d_first);
                m.free_wide(sum);
                d
            }
            _ => unreachable!("kept by the same kind"),
        };
        dy.into_iter().for_each(|dy| m.free(dy));
        m.norm_back(self.norm, middle, d_normed, &mut way.dx, &mut way.rounded)
    }
}

impl DenseAndExperts {
    /// The experts' way back, given the gradient of the sum of both sides.
    fn back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (kept, output): (&mut ExpertActivations<M>, &M::Act),
        sum: &M::Wide,
        (way, middle): (&mut WayBack<M>, &M::Act),
        unscaled: &Unscaled<M>,
    ) -> Result<()> {
        let [read, behind] = &self.experts_norms;
        let d_out = m.norm_add_back(behind, output, sum)?;
        let own = m.norm_again(read, middle)?;
        let mut d_own = m.zeros_like(sum)?;
        let d_logits = self.experts.backward(m, given, &d_out, kept, (&own, &mut d_own), unscaled)?;
        match &self.experts.router_norm {
            None => m.route_back(given, &self.experts.router, &own, &d_logits, &mut d_own)?,
            Some(norm) => {
                let (routed, mut d_routed) = (m.norm_again(norm, middle)?, m.zeros_like(sum)?);
                m.route_back(given, &self.experts.router, &routed, &d_logits, &mut d_routed)?;
                m.norm_back(norm, middle, d_routed, &mut way.dx, &mut way.rounded)?;
                m.free(routed);
            }
        }
        [d_out, own].into_iter().for_each(|act| m.free(act));
        m.norm_back(read, middle, d_own, &mut way.dx, &mut way.rounded)
    }
}
