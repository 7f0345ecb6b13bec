//! How the tokens of a text come together in a block, there and back: attention, or a gated delta rule.

use super::super::layers::{AttentionLayers, DeltaNet, Mixer, Norm, Qkv, Sight, SiteLinear};
use super::beside::Beside;
use super::dense::{WayBack, add_output, output_back};
use super::machine::{Given, Machine, Parts, Unscaled};
use crate::error::Result;
use crate::kernels::activation::Activation;

/// What it keeps.
pub(super) enum MixerActivations<M: Machine> {
    Attention {
        /// Turned queries (n, h·e), turned keys and values (n, g·e); those that are lent are [`Beside`]'s.
        qkv: Parts<M::Act>,
        /// The same as their norms read them, where these are.
        bare: Parts<M::Act>,
        /// Of the output (n, h·e), where it is gated.
        gate: Option<M::Act>,
        /// Attention's output (n, h·e).
        attended: M::Act,
        saved: M::Saved,
    },
    Delta {
        parts: [M::Act; 4],
        out: M::Act,
    },
}

impl<M: Machine> MixerActivations<M> {
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> MixerActivations<N> {
        match self {
            MixerActivations::Attention { qkv, bare, gate, attended, saved } => {
                MixerActivations::Attention { qkv, bare, gate, attended, saved }
            }
            MixerActivations::Delta { parts, out } => MixerActivations::Delta { parts, out },
        }
    }

    pub(super) fn free(self, m: &mut M) {
        match self {
            MixerActivations::Attention { qkv, bare, gate, attended, saved: _ } => {
                qkv.into_iter().chain(bare).flatten().chain(gate).chain([attended]).for_each(|act| m.free(act));
            }
            MixerActivations::Delta { parts, out } => parts.into_iter().chain([out]).for_each(|act| m.free(act)),
        }
    }
}

/// The norms before and behind a mixer, and what both read.
pub(super) struct MixerBetween<'a, M: Machine> {
    pub before: &'a Norm,
    pub behind: &'a Option<Norm>,
    /// The block's input (n, d).
    pub x: &'a M::Act,
    /// What the mixer gave (n, d), where a norm reads it.
    pub post: &'a Option<M::Act>,
}

/// Queries, keys and values as they are made, and the gate of the output.
type Projected<M> = (Parts<<M as Machine>::Wide>, Option<<M as Machine>::Act>);

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

impl Mixer {
    /// Adds what the tokens make of `normed` (n, d) to `x`, through the norm `behind`; with what that read.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        (given, beside): (&Given, &mut Beside<M>),
        normed: M::Act,
        behind: &Option<Norm>,
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<(MixerActivations<M>, Option<M::Act>)> {
        match self {
            Mixer::Attention(layers) => layers.forward(m, (given, beside), normed, behind, x, unscaled),
            Mixer::Delta(net) => {
                let inner = net.inner.each_ref();
                let parts = m.project_rounded(given, &inner, &normed, unscaled)?;
                m.free(normed);
                let parts: [M::Act; 4] = parts.try_into().unwrap_or_else(|_| unreachable!("four projections"));
                let out = m.delta(given, net, parts.each_ref())?;
                let post = add_output(m, given, (&net.output, behind), &out, x, unscaled)?;
                Ok((MixerActivations::Delta { parts, out }, post))
            }
        }
    }

    /// The gradient (n, d) of what the projections read, where something `below` wants it.
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        (given, beside): (&Given, &mut Beside<M>),
        way: &WayBack<M>,
        kept: &mut MixerActivations<M>,
        between: MixerBetween<M>,
        (unscaled, below): (&Unscaled<M>, bool),
    ) -> Result<Option<M::Wide>> {
        let dy = output_back(m, between.behind, between.post, way)?;
        let d_out = dy.as_ref().unwrap_or(&way.rounded);
        let (inner, grads) = match (self, &mut *kept) {
            (Mixer::Delta(net), MixerActivations::Delta { parts, out }) => {
                (net.inner.iter().collect(), net.backward(m, given, d_out, (parts, out), unscaled)?)
            }
            (Mixer::Attention(layers), kept) => (layers.inner(), layers.backward(m, (given, beside), d_out, kept, unscaled)?),
            (Mixer::Delta(_), _) => unreachable!("kept by a delta rule"),
        };
        dy.into_iter().for_each(|dy| m.free(dy));
        let normed = given.adapts(&inner).then(|| m.norm_again(between.before, between.x)).transpose()?;
        let sites: Vec<(&SiteLinear, &M::Act)> = inner.into_iter().zip(&grads).collect();
        let d_normed = match below {
            true => Some(m.project_back(given, &sites, normed.as_ref(), unscaled)?),
            false => {
                m.gradients(given, &sites, normed.as_ref(), unscaled)?;
                None
            }
        };
        normed.into_iter().chain(grads).for_each(|act| m.free(act));
        Ok(d_normed)
    }
}

impl DeltaNet {
    /// Gradients of what the projections made, given that of the output layer's result.
    fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        d_out: &M::Act,
        (parts, out): (&[M::Act; 4], &M::Act),
        unscaled: &Unscaled<M>,
    ) -> Result<Vec<M::Act>> {
        let grad = m.project_back_rounded(given, &[(&self.output, d_out)], Some(out), unscaled)?;
        Ok(m.delta_back(given, self, parts.each_ref(), grad)?.into())
    }
}

impl AttentionLayers {
    fn forward<M: Machine>(
        &self,
        m: &mut M,
        (given, beside): (&Given, &mut Beside<M>),
        normed: M::Act,
        behind: &Option<Norm>,
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<(MixerActivations<M>, Option<M::Act>)> {
        let attention = &self.attention;
        if attention.sight != Sight::Text {
            return self.forward_over(m, given, normed, behind, x, unscaled);
        }
        let (parts, gate) = self.parts(m, given, normed, unscaled)?;
        let (mut qkv, bare) = m.turn(given, attention, parts)?;
        if attention.lends
            && let (Some(k), Some(v)) = (qkv[1].take(), qkv[2].take())
        {
            beside.lend(m, attention.layer, [k, v]);
        }
        let (attended, saved) = m.attend(given, attention, read(attention.keys_of, &qkv, beside))?;
        let post = match &gate {
            None => add_output(m, given, (&self.output, behind), &attended, x, unscaled)?,
            Some(gate) => {
                let gated = m.gate(given, Activation::Sigmoid, Some(gate), &attended)?;
                let post = add_output(m, given, (&self.output, behind), &gated, x, unscaled)?;
                m.free(gated);
                post
            }
        };
        Ok((MixerActivations::Attention { qkv, bare, gate, attended, saved }, post))
    }

    /// The same in a model with an encoder, where nothing turns.
    fn forward_over<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        normed: M::Act,
        behind: &Option<Norm>,
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<(MixerActivations<M>, Option<M::Act>)> {
        let qkv = m.project_rounded(given, &self.inner(), &normed, unscaled)?;
        m.free(normed);
        let [q, k, v]: [M::Act; 3] = qkv.try_into().unwrap_or_else(|_| unreachable!("queries, keys and values"));
        let (attended, saved) = m.attend_over(given, &self.attention, &q, Some([&k, &v]))?;
        let post = add_output(m, given, (&self.output, behind), &attended, x, unscaled)?;
        let (qkv, bare) = ([Some(q), Some(k), Some(v)], [None, None, None]);
        Ok((MixerActivations::Attention { qkv, bare, gate: None, attended, saved }, post))
    }

    /// Queries, keys and values of `normed` (n, d), and the gate of the output.
    fn parts<M: Machine>(&self, m: &mut M, given: &Given, normed: M::Act, unscaled: &mut Unscaled<M>) -> Result<Projected<M>> {
        let (shape, mut gate) = (self.attention.shape, None);
        let mut parts = m.project(given, &self.inner(), &normed, unscaled)?;
        m.free(normed);
        if self.gated {
            let [q, ..] = shape.widths();
            let mut both = m.split(given, parts.remove(0), &[q, q], shape.heads)?;
            gate = both.pop().map(|gate| m.narrowed(given, gate)).transpose()?;
            parts.splice(..0, both);
        }
        match &self.qkv {
            Qkv::Fused { groups, .. } => parts = m.split(given, parts.remove(0), &shape.widths(), *groups)?,
            Qkv::KeysAsValues { .. } => {
                let values = m.again(given, &parts[1])?;
                parts.push(values);
            }
            Qkv::Split { .. } | Qkv::QueriesAlone { .. } => {}
        }
        let mut parts = parts.into_iter();
        Ok(([(); 3].map(|()| parts.next()), gate))
    }

    /// Gradients of what the projections made, given that of the output layer's result.
    fn backward<M: Machine>(
        &self,
        m: &mut M,
        (given, beside): (&Given, &mut Beside<M>),
        d_out: &M::Act,
        kept: &mut MixerActivations<M>,
        unscaled: &Unscaled<M>,
    ) -> Result<Vec<M::Act>> {
        let MixerActivations::Attention { qkv, bare, gate, attended, saved } = kept else { unreachable!("kept by attention") };
        let attention = &self.attention;
        let adapted = given.adapts(&[&self.output]);
        let gated = match gate.as_ref().filter(|_| adapted) {
            Some(gate) => Some(m.gate(given, Activation::Sigmoid, Some(gate), attended)?),
            None => None,
        };
        let d = m.project_back_rounded(given, &[(&self.output, d_out)], Some(gated.as_ref().unwrap_or(attended)), unscaled)?;
        gated.into_iter().for_each(|act| m.free(act));
        let (grad, behind) = match gate.as_ref() {
            None => (d, None),
            Some(gate) => (m.gate(given, Activation::Sigmoid, Some(gate), &d)?, Some(d)),
        };
        let qkv = read(attention.keys_of, qkv, beside);
        if attention.sight != Sight::Text {
            return Ok(m.attend_over_back(given, attention, qkv, (attended, saved), grad)?.into());
        }
        let [dq, dk, dv] = m.attend_back(given, attention, qkv, attended, saved, grad)?;
        let grads = self.shared_back(m, beside, [dq, dk, dv])?;
        let mut grads: Vec<M::Act> = m.turn_back(given, attention, bare, grads)?.into_iter().flatten().collect();
        match &self.qkv {
            Qkv::Fused { groups, .. } => grads = vec![m.join(given, grads, *groups)?],
            Qkv::KeysAsValues { .. } => {
                if let (Some(dv), Some(dk)) = (grads.pop(), grads.pop()) {
                    grads.push(m.sum(given, dk, dv)?);
                }
            }
            Qkv::Split { .. } | Qkv::QueriesAlone { .. } => {}
        }
        if let (Some(mut d_gate), Some(d)) = (gate.take(), behind) {
            m.gate_back(given, Activation::Sigmoid, Some(&mut d_gate), attended, d)?;
            let both = vec![grads.remove(0), d_gate];
            grads.insert(0, m.join(given, both, attention.shape.heads)?);
        }
        Ok(grads)
    }

    /// What goes back to this block's own queries, keys and values: those of others are theirs, and what later ones give back is added.
    fn shared_back<M: Machine>(
        &self,
        m: &mut M,
        beside: &mut Beside<M>,
        [dq, mut dk, mut dv]: [M::Wide; 3],
    ) -> Result<Parts<M::Wide>> {
        if self.attention.borrows() {
            beside.give_back(m, self.attention.keys_of, [dk, dv])?;
            return Ok([Some(dq), None, None]);
        }
        if let Some([more_k, more_v]) = beside.given_back(self.attention.layer) {
            m.add(&mut dk, more_k)?;
            m.add(&mut dv, more_v)?;
        }
        Ok([Some(dq), Some(dk), Some(dv)])
    }
}
