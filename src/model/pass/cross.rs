//! A decoder's attention over what the encoder made of its texts (Vaswani et al. 2017, section 3.2.3), there and back.

use super::super::layers::{Cross, SiteLinear};
use super::beside::{Beside, Memory};
use super::dense::WayBack;
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// What this attention keeps for its way back.
pub(super) struct CrossActivations<M: Machine> {
    /// What its norm read (n, d).
    x: M::Act,
    q: M::Act,
    /// Of the encoder's tokens; nothing where the machine has kept them.
    kv: Option<[M::Act; 2]>,
    attended: M::Act,
    saved: M::Saved,
}

impl<M: Machine> CrossActivations<M> {
    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> CrossActivations<N> {
        CrossActivations { x: self.x, q: self.q, kv: self.kv, attended: self.attended, saved: self.saved }
    }

    pub(super) fn free(self, m: &mut M) {
        [self.x, self.q, self.attended].into_iter().chain(self.kv.into_iter().flatten()).for_each(|act| m.free(act));
    }
}

/// Both of what there are two of.
fn both<T>(parts: Vec<T>) -> [T; 2] {
    parts.try_into().unwrap_or_else(|_| unreachable!("keys and values"))
}

impl Cross {
    fn keys_values(&self) -> [&SiteLinear; 2] {
        self.kv.each_ref()
    }

    /// Keys and values (n, h·e) of what the encoder made; `source` is its tokens.
    pub(super) fn remember<M: Machine>(
        &self,
        m: &mut M,
        source: &Given,
        memory: &Memory<M>,
        unscaled: &mut Unscaled<M>,
    ) -> Result<[M::Act; 2]> {
        Ok(both(m.project_rounded(source, &self.keys_values(), &memory.normed, unscaled)?))
    }

    /// Adds this attention to `x` (n, d). Without a memory the machine has keys and values.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        (given, beside): (&Given, &Beside<M>),
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<CrossActivations<M>> {
        let [normed, kept] = m.norm(&self.norm, x)?;
        let q = m.project_rounded(given, &[&self.q], &normed, unscaled)?.remove(0);
        m.free(normed);
        let kv = match (given.source, beside.memory()) {
            (Some(source), Some(memory)) => Some(self.remember(m, source, memory, unscaled)?),
            _ => None,
        };
        let read = kv.as_ref().map(|kv| kv.each_ref());
        let (attended, saved) = m.attend_over(given, &self.attention, &q, read)?;
        m.project_add(given, &self.output, &attended, x, unscaled)?;
        Ok(CrossActivations { x: kept, q, kv, attended, saved })
    }

    /// `way` turns from the gradient of the sum into that of what this attention was added to; the encoder's share is added beside.
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (way, beside): (&mut WayBack<M>, &mut Beside<M>),
        kept: &CrossActivations<M>,
        unscaled: &Unscaled<M>,
    ) -> Result<()> {
        let (Some(source), Some([k, v]), Some(memory)) = (given.source, &kept.kv, beside.memory()) else {
            unreachable!("a way back goes over whole texts")
        };
        let grad = m.project_back_rounded(given, &[(&self.output, &way.rounded)], Some(&kept.attended), unscaled)?;
        let saved = (&kept.attended, &kept.saved);
        let [dq, dk, dv] = m.attend_over_back(given, &self.attention, [&kept.q, k, v], saved, grad)?;
        let normed = given.adapts(&[&self.q]).then(|| m.norm_again(&self.norm, &kept.x)).transpose()?;
        let d_normed = m.project_back(given, &[(&self.q, &dq)], normed.as_ref(), unscaled)?;
        normed.into_iter().chain([dq]).for_each(|act| m.free(act));
        m.norm_back(&self.norm, &kept.x, d_normed, &mut way.dx, &mut way.rounded)?;
        let [key, value] = self.keys_values();
        let sites = [(key, &dk), (value, &dv)];
        match memory.wanted {
            true => {
                let d_memory = m.project_back(source, &sites, Some(&memory.normed), unscaled)?;
                beside.memory_back(m, d_memory)?;
            }
            false => m.gradients(source, &sites, Some(&memory.normed), unscaled)?,
        }
        [dk, dv].into_iter().for_each(|act| m.free(act));
        Ok(())
    }
}
