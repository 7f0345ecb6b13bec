//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), in the operation order of
//! `torch.optim.AdamW`, in place on a CPU, parameter by parameter.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor};
use rayon::prelude::*;

use crate::adapter::Param;
use crate::error::Result;
use crate::kernels::host::{read, slice};
use crate::kernels::tensors::adamw::Settings;
use crate::recipe;

/// First and second moments of every parameter.
#[derive(Debug)]
pub struct AdamW {
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
    /// Steps done, for the bias correction.
    pub steps: usize,
}

/// What an update depends on, of a recipe at rate `lr`, for gradients of norm `grad_norm` (clipped as
/// `torch.nn.utils.clip_grad_norm_`).
pub fn settings(s: &recipe::Train, lr: f64, grad_norm: f64) -> Settings {
    let clip = if s.clip > 0.0 { (s.clip / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
    Settings { lr, beta1: s.beta1, beta2: s.beta2, eps: s.eps, weight_decay: s.weight_decay, clip }
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
    /// When shapes disagree, or something is not on the CPU.
    pub fn step(&mut self, params: &[Param], grads: &[Option<Tensor>], s: &Settings) -> Result<()> {
        self.steps += 1;
        let correction1 = 1.0 - s.beta1.powi(self.steps as i32);
        let correction2 = 1.0 - s.beta2.powi(self.steps as i32);
        let clip = s.clip.min(1.0) as f32;
        let update = Update {
            root: (1.0 / correction2.sqrt()) as f32,
            eps: s.eps as f32,
            rate: (s.lr / correction1) as f32,
            kept: (1.0 - s.lr * s.weight_decay) as f32,
        };
        for (i, (param, grad)) in params.iter().zip(grads).enumerate() {
            let Some(grad) = grad else { continue };
            let (param, grad) = (param.var.as_tensor(), grad.contiguous()?);
            self.first[i].inplace_op2(&grad, &Moment { clip, beta: s.beta1, squared: false })?;
            self.second[i].inplace_op2(&grad, &Moment { clip, beta: s.beta2, squared: true })?;
            param.inplace_op3(&self.first[i], &self.second[i], &update)?;
        }
        Ok(())
    }
}

/// `m = β·m + (1 − β)·g`, or of g²; in place, each operation rounded as it is one by one.
struct Moment {
    clip: f32,
    beta: f64,
    squared: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw-moment"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, lm: &Layout, g: &CpuStorage, lg: &Layout) -> candle_core::Result<()> {
        let (beta, rest) = (self.beta as f32, (1.0 - self.beta) as f32);
        let (m, g) = (slice_mut(m, lm)?, slice(g, lg)?);
        m.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).for_each(|(m, g)| {
            for (m, g) in m.iter_mut().zip(g) {
                let g = if self.clip < 1.0 { g * self.clip } else { *g };
                let g = if self.squared { g * g } else { g };
                *m = *m * beta + g * rest;
            }
        });
        Ok(())
    }
}

/// `θ = θ·(1 − lr·λ) − lr/c₁ · m / (√v / √c₂ + ε)`, in place.
struct Update {
    root: f32,
    eps: f32,
    rate: f32,
    kept: f32,
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        lp: &Layout,
        m: &CpuStorage,
        lm: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> candle_core::Result<()> {
        let (p, m, v) = (slice_mut(p, lp)?, slice(m, lm)?, slice(v, lv)?);
        p.par_chunks_mut(PIECE).zip(m.par_chunks(PIECE).zip(v.par_chunks(PIECE))).for_each(|(p, (m, v))| {
            for (p, (m, v)) in p.iter_mut().zip(m.iter().zip(v)) {
                let update = m / (v.sqrt() * self.root + self.eps) * self.rate;
                *p = *p * self.kept - update;
            }
        });
        Ok(())
    }
}

/// Values of one task.
const PIECE: usize = 1 << 15;

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("adamw: values must be f32 and contiguous"),
    }
}

/// Euclidean norm over all gradients, summed in their order.
///
/// # Errors
/// When a gradient is not on the CPU.
pub fn norm(grads: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0f64;
    for grad in grads.iter().flatten() {
        sum += squares(grad)?;
    }
    Ok(sum.sqrt())
}

/// Sum of the squares; of a matrix trained in full without a copy of it.
fn squares(grad: &Tensor) -> Result<f64> {
    const LARGE: usize = 1 << 20;
    if grad.elem_count() < LARGE {
        return Ok(f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    let square = |v: &f32| f64::from(*v) * f64::from(*v);
    let pieces: Vec<f64> =
        read(&grad.contiguous()?, |g| Ok(g.par_chunks(PIECE).map(|piece| piece.iter().map(square).sum()).collect()))?;
    Ok(pieces.iter().sum())
}
