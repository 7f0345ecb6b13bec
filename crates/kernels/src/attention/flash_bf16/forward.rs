//! The way forward: for each block of queries, scores, running softmax and weighted values over blocks of keys.

use half::bf16;
use rayon::prelude::*;

use super::super::super::host::SharedOutput;
use super::super::super::tile_bf16::{Into, Operands, TileOutput, stripe};
use super::{Head, KEYS, QUERIES, Transposed, Varlen, lanes};

/// What a task works in.
struct ForwardScratch {
    query: Vec<u32>,
    /// (keys, queries)
    scores: Vec<f32>,
    /// (⌈keys/2⌉, queries) pairs of keys
    weights: Vec<u32>,
    /// (e, queries)
    sums: Vec<f32>,
}

/// A block of queries, from `first` on, of a head of a text.
#[derive(Clone, Copy)]
struct Place {
    text: usize,
    first: usize,
    head: usize,
}

/// What all tasks write into, each its own rows.
#[derive(Clone, Copy)]
struct Outputs {
    out: SharedOutput,
    normalisers: SharedOutput,
}

/// `out` (n, h·e) for `q` (n, h·e) and `k`, `v` (n, g·e); the result is the logarithm of what normalises each query of
/// each head: (n, h).
pub(crate) fn forward(texts: &Varlen, [q, k, v]: [&[bf16]; 3], out: &mut [bf16]) -> Vec<f32> {
    let (h, e) = (texts.heads, texts.head_dim);
    let mut normalisers = vec![0f32; q.len() / e];
    let values = Transposed::all(v, texts);
    let mut tasks = Vec::new();
    for (text, span) in texts.spans.iter().enumerate() {
        tasks.extend((0..span.len()).step_by(QUERIES).map(|first| (text, first)));
    }
    let to = Outputs { out: SharedOutput(out.as_mut_ptr().cast()), normalisers: SharedOutput(normalisers.as_mut_ptr()) };
    let shapes = out.len() == q.len() && texts.sinks.is_none_or(|sinks| sinks.len() == h);
    assert!(shapes && texts.spans.iter().all(|s| s.end * h * e <= q.len()), "attention: shapes");
    let scratch = || ForwardScratch {
        query: vec![0; e / 2 * QUERIES],
        scores: vec![0.0; KEYS * QUERIES],
        weights: vec![0; KEYS / 2 * QUERIES],
        sums: vec![0.0; e.next_multiple_of(16) * QUERIES],
    };
    // Later blocks see more keys: they go first.
    tasks.into_par_iter().rev().for_each_init(scratch, |scratch, (text, first)| {
        for head in 0..h {
            block(texts, Place { text, first, head }, [q, k], &values, scratch, to);
        }
    });
    normalisers
}

/// One block of queries of one head.
fn block(texts: &Varlen, place: Place, [q, k]: [&[bf16]; 2], values: &[Transposed], scratch: &mut ForwardScratch, to: Outputs) {
    let Place { text, first, head } = place;
    let (h, g, e) = (texts.heads, texts.key_heads, texts.head_dim);
    let span = &texts.spans[text];
    let count = QUERIES.min(span.len() - first);
    let key_head = head / texts.group();
    let keys = Head::of(k, span.start, key_head, g, e);
    let values = &values[text * g + key_head];
    Head::of(q, span.start, head, h, e).columns(first, count, &mut scratch.query);
    let mut softmax = lanes::Softmax::new(texts.sinks.map(|sinks| sinks[head]), texts.scores);
    let oldest = texts.oldest_pair(first);
    for k0 in (oldest..first + count).step_by(KEYS) {
        let len = KEYS.min(first + count - k0);
        let scores = TileOutput { c: scratch.scores.as_mut_ptr(), ldc: QUERIES, width: QUERIES, how: Into::Set };
        let products =
            Operands { a: keys.row(k0).as_ptr().cast(), lda: keys.stride / 2, panel: scratch.query.as_ptr(), pairs: e / 2 };
        // SAFETY: AVX-512 BF16 was detected by the caller; len rows of keys exist from k0 on, the room holds the rest.
        unsafe { stripe(len, products, Operands::NONE, scores) };
        let scores = &mut scratch.scores[..len * QUERIES];
        softmax.weigh(
            scores,
            &mut scratch.weights,
            lanes::Corner { key: k0, query: first },
            texts.scores,
            (k0 > oldest).then_some(&mut scratch.sums[..e * QUERIES]),
        );
        let how = if k0 > oldest { Into::Add } else { Into::Set };
        let sums = TileOutput { c: scratch.sums.as_mut_ptr(), ldc: QUERIES, width: QUERIES, how };
        let a = values.data[k0 / 2..].as_ptr();
        let products = Operands { a, lda: values.pairs, panel: scratch.weights.as_ptr(), pairs: len.div_ceil(2) };
        // SAFETY: as above; e rows of the transposed values, each with the pairs of these keys.
        unsafe { stripe(e, products, Operands::NONE, sums) };
    }
    for (at, value) in softmax.logarithms(texts.scores).into_iter().enumerate().take(count) {
        // SAFETY: this query of this head is this task's own.
        unsafe { *to.normalisers.0.add((span.start + first + at) * h + head) = value };
    }
    let at = (span.start + first) * h * e + head * e;
    // SAFETY: count rows of this head are this task's own.
    unsafe { softmax.finish(&mut scratch.sums, e, count, to.out.0.cast::<bf16>().add(at), h * e) };
}
