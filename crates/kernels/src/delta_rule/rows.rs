//! Arithmetic on rows, and on the rows of small matrices.

use super::element::Element;
use super::simd::{Simd, multiversion, runs};

multiversion! {
    /// `Σ a·b`, summed in an order that the length alone decides.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body;
}
multiversion! {
    /// `y = factor · y`
    pub(super) fn scale(y: &mut [f32], factor: f32) = scale_body;
}
multiversion! {
    /// Every row of `x` (rows, width) times its factor, into `out`.
    pub(super) fn scaled_rows(x: &[f32], width: usize, factors: &[f32], out: &mut [f32]) = scaled_rows_body;
}
multiversion! {
    /// Every row of `x` (rows, width) times its factor.
    pub(super) fn scale_rows(x: &mut [f32], width: usize, factors: &[f32]) = scale_rows_body;
}
multiversion! {
    /// eˣ of every element, in its place.
    pub(super) fn exponentials(x: &mut [f32]) = exponentials_body;
}
multiversion! {
    /// `1 / (1 + e^−x)` of every element, in its place.
    pub(super) fn sigmoids(x: &mut [f32]) = sigmoids_body;
}

#[inline(always)]
pub(super) fn dot_body<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (a, b) in runs(s, (a, b)) {
        sum = s.mul_add(s.load(a), s.load(b), sum);
    }
    s.sum(sum)
}

#[inline(always)]
fn scale_body<S: Simd>(s: S, y: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    for (y,) in runs(s, (y,)) {
        s.store(s.mul(factor, s.load(y)), y);
    }
}

#[inline(always)]
fn scaled_rows_body<S: Simd>(s: S, x: &[f32], width: usize, factors: &[f32], out: &mut [f32]) {
    for ((x, out), factor) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(factors) {
        let factor = s.splat(*factor);
        for (x, out) in runs(s, (x, out)) {
            s.store(s.mul(factor, s.load(x)), out);
        }
    }
}

#[inline(always)]
fn scale_rows_body<S: Simd>(s: S, x: &mut [f32], width: usize, factors: &[f32]) {
    x.chunks_exact_mut(width).zip(factors).for_each(|(x, factor)| scale_body(s, x, *factor));
}

#[inline(always)]
fn exponentials_body<S: Simd>(s: S, x: &mut [f32]) {
    for (x,) in runs(s, (x,)) {
        s.store(s.exp(s.load(x)), x);
    }
}

#[inline(always)]
fn sigmoids_body<S: Simd>(s: S, x: &mut [f32]) {
    for (x,) in runs(s, (x,)) {
        s.store(<f32 as Element>::sigmoid(s, s.load(x)), x);
    }
}

/// The transpose of `x` (rows, width), into `out`.
pub(super) fn transpose(x: &[f32], width: usize, out: &mut [f32]) {
    let rows = x.len() / width;
    for (column, out) in out.chunks_exact_mut(rows).enumerate() {
        out.iter_mut().zip(x[column..].iter().step_by(width)).for_each(|(out, x)| *out = *x);
    }
}
