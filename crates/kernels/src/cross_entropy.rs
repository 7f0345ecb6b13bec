//! Cross-entropy of logits against token ids, with the log-softmax and its gradient in one pass each.
//!
//! Refuses to know: which positions carry loss, and how sums are averaged.
//! Legend: `n` positions, `v` vocabulary.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::error::Result;

/// What rows of hidden states must predict, and how much each counts.
#[derive(Debug, Clone, Copy)]
pub struct WeightedTargets<'a> {
    pub ids: &'a [u32],
    /// `∂ loss / ∂ −log p` of each.
    pub weights: &'a [f32],
}

/// `Σᵢ −log softmax(logitsᵢ)[targetsᵢ]` as a scalar; `logits` is (n, v).
///
/// Errors when there are not n targets or a target is not below v.
pub fn cross_entropy_sum(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    check(logits, targets)?;
    if !host::fused(logits) {
        return portable::cross_entropy_sum(logits, targets);
    }
    let op = CrossEntropy { targets: targets.into(), saved: logits.track_op().then(OnceLock::new), lanes: Lanes::in_force() };
    Ok(logits.contiguous()?.apply_op1(op)?)
}

/// `log softmax(logitsᵢ)[targetsᵢ]` for every position, without a gradient; `logits` is (n, v).
///
/// Errors as [`cross_entropy_sum`].
pub fn token_logps(logits: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    check(logits, targets)?;
    if !host::fused(logits) {
        return portable::token_logps(logits, targets);
    }
    let logits = logits.detach().contiguous()?;
    let v = logits.dim(1)?;
    let lanes = Lanes::in_force();
    Ok(host::read(&logits, |x| {
        let normalisers = normalisers(lanes, x, v);
        Ok(normalisers.iter().zip(x.chunks_exact(v)).zip(targets).map(|((z, row), t)| z.logp(row[*t as usize])).collect())
    })?)
}

fn check(logits: &Tensor, targets: &[u32]) -> Result<()> {
    let (n, v) = logits.dims2()?;
    let problem = if targets.len() != n {
        format!("{} targets for {n} rows of logits", targets.len())
    } else if let Some(target) = targets.iter().find(|t| **t as usize >= v) {
        format!("target {target} is not in the vocabulary of {v}")
    } else {
        return Ok(());
    };
    Err(candle_core::Error::Msg(format!("cross entropy: {problem}")).into())
}

/// The same functions in differentiable tensor operations, for any device.
pub mod portable {
    use super::*;

    /// See [`super::cross_entropy_sum`].
    pub fn cross_entropy_sum(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        Ok(logps(logits, targets)?.sum_all()?.neg()?)
    }

    /// See [`super::token_logps`].
    pub fn token_logps(logits: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        Ok(logps(&logits.detach(), targets)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    }

    fn logps(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(targets, logits.device())?.unsqueeze(1)?; // (n, 1)
        let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?; // (n, v)
        let normaliser = shifted.exp()?.sum_keepdim(1)?.log()?; // (n, 1)
        Ok((shifted.gather(&ids, 1)? - normaliser)?)
    }
}

struct CrossEntropy {
    targets: Box<[u32]>,
    /// What normalises each row, kept only when a gradient will be asked for.
    saved: Option<OnceLock<Vec<LogSumExp>>>,
    lanes: Lanes,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = host::slice(storage, layout)?;
        let v = layout.dims()[1];
        let normalisers = normalisers(self.lanes, x, v);
        let picked = normalisers.iter().zip(x.chunks_exact(v)).zip(&self.targets);
        let total: f64 = picked.map(|((z, row), target)| -f64::from(z.logp(row[*target as usize]))).sum();
        if let Some(saved) = &self.saved {
            // The op runs forward once, so the cell is empty; were it not, it would hold the same numbers.
            let _ = saved.set(normalisers);
        }
        Ok((CpuStorage::F32(vec![total as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let scale = grad.to_scalar::<f32>()?;
        let v = logits.dim(1)?;
        let mut out = vec![0.0; logits.elem_count()];
        host::read(logits, |x| {
            let computed;
            let saved = match self.saved.as_ref().and_then(OnceLock::get) {
                Some(saved) => saved,
                None => {
                    computed = normalisers(self.lanes, x, v);
                    &computed
                }
            };
            host::for_rows(&mut out, v, |row, out| {
                for (i, out) in out.chunks_exact_mut(v).enumerate() {
                    softmax_scaled(self.lanes, &x[(row + i) * v..][..v], saved[row + i].max, scale / saved[row + i].sum, out);
                    out[self.targets[row + i] as usize] -= scale;
                }
            });
            Ok(())
        })?;
        Ok(Some(host::tensor(out, logits.shape())?))
    }
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

/// What normalises each row of `x` (n, v).
fn normalisers(lanes: Lanes, x: &[f32], v: usize) -> Vec<LogSumExp> {
    let rows = host::rows_per_task(v);
    x.par_chunks_exact(v).with_min_len(rows).map(|row| normaliser(lanes, row)).collect()
}

multiversion! { fn normaliser(x: &[f32]) -> LogSumExp = normaliser_body; }
multiversion! { fn softmax_in_place(x: &mut [f32], max: f32, scale: f32) = in_place_body; }
multiversion! { fn softmax_scaled(x: &[f32], max: f32, scale: f32, out: &mut [f32]) = softmax_body; }

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

/// `out = scale · exp(x − max)`
#[inline(always)]
fn softmax_body<S: Simd>(s: S, x: &[f32], max: f32, scale: f32, out: &mut [f32]) {
    let (shift, scale) = (s.splat(max), s.splat(scale));
    for (x, out) in runs(s, (x, out)) {
        s.store(s.mul(s.exp(s.sub(s.load(x), shift)), scale), out);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::gradient_check::{self, Tolerance};
    use super::*;

    fn case(n: usize, v: usize) -> (Tensor, Vec<u32>) {
        ((gradient_check::numbers(1, &[n, v]) * 9.0).unwrap(), (0..n).map(|i| (i * 7919 % v) as u32).collect())
    }

    #[test]
    fn agrees_with_its_twin() {
        for (n, v) in [(1, 1), (1, 5), (3, 16), (7, 1003), (65, 33), (2, 49_152)] {
            let (logits, targets) = case(n, v);
            let want = gradient_check::run(&[gradient_check::double(&logits)], |x| portable::cross_entropy_sum(&x[0], &targets));
            for lanes in Lanes::available() {
                let op = || CrossEntropy { targets: targets[..].into(), saved: Some(OnceLock::new()), lanes };
                let got = gradient_check::run(std::slice::from_ref(&logits), |x| Ok(x[0].apply_op1(op())?));
                gradient_check::same(&got, &want, Tolerance::default(), &format!("{} {n}x{v}", lanes.name()));
            }
            let got = gradient_check::run(std::slice::from_ref(&logits), |x| cross_entropy_sum(&x[0], &targets));
            gradient_check::same(&got, &want, Tolerance::default(), "dispatched");
            let logps = token_logps(&logits, &targets).unwrap();
            let twin = portable::token_logps(&logits, &targets).unwrap();
            assert!(logps.iter().zip(&twin).all(|(a, b)| (a - b).abs() < 2e-5), "{logps:?} {twin:?}");
        }
    }

    #[test]
    fn twin_agrees_with_finite_differences_and_threads_do_not_matter() {
        let (logits, targets) = case(3, 11);
        gradient_check::finite_differences(&[gradient_check::double(&logits)], |x| portable::cross_entropy_sum(&x[0], &targets));
        let (logits, targets) = case(77, 1999);
        gradient_check::threads_agree(&[logits], |x| cross_entropy_sum(&x[0], &targets));
    }

    #[test]
    fn large_logits_do_not_overflow_and_the_gradient_of_a_row_sums_to_zero() {
        let logits = Var::new(&[[1e4f32, -1e4, 9.9e3], [3e4, 3e4, 3e4]], &Device::Cpu).unwrap();
        let loss = cross_entropy_sum(logits.as_tensor(), &[2, 0]).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - (100.0 + 3f32.ln())).abs() < 1e-2);
        let grads = loss.backward().unwrap();
        let rows = grads.get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert!(rows.iter().all(|r| r.iter().sum::<f32>().abs() < 1e-6 && r.iter().any(|x| x.abs() > 0.1)), "{rows:?}");
    }

    #[test]
    fn not_a_number_is_not_hidden() {
        let logits = Tensor::new(&[[0f32, f32::NAN, 1.0]], &Device::Cpu).unwrap();
        assert!(cross_entropy_sum(&logits, &[0]).unwrap().to_scalar::<f32>().unwrap().is_nan());
    }

    #[test]
    fn wrong_targets_are_named() {
        let (logits, _) = case(2, 5);
        assert!(cross_entropy_sum(&logits, &[1]).unwrap_err().to_string().contains("1 targets for 2 rows"));
        assert!(token_logps(&logits, &[1, 5]).unwrap_err().to_string().contains("target 5 is not in the vocabulary of 5"));
    }
}
