//! What `lanes` does, in plain code: see `twin_bf16`.

use half::bf16;

use super::super::super::twin_bf16::add_products;
use super::super::Scores;
use super::QUERIES;
use super::columns::{Corner, QueryColumns, Slopes, Softmax, UNSEEN, exponent_scale, inside_and_outside};

/// Two numbers as a pair of bf16.
fn pair(low: f32, high: f32) -> u32 {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    bits(low) | bits(high) << 16
}

/// A raw score as it is weighed, and how that, scaled, changes with the raw one.
fn capped(raw: f32, how: Scores) -> (f32, f32) {
    let Some(cap) = how.cap else { return (raw, how.scale as f32) };
    let [inside, outside] = inside_and_outside(cap, how);
    let tanh = (raw * inside).tanh();
    (tanh * outside, how.scale as f32 * (1.0 - tanh * tanh))
}

/// See `lanes::Softmax::weigh`.
pub(super) fn weigh(
    softmax: &mut Softmax,
    scores: &mut [f32],
    weights: &mut [u32],
    first: Corner,
    how: Scores,
    mut sums: Option<&mut [f32]>,
) {
    let (len, scale) = (scores.len() / QUERIES, exponent_scale(how));
    for q in 0..QUERIES {
        for k in 0..len {
            let score = &mut scores[k * QUERIES + q];
            *score = if first.sees(how.window, k, q) { capped(*score, how).0 } else { UNSEEN };
        }
        let old = softmax.largest[q];
        let largest = (0..len).fold(old, |top, k| top.max(scores[k * QUERIES + q]));
        let factor = (scale * (old - largest)).exp();
        let weight = |k: usize| if k < len { (scale * (scores[k * QUERIES + q] - largest)).exp() } else { 0.0 };
        softmax.sum[q] = softmax.sum[q] * factor + (0..len).map(weight).sum::<f32>();
        softmax.largest[q] = largest;
        for k in (0..len).step_by(2) {
            weights[k / 2 * QUERIES + q] = pair(weight(k), weight(k + 1));
        }
        if let Some(sums) = sums.as_deref_mut() {
            sums.iter_mut().skip(q).step_by(QUERIES).for_each(|sum| *sum *= factor);
        }
    }
}

/// Rows of `e` numbers from `sums` (e, queries), each by its query's factor: `put` gets queries below `count` and elements below `e`.
pub(super) fn rows_of(
    sums: &[f32],
    e: usize,
    count: usize,
    factor: impl Fn(usize) -> f32,
    mut put: impl FnMut(usize, usize, f32),
) {
    for q in 0..count {
        for i in 0..e {
            put(q, i, sums[i * QUERIES + q] * factor(q));
        }
    }
}

/// See `lanes::slopes`.
pub(super) fn slopes(scores: &[f32], dp: &[f32], columns: &QueryColumns, first: Corner, how: Scores, out: &mut Slopes) {
    let (len, scale) = (scores.len() / QUERIES, exponent_scale(how));
    for q in 0..QUERIES {
        let at = |k: usize| k * QUERIES + q;
        let weight = |k: usize| {
            if first.sees(how.window, k, q) { (capped(scores[at(k)], how).0 * scale - columns.normaliser[q]).exp() } else { 0.0 }
        };
        let slope =
            |k: usize| if k < len { weight(k) * capped(scores[at(k)], how).1 * (dp[at(k)] - columns.delta[q]) } else { 0.0 };
        for k in 0..len {
            out.weights[at(k)] = bf16::from_f32(weight(k));
            out.rows[at(k)] = bf16::from_f32(slope(k));
        }
        for k in (0..len).step_by(2) {
            out.pairs[k / 2 * QUERIES + q] = pair(slope(k), slope(k + 1));
        }
    }
}

/// See `lanes::turn`.
pub(super) fn turn(rows: &[u32], e: usize, count: usize, out: &mut [u32], stride: usize) {
    for i in 0..e {
        for p in 0..count {
            out[i * stride + p] = rows[p * e + i];
        }
    }
}

/// Σ a ∘ b.
pub(super) fn dot(a: &[bf16], b: &[bf16]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| add_products(sum, u32::from(a.to_bits()), u32::from(b.to_bits())))
}
