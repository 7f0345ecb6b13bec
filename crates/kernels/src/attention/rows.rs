//! What happens to one row of scores, and the packing of keys.

use super::super::cross_entropy::largest;
use super::super::simd::{Lanes, Simd, multiversion, runs};
use super::{Dims, Heads, Normaliser, Scores};

/// One head of keys (or values) transposed into panels of a tile's width: panel `j` holds keys `j·width..` as
/// (dh, width), padded with zeros.
pub(super) struct Panels {
    pub data: Vec<f32>,
    pub width: usize,
    dh: usize,
}

impl Panels {
    /// Packs keys `0..t` of `head` of row `b`.
    pub(super) fn pack(lanes: Lanes, dims: Dims, k: Heads<'_>, b: usize, head: usize) -> Panels {
        let width = lanes.tile_columns();
        let mut data = vec![0.0; dims.t.div_ceil(width) * width * dims.dh];
        for (j, panel) in data.chunks_exact_mut(width * dims.dh).enumerate() {
            for column in 0..width.min(dims.t - j * width) {
                let key = &k.from(b, j * width + column, head)[..dims.dh];
                for (row, x) in panel.chunks_exact_mut(width).zip(key) {
                    row[column] = *x;
                }
            }
        }
        Panels { data, width, dh: dims.dh }
    }

    /// Panel `j`, (dh, width).
    pub(super) fn panel(&self, j: usize) -> &[f32] {
        &self.data[j * self.width * self.dh..][..self.width * self.dh]
    }
}

/// Replaces products `q·k` by `exp(score − largest score)`; returns what normalises them.
pub(super) fn softmax(lanes: Lanes, row: &mut [f32], scores: Scores) -> Normaliser {
    match scores.cap {
        None => exponentials(lanes, row, scores.scale as f32),
        Some(cap) => capped_exponentials(lanes, row, (scores.scale / cap) as f32, cap as f32),
    }
}

/// From products `q·k` and dP: `products ← p`, `dp ← ` the gradient of the products.
pub(super) fn softmax_back(lanes: Lanes, [products, dp]: [&mut [f32]; 2], scores: Scores, normaliser: Normaliser, delta: f32) {
    match scores.cap {
        None => probabilities_back(lanes, products, dp, scores.scale as f32, normaliser, delta),
        Some(cap) => capped_back(lanes, products, dp, [scores.scale / cap, cap].map(|x| x as f32), normaliser, delta),
    }
}

multiversion! {
    /// Replaces scores by `exp(scale · (score − largest))`; returns what normalises them.
    fn exponentials(row: &mut [f32], scale: f32) -> Normaliser = exponentials_body;
}
multiversion! {
    /// As [`exponentials`], of `cap · tanh(inner · product)`.
    fn capped_exponentials(row: &mut [f32], inner: f32, cap: f32) -> Normaliser = capped_exponentials_body;
}
multiversion! {
    /// Multiplies a row by a number.
    pub(super) fn scale_row(row: &mut [f32], factor: f32) = scale_body;
}
multiversion! {
    /// `a · b`
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body;
}
multiversion! {
    /// From scores and dP: `scores ← p = exp(scale·score − max) / sum`, `dp ← scale · p · (dp − delta)`.
    fn probabilities_back(scores: &mut [f32], dp: &mut [f32], scale: f32, normaliser: Normaliser, delta: f32)
        = probabilities_back_body;
}
multiversion! {
    /// As [`probabilities_back`], of scores `cap · tanh(inner · product)`: `dp ← inner·cap · (1 − tanh²) · p · (dp − delta)`.
    fn capped_back(products: &mut [f32], dp: &mut [f32], inner_cap: [f32; 2], normaliser: Normaliser, delta: f32) = capped_back_body;
}

#[inline(always)]
fn exponentials_body<S: Simd>(s: S, row: &mut [f32], scale: f32) -> Normaliser {
    let top = largest(s, row) * scale;
    let (scale_v, shift) = (s.splat(scale), s.splat(-top));
    let mut sum = s.splat(0.0);
    for x in row.chunks_mut(S::LANES) {
        let e = s.first(s.exp(s.mul_add(s.load(x), scale_v, shift)), x.len());
        s.store(e, x);
        sum = s.add(sum, e);
    }
    Normaliser { max: top, sum: s.sum(sum) }
}

/// The largest score is that of the largest product: tanh rises.
#[inline(always)]
fn capped_exponentials_body<S: Simd>(s: S, row: &mut [f32], inner: f32, cap: f32) -> Normaliser {
    let mut top = [largest(s, row) * inner];
    s.store(s.tanh(s.splat(top[0])), &mut top);
    let top = top[0] * cap;
    let (inner, cap, shift) = (s.splat(inner), s.splat(cap), s.splat(-top));
    let mut sum = s.splat(0.0);
    for x in row.chunks_mut(S::LANES) {
        let tanh = s.tanh(s.mul(s.load(x), inner));
        let e = s.first(s.exp(s.mul_add(tanh, cap, shift)), x.len());
        s.store(e, x);
        sum = s.add(sum, e);
    }
    Normaliser { max: top, sum: s.sum(sum) }
}

#[inline(always)]
fn scale_body<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    for x in row.chunks_mut(S::LANES) {
        s.store(s.mul(s.load(x), s.splat(factor)), x);
    }
}

#[inline(always)]
fn dot_body<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (a, b) in runs(s, (a, b)) {
        sum = s.mul_add(s.load(a), s.load(b), sum);
    }
    s.sum(sum)
}

#[inline(always)]
fn probabilities_back_body<S: Simd>(s: S, scores: &mut [f32], dp: &mut [f32], scale: f32, normaliser: Normaliser, delta: f32) {
    let (scale, shift, delta) = (s.splat(scale), s.splat(-normaliser.max), s.splat(delta));
    let factor = s.splat(1.0 / normaliser.sum);
    for (score, dp) in runs(s, (scores, dp)) {
        let p = s.mul(s.exp(s.mul_add(s.load(score), scale, shift)), factor);
        s.store(p, score);
        s.store(s.mul(s.mul(p, scale), s.sub(s.load(dp), delta)), dp);
    }
}

#[inline(always)]
fn capped_back_body<S: Simd>(
    s: S,
    products: &mut [f32],
    dp: &mut [f32],
    [inner, cap]: [f32; 2],
    normaliser: Normaliser,
    delta: f32,
) {
    let (inner, cap, scale) = (s.splat(inner), s.splat(cap), s.splat(inner * cap));
    let (shift, delta, one) = (s.splat(-normaliser.max), s.splat(delta), s.splat(1.0));
    let factor = s.splat(1.0 / normaliser.sum);
    for (product, dp) in runs(s, (products, dp)) {
        let tanh = s.tanh(s.mul(s.load(product), inner));
        let p = s.mul(s.exp(s.mul_add(tanh, cap, shift)), factor);
        s.store(p, product);
        let slope = s.mul(scale, s.sub(one, s.mul(tanh, tanh)));
        s.store(s.mul(s.mul(p, slope), s.sub(s.load(dp), delta)), dp);
    }
}
