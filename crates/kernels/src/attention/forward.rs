//! The forward pass over many queries: keys are packed once, then each block of queries is a task.

use rayon::prelude::*;

use super::block::QueryBlock;
use super::rows::{self, Panels};
use super::{Attention, BLOCK, Heads, Normaliser};

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
                let Some(block) = QueryBlock::new(op, b, head, queries.clone()) else {
                    continue; // No query sees a key: the output is zero already.
                };
                let panels = &packed[b * d.hkv + block.key_head()];
                block.times_panels(q.from(b, queries.start, head), q.time, panels, scores);
                finish_block(&block, v, scores, out, normalisers);
            }
        });
    });
    (out, normalisers)
}

/// Softmax of every row over the keys it sees, zero elsewhere, then `out = p · v` for this head.
fn finish_block(block: &QueryBlock<'_>, v: Heads<'_>, scores: &mut [f32], out: &mut [f32], normalisers: &mut [Normaliser]) {
    let (d, lanes) = (block.op.dims, block.op.lanes);
    let sink = block.op.sinks.as_ref().map(|sinks| sinks[block.head]);
    let mut factors = [0.0; BLOCK];
    for ((row, scores), factor) in scores.chunks_exact_mut(block.stride).enumerate().zip(&mut factors) {
        let seen = block.columns(row);
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
        if !seen.is_empty() {
            let softmax = rows::softmax(lanes, &mut scores[seen], block.op.scores);
            (normalisers[row * d.h + block.head], *factor) = softmax.with_sink(sink);
        }
    }
    block.times_values(scores, v, &mut out[block.head * d.dh..], d.h * d.dh);
    for (row, factor) in factors[..block.len].iter().enumerate() {
        rows::scale_row(lanes, &mut out[(row * d.h + block.head) * d.dh..][..d.dh], *factor);
    }
}
