//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), in the operation order of
//! `torch.optim.AdamW`, with moments that can be saved.

use candle_core::Tensor;

use crate::adapter::Param;
use crate::error::Result;
use crate::recipe;

/// First and second moments of every parameter.
#[derive(Debug)]
pub struct AdamW {
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
    /// Steps done, for the bias correction.
    pub steps: usize,
}

/// What one update depends on besides moments and gradients.
#[derive(Debug, Clone, Copy)]
pub struct AdamWSettings {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Factor on the gradients that brings their norm down to the limit.
    pub clip: f64,
}

impl AdamWSettings {
    /// Of a recipe at rate `lr`, for gradients of norm `grad_norm` (clipped as `torch.nn.utils.clip_grad_norm_`).
    pub fn new(s: &recipe::Train, lr: f64, grad_norm: f64) -> AdamWSettings {
        let clip = if s.clip > 0.0 { (s.clip / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        AdamWSettings { lr, beta1: s.beta1, beta2: s.beta2, eps: s.eps, weight_decay: s.weight_decay, clip }
    }
}

impl AdamW {
    /// Zero moments for `params`.
    ///
    /// # Errors
    /// When memory for them cannot be had.
    pub fn new(params: &[Param]) -> Result<AdamW> {
        let zeros = || params.iter().map(|p| Ok(p.var.zeros_like()?)).collect::<Result<Vec<_>>>();
        Ok(AdamW { first: zeros()?, second: zeros()?, steps: 0 })
    }

    /// One update of every parameter that has a gradient.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn step(&mut self, params: &[Param], grads: &[Option<Tensor>], s: &AdamWSettings) -> Result<()> {
        self.steps += 1;
        let correction1 = 1.0 - s.beta1.powi(self.steps as i32);
        let correction2 = 1.0 - s.beta2.powi(self.steps as i32);
        for (i, (param, grad)) in params.iter().zip(grads).enumerate() {
            let Some(grad) = grad else { continue };
            let grad = if s.clip < 1.0 { (grad * s.clip)? } else { grad.clone() };
            let m = ((&self.first[i] * s.beta1)? + (&grad * (1.0 - s.beta1))?)?;
            let v = ((&self.second[i] * s.beta2)? + (grad.sqr()? * (1.0 - s.beta2))?)?;
            let denominator = ((v.sqrt()? / correction2.sqrt())? + s.eps)?;
            let update = ((&m / denominator)? * (s.lr / correction1))?;
            let decayed = (param.var.as_tensor().detach() * (1.0 - s.lr * s.weight_decay))?;
            param.var.set(&(decayed - update)?)?;
            self.first[i] = m.detach();
            self.second[i] = v.detach();
        }
        Ok(())
    }
}

/// Euclidean norm over all gradients, summed in their order.
///
/// # Errors
/// When a gradient cannot be read from its device.
pub fn norm(grads: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0f64;
    for grad in grads.iter().flatten() {
        sum += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(sum.sqrt())
}
