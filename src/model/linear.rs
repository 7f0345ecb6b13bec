//! A frozen linear layer over the mapped bytes.

use std::sync::Arc;

use candle_core::Tensor;

use crate::device::Compute;
use crate::kernels::linear::{Frozen, Side};
use crate::kernels::weight::Weight;

/// `y = x · Wᵀ + b` (or `x · W + b` for GPT-2's Conv1D layout).
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
}
