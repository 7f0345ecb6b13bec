//! Head and cross-entropy with everything but sums in bf16: logits are kept for the backward product, in blocks of
//! columns that stay in the last cache between the two steps that use them.
//!
//! What is kept is each logit less that of the row's target, which is known exactly beforehand: bf16 is precise near zero,
//! so the loss of a row that is almost right keeps its digits, and is the logarithm of the normaliser itself. Under a soft cap the
//! same is kept of capped logits, whose difference is never larger.
#![cfg(target_arch = "x86_64")]

use half::bf16;
use rayon::prelude::*;

use super::cross_entropy::WeightedTargets;
use super::element::Element;
use super::gemm_bf16::{self, Bf16Matrix, GemmJob, LowRankDelta, ProductTarget};
use super::host::SharedOutput;
use super::panel::Scratch;
use super::simd::{Lanes, Simd, multiversion};
use super::weight::Weight;

/// Rows whose logits are held at once.
pub(super) const ROWS: usize = 512;
/// Columns of one block of logits: whole panels.
const COLUMNS: usize = 1536;
/// bf16 numbers that add up to an f32.
const DIGITS: usize = 4;

/// `−log softmax(x·Wᵀ)[target]` of every row of `x` (n, d); `gradient` (n, d) becomes that of their sum by the weights.
/// The vocabulary (rows of `w`) and d are even. `cap` is the soft cap of logits; `scratch` is used for them.
pub(super) fn linear_cross_entropy(
    x: &[bf16],
    w: &Weight,
    targets: WeightedTargets,
    cap: Option<f32>,
    gradient: &mut [f32],
    scratch: &mut Vec<bf16>,
) -> Vec<f32> {
    let d = w.cols;
    let targets =
        targets.ids.chunks(ROWS).zip(targets.weights.chunks(ROWS)).map(|(ids, weights)| WeightedTargets { ids, weights });
    let runs = x.chunks(ROWS * d).zip(targets).zip(gradient.chunks_mut(ROWS * d));
    runs.flat_map(|((x, targets), gradient)| run(x, w, targets, cap, gradient, scratch)).collect()
}

/// One block of columns of the logits of m rows.
struct LogitColumns {
    first: usize,
    width: usize,
}

/// The soft cap of logits, and the capped logit of each row's target.
struct RowCaps {
    at_targets: Vec<f32>,
    cap: f32,
}

fn run(
    x: &[bf16],
    w: &Weight,
    targets: WeightedTargets,
    cap: Option<f32>,
    gradient: &mut [f32],
    scratch: &mut Vec<bf16>,
) -> Vec<f32> {
    let (m, v) = (targets.ids.len(), w.rows);
    assert!(v.is_multiple_of(2) && x.len() == m * w.cols && gradient.len() == x.len(), "head loss: shapes");
    if scratch.len() < m * v {
        scratch.resize(m * v, bf16::ZERO);
    }
    let logits = &mut scratch[..m * v];
    let parts: Vec<LogitColumns> =
        (0..v).step_by(COLUMNS).map(|first| LogitColumns { first, width: COLUMNS.min(v - first) }).collect();
    let exact = at_targets(x, w, targets.ids);
    let losses = forward(x, w, &parts, &exact, cap, logits);
    let caps = cap.map(|cap| RowCaps { at_targets: exact.iter().map(|logit| (logit / cap).tanh() * cap).collect(), cap });
    let left = |part: &LogitColumns| m * part.first..m * (part.first + part.width);
    for part in &parts {
        let logits = &mut logits[left(part)];
        slopes(logits, part, &losses, targets, caps.as_ref());
        let rows = w.part(part.first..part.first + part.width);
        let job = GemmJob { a: Bf16Matrix { data: logits, width: part.width }, w: &rows, transposed: false, delta: None };
        let target = if part.first == 0 { ProductTarget::Set(gradient) } else { ProductTarget::Add(gradient) };
        gemm_bf16::sum(&[job], &mut { target });
    }
    losses
}

/// `−value` as a sum of bf16 numbers.
fn digits(value: f32) -> [bf16; DIGITS] {
    let mut left = -value;
    [(); DIGITS].map(|()| {
        let digit = bf16::from_f32(left);
        left -= digit.to_f32();
        digit
    })
}

/// All logits less that of the row's target, part by part; returns each row's loss: the logarithm of what normalises them.
fn forward(x: &[bf16], w: &Weight, parts: &[LogitColumns], exact: &[f32], cap: Option<f32>, logits: &mut [bf16]) -> Vec<f32> {
    let m = x.len() / w.cols;
    let h: Vec<bf16> = exact.iter().flat_map(|logit| digits(*logit)).collect();
    let ones = vec![bf16::ONE; COLUMNS * DIGITS];
    let mut stats = vec![(f32::NEG_INFINITY, 0f32); m * parts.len()];
    let out = SharedOutput(logits.as_mut_ptr().cast());
    let lanes = Lanes::in_force();
    stats.par_chunks_mut(m).zip(parts).for_each_init(gemm_bf16::GemmScratch::default, |scratch, (stats, part)| {
        let a = Bf16Matrix { data: x, width: w.cols };
        // SAFETY: parts do not overlap, and each is one task's own.
        let mine = unsafe {
            let first = { out }.0.cast::<bf16>().add(m * part.first);
            std::slice::from_raw_parts_mut(first, m * part.width)
        };
        let rows = w.part(part.first..part.first + part.width);
        let delta = Some(LowRankDelta { h: &h, e: &ones, rank: DIGITS });
        gemm_bf16::here(&GemmJob { a, w: &rows, transposed: true, delta }, &mut ProductTarget::Half(mine), scratch);
        for ((stats, row), exact) in stats.iter_mut().zip(mine.chunks_exact_mut(part.width)).zip(exact) {
            if let Some(cap) = cap {
                cap_differences(lanes, row, *exact, cap);
            }
            *stats = summary(lanes, row);
        }
    });
    (0..m)
        .map(|row| {
            let of = || stats.iter().skip(row).step_by(m);
            // Keeps a NaN, which `max` would drop.
            let top = of().map(|(top, _)| *top).fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a });
            top + of().map(|(t, sum)| sum * (t - top).exp()).sum::<f32>().ln()
        })
        .collect()
}

/// The logit of each row's target, unrounded.
fn at_targets(x: &[bf16], w: &Weight, targets: &[u32]) -> Vec<f32> {
    let rows = x.par_chunks_exact(w.cols).zip(targets);
    rows.map_init(Scratch::default, |scratch, (x, target)| gemm_bf16::row_dot(x, w, *target as usize, scratch)).collect()
}

/// Logits of one part become `weight · (softmax − onehot)`, times the slope of the cap.
fn slopes(logits: &mut [bf16], part: &LogitColumns, losses: &[f32], targets: WeightedTargets, caps: Option<&RowCaps>) {
    let lanes = Lanes::in_force();
    let targets = targets.ids.par_iter().zip(targets.weights);
    let rows = logits.par_chunks_exact_mut(part.width).zip(losses.par_iter().zip(targets)).with_min_len(8);
    rows.enumerate().for_each(|(i, (row, (loss, (target, weight))))| {
        let capped = caps.map(|caps| [caps.at_targets[i], caps.cap]);
        match capped {
            None => scaled_exp(lanes, row, *loss, *weight),
            Some(capped) => scaled_exp_under_cap(lanes, row, *loss, *weight, capped),
        }
        if let Some(at_target) = row.get_mut((*target as usize).wrapping_sub(part.first)) {
            let slope = capped.map_or(1.0, |[logit, cap]| 1.0 - (logit / cap).powi(2));
            *at_target = bf16::from_f32(weight * slope * (-loss).exp_m1());
        }
    });
}

multiversion! { fn summary(row: &[bf16]) -> (f32, f32) = summary_body; }
multiversion! { fn cap_differences(row: &mut [bf16], at_target: f32, cap: f32) = cap_differences_body; }
multiversion! {
    fn scaled_exp_under_cap(row: &mut [bf16], normaliser: f32, factor: f32, target_cap: [f32; 2]) = scaled_exp_under_cap_body;
}
multiversion! { fn scaled_exp(row: &mut [bf16], normaliser: f32, factor: f32) = scaled_exp_body; }

/// The largest element and Σ exp(element − largest).
#[inline(always)]
fn summary_body<S: Simd>(s: S, row: &[bf16]) -> (f32, f32) {
    let whole = row.len() / S::LANES * S::LANES;
    let (body, tail) = row.split_at(whole);
    let mut top = s.splat(f32::NEG_INFINITY);
    for x in body.chunks(S::LANES) {
        top = s.max(top, bf16::load(s, x));
    }
    let mut lanes = [f32::NEG_INFINITY; 16];
    s.store(top, &mut lanes[..S::LANES]);
    let mut max = f32::NEG_INFINITY;
    for x in lanes {
        if x > max || x.is_nan() {
            max = x;
        }
    }
    for x in tail {
        max = max.max(x.to_f32());
    }
    let shift = s.splat(max);
    let mut sum = s.splat(0.0);
    for x in row.chunks(S::LANES) {
        sum = s.add(sum, s.first(s.exp_rough(s.sub(bf16::load(s, x), shift)), x.len()));
    }
    (max, s.sum(sum))
}

/// `row = factor · exp(row − normaliser)`
#[inline(always)]
fn scaled_exp_body<S: Simd>(s: S, row: &mut [bf16], normaliser: f32, factor: f32) {
    let (shift, factor) = (s.splat(normaliser), s.splat(factor));
    for x in row.chunks_mut(S::LANES) {
        bf16::store(s, s.mul(s.exp_rough(s.sub(bf16::load(s, x), shift)), factor), x);
    }
}

/// Logits less that of the target become the same of capped logits: `cap · tanh((row + target) / cap) − cap · tanh(target / cap)`.
#[inline(always)]
fn cap_differences_body<S: Simd>(s: S, row: &mut [bf16], at_target: f32, cap: f32) {
    let (target, inner, cap_v) = (s.splat(at_target), s.splat(1.0 / cap), s.splat(cap));
    let capped_target = s.mul(s.tanh(s.mul(target, inner)), cap_v);
    for x in row.chunks_mut(S::LANES) {
        let tanh = s.tanh(s.mul(s.add(bf16::load(s, x), target), inner));
        bf16::store(s, s.sub(s.mul(tanh, cap_v), capped_target), x);
    }
}

/// As [`scaled_exp`], times `1 − tanh²` of each capped logit: `row + target` over the cap.
#[inline(always)]
fn scaled_exp_under_cap_body<S: Simd>(s: S, row: &mut [bf16], normaliser: f32, factor: f32, [target, cap]: [f32; 2]) {
    let (shift, factor, one) = (s.splat(normaliser), s.splat(factor), s.splat(1.0));
    let (target, inner) = (s.splat(target), s.splat(1.0 / cap));
    for x in row.chunks_mut(S::LANES) {
        let difference = bf16::load(s, x);
        let tanh = s.mul(s.add(difference, target), inner);
        let slope = s.mul(factor, s.sub(one, s.mul(tanh, tanh)));
        bf16::store(s, s.mul(s.exp_rough(s.sub(difference, shift)), slope), x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{Frozen, Side, tests::matrix};
    use super::super::linear_cross_entropy::linear_cross_entropy as exact_losses;
    use super::super::weight::WeightType;
    use super::*;
    use crate::device::Compute;

    #[test]
    fn agrees_with_the_exact_head() {
        for (n, d, v) in [(1, 2, 2), (7, 34, 100), (ROWS + 3, 48, 3 * COLUMNS + 10)] {
            let (weight, _) = matrix(v, d, WeightType::BF16);
            let value = |i: usize| bf16::from_f32((crate::random::indexed(3, i as u64) % 2001) as f32 / 500.0 - 2.0);
            let x: Vec<bf16> = (0..n * d).map(value).collect();
            let targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
            let exact = Frozen::new(weight.clone(), Compute::F32);
            let wide: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
            for cap in [None, Some(30.0), Some(1.5)] {
                let mut want = vec![0f32; n * d];
                let losses = exact_losses(&wide, &exact, Side::Transposed, &targets, cap, Some(&mut want));
                let (mut got, mut scratch) = (vec![7f32; n * d], vec![bf16::ONE; 3]);
                let weights: Vec<f32> = (0..n).map(|i| 0.25 - (i % 3) as f32).collect();
                let weighted = WeightedTargets { ids: &targets, weights: &weights };
                let ours = linear_cross_entropy(&x, &weight, weighted, cap, &mut got, &mut scratch);
                for (ours, loss) in ours.iter().zip(&losses) {
                    assert!((ours - loss).abs() < 5e-3 * loss.abs().max(1.0), "{n} {d} {v} {cap:?}: {ours} against {loss}");
                }
                let largest = want.iter().fold(0f32, |a, b| a.max(b.abs()));
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let want = weights[i / d] * want;
                    assert!(
                        (got - want).abs() < 0.04 * weights[i / d].abs() * largest,
                        "{n} {d} {v} {cap:?}: {got} against {want}"
                    );
                }
            }
        }
    }
}
