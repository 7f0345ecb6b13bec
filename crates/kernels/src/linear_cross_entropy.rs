//! Output head and cross-entropy in one operation over the hidden states of trained positions: logits exist for a few
//! rows at a time, and the gradient with respect to the hidden states is made while they are there.

use rayon::prelude::*;

use super::cross_entropy::row_loss;
use super::linear::{Frozen, Side, product_slice};
use super::simd::Lanes;
use super::soft_cap::{cap_row_back, soft_cap};

/// Rows whose logits are held at once.
pub const CHUNK: usize = 256;

/// `−log softmax(head(x))[target]` of every row of `x` (n, d), in nats; `gradient` (n, d), where it is there, becomes that of each
/// row's own; `cap` is the soft cap of logits.
pub fn linear_cross_entropy(
    x: &[f32],
    head: &Frozen,
    side: Side,
    targets: &[u32],
    cap: Option<f32>,
    mut gradient: Option<&mut [f32]>,
) -> Vec<f32> {
    let (d, vocab) = match side {
        Side::Transposed => (head.weight.cols, head.weight.rows),
        Side::Plain => (head.weight.rows, head.weight.cols),
    };
    let mut logits = vec![0f32; CHUNK.min(targets.len()) * vocab];
    let mut losses = Vec::with_capacity(targets.len());
    for (i, targets) in targets.chunks(CHUNK).enumerate() {
        let rows = i * CHUNK * d..(i * CHUNK + targets.len()) * d;
        let dx = gradient.as_deref_mut().map(|g| &mut g[rows.clone()]);
        losses.extend(chunk(&x[rows], (head, side), targets, cap, &mut logits[..targets.len() * vocab], dx));
    }
    losses
}

/// Losses of one chunk of rows; their gradient goes to `dx` when it is wanted.
fn chunk(
    x: &[f32],
    (head, side): (&Frozen, Side),
    targets: &[u32],
    cap: Option<f32>,
    logits: &mut [f32],
    dx: Option<&mut [f32]>,
) -> Vec<f32> {
    let vocab = logits.len() / targets.len();
    product_slice(x, targets.len(), head, side, logits);
    if let Some(cap) = cap {
        soft_cap(logits, cap);
    }
    let rows = logits.par_chunks_mut(vocab).zip(targets);
    let losses: Vec<f32> = rows.map(|(row, target)| capped_row_loss(row, *target as usize, cap, dx.is_some())).collect();
    if let Some(dx) = dx {
        product_slice(logits, targets.len(), head, side.other(), dx);
    }
    losses
}

/// The loss of one row of capped logits; when its `gradient` is wanted, the row becomes that of the logits before the cap.
pub(super) fn capped_row_loss(row: &mut [f32], target: usize, cap: Option<f32>, gradient: bool) -> f32 {
    let lanes = Lanes::in_force();
    let capped = cap.filter(|_| gradient).map(|cap| (row.to_vec(), cap));
    let loss = row_loss(lanes, row, target, gradient);
    if let Some((capped, cap)) = capped {
        cap_row_back(lanes, &capped, row, cap);
    }
    loss
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::gradient_check::{self, Tolerance, double, numbers};
    use super::*;
    use crate::cross_entropy;
    use crate::device::Compute;
    use crate::linear::tests::matrix;
    use crate::weight::WeightType;

    /// Loss and gradient.
    fn run(x: &Tensor, head: &Frozen, targets: &[u32], cap: Option<f32>) -> Vec<Vec<f64>> {
        gradient_check::run_slices(&[x], 1, |x, g| {
            let mut dx = vec![0f32; x[0].len()];
            let loss = linear_cross_entropy(&x[0], head, Side::Transposed, targets, cap, Some(&mut dx));
            assert_eq!(loss, linear_cross_entropy(&x[0], head, Side::Transposed, targets, cap, None));
            vec![vec![loss.iter().map(|loss| f64::from(*loss)).sum::<f64>() as f32], dx.iter().map(|d| d * g[0]).collect()]
        })
    }

    #[test]
    fn agrees_with_a_product_and_its_cross_entropy() {
        for (n, d, v) in [(1, 8, 5), (7, 33, 101), (CHUNK + 3, 16, 67)] {
            let (weight, values) = matrix(v, d, WeightType::F32);
            let w = double(&Tensor::from_vec(values, (v, d), &Device::Cpu).unwrap()).t().unwrap();
            let x = numbers(6, &[n, d]);
            let targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
            let head = Frozen::new(weight, Compute::F32);
            for cap in [None, Some(1.5f32)] {
                let want = gradient_check::run(&[double(&x)], |x| {
                    let logits = x[0].matmul(&w)?;
                    let logits = match cap.map(f64::from) {
                        Some(cap) => ((logits / cap)?.tanh()? * cap)?,
                        None => logits,
                    };
                    cross_entropy::portable::cross_entropy_sum(&logits, &targets)
                });
                gradient_check::same(
                    &run(&x, &head, &targets, cap),
                    &want,
                    Tolerance::default(),
                    &format!("{n}x{d}x{v}, cap {cap:?}"),
                );
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let head = Frozen::new(matrix(301, 48, WeightType::F32).0, Compute::F32);
        let (x, targets) = (numbers(6, &[40, 48]), (0..40).collect::<Vec<u32>>());
        gradient_check::threads_agree(|| run(&x, &head, &targets, Some(2.0)));
    }
}
