//! Cross-entropy of a row of logits against a token id, and its gradient.
//!
//! Refuses to know: which positions carry loss, and how sums are averaged.

use super::simd::{Lanes, Simd, multiversion};

/// What rows of hidden states must predict, and how much each counts.
#[derive(Debug, Clone, Copy)]
pub struct WeightedTargets<'a> {
    pub ids: &'a [u32],
    /// `∂ loss / ∂ −log p` of each.
    pub weights: &'a [f32],
}

/// The largest logit of a row, and Σ exp(logit − largest). Kept apart: added up as max + ln(sum), large logits would
/// cost the digits of the logarithm.
#[derive(Debug, Clone, Copy)]
struct LogSumExp {
    max: f32,
    sum: f32,
}

impl LogSumExp {
    fn logp(self, logit: f32) -> f32 {
        (logit - self.max) - self.sum.ln()
    }
}

/// The loss of one row of logits; when its `gradient` is wanted, the row becomes that: softmax − onehot.
pub(super) fn row_loss(lanes: Lanes, row: &mut [f32], target: usize, gradient: bool) -> f32 {
    let z = normaliser(lanes, row);
    let loss = -z.logp(row[target]);
    if gradient {
        softmax_in_place(lanes, row, z.max, 1.0 / z.sum);
        row[target] -= 1.0;
    }
    loss
}

multiversion! { fn normaliser(x: &[f32]) -> LogSumExp = normaliser_body; }
multiversion! { fn softmax_in_place(x: &mut [f32], max: f32, scale: f32) = in_place_body; }

/// Largest element.
#[inline(always)]
pub(super) fn largest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let whole = x.len() / S::LANES * S::LANES;
    let mut best = s.splat(f32::NEG_INFINITY);
    for x in x[..whole].chunks(S::LANES) {
        best = s.max(best, s.load(x));
    }
    let mut lanes = [f32::NEG_INFINITY; 16];
    s.store(best, &mut lanes[..S::LANES]);
    x[whole..].iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

#[inline(always)]
fn normaliser_body<S: Simd>(s: S, x: &[f32]) -> LogSumExp {
    let max = largest(s, x);
    let max_v = s.splat(max);
    let mut sum = s.splat(0.0);
    for x in x.chunks(S::LANES) {
        sum = s.add(sum, s.first(s.exp(s.sub(s.load(x), max_v)), x.len()));
    }
    LogSumExp { max, sum: s.sum(sum) }
}

/// `x = scale · exp(x − max)`
#[inline(always)]
fn in_place_body<S: Simd>(s: S, x: &mut [f32], max: f32, scale: f32) {
    let (shift, scale) = (s.splat(max), s.splat(scale));
    for x in x.chunks_mut(S::LANES) {
        s.store(s.mul(s.exp(s.sub(s.load(x), shift)), scale), x);
    }
}

/// The same in differentiable tensor operations, which tests compare with.
#[cfg(test)]
pub(crate) mod portable {
    use candle_core::Tensor;

    use crate::error::Result;

    /// `Σᵢ −log softmax(logitsᵢ)[targetsᵢ]` as a scalar; `logits` is (n, v).
    pub(crate) fn cross_entropy_sum(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(targets, logits.device())?.unsqueeze(1)?; // (n, 1)
        let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?; // (n, v)
        let normaliser = shifted.exp()?.sum_keepdim(1)?.log()?; // (n, 1)
        Ok((normaliser - shifted.gather(&ids, 1)?)?.sum_all()?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::super::gradient_check::{self, Tolerance, double, numbers};
    use super::*;

    fn case(n: usize, v: usize) -> (Tensor, Vec<u32>) {
        ((numbers(1, &[n, v]) * 9.0).unwrap(), (0..n).map(|i| (i * 7919 % v) as u32).collect())
    }

    #[test]
    fn agrees_with_its_twin() {
        for (n, v) in [(1, 1), (1, 5), (3, 16), (7, 1003), (65, 33), (2, 49_152)] {
            let (logits, targets) = case(n, v);
            let want = gradient_check::run(&[double(&logits)], |x| portable::cross_entropy_sum(&x[0], &targets));
            for lanes in Lanes::available() {
                let got = gradient_check::run_slices(&[&logits], 1, |x, g| {
                    let (mut rows, mut sum) = (x[0].clone(), 0f64);
                    for (row, target) in rows.chunks_exact_mut(v).zip(&targets) {
                        let alone = row_loss(lanes, row, *target as usize, false);
                        let loss = row_loss(lanes, row, *target as usize, true);
                        assert_eq!(loss, alone);
                        sum += f64::from(loss);
                    }
                    vec![vec![sum as f32], rows.iter().map(|d| d * g[0]).collect()]
                });
                gradient_check::same(&got, &want, Tolerance::default(), &format!("{} {n}x{v}", lanes.name()));
            }
        }
    }

    #[test]
    fn twin_agrees_with_finite_differences() {
        let (logits, targets) = case(3, 11);
        gradient_check::finite_differences(&[double(&logits)], |x| portable::cross_entropy_sum(&x[0], &targets));
    }

    #[test]
    fn large_logits_do_not_overflow_and_the_gradient_of_a_row_sums_to_zero() {
        for (mut row, target, want) in [([1e4f32, -1e4, 9.9e3], 2, 100.0), ([3e4, 3e4, 3e4], 0, 3f32.ln())] {
            let loss = row_loss(Lanes::in_force(), &mut row, target, true);
            assert!((loss - want).abs() < 1e-2, "{loss}");
            assert!(row.iter().sum::<f32>().abs() < 1e-6 && row.iter().any(|x| x.abs() > 0.1), "{row:?}");
        }
    }

    #[test]
    fn not_a_number_is_not_hidden() {
        assert!(row_loss(Lanes::in_force(), &mut [0f32, f32::NAN, 1.0], 0, false).is_nan());
    }
}
