//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), in the operation order of `torch.optim.AdamW`,
//! over all parameters laid one after another.

use candle_core::Tensor;

use crate::error::Result;

/// Parameters and their moments, flat, f32, of one length.
#[derive(Debug, Clone)]
pub struct State {
    pub parameters: Tensor,
    /// Of the gradient.
    pub first: Tensor,
    /// Of its square.
    pub second: Tensor,
    /// Steps done, for the bias correction.
    pub steps: usize,
}

/// What one update depends on besides moments and gradients.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Factor on the gradients that brings their norm down to the limit.
    pub clip: f64,
}

impl State {
    /// Zero moments for `parameters`.
    pub fn new(parameters: Tensor) -> Result<State> {
        let (first, second) = (parameters.zeros_like()?, parameters.zeros_like()?);
        Ok(State { parameters, first, second, steps: 0 })
    }

    /// One update by the flat `gradient`: `θ·(1 − lr·λ) − lr/c₁ · m / (√v / √c₂ + ε)`.
    pub fn step(&mut self, gradient: &Tensor, s: &Settings) -> Result<()> {
        self.steps += 1;
        let correction1 = 1.0 - s.beta1.powi(self.steps as i32);
        let correction2 = 1.0 - s.beta2.powi(self.steps as i32);
        let gradient = if s.clip < 1.0 { (gradient * s.clip)? } else { gradient.clone() };
        self.first = ((&self.first * s.beta1)? + (&gradient * (1.0 - s.beta1))?)?;
        self.second = ((&self.second * s.beta2)? + (gradient.sqr()? * (1.0 - s.beta2))?)?;
        drop(gradient);
        let denominator = self.second.sqrt()?.affine(1.0 / correction2.sqrt(), s.eps)?;
        let update = ((&self.first / denominator)? * (s.lr / correction1))?;
        self.parameters = ((&self.parameters * (1.0 - s.lr * s.weight_decay))? - update)?;
        Ok(())
    }
}

/// The Euclidean norm of a flat gradient, in one read.
pub fn norm(gradient: &Tensor) -> Result<f64> {
    Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}
