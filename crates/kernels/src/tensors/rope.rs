//! Rotary position embedding (Su et al. 2021, eq. 34) in the half-rotated layout of Hugging Face's llama.

use candle_core::{D, DType, Tensor};

use crate::error::Result;

/// Turns every head of `x` (n, h, e) by its token's angles; `cos` and `sin` (n, c) with 2·c ≤ e. Element `k < c` turns with
/// element `k + c`; elements from 2·c on pass through. Computed in f32; the result has the dtype of `x`.
///
/// `inverse` turns the other way. A rotation's transpose is its inverse, and factors on cosines and sines stay factors: that
/// is the way back too.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, inverse: bool) -> Result<Tensor> {
    let (half, e) = (cos.dim(1)?, x.dim(2)?);
    let table = |t: &Tensor| -> Result<Tensor> { Ok(t.to_dtype(DType::F32)?.unsqueeze(1)?) }; // (n, 1, c)
    let (cos, sin) = (table(cos)?, table(sin)?);
    let part = |first: usize| -> Result<Tensor> { Ok(x.narrow(2, first, half)?.to_dtype(DType::F32)?) }; // (n, h, c)
    let (low, high) = (part(0)?, part(half)?);
    let (low_sin, high_sin) = (low.broadcast_mul(&sin)?, high.broadcast_mul(&sin)?);
    let (low_cos, high_cos) = (low.broadcast_mul(&cos)?, high.broadcast_mul(&cos)?);
    let (low, high) =
        if inverse { ((low_cos + high_sin)?, (high_cos - low_sin)?) } else { ((low_cos - high_sin)?, (high_cos + low_sin)?) };
    let (low, high) = (low.to_dtype(x.dtype())?, high.to_dtype(x.dtype())?);
    if 2 * half == e {
        return Ok(Tensor::cat(&[low, high], D::Minus1)?);
    }
    Ok(Tensor::cat(&[low, high, x.narrow(2, 2 * half, e - 2 * half)?], D::Minus1)?)
}
