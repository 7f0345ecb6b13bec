//! Attention in differentiable tensor operations, which tests compare with. Holds the scores of all heads at once.

use candle_core::{D, DType, Device, Tensor};

use super::{Dims, Scores};
use crate::error::Result;

/// See [`super::Slices`]. A sink is a column of scores, of which the probabilities are left out.
pub(super) fn attention([q, k, v]: [&Tensor; 3], starts: &[u32], scores: Scores, sinks: Option<&[f32]>) -> Result<Tensor> {
    let (b, t, h, dh) = q.dims4()?;
    let d = Dims { b, t, h, hkv: k.dim(2)?, dh };
    let heads = |x: &Tensor| -> Result<Tensor> {
        // (b, t, hkv, dh) -> (b, hkv, 1, t, dh) -> (b, h, t, dh)
        let x = x.transpose(1, 2)?.unsqueeze(2)?.broadcast_as((d.b, d.hkv, d.group(), d.t, d.dh))?;
        Ok(x.contiguous()?.reshape((d.b, d.h, d.t, d.dh))?)
    };
    let q = q.transpose(1, 2)?.contiguous()?; // (b, h, t, dh)
    let (hidden, alive) = masks(d, starts, scores.window, q.device(), q.dtype())?;
    let products = q.matmul(&heads(k)?.t()?)?; // (b, h, t, t)
    let scores = match scores.cap {
        None => (products * scores.scale)?,
        Some(cap) => ((products * (scores.scale / cap))?.tanh()? * cap)?,
    };
    let mut scores = scores.broadcast_add(&hidden)?;
    if let Some(sinks) = sinks {
        let column = Tensor::new(sinks, q.device())?.to_dtype(q.dtype())?.reshape((1, d.h, 1, 1))?;
        scores = Tensor::cat(&[&scores, &column.broadcast_as((d.b, d.h, d.t, 1))?], D::Minus1)?;
    }
    let e = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.broadcast_mul(&alive)?;
    let p = p.narrow(D::Minus1, 0, d.t)?.contiguous()?;
    Ok(p.matmul(&heads(v)?)?.transpose(1, 2)?.contiguous()?) // (b, t, h, dh)
}

/// What is added to the scores, (b, 1, t, t): 0 or a number that no score outweighs; and 1 for every query that sees
/// a key, (b, 1, t, 1).
fn masks(d: Dims, starts: &[u32], window: Option<usize>, device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
    let mut hidden = vec![-1e30f32; d.b * d.t * d.t];
    let mut alive = vec![1f32; d.b * d.t];
    for (at, (row, alive)) in hidden.chunks_exact_mut(d.t).zip(&mut alive).enumerate() {
        let keys = d.visible(starts, window, at / d.t, at % d.t);
        *alive = if keys.is_empty() { 0.0 } else { 1.0 };
        row[keys].fill(0.0);
    }
    let place = |x: Vec<f32>, last: usize| -> Result<Tensor> {
        Ok(Tensor::from_vec(x, (d.b, 1, d.t, last), &Device::Cpu)?.to_device(device)?.to_dtype(dtype)?)
    };
    Ok((place(hidden, d.t)?, place(alive, 1)?))
}
