//! Attention in a model with an encoder, in tensor operations.

use candle_core::Tensor;

use super::super::Model;
use super::super::layers::{KeysOf, Sight};
use super::super::site::Site;
use super::tensors::{Keys, Tensors};
use super::texts::{SeenTexts, over};
use crate::error::Result;
use crate::kernels::attention::over::Seen;
use crate::kernels::tensors::over::OverTexts;

impl Model {
    /// Whether a site reads the encoder's tokens.
    pub(super) fn reads_source(&self, site: Site) -> bool {
        let encoder = self.blocks[..self.first()].iter().flat_map(|block| block.linears());
        let across = self.blocks.iter().filter_map(|block| block.cross.as_ref()).flat_map(|cross| &cross.kv);
        encoder.chain(across).any(|linear| linear.site == site)
    }

    /// A sight of each kind that blocks have.
    fn sights(&self) -> impl Iterator<Item = &Sight> {
        let ends = self.blocks.first().into_iter().chain(self.blocks.last());
        ends.flat_map(|block| block.sight.iter().chain(block.cross.as_ref().map(|cross| &cross.sight)))
    }
}

impl<'a> Tensors<'a> {
    /// The keys of whole texts.
    pub(super) fn over(model: &Model, seen: &SeenTexts) -> Result<Keys<'a>> {
        let mut kinds: Vec<(KeysOf, OverTexts)> = Vec::new();
        for sight in model.sights() {
            let texts = seen.of(sight.keys);
            if !texts.is_empty() && kinds.iter().all(|(keys, _)| *keys != sight.keys) {
                kinds.push((sight.keys, OverTexts::new(&over(&model.shared, sight, texts), &model.device)?));
            }
        }
        Ok(Keys::Over(kinds))
    }

    /// See [`super::machine::Machine::attend_over`].
    pub(super) fn attended_over(
        &mut self,
        layer: usize,
        sight: &Sight,
        q: &Tensor,
        kv: Option<[&Tensor; 2]>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (width, model) = (q.shape().clone(), self.model);
        let heads = |x: &Tensor| self.heads(x);
        let (q, kv) = (heads(q)?, kv.map(|[k, v]| Ok::<_, crate::error::Error>([heads(k)?, heads(v)?])).transpose()?);
        if let (Keys::Over(kinds), Some([k, v])) = (&self.keys, &kv) {
            let (out, normalisers) = of_kind(kinds, sight.keys).forward([&q, k, v])?;
            return Ok((out.reshape(width)?, Some(normalisers)));
        }
        let Keys::Kept(texts) = &mut self.keys else { unreachable!("whole texts, or what was kept of them") };
        let mut outs = Vec::new();
        for (rows, cache) in texts {
            let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            let new = kv.as_ref().map(|[k, v]| Ok::<_, candle_core::Error>([own(k)?, own(v)?])).transpose()?;
            let past = cache.len();
            let [k, v] = cache.tensors(layer - model.first(), new)?;
            let seen = [Seen { queries: 0..rows.len(), keys: 0..k.dim(0)?, past }];
            let texts = OverTexts::new(&over(&model.shared, sight, &seen), &model.device)?;
            outs.push(texts.forward([&own(&q)?.contiguous()?, &k, &v])?.0);
        }
        Ok((Tensor::cat(&outs, 0)?.reshape(width)?, None))
    }

    /// See [`super::machine::Machine::attend_over_back`].
    pub(super) fn attended_over_back(
        &self,
        sight: &Sight,
        qkv: [&Tensor; 3],
        saved: &Option<Tensor>,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (Keys::Over(kinds), Some(normalisers)) = (&self.keys, saved) else {
            unreachable!("a way back goes over whole texts")
        };
        let [q, k, v] = [self.heads(qkv[0])?, self.heads(qkv[1])?, self.heads(qkv[2])?];
        let [dq, dk, dv] = of_kind(kinds, sight.keys).backward([&q, &k, &v], normalisers, &self.heads(grad)?)?;
        Ok([dq.reshape(qkv[0].shape())?, dk.reshape(qkv[1].shape())?, dv.reshape(qkv[2].shape())?])
    }
}

fn of_kind(kinds: &[(KeysOf, OverTexts)], keys: KeysOf) -> &OverTexts {
    let found = kinds.iter().find(|(kind, _)| *kind == keys);
    found.map(|(_, texts)| texts).unwrap_or_else(|| unreachable!("made for every sight"))
}
