//! The way back of the rule in chunks, last chunk first, and of all that a key head's group computes.
//!
//! The symbols are those of [`super::chunked`]; a `d_` in front is the gradient. With dS that of the state behind a chunk:
//! `d_updates = scoresᵀ·do + (e^(c_last − c)∘k)·dS`, `r = (1 + β∘overlap)⁻ᵀ·d_updates`, `d_system = −r·updatesᵀ` and `dv = β∘r`.
//! Gradients of c are collected from every factor e^c, and summed backwards they are those of the logarithms of decays.

use std::ops::Range;

use super::chunk::{CHUNK, Chunk, solve_transposed};
use super::chunked::{self, Left};
use super::dense::{Sizes, View, product};
use super::heads::{Head, KeyHead, Text};
use super::rows::{dot, scale, scale_rows, scaled_rows};
use super::{DeltaLayer, DeltaSizes, gated_norm, host};

/// Gradients of what one text and key head was computed of.
pub(super) struct KeyHeadGrads {
    /// Queries and keys behind the convolution, (t, key_dim).
    qk: [Vec<f32>; 2],
    /// Of every value head of the group.
    heads: Vec<HeadGrads>,
}

struct HeadGrads {
    /// Behind the convolution, (t, value_dim).
    v: Vec<f32>,
    /// (t, value_dim)
    z: Vec<f32>,
    /// (t)
    a: Vec<f32>,
    /// (t)
    b: Vec<f32>,
}

/// All gradients of key head `at` of a text; `z` and that of the result are (t, values).
pub(super) fn key_head(layer: &DeltaLayer, text: Text, at: usize, z_and_gradient: [&[f32]; 2]) -> KeyHeadGrads {
    let sizes = layer.sizes;
    let keys = KeyHead::new(sizes, text, at);
    let mut qk = [vec![0.0; keys.q.len()], vec![0.0; keys.k.len()]];
    let mut heads = Vec::with_capacity(sizes.group());
    for at in at * sizes.group()..(at + 1) * sizes.group() {
        let head = Head::new(layer, text, &keys, at);
        let mut core = vec![0.0; head.v.len()];
        let left = chunked::keep(&head, &mut core);
        let [z, dy] = z_and_gradient.map(|x| columns(x, sizes.values(), at * sizes.value_dim..(at + 1) * sizes.value_dim));
        let [d_core, z] = gated_norm::backward(layer, &core, z, &dy);
        let RuleGrads { v, log_decay: mut a, beta: mut b } = back(&head, &left, &d_core, &mut qk);
        head.backward(layer, text, at, [&mut a, &mut b]);
        heads.push(HeadGrads { v, z, a, b });
    }
    let [dq, dk] = &mut qk;
    keys.backward([dq, dk]);
    KeyHeadGrads { qk, heads }
}

fn columns(x: &[f32], width: usize, at: Range<usize>) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[at.clone()]).copied().collect()
}

/// Puts the gradients of all key heads of a text in their places of `z` (t, values), `a` and `b` (t, value_heads).
pub(super) fn lay(sizes: DeltaSizes, all: &[KeyHeadGrads], [z, a, b]: [&mut [f32]; 3]) {
    let heads = || all.iter().flat_map(|head| &head.heads);
    lay_side_by_side(z, sizes.values(), &heads().map(|head| (&head.z[..], sizes.value_dim)).collect::<Vec<_>>());
    lay_side_by_side(a, sizes.value_heads, &heads().map(|head| (&head.a[..], 1)).collect::<Vec<_>>());
    lay_side_by_side(b, sizes.value_heads, &heads().map(|head| (&head.b[..], 1)).collect::<Vec<_>>());
}

/// Those of queries, keys and values, (t, channels).
pub(super) fn lay_mixed(sizes: DeltaSizes, all: &[KeyHeadGrads], out: &mut [f32]) {
    let of_keys = |which: usize| all.iter().map(move |head| (&head.qk[which][..], sizes.key_dim));
    let values = all.iter().flat_map(|head| &head.heads).map(|head| (&head.v[..], sizes.value_dim));
    lay_side_by_side(out, sizes.channels(), &of_keys(0).chain(of_keys(1)).chain(values).collect::<Vec<_>>());
}

/// Matrices of rows of their own widths, one beside the other.
fn lay_side_by_side(out: &mut [f32], width: usize, parts: &[(&[f32], usize)]) {
    host::for_rows(out, width, |first, rows| {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            let mut from = 0;
            for (part, wide) in parts {
                row[from..from + wide].copy_from_slice(&part[(first + i) * wide..][..*wide]);
                from += wide;
            }
        }
    });
}

struct RuleGrads {
    /// (t, value_dim)
    v: Vec<f32>,
    /// (t)
    log_decay: Vec<f32>,
    /// (t)
    beta: Vec<f32>,
}

/// The way back of the rule from a state of zeros; gradients of queries and keys (t, key_dim) are added to `qk`.
fn back(head: &Head, left: &Left, d_out: &[f32], qk: &mut [Vec<f32>; 2]) -> RuleGrads {
    let (t, keys, values) = (head.beta.len(), head.key_dim, head.value_dim);
    let mut grads = RuleGrads { v: vec![0.0; t * values], log_decay: vec![0.0; t], beta: vec![0.0; t] };
    let mut d_state = vec![0.0; keys * values];
    for (i, before) in left.states.chunks_exact(keys * values).enumerate().rev() {
        let at = i * CHUNK..t.min((i + 1) * CHUNK);
        let [of_keys, of_values] = [keys, values].map(|width| at.start * width..at.end * width);
        let chunk = Chunk::new(head, &at);
        let [dq, dk] = qk.each_mut().map(|d| &mut d[of_keys.clone()]);
        let (dv, d_beta) = (&mut grads.v[of_values.clone()], &mut grads.beta[at.clone()]);
        let mut d_sums = vec![0.0; chunk.len];
        let back = ChunkBack {
            head,
            before,
            q: &head.q[of_keys.clone()],
            k: &head.k[of_keys],
            beta: &head.beta[at.clone()],
            errors: &left.errors[of_values.clone()],
            updates: &left.updates[of_values.clone()],
            d_out: &d_out[of_values],
            chunk,
        };
        back.outputs(&d_state, [dq, &mut *dk], dv, &mut d_sums);
        back.updates(dv, dk, d_beta, &mut d_sums);
        back.state(dv, &mut d_state);
        let mut sum = 0.0;
        for (d, d_sum) in grads.log_decay[at].iter_mut().zip(&d_sums).rev() {
            sum += d_sum;
            *d = sum;
        }
    }
    grads
}

/// One chunk.
struct ChunkBack<'a> {
    head: &'a Head<'a>,
    /// The state before the chunk.
    before: &'a [f32],
    q: &'a [f32],
    k: &'a [f32],
    beta: &'a [f32],
    errors: &'a [f32],
    updates: &'a [f32],
    d_out: &'a [f32],
    chunk: Chunk,
}

impl ChunkBack<'_> {
    /// What outputs and the state behind the chunk give back: the gradient of updates into `d_updates`, set; those of queries, keys and c are
    /// added to.
    fn outputs(&self, d_state: &[f32], [dq, dk]: [&mut [f32]; 2], d_updates: &mut [f32], d_sums: &mut [f32]) {
        let (chunk, len) = (&self.chunk, self.chunk.len);
        let (keys, values) = (self.head.key_dim, self.head.value_dim);
        let (d_out, updates) = (View::rows(self.d_out, values), View::rows(self.updates, values));
        let within = Sizes { m: len, n: values, k: len };
        product(d_updates, values, within, View::transposed(&chunk.scores, len), d_out, 1.0, false);
        let kept = scaled_rows(self.k, keys, &chunk.to_end);
        let write = Sizes { m: len, n: values, k: keys };
        product(d_updates, values, write, View::rows(&kept, keys), View::rows(d_state, values), 1.0, true);

        let from_before = self.through(self.d_out, self.before, &chunk.from_start);
        add_along(self.q, &from_before, keys, dq, |i, along| d_sums[i] += along);
        let to_behind = self.through(self.updates, d_state, &chunk.to_end);
        let mut last = chunk.total * dot(self.before, d_state);
        add_along(self.k, &to_behind, keys, dk, |i, along| {
            d_sums[i] -= along;
            last += along;
        });
        d_sums[len - 1] += last;

        let mut d_scores = vec![0.0; len * len];
        let all = Sizes { m: len, n: len, k: values };
        product(&mut d_scores, len, all, d_out, View { rows: 1, cols: values, ..updates }, 1.0, false);
        self.decays_back(&d_scores, &chunk.scores, |_| 1.0, d_sums);
        d_scores.iter_mut().zip(&chunk.decay).for_each(|(d, decay)| *d *= decay);
        let through = Sizes { m: len, n: keys, k: len };
        product(dq, keys, through, View::rows(&d_scores, len), View::rows(self.k, keys), 1.0, true);
        product(dk, keys, through, View::transposed(&d_scores, len), View::rows(self.q, keys), 1.0, true);
    }

    /// The way back of the triangular system: `dv` holds the gradient of updates and becomes that of values; `d_beta` is set, the others are
    /// added to.
    fn updates(&self, dv: &mut [f32], dk: &mut [f32], d_beta: &mut [f32], d_sums: &mut [f32]) {
        let (chunk, len) = (&self.chunk, self.chunk.len);
        let (keys, values) = (self.head.key_dim, self.head.value_dim);
        solve_transposed(&chunk.system(self.beta), len, dv, values);
        let mut d_system = vec![0.0; len * len];
        let all = Sizes { m: len, n: len, k: values };
        product(&mut d_system, len, all, View::rows(dv, values), View::transposed(self.updates, values), -1.0, false);
        self.decays_back(&d_system, &chunk.overlap, |i| self.beta[i], d_sums);
        for (i, d_beta) in d_beta.iter_mut().enumerate() {
            let (row, values) = (i * len..(i + 1) * len, i * values..(i + 1) * values);
            *d_beta = dot(&dv[values.clone()], &self.errors[values]) + dot(&d_system[row.clone()], &chunk.overlap[row.clone()]);
            let (below, others) = d_system[row.clone()].split_at_mut(i);
            below.iter_mut().zip(&chunk.decay[row]).for_each(|(d, decay)| *d *= decay * self.beta[i]);
            others.fill(0.0);
        }
        let through = Sizes { m: len, n: keys, k: len };
        for d_system in [View::rows(&d_system, len), View::transposed(&d_system, len)] {
            product(dk, keys, through, d_system, View::rows(self.k, keys), 1.0, true);
        }
        scale_rows(dv, values, self.beta);
        let mut read = self.through(dv, self.before, &chunk.from_start);
        scale(&mut read, -1.0);
        add_along(self.k, &read, keys, dk, |i, along| d_sums[i] += along);
    }

    /// `d_state`, of the state behind the chunk, becomes that of the state before it.
    fn state(&self, dv: &[f32], d_state: &mut [f32]) {
        let (chunk, keys, values) = (&self.chunk, self.head.key_dim, self.head.value_dim);
        let write = Sizes { m: keys, n: values, k: chunk.len };
        scale(d_state, chunk.total);
        for (x, d, sign) in [(self.q, self.d_out, 1.0), (self.k, dv, -1.0)] {
            let x = scaled_rows(x, keys, &chunk.from_start);
            product(d_state, values, write, View::transposed(&x, keys), View::rows(d, values), sign, true);
        }
    }

    /// `factors∘(x·stateᵀ)` (l, key_dim) of `x` (l, value_dim).
    fn through(&self, x: &[f32], state: &[f32], factors: &[f32]) -> Vec<f32> {
        let (keys, values) = (self.head.key_dim, self.head.value_dim);
        let mut out = vec![0.0; self.chunk.len * keys];
        let sizes = Sizes { m: self.chunk.len, n: keys, k: values };
        product(&mut out, keys, sizes, View::rows(x, values), View::transposed(state, values), 1.0, false);
        scale_rows(&mut out, keys, factors);
        out
    }

    /// Adds to the gradients of c what factors e^(cᵢ − cⱼ) of a matrix give, each row of it times its factor.
    fn decays_back(&self, d: &[f32], x: &[f32], factor: impl Fn(usize) -> f32, d_sums: &mut [f32]) {
        let len = self.chunk.len;
        for i in 0..len {
            for j in 0..i {
                let along = factor(i) * d[i * len + j] * x[i * len + j];
                d_sums[i] += along;
                d_sums[j] -= along;
            }
        }
    }
}

/// Adds `share` to `d`, both (l, width), and gives every row's `x·share` to `along`.
fn add_along(x: &[f32], share: &[f32], width: usize, d: &mut [f32], mut along: impl FnMut(usize, f32)) {
    for (i, ((x, share), d)) in x.chunks_exact(width).zip(share.chunks_exact(width)).zip(d.chunks_exact_mut(width)).enumerate() {
        d.iter_mut().zip(share).for_each(|(d, share)| *d += share);
        along(i, dot(x, share));
    }
}
