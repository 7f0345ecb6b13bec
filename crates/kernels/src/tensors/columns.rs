//! A factor for every output of a layer: the magnitudes of DoRA over the norms of its directions (Liu et al. 2024, eq. 5),
//! forward and back. No gradient goes through the norms (section 4.3 of the paper, and PEFT's `detach`).

use candle_core::{DType, Tensor};

use super::pieces::{ELEMENTS, by_rows, full};
use crate::error::Result;

/// `z ∘ factors`; `z` (n, o), `factors` (o), the result in the dtype of `z`.
pub fn scaled(z: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let factors = full(factors)?;
    let [y] = by_rows(&[z], ELEMENTS, |z| Ok([full(&z[0])?.broadcast_mul(&factors)?.to_dtype(z[0].dtype())?]))?;
    Ok(y)
}

/// The way back of [`scaled`]: `dz = dy ∘ factors` (n, o) in the dtype of `dy`, and the magnitudes' gradient
/// `Σ_rows dy ∘ z / norms` (o) in f32; `norms` (o).
pub fn scaled_back(z: &Tensor, dy: &Tensor, factors: &Tensor, norms: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, o) = z.dims2()?;
    let rows = (ELEMENTS / o.max(1)).max(1);
    let mut sum = Tensor::zeros(o, DType::F32, z.device())?;
    for start in (0..n).step_by(rows) {
        let part = |x: &Tensor| full(&x.narrow(0, start, rows.min(n - start))?);
        sum = (sum + (part(z)? * part(dy)?)?.sum(0)?)?;
    }
    Ok((scaled(dy, factors)?, (sum / full(norms)?)?))
}
