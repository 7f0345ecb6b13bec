//! The layer in differentiable tensor operations, token by token, which tests compare with.

use std::ops::Range;

use candle_core::{D, Tensor};

use super::DeltaSizes;
use crate::error::Result;

/// Weights in the dtype of the inputs, in the shapes of [`super::DeltaLayer`].
pub(super) struct Twin {
    pub sizes: DeltaSizes,
    /// conv, a_log, dt_bias, norm
    pub weights: [Tensor; 4],
    pub eps: f64,
}

impl Twin {
    /// The result (n, values) of whole texts.
    pub(super) fn forward(&self, spans: &[Range<usize>], parts: &[Tensor]) -> Result<Tensor> {
        let mut texts = Vec::new();
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let rows = parts.iter().map(|x| x.narrow(0, span.start, span.len()));
            texts.push(self.text(&rows.collect::<candle_core::Result<Vec<_>>>()?)?);
        }
        Ok(Tensor::cat(&texts, 0)?)
    }

    fn text(&self, parts: &[Tensor]) -> Result<Tensor> {
        let (s, t) = (self.sizes, parts[0].dim(0)?);
        let mixed = self.convolved(&parts[0])?;
        let part = |first: usize, heads: usize, dim: usize| mixed.narrow(1, first, heads * dim)?.reshape((t, heads, dim));
        let spread = |x: Tensor| -> Result<Tensor> {
            let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
            let x = x.broadcast_div(&norm)?.unsqueeze(2)?;
            Ok(x.broadcast_as((t, s.key_heads, s.group(), s.key_dim))?.reshape((t, s.value_heads, s.key_dim))?)
        };
        let q = (spread(part(0, s.key_heads, s.key_dim)?)? / (s.key_dim as f64).sqrt())?;
        let k = spread(part(s.keys(), s.key_heads, s.key_dim)?)?;
        let v = part(2 * s.keys(), s.value_heads, s.value_dim)?;
        let softplus = ((parts[2].broadcast_add(&self.weights[2])?.exp()? + 1.0)?).log()?;
        let decay = softplus.broadcast_mul(&self.weights[1].exp()?)?.neg()?.exp()?; // (t, h)
        let beta = (parts[3].neg()?.exp()? + 1.0)?.recip()?;
        let mut state = Tensor::zeros((s.value_heads, s.key_dim, s.value_dim), mixed.dtype(), mixed.device())?;
        let mut outs = Vec::new();
        for i in 0..t {
            let (q, k, v) = (q.get(i)?.unsqueeze(2)?, k.get(i)?.unsqueeze(2)?, v.get(i)?.unsqueeze(1)?);
            let at = |x: &Tensor| x.get(i)?.reshape((s.value_heads, 1, 1));
            state = state.broadcast_mul(&at(&decay)?)?;
            let error = (v - state.broadcast_mul(&k)?.sum_keepdim(1)?)?;
            state = (&state + k.broadcast_mul(&error.broadcast_mul(&at(&beta)?)?)?)?;
            outs.push(state.broadcast_mul(&q)?.sum(1)?); // (h, dv)
        }
        let core = Tensor::stack(&outs, 0)?;
        let norm = (core.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normed = core.broadcast_div(&norm)?.broadcast_mul(&self.weights[3])?.reshape((t, s.values()))?;
        Ok((normed * parts[1].silu()?)?)
    }

    fn convolved(&self, x: &Tensor) -> Result<Tensor> {
        let (s, t) = (self.sizes, x.dim(0)?);
        let padded = x.pad_with_zeros(0, s.kernel - 1, 0)?;
        let mut sum = x.zeros_like()?;
        for tap in 0..s.kernel {
            let weight = self.weights[0].narrow(1, tap, 1)?.t()?;
            sum = (sum + padded.narrow(0, tap, t)?.broadcast_mul(&weight)?)?;
        }
        Ok(sum.silu()?)
    }
}
