//! Attention of texts to themselves in tensor operations.

use candle_core::{DType, Tensor};

use super::super::layers::Attention;
use super::tensors::{Keys, Tensors, in_rows};
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::tensors::attention::{self, Behind, Packed};

impl Tensors<'_> {
    /// See [`super::machine::Machine::attend`].
    pub(super) fn attended(&mut self, attention: &Attention, qkv: [&Tensor; 3]) -> Result<(Tensor, Option<Tensor>)> {
        let (width, scores) = (qkv[0].shape().clone(), attention.scores);
        let sinks = attention.sinks.as_ref().map(|sinks| &sinks.tensor);
        let [q, k, v] = in_heads(qkv, attention)?;
        match &mut self.keys {
            Keys::Texts(kinds, _) => {
                let (out, normalisers) = attention::forward([&q, &k, &v], sinks, of_kind(kinds, scores))?;
                Ok((out.reshape(width)?, Some(normalisers)))
            }
            Keys::Cached(texts, ramp) => {
                let mut outs = Vec::new();
                for (rows, cache) in texts {
                    let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
                    let (k, v) = match attention.borrows() {
                        true => cache.held(attention.keys_of, rows.len())?,
                        false => cache.append(attention.layer, &own(&k)?.unsqueeze(0)?, &own(&v)?.unsqueeze(0)?)?, // (1, s, g, e)
                    };
                    outs.push(attention::cached([&own(&q)?, &k.squeeze(0)?, &v.squeeze(0)?], sinks, scores, ramp)?);
                }
                Ok((Tensor::cat(&outs, 0)?.reshape(width)?, None))
            }
            Keys::Over(_) | Keys::Kept(_) => unreachable!("no block of a model with an encoder sees a text alone"),
        }
    }

    /// See [`super::machine::Machine::attend_back`].
    pub(super) fn attended_back(
        &self,
        attention: &Attention,
        qkv: [&Tensor; 3],
        (out, saved): (&Tensor, &Option<Tensor>),
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (Keys::Texts(kinds, _), Some(normalisers)) = (&self.keys, saved) else {
            unreachable!("a way back goes over whole texts")
        };
        let [q, k, v] = in_heads(qkv, attention)?;
        let [out, gradient] = [in_rows(out, attention.shape.head_dim)?, in_rows(grad, attention.shape.head_dim)?];
        let behind = Behind { out: &out, normalisers, gradient: &gradient };
        let [dq, dk, dv] = attention::backward([&q, &k, &v], behind, of_kind(kinds, attention.scores))?;
        let wide = |g: Tensor, like: &Tensor| -> Result<Tensor> { Ok(g.reshape(like.shape())?.to_dtype(DType::F32)?) };
        Ok([wide(dq, qkv[0])?, wide(dk, qkv[1])?, wide(dv, qkv[2])?])
    }
}

/// Queries, keys and values by heads.
fn in_heads([q, k, v]: [&Tensor; 3], attention: &Attention) -> Result<[Tensor; 3]> {
    let e = attention.shape.head_dim;
    Ok([in_rows(q, e)?, in_rows(k, e)?, in_rows(v, e)?])
}

/// Masks for scores of one kind.
fn of_kind(kinds: &[(Scores, Packed)], scores: Scores) -> &Packed {
    let found = kinds.iter().find(|(kind, _)| *kind == scores);
    found.map(|(_, packed)| packed).unwrap_or_else(|| unreachable!("made for every block's scores"))
}
