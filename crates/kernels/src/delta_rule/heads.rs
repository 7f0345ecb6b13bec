//! What the rule of one head is computed of: normed queries and keys, values, decays and rates.

use std::ops::Range;

use super::rows::{dot_body, sigmoids};
use super::simd::{Lanes, Simd, multiversion, runs};
use super::{DeltaLayer, DeltaSizes};

/// Of the norm of queries and keys, as `l2norm` in transformers has it: beside the sum of squares.
const EPS: f32 = 1e-6;

/// One text's rows.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub tokens: usize,
    /// Queries, keys and values behind the convolution, (t, channels).
    mixed: &'a [f32],
    /// (t, value_heads)
    a: &'a [f32],
    /// (t, value_heads)
    b: &'a [f32],
}

impl<'a> Text<'a> {
    /// The rows at `span` of `mixed` and of a layer's inputs.
    pub(super) fn new(sizes: DeltaSizes, span: &Range<usize>, mixed: &'a [f32], [_, _, a, b]: [&'a [f32]; 4]) -> Text<'a> {
        let rows = |x: &'a [f32], width: usize| &x[span.start * width..span.end * width];
        let (a, b) = (rows(a, sizes.value_heads), rows(b, sizes.value_heads));
        Text { tokens: span.len(), mixed: rows(mixed, sizes.channels()), a, b }
    }
}

/// Queries and keys of one text and key head.
pub(super) struct KeyHead {
    /// (t, key_dim), of length 1/√key_dim.
    pub q: Vec<f32>,
    /// (t, key_dim), of length 1.
    pub k: Vec<f32>,
    /// What the norm multiplied each query and each key with.
    inverse: [Vec<f32>; 2],
    scale: f32,
}

impl KeyHead {
    pub(super) fn new(lanes: Lanes, sizes: DeltaSizes, text: Text, head: usize) -> KeyHead {
        let (dim, scale) = (sizes.key_dim, 1.0 / (sizes.key_dim as f32).sqrt());
        let normed = |first: usize, scale: f32| {
            let (mut out, mut inverses) = (vec![0.0; text.tokens * dim], vec![0.0; text.tokens]);
            let x = text.mixed.get(first + head * dim..).unwrap_or_default();
            norm_rows(lanes, (x, sizes.channels()), (dim, scale), &mut out, &mut inverses);
            (out, inverses)
        };
        let ((q, of_q), (k, of_k)) = (normed(0, scale), normed(sizes.keys(), 1.0));
        KeyHead { q, k, inverse: [of_q, of_k], scale }
    }

    /// Turns the gradients of `q` and `k` into those of what they were made of: with x̂ of length 1 and ρ what the norm multiplied with,
    /// `ρ·(d − x̂·(x̂·d))`.
    pub(super) fn backward(&self, lanes: Lanes, [dq, dk]: [&mut [f32]; 2]) {
        for (d, x, inverse, scale) in [(dq, &self.q, &self.inverse[0], self.scale), (dk, &self.k, &self.inverse[1], 1.0)] {
            norm_rows_back(lanes, x, inverse, scale, d);
        }
    }
}

multiversion! {
    /// Rows `x` of `dim` elements, so far from one to the next, over their length and times `scale`; what they were divided by, inverted.
    fn norm_rows(x_and_row: (&[f32], usize), dim_and_scale: (usize, f32), out: &mut [f32], inverses: &mut [f32]) = norm_rows_body;
}
multiversion! {
    /// The gradient of [`norm_rows`] in the place of that of its result `x`.
    fn norm_rows_back(x: &[f32], inverses: &[f32], scale: f32, d: &mut [f32]) = norm_rows_back_body;
}

#[inline(always)]
fn norm_rows_body<S: Simd>(s: S, (x, row): (&[f32], usize), (dim, scale): (usize, f32), out: &mut [f32], inverses: &mut [f32]) {
    for ((x, out), to) in x.chunks(row).zip(out.chunks_exact_mut(dim)).zip(inverses) {
        let x = &x[..dim];
        let inverse = 1.0 / (dot_body(s, x, x) + EPS).sqrt();
        let factor = s.splat(inverse * scale);
        for (x, out) in runs(s, (x, out)) {
            s.store(s.mul(s.load(x), factor), out);
        }
        *to = inverse;
    }
}

#[inline(always)]
fn norm_rows_back_body<S: Simd>(s: S, x: &[f32], inverses: &[f32], scale: f32, d: &mut [f32]) {
    let dim = x.len() / inverses.len().max(1);
    for ((d, x), inverse) in d.chunks_exact_mut(dim.max(1)).zip(x.chunks_exact(dim.max(1))).zip(inverses) {
        let along = s.splat(-inverse * dot_body(s, d, x) / scale);
        let factor = s.splat(inverse * scale);
        for (d, x) in runs(s, (d, x)) {
            s.store(s.mul_add(s.load(x), along, s.mul(s.load(d), factor)), d);
        }
    }
}

/// One text and value head.
pub(super) struct Head<'a> {
    /// (t, key_dim)
    pub q: &'a [f32],
    /// (t, key_dim)
    pub k: &'a [f32],
    /// (t, value_dim)
    pub v: Vec<f32>,
    /// The logarithm of what a token decays the state by, `−e^a_log · softplus(a + dt_bias)`.
    pub log_decay: Vec<f32>,
    /// How much of its error a token corrects, `sigmoid(b)`.
    pub beta: Vec<f32>,
    pub key_dim: usize,
    pub value_dim: usize,
}

impl<'a> Head<'a> {
    pub(super) fn new(lanes: Lanes, layer: &DeltaLayer, text: Text, keys: &'a KeyHead, head: usize) -> Head<'a> {
        let DeltaSizes { value_heads, key_dim, value_dim, .. } = layer.sizes;
        let first = 2 * layer.sizes.keys() + head * value_dim;
        let mut v = Vec::with_capacity(text.tokens * value_dim);
        text.mixed.chunks_exact(layer.sizes.channels()).for_each(|row| v.extend_from_slice(&row[first..][..value_dim]));
        let rate = -layer.a_log[head].exp();
        let mut beta: Vec<f32> = column(text.b, head, value_heads).collect();
        sigmoids(lanes, &mut beta);
        Head {
            q: &keys.q,
            k: &keys.k,
            v,
            log_decay: column(text.a, head, value_heads).map(|a| rate * softplus(a + layer.dt_bias[head])).collect(),
            beta,
            key_dim,
            value_dim,
        }
    }

    /// Turns the gradients of `log_decay` and `beta` into those of `a` and `b`.
    pub(super) fn backward(&self, lanes: Lanes, layer: &DeltaLayer, text: Text, head: usize, [d_decay, d_beta]: [&mut [f32]; 2]) {
        let rate = -layer.a_log[head].exp();
        let mut slopes: Vec<f32> = column(text.a, head, layer.sizes.value_heads).map(|a| a + layer.dt_bias[head]).collect();
        sigmoids(lanes, &mut slopes);
        d_decay.iter_mut().zip(&slopes).for_each(|(d, slope)| *d *= rate * slope);
        d_beta.iter_mut().zip(&self.beta).for_each(|(d, beta)| *d *= beta * (1.0 - beta));
    }
}

fn column(x: &[f32], at: usize, width: usize) -> impl Iterator<Item = f32> {
    x.iter().skip(at).step_by(width).copied()
}

/// `ln(1 + eˣ)`; `x` itself from 20 on, as torch has it.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
