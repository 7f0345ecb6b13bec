//! Attention of a few new queries over a cache: a dot product a key, each (query, head) by itself.

use rayon::prelude::*;

use super::{Attention, Heads, Normaliser, rows};

/// Multiply–adds that one task handles at least.
const TASK: usize = 16 * 1024;

/// The output (b, t, h, dh) and the normalisers (b, t, h).
pub(super) fn run(op: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> (Vec<f32>, Vec<Normaliser>) {
    let d = op.dims;
    let mut out = vec![0.0; d.b * d.t * d.h * d.dh];
    let mut normalisers = vec![Normaliser::default(); d.b * d.t * d.h];
    let least = TASK.div_ceil((d.s * d.dh).max(1));
    let heads = out.par_chunks_mut(d.dh.max(1)).zip(normalisers.par_iter_mut()).enumerate().with_min_len(least);
    heads.for_each_init(Vec::new, |scores, (at, (out, normaliser))| {
        let (b, i, head) = (at / d.h / d.t, at / d.h % d.t, at % d.h);
        let keys = op.visible(b, i);
        if keys.is_empty() {
            return;
        }
        let (key_head, query) = (head / d.group(), &q.from(b, i, head)[..d.dh]);
        scores.resize(keys.len(), 0.0);
        rows::dots(op.lanes, query, k.from(b, keys.start, key_head), k.time, scores);
        let softmax = rows::softmax(op.lanes, scores, op.scores);
        rows::weighted(op.lanes, scores, v.from(b, keys.start, key_head), v.time, out);
        rows::scale_row(op.lanes, out, 1.0 / softmax.sum);
        *normaliser = softmax;
    });
    (out, normalisers)
}
