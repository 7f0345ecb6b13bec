//! Rotary position embedding (Su et al. 2021, eq. 34) in the half-rotated layout of Hugging Face's llama.

use candle_core::{D, DType, Tensor};

use crate::error::Result;

/// Which way heads are turned, and which of their elements together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    /// Turns the other way. A rotation's transpose is its inverse, and factors on cosines and sines stay factors: that is the way
    /// back too.
    pub inverse: bool,
    /// Element `2k` turns with `2k + 1`.
    pub interleaved: bool,
}

/// Turns every head of `x` (n, h, e) by its token's angles; `cos` and `sin` (n, c) with 2·c ≤ e. Element `k < c` turns with
/// element `k + c`, or neighbours turn together; elements from 2·c on pass through. Computed in f32; the result has the dtype of `x`.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, turn: Turn) -> Result<Tensor> {
    let (n, h, e) = x.dims3()?;
    let half = cos.dim(1)?;
    let table = |t: &Tensor| -> Result<Tensor> { Ok(t.to_dtype(DType::F32)?.unsqueeze(1)?) }; // (n, 1, c)
    let (cos, sin) = (table(cos)?, table(sin)?);
    let turning = x.narrow(2, 0, 2 * half)?.to_dtype(DType::F32)?;
    let (low, high) = if turn.interleaved {
        let pairs = turning.contiguous()?.reshape((n, h, half, 2))?;
        (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?) // (n, h, c)
    } else {
        (turning.narrow(2, 0, half)?, turning.narrow(2, half, half)?)
    };
    let (low_sin, high_sin) = (low.broadcast_mul(&sin)?, high.broadcast_mul(&sin)?);
    let (low_cos, high_cos) = (low.broadcast_mul(&cos)?, high.broadcast_mul(&cos)?);
    let (low, high) = match turn.inverse {
        true => ((low_cos + high_sin)?, (high_cos - low_sin)?),
        false => ((low_cos - high_sin)?, (high_cos + low_sin)?),
    };
    let turned = match turn.interleaved {
        true => Tensor::stack(&[low, high], 3)?.reshape((n, h, 2 * half))?,
        false => Tensor::cat(&[low, high], D::Minus1)?,
    };
    let turned = turned.to_dtype(x.dtype())?;
    if 2 * half == e {
        return Ok(turned);
    }
    Ok(Tensor::cat(&[turned, x.narrow(2, 2 * half, e - 2 * half)?], D::Minus1)?)
}
