//! The backward pass: each (row, key head) is a task that recomputes its probabilities block by block.
//!
//! With p the probabilities, o the output and g its gradient: dv = pᵀ·g; dp = g·vᵀ; δ = Σ g∘o;
//! ds = scale · p∘(dp − δ), under a cap times 1 − tanh²; dq = ds·k; dk = dsᵀ·q (Dao et al. 2022, algorithm 4).

use rayon::prelude::*;

use super::block::QueryBlock;
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

/// One task's gradients: `q` (group, t, dh), `k` and `v` (t, dh).
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
    let by_key = |at: usize| (at / d.hkv / d.t * d.hkv + at % d.hkv, (at / d.hkv % d.t) * d.dh);
    Grads {
        q: gather(d.b * d.t * d.h, d.dh, by_query),
        k: gather(d.b * d.t * d.hkv, d.dh, |at| &heads[by_key(at).0].k[by_key(at).1..][..d.dh]),
        v: gather(d.b * d.t * d.hkv, d.dh, |at| &heads[by_key(at).0].v[by_key(at).1..][..d.dh]),
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
    let mut grads = HeadGrads { q: vec![0.0; d.group() * d.t * d.dh], k: vec![0.0; d.t * d.dh], v: vec![0.0; d.t * d.dh] };
    let (mut p, mut dp) = (Vec::new(), Vec::new());
    for head in key_head * d.group()..(key_head + 1) * d.group() {
        for first in (0..d.t).step_by(BLOCK) {
            let Some(block) = QueryBlock::new(op, b, head, first..d.t.min(first + BLOCK)) else {
                continue; // No query sees a key: nothing to add, and dq is zero already.
            };
            let (query, apart) = (q.from(b, first, head), d.h * d.dh);
            let grad = &saved.grad[((b * d.t + first) * d.h + head) * d.dh..]; // (queries, dh), `apart` floats apart
            block.times_panels(query, q.time, &keys, &mut p);
            block.times_panels(grad, apart, &values, &mut dp);
            for (row, (p, dp)) in p.chunks_exact_mut(block.stride).zip(dp.chunks_exact_mut(block.stride)).enumerate() {
                back_row(&block, saved, row, p, dp);
            }
            block.add_transposed(&p, grad, apart, &mut grads.v);
            block.add_transposed(&dp, query, q.time, &mut grads.k);
            block.times_values(&dp, k, &mut grads.q[(head % d.group() * d.t + first) * d.dh..], d.dh);
        }
    }
    grads
}

/// Turns a row of scores into probabilities and its dp into ds, zero where the query does not see.
fn back_row(block: &QueryBlock<'_>, saved: Saved<'_>, row: usize, p: &mut [f32], dp: &mut [f32]) {
    let (d, lanes) = (block.op.dims, block.op.lanes);
    let seen = block.columns(row);
    for row in [&mut *p, &mut *dp] {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
    }
    let at = (block.b * d.t + block.first + row) * d.h + block.head;
    let delta = rows::dot(lanes, &saved.grad[at * d.dh..][..d.dh], &saved.out[at * d.dh..][..d.dh]);
    rows::softmax_back(lanes, [&mut p[seen.clone()], &mut dp[seen]], block.op.scores, saved.normalisers[at], delta);
}
