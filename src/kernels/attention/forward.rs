//! The forward pass over many queries: keys are packed once, then each block of queries is a task.

use std::ops::Range;

use rayon::prelude::*;

use super::super::tile::{Left, Product, Right, Size, matmul};
use super::rows::{self, Panels};
use super::{Attention, BLOCK, Dims, Heads, Normaliser};

/// The output (b, t, h, dh) and the normalisers (b, t, h).
pub(super) fn run(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> (Vec<f32>, Vec<Normaliser>) {
    let d = op.dims;
    let packed: Vec<Panels> =
        (0..d.b * d.hkv).into_par_iter().map(|at| Panels::pack(op.lanes, d, k, at / d.hkv, at % d.hkv)).collect();
    let mut out = vec![0.0; d.b * d.t * d.h * d.dh];
    let mut normalisers = vec![Normaliser::default(); d.b * d.t * d.h];
    let rows = out.par_chunks_mut(d.t * d.h * d.dh).zip(normalisers.par_chunks_mut(d.t * d.h)).enumerate();
    rows.for_each(|(b, (out, normalisers))| {
        let blocks = out.par_chunks_mut(BLOCK * d.h * d.dh).zip(normalisers.par_chunks_mut(BLOCK * d.h)).enumerate();
        blocks.for_each_init(Vec::new, |scores, (block, (out, normalisers))| {
            let queries = block * BLOCK..d.t.min((block + 1) * BLOCK);
            for head in 0..d.h {
                let panels = &packed[b * d.hkv + head / d.group()];
                let seen = score_block(op, q, panels, b, head, &queries, scores);
                if seen.is_empty() {
                    continue; // The output is zero already.
                }
                finish_block(op, v, b, head, &queries, &seen, scores, out, normalisers);
            }
        });
    });
    (out, normalisers)
}

/// Keys that any query of a block sees, the first rounded down to a whole panel.
pub(super) fn seen_by_block(d: Dims, starts: &[u32], b: usize, queries: &Range<usize>, width: usize) -> Range<usize> {
    let first = queries.clone().map(|i| d.visible(starts, b, i).start).min().unwrap_or(0);
    first / width * width..d.s - d.t + queries.end
}

/// `scores` (queries, keys up to a whole panel) = q·kᵀ; returns the keys of the columns.
pub(super) fn score_block(
    op: &Attention,
    q: Heads<'_>,
    panels: &Panels,
    b: usize,
    head: usize,
    queries: &Range<usize>,
    scores: &mut Vec<f32>,
) -> Range<usize> {
    let seen = seen_by_block(op.dims, &op.starts, b, queries, panels.width);
    let row = stride(&seen, panels.width);
    scores.resize(queries.len() * row, 0.0);
    times_panels(op, q.from(b, queries.start, head), q.time, queries.len(), panels, &seen, scores);
    seen
}

/// Length of a row of a block of scores: the keys it sees, in whole panels.
pub(super) fn stride(seen: &Range<usize>, width: usize) -> usize {
    seen.len().div_ceil(width) * width
}

/// `out` (m, keys) = left (m, dh) · panels (dh, keys).
pub(super) fn times_panels(
    op: &Attention,
    left: &[f32],
    left_row: usize,
    m: usize,
    panels: &Panels,
    seen: &Range<usize>,
    out: &mut [f32],
) {
    let (width, row) = (panels.width, stride(seen, panels.width));
    for (i, j) in (seen.start / width..seen.end.div_ceil(width)).enumerate() {
        let size = Size { m, k: op.dims.dh, n: width, add: false };
        let left = Left { data: left, row: left_row, column: 1 };
        let product = Product { data: &mut out[i * width..], row };
        matmul(op.lanes, size, left, Right { data: panels.panel(j), row: width }, product);
    }
}

/// Softmax of every row over the keys it sees, zero elsewhere, then `out = p · v` for this head.
#[allow(clippy::too_many_arguments, reason = "one block of one head, and where its results go")]
fn finish_block(
    op: &Attention,
    v: Heads<'_>,
    b: usize,
    head: usize,
    queries: &Range<usize>,
    seen: &Range<usize>,
    scores: &mut [f32],
    out: &mut [f32],
    normalisers: &mut [Normaliser],
) {
    let d = op.dims;
    let row = scores.len() / queries.len();
    let mut factors = [0.0; BLOCK];
    for ((i, scores), factor) in queries.clone().zip(scores.chunks_exact_mut(row)).zip(&mut factors) {
        let keys = d.visible(&op.starts, b, i);
        scores[..keys.start - seen.start].fill(0.0);
        scores[keys.end - seen.start..].fill(0.0);
        if keys.is_empty() {
            continue;
        }
        let softmax = rows::exponentials(op.lanes, &mut scores[keys.start - seen.start..keys.end - seen.start], op.scale);
        *factor = 1.0 / softmax.sum;
        normalisers[(i - queries.start) * d.h + head] = softmax;
    }
    // out (queries, dh) = p (queries, keys) · v (keys, dh)
    let size = Size { m: queries.len(), k: seen.len(), n: d.dh, add: false };
    let right = Right { data: v.from(b, seen.start, head / d.group()), row: v.time };
    let product = Product { data: &mut out[head * d.dh..], row: d.h * d.dh };
    matmul(op.lanes, size, Left { data: scores, row, column: 1 }, right, product);
    for (i, factor) in factors[..queries.len()].iter().enumerate() {
        rows::scale_row(op.lanes, &mut out[(i * d.h + head) * d.dh..][..d.dh], *factor);
    }
}
