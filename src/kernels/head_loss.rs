//! Output head and cross-entropy in one operation over the hidden states of trained positions: logits exist for a few
//! rows at a time, and the gradient with respect to the hidden states is made while they are there.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::cross_entropy::largest;
use super::linear::{Frozen, Side, product_slice};
use super::simd::{Lanes, Simd, multiversion};
use crate::error::Result;

/// Rows whose logits are held at once.
const CHUNK: usize = 256;

/// Sum over the `n` rows of `hidden` (n, d) of `-log softmax(head(hidden))[target]`, in nats; a scalar on the CPU,
/// differentiable in `hidden`.
///
/// # Errors
/// When the width of `hidden` is not the head's, or `targets` are not `n` ids of its vocabulary.
pub fn head_loss_sum(hidden: &Tensor, head: &Arc<Frozen>, side: Side, targets: &[u32]) -> Result<Tensor> {
    let op = HeadLoss {
        head: head.clone(),
        side,
        targets: targets.to_vec(),
        wants_gradient: hidden.track_op(),
        gradient: Mutex::new(Vec::new()),
    };
    Ok(hidden.contiguous()?.apply_op1(op)?)
}

struct HeadLoss {
    head: Arc<Frozen>,
    side: Side,
    targets: Vec<u32>,
    wants_gradient: bool,
    /// d loss / d hidden, (n, d), once the forward pass has run.
    gradient: Mutex<Vec<f32>>,
}

impl HeadLoss {
    /// Loss of one chunk of rows; their gradient goes to `dx` when it is wanted.
    fn chunk(&self, x: &[f32], targets: &[u32], logits: &mut [f32], dx: Option<&mut [f32]>) -> f64 {
        let vocab = logits.len() / targets.len();
        product_slice(x, targets.len(), &self.head, self.side, logits);
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocab)
            .zip(targets)
            .map(|(row, target)| row_loss(row, *target as usize, dx.is_some()))
            .collect();
        if let Some(dx) = dx {
            let back = if self.side == Side::Transposed { Side::Plain } else { Side::Transposed };
            product_slice(logits, targets.len(), &self.head, back, dx);
        }
        losses.iter().sum()
    }
}

/// `-log softmax(row)[target]`; when the gradient is wanted, `row` becomes `softmax(row) - onehot(target)`.
fn row_loss(row: &mut [f32], target: usize, gradient: bool) -> f64 {
    let level = Lanes::in_force();
    let logit = row[target];
    let normaliser = row_normaliser(level, row);
    if gradient {
        row_softmax(level, row, normaliser);
        row[target] -= 1.0;
    }
    f64::from(normaliser - logit)
}

multiversion! { fn row_normaliser(row: &[f32]) -> f32 = normaliser_body; }
multiversion! { fn row_softmax(row: &mut [f32], normaliser: f32) = softmax_body; }

/// log Σ exp.
#[inline(always)]
fn normaliser_body<S: Simd>(s: S, row: &[f32]) -> f32 {
    let max = largest(s, row);
    let max_v = s.splat(max);
    let mut sum = s.splat(0.0);
    for x in row.chunks(S::LANES) {
        sum = s.add(sum, s.first(s.exp(s.sub(s.load(x), max_v)), x.len()));
    }
    max + s.sum(sum).ln()
}

#[inline(always)]
fn softmax_body<S: Simd>(s: S, row: &mut [f32], normaliser: f32) {
    let shift = s.splat(normaliser);
    for x in row.chunks_mut(S::LANES) {
        s.store(s.exp(s.sub(s.load(x), shift)), x);
    }
}

impl CustomOp1 for HeadLoss {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, d) = layout.shape().dims2()?;
        let vocab = if self.side == Side::Transposed { self.head.weight.rows } else { self.head.weight.cols };
        if n != self.targets.len() || self.targets.iter().any(|t| *t as usize >= vocab) {
            candle_core::bail!("head loss: {n} rows need {n} targets below {vocab}");
        }
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("head loss: input must be contiguous") };
        let x = &storage.as_slice::<f32>()?[start..end];
        let mut gradient = vec![0f32; if self.wants_gradient { n * d } else { 0 }];
        let mut logits = vec![0f32; CHUNK.min(n) * vocab];
        let mut loss = 0f64;
        for (i, targets) in self.targets.chunks(CHUNK).enumerate() {
            let rows = i * CHUNK * d..(i * CHUNK + targets.len()) * d;
            let dx = if self.wants_gradient { Some(&mut gradient[rows.clone()]) } else { None };
            loss += self.chunk(&x[rows], targets, &mut logits[..targets.len() * vocab], dx);
        }
        *self.gradient.lock().unwrap_or_else(PoisonError::into_inner) = gradient;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, hidden: &Tensor, _loss: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = std::mem::take(&mut *self.gradient.lock().unwrap_or_else(PoisonError::into_inner));
        if gradient.len() != hidden.elem_count() {
            candle_core::bail!("head loss: backward ran twice");
        }
        Ok(Some(Tensor::from_vec(gradient, hidden.shape(), hidden.device())?.broadcast_mul(grad)?))
    }
}
