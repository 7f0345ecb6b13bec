//! A frozen linear layer over the mapped bytes.

use std::sync::Arc;

use candle_core::Tensor;

use crate::device::Compute;
use crate::error::Result;
use crate::kernels::adapted::adapted;
use crate::kernels::bias;
use crate::kernels::linear::{Frozen, Side, product};
use crate::kernels::weight::Weight;

/// `y = x · Wᵀ + b` (or `x · W + b` for GPT-2's Conv1D layout). Holds no variable; differentiable in `x` only.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    pub matrix: Arc<Frozen>,
    pub side: Side,
    /// `(outputs)`, f32.
    pub bias: Option<Tensor>,
}

impl FrozenLinear {
    /// `conv1d`: the weight is stored `[inputs, outputs]`.
    pub fn new(weight: Weight, bias: Option<Tensor>, conv1d: bool, compute: Compute) -> FrozenLinear {
        let side = if conv1d { Side::Plain } else { Side::Transposed };
        FrozenLinear { matrix: Frozen::new(weight, compute), side, bias }
    }

    /// Input features.
    pub fn inputs(&self) -> usize {
        match self.side {
            Side::Transposed => self.matrix.weight.cols,
            Side::Plain => self.matrix.weight.rows,
        }
    }

    /// Output features.
    pub fn outputs(&self) -> usize {
        match self.side {
            Side::Transposed => self.matrix.weight.rows,
            Side::Plain => self.matrix.weight.cols,
        }
    }

    /// `(.., inputs)` → `(.., outputs)`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not `inputs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.with_bias(self.unbiased(x)?)
    }

    /// As [`FrozenLinear::forward`], without the bias.
    ///
    /// # Errors
    /// As [`FrozenLinear::forward`].
    pub fn unbiased(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.matrix, self.side)
    }

    /// As [`FrozenLinear::unbiased`], plus `scale · (x·Aᵀ)·Bᵀ`, in one operation (CPU only).
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn unbiased_adapted(&self, x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
        adapted(x, &self.matrix, self.side, a, b, scale)
    }

    /// `y` with the bias, where there is one.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn with_bias(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => bias::add_bias(&y, bias),
            None => Ok(y),
        }
    }
}
