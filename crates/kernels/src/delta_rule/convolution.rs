//! The depthwise causal convolution without bias, and SiLU behind it.

use std::ops::Range;

use rayon::prelude::*;

use super::element::Element;
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// Tokens whose gradients one task computes; it computes what those behind them give back once more.
const RUN: usize = 32;

/// Its weights, a row for every tap.
pub(super) struct Convolution {
    /// (kernel, channels), the newest token's last.
    taps: Vec<f32>,
    /// (kernel, channels), the newest token's first.
    reversed: Vec<f32>,
    channels: usize,
}

impl Convolution {
    /// Of `weight` (channels, kernel).
    pub(super) fn new(weight: &[f32], channels: usize) -> Convolution {
        let kernel = weight.len() / channels;
        let mut taps = vec![0.0; weight.len()];
        for (channel, weight) in weight.chunks_exact(kernel).enumerate() {
            weight.iter().enumerate().for_each(|(tap, weight)| taps[tap * channels + channel] = *weight);
        }
        let reversed = taps.chunks_exact(channels).rev().flatten().copied().collect();
        Convolution { taps, reversed, channels }
    }

    /// Tokens before its own that a row sees.
    fn before(&self) -> usize {
        self.taps.len() / self.channels - 1
    }

    /// SiLU of the convolution of `x` (t, channels) behind `tail` (kernel − 1, channels), which is empty for zeros.
    pub(super) fn forward(&self, tail: &[f32], x: &[f32], out: &mut [f32]) {
        let (lanes, before) = (Lanes::in_force(), self.before());
        // The first tokens, whose rows begin in the tail.
        let early = if tail.is_empty() { 0 } else { before.min(x.len() / self.channels) };
        let joined = [tail, &x[..early * self.channels]].concat();
        let (of_tail, rest) = out.split_at_mut(early * self.channels);
        for (i, row) in of_tail.chunks_exact_mut(self.channels).enumerate() {
            silu_row(lanes, &self.taps, &joined[i * self.channels..][..self.taps.len()], row);
        }
        host::for_rows(rest, self.channels, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(self.channels).enumerate() {
                let (taps, x) = self.seen(x, early + first + i);
                silu_row(lanes, taps, x, row);
            }
        });
    }

    /// The rows of `x` that a token sees, behind no tail, and their taps.
    fn seen<'a>(&'a self, x: &'a [f32], token: usize) -> (&'a [f32], &'a [f32]) {
        let missing = self.before().saturating_sub(token);
        let rows = token + missing - self.before()..token + 1;
        (&self.taps[missing * self.channels..], &x[rows.start * self.channels..rows.end * self.channels])
    }

    /// The gradient of `x` (t, channels), behind no tail, into `dx`, set; `dy` lays that of the result's rows that it is asked for.
    pub(super) fn backward(&self, x: &[f32], dy: impl Fn(Range<usize>, &mut [f32]) + Sync, dx: &mut [f32]) {
        let (lanes, width, t) = (Lanes::in_force(), self.channels, x.len() / self.channels);
        dx.par_chunks_mut(RUN * width).enumerate().for_each_init(Vec::new, |d_sums, (run, dx)| {
            let first = run * RUN;
            let end = t.min(first + dx.len() / width + self.before());
            d_sums.resize((end - first) * width, 0.0);
            dy(first..end, d_sums);
            for (i, d) in d_sums.chunks_exact_mut(width).enumerate() {
                let (taps, x) = self.seen(x, first + i);
                silu_row_back(lanes, taps, x, d);
            }
            for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                let d = &d_sums[i * width..];
                let d = &d[..d.len().min(self.taps.len())];
                sum_row(lanes, &self.reversed[..d.len()], d, dx);
            }
        });
    }
}

multiversion! {
    /// `Σ taps∘x` over rows of the width of `out`.
    fn sum_row(taps: &[f32], x: &[f32], out: &mut [f32]) = sum_row_body;
}
multiversion! {
    /// SiLU of `Σ taps∘x`.
    fn silu_row(taps: &[f32], x: &[f32], out: &mut [f32]) = silu_row_body;
}
multiversion! {
    /// The gradient of `Σ taps∘x` in the place of that of its SiLU.
    fn silu_row_back(taps: &[f32], x: &[f32], d: &mut [f32]) = silu_row_back_body;
}

/// The sums of the columns `at`.
#[inline(always)]
fn sum<S: Simd>(s: S, taps: &[f32], x: &[f32], width: usize, at: Range<usize>) -> S::V {
    let mut sum = s.splat(0.0);
    for (taps, x) in taps.chunks_exact(width).zip(x.chunks_exact(width)) {
        sum = s.mul_add(s.load(&taps[at.clone()]), s.load(&x[at.clone()]), sum);
    }
    sum
}

#[inline(always)]
fn sum_row_body<S: Simd>(s: S, taps: &[f32], x: &[f32], out: &mut [f32]) {
    let (width, mut at) = (out.len(), 0);
    for (out,) in runs(s, (out,)) {
        s.store(sum(s, taps, x, width, at..at + out.len()), out);
        at += out.len();
    }
}

#[inline(always)]
fn silu_row_body<S: Simd>(s: S, taps: &[f32], x: &[f32], out: &mut [f32]) {
    let (width, mut at) = (out.len(), 0);
    for (out,) in runs(s, (out,)) {
        let sum = sum(s, taps, x, width, at..at + out.len());
        s.store(s.mul(sum, f32::sigmoid(s, sum)), out);
        at += out.len();
    }
}

/// silu′(x) = σ·(1 + x·(1 − σ))
#[inline(always)]
fn silu_row_back_body<S: Simd>(s: S, taps: &[f32], x: &[f32], d: &mut [f32]) {
    let (width, one, mut at) = (d.len(), s.splat(1.0), 0);
    for (d,) in runs(s, (d,)) {
        let sum = sum(s, taps, x, width, at..at + d.len());
        let sigma = f32::sigmoid(s, sum);
        let slope = s.mul(sigma, s.mul_add(sum, s.sub(one, sigma), one));
        s.store(s.mul(s.load(d), slope), d);
        at += d.len();
    }
}
