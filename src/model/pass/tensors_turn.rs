//! Queries, keys and values between their projections and attention, and what layers are given beside the stream, in tensor operations.

use candle_core::{DType, Tensor};

use super::super::layers::{Attention, DeltaNet, LayerInputs, Norm};
use super::machine::{Given, Parts, Turned};
use super::tensors::{Angles, Keys, Tensors, in_rows};
use crate::error::Result;
use crate::kernels::tensors::{delta_rule, rope};

impl Tensors<'_> {
    /// Queries, keys and values (n, width), the first two turned.
    fn turned(&self, attention: &Attention, parts: Parts<Tensor>, inverse: bool, dtype: DType) -> Result<Parts<Tensor>> {
        let turn = |x: &Tensor, scales: Option<&Tensor>| -> Result<Tensor> {
            let Some(at) = attention.rope else { return Ok(x.to_dtype(dtype)?) };
            let Angles { table: [cos, sin], interleaved, .. } = &self.angles[at];
            let way = rope::Turn { inverse, interleaved: *interleaved };
            let x = match scales {
                Some(scales) => x.to_dtype(DType::F32)?.broadcast_mul(scales)?,
                None => x.clone(),
            };
            Ok(rope::rope(&in_rows(&x, attention.shape.head_dim)?, cos, sin, way)?.reshape(x.shape())?.to_dtype(dtype)?)
        };
        let [q, k, v] = parts;
        let scales = attention.rope.and_then(|at| self.angles[at].query_scales.as_ref());
        Ok([
            q.map(|q| turn(&q, scales)).transpose()?,
            k.map(|k| turn(&k, None)).transpose()?,
            v.map(|v| v.to_dtype(dtype)).transpose()?,
        ])
    }

    /// Norms where there are any, then positions; with what the norms read.
    pub(super) fn normed_and_turned(&self, attention: &Attention, mut parts: Parts<Tensor>) -> Result<Turned<Self>> {
        let mut bare = [None, None, None];
        for ((part, norm), bare) in parts.iter_mut().zip(&attention.norms).zip(&mut bare) {
            let (Some(norm), Some(part)) = (norm, part) else { continue };
            let normed = self.normed(norm, &rows_of(norm, part)?, DType::F32)?.reshape(part.shape())?;
            *bare = Some(part.to_dtype(self.dtype)?);
            *part = normed;
        }
        Ok((self.turned(attention, parts, false, self.dtype)?, bare))
    }

    /// The way back of [`Tensors::normed_and_turned`].
    pub(super) fn turned_and_normed_back(
        &self,
        attention: &Attention,
        bare: &Parts<Tensor>,
        grads: Parts<Tensor>,
    ) -> Result<Parts<Tensor>> {
        if attention.norms.iter().all(Option::is_none) {
            return self.turned(attention, grads, true, self.dtype);
        }
        let mut back = self.turned(attention, grads, true, DType::F32)?;
        for ((grad, norm), bare) in back.iter_mut().zip(&attention.norms).zip(bare) {
            let Some(grad) = grad else { continue };
            if let Some((norm, bare)) = norm.as_ref().zip(bare.as_ref()) {
                *grad = self.norm_gradient(norm, &rows_of(norm, bare)?, &rows_of(norm, grad)?)?.reshape(bare.shape())?;
            }
            *grad = grad.to_dtype(self.dtype)?;
        }
        Ok(back)
    }

    /// The gated delta rule over what its projections made.
    pub(super) fn delta_rule(&mut self, net: &DeltaNet, parts: [&Tensor; 4]) -> Result<Tensor> {
        match &mut self.keys {
            Keys::Texts(_, spans) => delta_rule::forward(&net.tensors(), spans, parts),
            Keys::Cached(texts, _) => {
                let mut outs = Vec::new();
                for (rows, cache) in texts {
                    let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
                    let [qkv, z, a, b] = parts;
                    let state = cache.state(net.layer);
                    let own = [&own(qkv)?, &own(z)?, &own(a)?, &own(b)?];
                    let (out, moved) = delta_rule::extend(&net.tensors(), state, own)?;
                    *state = moved;
                    outs.push(out);
                }
                Ok(Tensor::cat(&outs, 0)?)
            }
            Keys::Over(_) | Keys::Kept(_) => unreachable!("no model with an encoder has delta rules"),
        }
    }

    /// `(norm(projected · its scale) + embedding · its scale) · scale`; with what the norm reads.
    pub(super) fn made_layer_inputs(&self, given: &Given, inputs: &LayerInputs, projected: Tensor) -> Result<[Tensor; 2]> {
        let scaled = (projected * f64::from(inputs.projection_scale))?;
        let normed = self.normed(&inputs.norm, &in_rows(&scaled, inputs.width)?, DType::F32)?.reshape(scaled.shape())?;
        let ids = Tensor::new(given.ids, &self.model.device)?;
        let own = (inputs.embedding.rows(given.ids, &ids)? * f64::from(inputs.embedding_scale))?;
        let all = ((normed + own)? * f64::from(inputs.scale))?;
        Ok([all.to_dtype(self.dtype)?, scaled.to_dtype(self.dtype)?])
    }

    /// The gradient of what [`Tensors::made_layer_inputs`] read.
    pub(super) fn layer_inputs_gradient(&self, inputs: &LayerInputs, kept: &Tensor, grad: Tensor) -> Result<Tensor> {
        let grad = (grad * f64::from(inputs.scale * inputs.projection_scale))?;
        let rows = |x: &Tensor| in_rows(x, inputs.width);
        Ok(self.norm_gradient(&inputs.norm, &rows(kept)?, &rows(&grad)?)?.reshape(grad.shape())?.to_dtype(self.dtype)?)
    }
}

/// `x` (n, width) in rows that `norm` is over.
fn rows_of(norm: &Norm, x: &Tensor) -> Result<Tensor> {
    match norm {
        // Rows of their own weights are of the last dimension.
        Norm::Weighted { width, .. } if *width < x.dim(1)? => in_rows(x, *width),
        _ => Ok(x.clone()),
    }
}
