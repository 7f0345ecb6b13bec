//! The soft cap of logits, `cap · tanh(logit / cap)` (Gemma Team 2024, "Gemma 2", section 2), in place, there and back.
//!
//! Refuses to know: where logits come from and what becomes of them.

use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// Logits become capped ones.
pub fn soft_cap(logits: &mut [f32], cap: f32) {
    let lanes = Lanes::in_force();
    host::for_rows(logits, 1, |_, logits| cap_row(lanes, logits, cap));
}

multiversion! {
    /// [`soft_cap`] on this thread.
    pub(super) fn cap_row(logits: &mut [f32], cap: f32) = cap_body;
}
multiversion! {
    /// The gradient of capped logits becomes that of the logits: times `1 − (capped / cap)²`.
    pub(super) fn cap_row_back(capped: &[f32], g: &mut [f32], cap: f32) = cap_back_body;
}

#[inline(always)]
fn cap_body<S: Simd>(s: S, logits: &mut [f32], cap: f32) {
    let (cap, inner) = (s.splat(cap), s.splat(1.0 / cap));
    for logits in logits.chunks_mut(S::LANES) {
        s.store(s.mul(s.tanh(s.mul(s.load(logits), inner)), cap), logits);
    }
}

#[inline(always)]
fn cap_back_body<S: Simd>(s: S, capped: &[f32], g: &mut [f32], cap: f32) {
    let (one, inner) = (s.splat(1.0), s.splat(1.0 / cap));
    for (capped, g) in runs(s, (capped, g)) {
        let tanh = s.mul(s.load(capped), inner);
        s.store(s.mul(s.load(g), s.sub(one, s.mul(tanh, tanh))), g);
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check;
    use super::*;

    #[test]
    fn agrees_with_the_hyperbolic_tangent_in_value_and_slope() {
        let x = (gradient_check::numbers(5, &[1003]) * 4.0).unwrap().to_vec1::<f32>().unwrap();
        for lanes in Lanes::available() {
            let (mut y, mut slope) = (x.clone(), vec![1f32; x.len()]);
            cap_row(lanes, &mut y, 1.5);
            cap_row_back(lanes, &y, &mut slope, 1.5);
            for ((x, y), slope) in x.iter().zip(&y).zip(&slope) {
                let tanh = (f64::from(*x) / 1.5).tanh();
                assert!((f64::from(*y) - 1.5 * tanh).abs() < 2e-6, "{}: {x}", lanes.name());
                assert!((f64::from(*slope) - (1.0 - tanh * tanh)).abs() < 2e-6, "{}: {x}", lanes.name());
            }
        }
    }
}
