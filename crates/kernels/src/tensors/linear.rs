//! Products with a frozen matrix and with a low-rank pair (Hu et al. 2022, eq. 3), forward and back.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::linear::Side;

/// `x · Wᵀ` of `w` (o, i), or `x · W` of `w` (i, o), as `side` says; `x` (n, i). Multiplied in the dtype of `x`, the result
/// (n, o) in `out`. The way back is the product of the gradient with [`Side::other`].
pub fn product(x: &Tensor, w: &Tensor, side: Side, out: DType) -> Result<Tensor> {
    let w = w.to_dtype(x.dtype())?;
    let w = match side {
        Side::Transposed => w.t()?,
        Side::Plain => w,
    };
    Ok(x.matmul(&w)?.to_dtype(out)?) // (n, i) · (i, o)
}

/// `scale · (x · Aᵀ) · Bᵀ` (n, o) in the dtype of `x` (n, i); `a` (r, i) and `b` (o, r) are cast to it.
pub fn delta(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let Pair { a, b } = Pair::new(x.dtype(), a, b, scale)?;
    Ok(x.matmul(&a.t()?)?.matmul(&b.t()?)?) // (n, i) · (i, r) · (r, o)
}

/// Gradients of [`delta`].
#[derive(Debug, Clone)]
pub struct DeltaGradients {
    /// (n, i), in the dtype of `x`.
    pub x: Tensor,
    /// (r, i), f32.
    pub a: Tensor,
    /// (o, r), f32.
    pub b: Tensor,
}

/// The way back of [`delta`]: with γ = scale · dy · B (n, r), `dx = γ · A`, `da = γᵀ · x`, `db = scale · dyᵀ · (x · Aᵀ)`;
/// `dy` (n, o) in the dtype of `x`.
pub fn delta_back(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64, dy: &Tensor) -> Result<DeltaGradients> {
    let Pair { a, b } = Pair::new(x.dtype(), a, b, scale)?;
    let inner = x.matmul(&a.t()?)?; // (n, r)
    let d_inner = dy.matmul(&b)?; // (n, o) · (o, r)
    Ok(DeltaGradients {
        x: d_inner.matmul(&a)?,                                      // (n, r) · (r, i)
        a: d_inner.t()?.matmul(x)?.to_dtype(DType::F32)?,            // (r, n) · (n, i)
        b: (dy.t()?.matmul(&inner)?.to_dtype(DType::F32)? * scale)?, // (o, n) · (n, r)
    })
}

/// A pair in the dtype of products.
struct Pair {
    a: Tensor,
    /// Times the scale.
    b: Tensor,
}

impl Pair {
    fn new(dtype: DType, a: &Tensor, b: &Tensor, scale: f64) -> Result<Pair> {
        Ok(Pair { a: a.to_dtype(dtype)?, b: (b * scale)?.to_dtype(dtype)? })
    }
}
