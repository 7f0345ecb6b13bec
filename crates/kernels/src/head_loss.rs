//! Output head and cross-entropy in one operation over the hidden states of trained positions: logits exist for a few
//! rows at a time, and the gradient with respect to the hidden states is made while they are there.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::cross_entropy::row_loss;
use super::linear::{Frozen, Side, product_slice};
use super::simd::Lanes;
use crate::error::Result;

/// Rows whose logits are held at once.
pub const CHUNK: usize = 256;

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

/// `−log softmax(head(x))[target]` of every row of `x` (n, d), in nats; `gradient` (n, d), where it is there, becomes that of each
/// row's own.
pub fn head_loss_slices(x: &[f32], head: &Frozen, side: Side, targets: &[u32], mut gradient: Option<&mut [f32]>) -> Vec<f32> {
    let (d, vocab) = match side {
        Side::Transposed => (head.weight.cols, head.weight.rows),
        Side::Plain => (head.weight.rows, head.weight.cols),
    };
    let mut logits = vec![0f32; CHUNK.min(targets.len()) * vocab];
    let mut losses = Vec::with_capacity(targets.len());
    for (i, targets) in targets.chunks(CHUNK).enumerate() {
        let rows = i * CHUNK * d..(i * CHUNK + targets.len()) * d;
        let dx = gradient.as_deref_mut().map(|g| &mut g[rows.clone()]);
        losses.extend(chunk(&x[rows], head, side, targets, &mut logits[..targets.len() * vocab], dx));
    }
    losses
}

/// Losses of one chunk of rows; their gradient goes to `dx` when it is wanted.
fn chunk(x: &[f32], head: &Frozen, side: Side, targets: &[u32], logits: &mut [f32], dx: Option<&mut [f32]>) -> Vec<f32> {
    let vocab = logits.len() / targets.len();
    product_slice(x, targets.len(), head, side, logits);
    let lanes = Lanes::in_force();
    let rows = logits.par_chunks_mut(vocab).zip(targets);
    let losses: Vec<f32> = rows.map(|(row, target)| row_loss(lanes, row, *target as usize, dx.is_some())).collect();
    if let Some(dx) = dx {
        product_slice(logits, targets.len(), head, side.other(), dx);
    }
    losses
}

struct HeadLoss {
    head: Arc<Frozen>,
    side: Side,
    targets: Vec<u32>,
    wants_gradient: bool,
    /// d loss / d hidden, (n, d), once the forward pass has run.
    gradient: Mutex<Vec<f32>>,
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
        let wanted = self.wants_gradient.then_some(gradient.as_mut_slice());
        let losses = head_loss_slices(x, &self.head, self.side, &self.targets, wanted);
        let loss = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
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

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{self, Tolerance};
    use super::super::weight::{RowOrder, Weight, WeightType};
    use super::*;
    use crate::cross_entropy;
    use crate::device::Compute;

    fn head(v: usize, d: usize) -> (Arc<Frozen>, Tensor) {
        let values = gradient_check::numbers(5, &[v, d]);
        let bytes: Vec<u8> =
            values.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let data = crate::files::Mapped::open(file.path()).unwrap();
        let weight = Weight { data, dtype: WeightType::F32, rows: v, cols: d, order: RowOrder::Plain };
        (Frozen::new(weight, Compute::F32), values)
    }

    #[test]
    fn agrees_with_a_product_and_its_cross_entropy() {
        for (n, d, v) in [(1, 8, 5), (7, 33, 101), (CHUNK + 3, 16, 67)] {
            let (frozen, values) = head(v, d);
            let x = gradient_check::numbers(6, &[n, d]);
            let targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
            let w = gradient_check::double(&values).t().unwrap();
            let want = gradient_check::run(&[gradient_check::double(&x)], |x| {
                cross_entropy::portable::cross_entropy_sum(&x[0].matmul(&w)?, &targets)
            });
            let got =
                gradient_check::run(std::slice::from_ref(&x), |x| head_loss_sum(&x[0], &frozen, Side::Transposed, &targets));
            gradient_check::same(&got, &want, Tolerance::default(), &format!("{n}x{d}x{v}"));
        }
    }

    #[test]
    fn threads_do_not_change_a_bit_and_nothing_is_tracked_without_a_variable() {
        let (frozen, _) = head(301, 48);
        let x = gradient_check::numbers(6, &[40, 48]);
        let targets: Vec<u32> = (0..40).collect();
        gradient_check::threads_agree(std::slice::from_ref(&x), |x| head_loss_sum(&x[0], &frozen, Side::Transposed, &targets));
        assert!(!head_loss_sum(&x, &frozen, Side::Transposed, &targets).unwrap().track_op());
    }

    #[test]
    fn wrong_targets_are_named() {
        let (frozen, _) = head(5, 4);
        for targets in [&[0][..], &[0, 5]] {
            let error = head_loss_sum(&gradient_check::numbers(1, &[2, 4]), &frozen, Side::Transposed, targets).unwrap_err();
            assert!(error.to_string().contains("2 rows need 2 targets below 5"), "{error}");
        }
    }
}
