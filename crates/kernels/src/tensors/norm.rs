//! Root-mean-square norm (Zhang & Sennrich 2019, eq. 4) and layer norm (Ba et al. 2016, eq. 4) with frozen weights, forward
//! and back. Computed in f32 whatever comes in.

use candle_core::{D, DType, Tensor};

use super::pieces::{ELEMENTS, by_rows, full};
use crate::error::Result;

/// `x / √(mean(x²) + eps) · weight` along rows; `x` (n, d), `weight` (d), the result (n, d) in `out`.
pub fn rms(x: &Tensor, weight: &Tensor, eps: f64, out: DType) -> Result<Tensor> {
    let weight = full(weight)?;
    let [y] = by_rows(&[x], ELEMENTS, |x| {
        let x = full(&x[0])?;
        let inverse = inverse_root(&x, eps)?;
        Ok([x.broadcast_mul(&inverse)?.broadcast_mul(&weight)?.to_dtype(out)?])
    })?;
    Ok(y)
}

/// The gradient (n, d), in `out`, of [`rms`] with respect to `x`, given that of its result: with ρ = 1/√(mean(x²) + eps) and
/// u = dy·weight, `ρ·u − x·ρ³·mean(u·x)`.
pub fn rms_back(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor, out: DType) -> Result<Tensor> {
    let weight = full(weight)?;
    let [dx] = by_rows(&[x, dy], ELEMENTS, |inputs| {
        let (x, u) = (full(&inputs[0])?, full(&inputs[1])?.broadcast_mul(&weight)?);
        let inverse = inverse_root(&x, eps)?;
        let normed = x.broadcast_mul(&inverse)?;
        let along = (&u * &normed)?.mean_keepdim(D::Minus1)?; // (n, 1)
        Ok([(u - normed.broadcast_mul(&along)?)?.broadcast_mul(&inverse)?.to_dtype(out)?])
    })?;
    Ok(dx)
}

/// `(x − mean) / √(var + eps) · weight + bias` along rows, with the biased variance; `x` (n, d), `weight` and `bias` (d), the
/// result (n, d) in `out`.
pub fn layer(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, out: DType) -> Result<Tensor> {
    let (weight, bias) = (full(weight)?, full(bias)?);
    let [y] = by_rows(&[x], ELEMENTS, |x| {
        let (normed, _) = standardised(&x[0], eps)?;
        Ok([normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(out)?])
    })?;
    Ok(y)
}

/// The gradient (n, d), in `out`, of [`layer`] with respect to `x`, given that of its result: with z the standardised row,
/// ρ = 1/√(var + eps) and u = dy·weight, `ρ·(u − mean(u) − z·mean(u·z))`.
pub fn layer_back(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor, out: DType) -> Result<Tensor> {
    let weight = full(weight)?;
    let [dx] = by_rows(&[x, dy], ELEMENTS, |inputs| {
        let (normed, inverse) = standardised(&inputs[0], eps)?;
        let u = full(&inputs[1])?.broadcast_mul(&weight)?;
        let along = (&u * &normed)?.mean_keepdim(D::Minus1)?; // (n, 1)
        let centred = u.broadcast_sub(&u.mean_keepdim(D::Minus1)?)?;
        Ok([(centred - normed.broadcast_mul(&along)?)?.broadcast_mul(&inverse)?.to_dtype(out)?])
    })?;
    Ok(dx)
}

/// `1/√(mean(x²) + eps)` of each row, (n, 1).
fn inverse_root(x: &Tensor, eps: f64) -> Result<Tensor> {
    Ok((x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?)
}

/// `(x − mean) / √(var + eps)` in f32, and 1/√(var + eps) of each row (n, 1).
fn standardised(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let x = full(x)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let inverse = inverse_root(&centred, eps)?;
    Ok((centred.broadcast_mul(&inverse)?, inverse))
}
