//! Attention in a model with an encoder, in tensor operations.

use candle_core::Tensor;

use super::super::Model;
use super::super::layers::{Attention, Block, Sight};
use super::super::site::Site;
use super::tensors::{Keys, Tensors, in_rows};
use super::texts::{SeenTexts, over};
use crate::error::{Error, Result};
use crate::kernels::attention::over::Seen;
use crate::kernels::tensors::over::OverTexts;

impl Model {
    /// Whether a site reads the encoder's tokens.
    pub(super) fn reads_source(&self, site: Site) -> bool {
        let encoder = self.blocks[..self.first()].iter().flat_map(Block::linears);
        let across = self.blocks.iter().filter_map(|block| block.cross.as_ref()).flat_map(|cross| &cross.kv);
        encoder.chain(across).any(|linear| linear.site == site)
    }
}

impl<'a> Tensors<'a> {
    /// The keys of whole texts.
    pub(super) fn over(model: &Model, seen: &SeenTexts) -> Result<Keys<'a>> {
        let mut kinds: Vec<(Sight, OverTexts)> = Vec::new();
        for attention in model.blocks.iter().flat_map(Block::attentions) {
            let (sight, texts) = (attention.sight, seen.of(attention.sight));
            if !texts.is_empty() && kinds.iter().all(|(kind, _)| *kind != sight) {
                kinds.push((sight, OverTexts::new(&over(attention, texts), &model.device)?));
            }
        }
        Ok(Keys::Over(kinds))
    }

    /// See [`super::machine::Machine::attend_over`].
    pub(super) fn attended_over(
        &mut self,
        attention: &Attention,
        q: &Tensor,
        kv: Option<[&Tensor; 2]>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (width, model) = (q.shape().clone(), self.model);
        let heads = |x: &Tensor| in_rows(x, attention.shape.head_dim);
        let (q, kv) = (heads(q)?, kv.map(|[k, v]| Ok::<_, Error>([heads(k)?, heads(v)?])).transpose()?);
        if let (Keys::Over(kinds), Some([k, v])) = (&self.keys, &kv) {
            let (out, normalisers) = of_kind(kinds, attention.sight).forward([&q, k, v])?;
            return Ok((out.reshape(width)?, Some(normalisers)));
        }
        let Keys::Kept(texts) = &mut self.keys else { unreachable!("whole texts, or what was kept of them") };
        let mut outs = Vec::new();
        for (rows, cache) in texts {
            let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            let new = kv.as_ref().map(|[k, v]| Ok::<_, candle_core::Error>([own(k)?, own(v)?])).transpose()?;
            let past = cache.len();
            let [k, v] = cache.tensors(attention.layer - model.first(), new)?;
            let seen = [Seen { queries: 0..rows.len(), keys: 0..k.dim(0)?, past }];
            let texts = OverTexts::new(&over(attention, &seen), &model.device)?;
            outs.push(texts.forward([&own(&q)?.contiguous()?, &k, &v])?.0);
        }
        Ok((Tensor::cat(&outs, 0)?.reshape(width)?, None))
    }

    /// See [`super::machine::Machine::attend_over_back`].
    pub(super) fn attended_over_back(
        &self,
        attention: &Attention,
        qkv: [&Tensor; 3],
        saved: &Option<Tensor>,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (Keys::Over(kinds), Some(normalisers)) = (&self.keys, saved) else {
            unreachable!("a way back goes over whole texts")
        };
        let heads = |x: &Tensor| in_rows(x, attention.shape.head_dim);
        let [q, k, v] = [heads(qkv[0])?, heads(qkv[1])?, heads(qkv[2])?];
        let [dq, dk, dv] = of_kind(kinds, attention.sight).backward([&q, &k, &v], normalisers, &heads(grad)?)?;
        Ok([dq.reshape(qkv[0].shape())?, dk.reshape(qkv[1].shape())?, dv.reshape(qkv[2].shape())?])
    }
}

fn of_kind(kinds: &[(Sight, OverTexts)], sight: Sight) -> &OverTexts {
    let found = kinds.iter().find(|(kind, _)| *kind == sight);
    found.map(|(_, texts)| texts).unwrap_or_else(|| unreachable!("made for every sight"))
}
