//! The way back: each (text, head) is a task that recomputes its weights from the normalisers.
//!
//! With p the weights and g the gradient of the output: dv = pᵀ·g; dp = g·vᵀ; δ = Σ g∘out; ds = scale · p∘(dp − δ), under a cap times 1 − tanh²;
//! dq = ds·k; dk = dsᵀ·q (Dao et al. 2022, algorithm 4).

use half::bf16;
use rayon::prelude::*;

use super::super::super::host::SharedOutput;
use super::super::super::tile_bf16::{Into, Operands, TileOutput, stripe, wide};
use super::super::Scores;
use super::{Head, KEYS, QUERIES, Transposed, Varlen, lanes};

/// What the forward pass left behind, and the gradient of its output.
#[derive(Clone, Copy)]
pub(crate) struct HalfSaved<'a> {
    pub out: &'a [bf16],
    pub grad: &'a [bf16],
    pub normalisers: &'a [f32],
}

/// What a task works in.
struct BackwardScratch {
    /// Queries and gradients as columns (e/2, 48), and along the sum (24, 64) a panel.
    query: Vec<u32>,
    grad: Vec<u32>,
    query_along: Vec<u32>,
    grad_along: Vec<u32>,
    scores: Vec<f32>,
    dp: Vec<f32>,
    weights: Vec<bf16>,
    rows: Vec<bf16>,
    pairs: Vec<u32>,
    /// (e, queries)
    dq: Vec<f32>,
}

impl BackwardScratch {
    fn new(e: usize) -> BackwardScratch {
        let along = e.div_ceil(64) * 64 * QUERIES / 2;
        BackwardScratch {
            query: vec![0; e / 2 * QUERIES],
            grad: vec![0; e / 2 * QUERIES],
            query_along: vec![0; along],
            grad_along: vec![0; along],
            scores: vec![0.0; KEYS * QUERIES],
            dp: vec![0.0; KEYS * QUERIES],
            weights: vec![bf16::ZERO; KEYS * QUERIES],
            rows: vec![bf16::ZERO; KEYS * QUERIES],
            pairs: vec![0; KEYS / 2 * QUERIES],
            dq: vec![0.0; e.next_multiple_of(16) * QUERIES],
        }
    }
}

/// A query head of a text, with what its gradients are made of.
struct HeadTask<'a> {
    text: usize,
    head: usize,
    qkv: [&'a [bf16]; 3],
    keys: &'a Transposed,
    saved: HalfSaved<'a>,
}

/// `len` keys from `k0` on, of those that a block of queries sees from `oldest` on.
#[derive(Clone, Copy)]
struct KeyBlock {
    k0: usize,
    len: usize,
    oldest: usize,
}

/// Where the gradients of a block of keys and values go: rows `stride` apart.
#[derive(Clone, Copy)]
struct KeyGradients {
    dk: *mut f32,
    dv: *mut f32,
    stride: usize,
}

/// Gradients of q (n, h·e), and those that each query head gives to the keys and values it reads (n, h·e), set in f32.
pub(crate) fn backward(texts: &Varlen, [q, k, v]: [&[bf16]; 3], saved: HalfSaved, [dq, dk, dv]: [&mut [f32]; 3]) {
    let (h, g, e) = (texts.heads, texts.key_heads, texts.head_dim);
    let shapes = dq.len() == q.len() && dk.len() == q.len() && dv.len() == q.len() && saved.grad.len() == q.len();
    assert!(shapes && texts.spans.iter().all(|s| s.end * h * e <= q.len()), "attention: shapes");
    let keys = Transposed::all(k, texts);
    let to = [SharedOutput(dq.as_mut_ptr()), SharedOutput(dk.as_mut_ptr()), SharedOutput(dv.as_mut_ptr())];
    (0..texts.spans.len() * h).into_par_iter().for_each_init(
        || BackwardScratch::new(e),
        |scratch, at| {
            let (text, head) = (at / h, at % h);
            let keys = &keys[text * g + head / texts.group()];
            one_head(texts, &HeadTask { text, head, qkv: [q, k, v], keys, saved }, scratch, to);
        },
    );
}

fn one_head(texts: &Varlen, task: &HeadTask, scratch: &mut BackwardScratch, to: [SharedOutput; 3]) {
    let HeadTask { text, head, qkv: [q, k, v], keys: keys_turned, saved } = *task;
    let (h, g, e) = (texts.heads, texts.key_heads, texts.head_dim);
    let span = &texts.spans[text];
    let of = |data, head, heads| Head::of(data, span.start, head, heads, e);
    let key_head = head / texts.group();
    let (queries, grads, outs) = (of(q, head, h), of(saved.grad, head, h), of(saved.out, head, h));
    let (keys, values) = (of(k, key_head, g), of(v, key_head, g));
    let [dq, dk, dv] = to.map(|to| to.0.wrapping_add(span.start * h * e + head * e));
    for i in 0..span.len() {
        for to in [dk, dv] {
            // SAFETY: the rows of this head are this task's own.
            unsafe { std::slice::from_raw_parts_mut(to.add(i * h * e), e) }.fill(0.0);
        }
    }
    for first in (0..span.len()).step_by(QUERIES) {
        let count = QUERIES.min(span.len() - first);
        queries.columns(first, count, &mut scratch.query);
        grads.columns(first, count, &mut scratch.grad);
        queries.along(first, count, &mut scratch.query_along);
        grads.along(first, count, &mut scratch.grad_along);
        let mut columns = lanes::QueryColumns { normaliser: [0.0; QUERIES], delta: [0.0; QUERIES] };
        for i in 0..count {
            columns.normaliser[i] = saved.normalisers[(span.start + first + i) * h + head];
        }
        lanes::deltas(|i| (grads.row(first + i), outs.row(first + i)), &mut columns.delta[..count]);
        let oldest = texts.oldest_pair(first);
        for k0 in (oldest..first + count).step_by(KEYS) {
            let len = KEYS.min(first + count - k0);
            let keys_at = KeyBlock { k0, len, oldest };
            block(scratch, [keys, values], keys_at, first, texts.scores, &columns);
            let at = k0 * h * e;
            // SAFETY: len rows of this head from k0 on, stride h·e, are this task's own.
            unsafe {
                let to = KeyGradients { dk: dk.add(at), dv: dv.add(at), stride: h * e };
                gradients(scratch, keys_turned, keys_at, e, to);
            }
        }
        // SAFETY: AVX-512 BF16 was detected by the caller; count rows of this head are this task's own.
        unsafe { lanes::rows_of(&scratch.dq, e, count, dq.add(first * h * e), h * e) };
    }
}

/// Weights and slopes of a block of keys for the queries from `first` on.
fn block(
    scratch: &mut BackwardScratch,
    [keys, values]: [Head; 2],
    at: KeyBlock,
    first: usize,
    scores: Scores,
    columns: &lanes::QueryColumns,
) {
    let KeyBlock { k0, len, .. } = at;
    let product = |rows: Head, panel: &[u32], out: &mut [f32]| {
        let a = rows.row(k0).as_ptr().cast();
        let operands = Operands { a, lda: rows.stride / 2, panel: panel.as_ptr(), pairs: rows.dim / 2 };
        let output = TileOutput { c: out.as_mut_ptr(), ldc: QUERIES, width: QUERIES, how: Into::Set };
        // SAFETY: AVX-512 BF16 was detected by the caller; len rows exist from k0 on, out holds KEYS rows of QUERIES.
        unsafe { stripe(len, operands, Operands::NONE, output) };
    };
    product(keys, &scratch.query, &mut scratch.scores);
    product(values, &scratch.grad, &mut scratch.dp);
    let (raw, dp) = (&scratch.scores[..len * QUERIES], &scratch.dp[..len * QUERIES]);
    let mut out = lanes::Slopes { weights: &mut scratch.weights, rows: &mut scratch.rows, pairs: &mut scratch.pairs };
    lanes::slopes(raw, dp, columns, lanes::Corner { key: k0, query: first }, scores, &mut out);
}

/// Adds a block of keys' share: `dk`, `dv` (keys from k0 on, rows of e) and `scratch.dq` (e, queries), which the first block
/// sets.
///
/// # Safety
/// `dk` and `dv` of `to` are valid for `len` rows of `e`, `stride` apart.
unsafe fn gradients(scratch: &mut BackwardScratch, keys: &Transposed, at: KeyBlock, e: usize, to: KeyGradients) {
    let (KeyBlock { k0, len, oldest }, KeyGradients { dk, dv, stride }) = (at, to);
    let pairs = QUERIES / 2;
    for (rows, along, out) in [(&scratch.weights, &scratch.grad_along, dv), (&scratch.rows, &scratch.query_along, dk)] {
        for (j, panel) in along.chunks_exact(pairs * 64).enumerate() {
            let operands = Operands { a: rows.as_ptr().cast(), lda: pairs, panel: panel.as_ptr(), pairs };
            let c = out.wrapping_add(64 * j);
            let output = TileOutput { c, ldc: stride, width: 64.min(e - 64 * j), how: Into::Add };
            // SAFETY: AVX-512 BF16 was detected by the caller; len rows exist.
            unsafe { wide(len, operands, Operands::NONE, output) };
        }
    }
    let a = keys.data[k0 / 2..].as_ptr();
    let operands = Operands { a, lda: keys.pairs, panel: scratch.pairs.as_ptr(), pairs: len.div_ceil(2) };
    let how = if k0 > oldest { Into::Add } else { Into::Set };
    let output = TileOutput { c: scratch.dq.as_mut_ptr(), ldc: QUERIES, width: QUERIES, how };
    // SAFETY: as above; e rows of the turned keys, each with the pairs of these keys.
    unsafe { stripe(e, operands, Operands::NONE, output) };
}
