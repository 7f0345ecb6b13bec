//! What the rule of one head is computed of: normed queries and keys, values, decays and rates.

use std::ops::Range;

use super::rows::{dot, sigmoid};
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
    pub(super) fn new(sizes: DeltaSizes, text: Text, head: usize) -> KeyHead {
        let (dim, scale) = (sizes.key_dim, 1.0 / (sizes.key_dim as f32).sqrt());
        let normed = |first: usize, scale: f32| {
            let (mut out, mut inverses) = (Vec::with_capacity(text.tokens * dim), Vec::with_capacity(text.tokens));
            for row in text.mixed.chunks_exact(sizes.channels()) {
                let x = &row[first + head * dim..][..dim];
                let inverse = 1.0 / (dot(x, x) + EPS).sqrt();
                out.extend(x.iter().map(|x| x * inverse * scale));
                inverses.push(inverse);
            }
            (out, inverses)
        };
        let ((q, of_q), (k, of_k)) = (normed(0, scale), normed(sizes.keys(), 1.0));
        KeyHead { q, k, inverse: [of_q, of_k], scale }
    }

    /// Turns the gradients of `q` and `k` into those of what they were made of: with x̂ of length 1 and ρ what the norm multiplied with,
    /// `ρ·(d − x̂·(x̂·d))`.
    pub(super) fn backward(&self, [dq, dk]: [&mut [f32]; 2]) {
        for (d, x, inverse, scale) in [(dq, &self.q, &self.inverse[0], self.scale), (dk, &self.k, &self.inverse[1], 1.0)] {
            let dim = x.len() / inverse.len().max(1);
            for ((d, x), inverse) in d.chunks_exact_mut(dim.max(1)).zip(x.chunks_exact(dim.max(1))).zip(inverse) {
                let along = dot(d, x) / scale;
                d.iter_mut().zip(x).for_each(|(d, x)| *d = inverse * (*d * scale - x * along));
            }
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
    pub(super) fn new(layer: &DeltaLayer, text: Text, keys: &'a KeyHead, head: usize) -> Head<'a> {
        let DeltaSizes { value_heads, key_dim, value_dim, .. } = layer.sizes;
        let first = 2 * layer.sizes.keys() + head * value_dim;
        let values = text.mixed.chunks_exact(layer.sizes.channels()).flat_map(|row| &row[first..][..value_dim]);
        let rate = -layer.a_log[head].exp();
        Head {
            q: &keys.q,
            k: &keys.k,
            v: values.copied().collect(),
            log_decay: column(text.a, head, value_heads).map(|a| rate * softplus(a + layer.dt_bias[head])).collect(),
            beta: column(text.b, head, value_heads).map(sigmoid).collect(),
            key_dim,
            value_dim,
        }
    }

    /// Turns the gradients of `log_decay` and `beta` into those of `a` and `b`.
    pub(super) fn backward(&self, layer: &DeltaLayer, text: Text, head: usize, [d_decay, d_beta]: [&mut [f32]; 2]) {
        let rate = -layer.a_log[head].exp();
        for (d, a) in d_decay.iter_mut().zip(column(text.a, head, layer.sizes.value_heads)) {
            *d *= rate * sigmoid(a + layer.dt_bias[head]);
        }
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
