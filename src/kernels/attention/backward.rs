//! The backward pass: each (row, key head) is a task that recomputes its probabilities block by block.
//!
//! With p the probabilities, o the output and g its gradient: dv = pᵀ·g; dp = g·vᵀ; δ = Σ g∘o;
//! ds = scale · p∘(dp − δ); dq = ds·k; dk = dsᵀ·q (Dao et al. 2022, algorithm 4).

use std::ops::Range;

use rayon::prelude::*;

use super::super::tile::{Left, Product, Right, Size, matmul};
use super::forward::{score_block, times_panels};
use super::rows::{self, Panels};
use super::{Attention, BLOCK, Heads, Normaliser};

/// What the forward pass left behind: output and its gradient (b, t, h, dh), normalisers (b, t, h).
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub out: &'a [f32],
    pub grad: &'a [f32],
    pub normalisers: &'a [Normaliser],
}

/// Gradients in the shapes of q, k and v, contiguous.
pub(super) struct Grads {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// One task's gradients: `q` (group, t, dh), `k` and `v` (s, dh).
struct HeadGrads {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// All three gradients.
pub(super) fn run(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>, saved: Saved<'_>) -> Grads {
    let d = op.dims;
    let tasks = (0..d.b * d.hkv).into_par_iter();
    let heads: Vec<HeadGrads> = tasks.map(|at| head_grads(op, q, k, v, saved, at / d.hkv, at % d.hkv)).collect();
    let by_query = |at: usize| {
        let (b, i, head) = (at / d.h / d.t, at / d.h % d.t, at % d.h);
        &heads[b * d.hkv + head / d.group()].q[(head % d.group() * d.t + i) * d.dh..][..d.dh]
    };
    let by_key = |at: usize| (at / d.hkv / d.s * d.hkv + at % d.hkv, (at / d.hkv % d.s) * d.dh);
    Grads {
        q: gather(d.b * d.t * d.h, d.dh, by_query),
        k: gather(d.b * d.s * d.hkv, d.dh, |at| &heads[by_key(at).0].k[by_key(at).1..][..d.dh]),
        v: gather(d.b * d.s * d.hkv, d.dh, |at| &heads[by_key(at).0].v[by_key(at).1..][..d.dh]),
    }
}

/// `rows` vectors of `dh` side by side, each from where `from` says it is.
fn gather<'a>(rows: usize, dh: usize, from: impl Fn(usize) -> &'a [f32] + Sync) -> Vec<f32> {
    let mut out = vec![0.0; rows * dh];
    super::host::for_rows(&mut out, dh, |first, out| {
        for (i, out) in out.chunks_exact_mut(dh).enumerate() {
            out.copy_from_slice(from(first + i));
        }
    });
    out
}

fn head_grads(
    op: &Attention,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    saved: Saved<'_>,
    b: usize,
    key_head: usize,
) -> HeadGrads {
    let d = op.dims;
    let keys = Panels::pack(op.lanes, d, k, b, key_head);
    let values = Panels::pack(op.lanes, d, v, b, key_head);
    let mut grads = HeadGrads { q: vec![0.0; d.group() * d.t * d.dh], k: vec![0.0; d.s * d.dh], v: vec![0.0; d.s * d.dh] };
    let (mut p, mut dp) = (Vec::new(), Vec::new());
    for head in key_head * d.group()..(key_head + 1) * d.group() {
        for first in (0..d.t).step_by(BLOCK) {
            let queries = first..d.t.min(first + BLOCK);
            let seen = score_block(op, q, &keys, b, head, &queries, &mut p);
            if seen.is_empty() {
                continue; // Nothing to add, and dq is zero already.
            }
            dp.resize(p.len(), 0.0);
            let grad = &saved.grad[((b * d.t + first) * d.h + head) * d.dh..]; // (queries, dh), d.h·d.dh apart
            times_panels(op, grad, d.h * d.dh, queries.len(), &values, &seen, &mut dp);
            for (i, (p, dp)) in queries.clone().zip(rows_of(&mut p, &mut dp, queries.len())) {
                back_row(op, saved, b, head, i, &seen, p, dp);
            }
            accumulate(op, k, q, b, head, (&p, &dp, grad), &queries, &seen, &mut grads);
        }
    }
    grads
}

/// Corresponding rows of two blocks of `m` rows.
fn rows_of<'a>(p: &'a mut [f32], dp: &'a mut [f32], m: usize) -> impl Iterator<Item = (&'a mut [f32], &'a mut [f32])> {
    let row = p.len() / m;
    p.chunks_exact_mut(row).zip(dp.chunks_exact_mut(row))
}

/// Turns a row of scores into probabilities and its dp into ds, zero where the query does not see.
#[allow(clippy::too_many_arguments, reason = "one row: where it is, and its two slices")]
fn back_row(
    op: &Attention,
    saved: Saved<'_>,
    b: usize,
    head: usize,
    i: usize,
    seen: &Range<usize>,
    p: &mut [f32],
    dp: &mut [f32],
) {
    let d = op.dims;
    let keys = d.visible(&op.starts, b, i);
    let keys = keys.start - seen.start..keys.end - seen.start;
    for row in [&mut *p, &mut *dp] {
        row[..keys.start].fill(0.0);
        row[keys.end..].fill(0.0);
    }
    let at = (b * d.t + i) * d.h + head;
    let delta = rows::dot(op.lanes, &saved.grad[at * d.dh..][..d.dh], &saved.out[at * d.dh..][..d.dh]);
    rows::probabilities_back(op.lanes, &mut p[keys.clone()], &mut dp[keys], op.scale, saved.normalisers[at], delta);
}

/// Adds one block's part of dk and dv and writes its dq; `block` is p, ds and the output's gradient.
#[allow(clippy::too_many_arguments, reason = "one block of one head, and where its results go")]
fn accumulate(
    op: &Attention,
    k: Heads<'_>,
    q: Heads<'_>,
    b: usize,
    head: usize,
    block: (&[f32], &[f32], &[f32]),
    queries: &Range<usize>,
    seen: &Range<usize>,
    grads: &mut HeadGrads,
) {
    let d = op.dims;
    let (p, ds, grad) = block;
    let row = p.len() / queries.len();
    // dv (keys, dh) += pᵀ (keys, queries) · g (queries, dh); likewise dk with dsᵀ · q
    let size = Size { m: seen.len(), k: queries.len(), n: d.dh, add: true };
    let dv = Product { data: &mut grads.v[seen.start * d.dh..], row: d.dh };
    matmul(op.lanes, size, Left { data: p, row: 1, column: row }, Right { data: grad, row: d.h * d.dh }, dv);
    let dk = Product { data: &mut grads.k[seen.start * d.dh..], row: d.dh };
    let right = Right { data: q.from(b, queries.start, head), row: q.time };
    matmul(op.lanes, size, Left { data: ds, row: 1, column: row }, right, dk);
    // dq (queries, dh) = ds (queries, keys) · k (keys, dh)
    let size = Size { m: queries.len(), k: seen.len(), n: d.dh, add: false };
    let dq = Product { data: &mut grads.q[(head % d.group() * d.t + queries.start) * d.dh..], row: d.dh };
    let right = Right { data: k.from(b, seen.start, head / d.group()), row: k.time };
    matmul(op.lanes, size, Left { data: ds, row, column: 1 }, right, dq);
}
