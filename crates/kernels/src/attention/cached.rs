//! Attention of new tokens over keys and values that lie in blocks of [`BLOCK_TOKENS`] tokens, forward only.
//!
//! A block's keys are transposed where they lie, so that nothing is packed. Each query's sums run over the blocks of its text in
//! order: its bits are the same whether it is alone or one of many, and whatever else is in the call.

use std::ops::Range;

use rayon::prelude::*;

use super::super::simd::Lanes;
use super::super::tile::{Right, Size, StridedLeft, StridedProduct, matmul};
use super::{BLOCK, Scores, rows};

/// Tokens of a block.
pub const BLOCK_TOKENS: usize = 32;
/// Floats between the end of a row of scores and the next row, as in [`super::block`].
const GAP: usize = 16;

/// How keys and values of one layer lie in a block: for each key head the keys (dh, tokens), then the values (tokens, dh).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    pub key_heads: usize,
    pub head_dim: usize,
}

impl BlockLayout {
    /// Floats of a block.
    pub const fn floats(self) -> usize {
        2 * self.key_heads * self.head()
    }

    /// Floats of the keys of one head.
    const fn head(self) -> usize {
        BLOCK_TOKENS * self.head_dim
    }

    fn keys(self, block: &[f32], head: usize) -> &[f32] {
        &block[2 * head * self.head()..][..self.head()]
    }

    fn values(self, block: &[f32], head: usize) -> &[f32] {
        &block[(2 * head + 1) * self.head()..][..self.head()]
    }

    /// Puts key and value of one token, (key_heads, dh) each, at place `slot` of a block.
    pub fn write(self, block: &mut [f32], slot: usize, key: &[f32], value: &[f32]) {
        let heads = key.chunks_exact(self.head_dim).zip(value.chunks_exact(self.head_dim));
        for (place, (key, value)) in block.chunks_exact_mut(2 * self.head()).zip(heads) {
            let (keys, values) = place.split_at_mut(self.head());
            keys.chunks_exact_mut(BLOCK_TOKENS).zip(key).for_each(|(row, k)| row[slot] = *k);
            values[slot * self.head_dim..][..self.head_dim].copy_from_slice(value);
        }
    }
}

/// The new tokens of one text: rows `queries` of the call, after `past` others; the keys and values of all of them are in `blocks`.
#[derive(Debug, Clone)]
pub struct CachedText<'a> {
    pub queries: Range<usize>,
    pub past: usize,
    pub blocks: Vec<&'a [f32]>,
}

/// What one task does: some queries of a text, under the query heads of one key head.
struct Task<'a> {
    text: &'a CachedText<'a>,
    /// Of the text's queries.
    queries: Range<usize>,
    key_head: usize,
    /// Of these query heads.
    sinks: Option<&'a [f32]>,
}

/// `out` (n, heads, dh) of `q` (n, heads, dh); `sinks` are those of the query heads, if they have any.
///
/// # Panics
/// When a text has too few blocks, or shapes disagree.
pub fn cached(
    layout: BlockLayout,
    heads: usize,
    scores: Scores,
    sinks: Option<&[f32]>,
    texts: &[CachedText],
    q: &[f32],
    out: &mut [f32],
) {
    let (lanes, dh, group) = (Lanes::in_force(), layout.head_dim, heads / layout.key_heads);
    assert!(sinks.is_none_or(|sinks| sinks.len() == heads), "attention: {heads} heads, sinks {sinks:?}");
    let mut tasks = Vec::new();
    for text in texts {
        for first in (0..text.queries.len()).step_by(BLOCK) {
            let queries = first..text.queries.len().min(first + BLOCK);
            tasks.extend((0..layout.key_heads).map(|key_head| {
                let sinks = sinks.map(|sinks| &sinks[key_head * group..][..group]);
                Task { text, queries: queries.clone(), key_head, sinks }
            }));
        }
    }
    let made: Vec<Vec<f32>> = tasks.par_iter().map(|task| task.run(lanes, layout, group, scores, q)).collect();
    for (task, made) in tasks.iter().zip(made) {
        for (i, rows) in made.chunks_exact(group * dh).enumerate() {
            let at = (task.text.queries.start + task.queries.start + i) * heads * dh + task.key_head * group * dh;
            out[at..][..group * dh].copy_from_slice(rows);
        }
    }
}

/// Rows of one product: queries of one head, or heads of one query.
struct Rows<'a> {
    left: &'a [f32],
    /// Floats from one to the next, in what is read and in what is written.
    apart: [usize; 2],
    len: usize,
    /// The keys that each sees.
    seen: &'a dyn Fn(usize) -> Range<usize>,
    /// The sink of each.
    sink: &'a dyn Fn(usize) -> Option<f32>,
}

impl Task<'_> {
    /// (queries, group, dh)
    fn run(&self, lanes: Lanes, layout: BlockLayout, group: usize, scores: Scores, q: &[f32]) -> Vec<f32> {
        let (dh, many) = (layout.head_dim, self.queries.len());
        let width = group * layout.key_heads * dh;
        let at = (self.text.queries.start + self.queries.start) * width + self.key_head * group * dh;
        let seen = |query: usize| {
            let position = self.text.past + self.queries.start + query;
            scores.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
        };
        let sink = |head: usize| self.sinks.map(|sinks| sinks[head]);
        let mut out = vec![0f32; many * group * dh];
        let mut scratch = Vec::new();
        if many == 1 {
            let rows = Rows { left: &q[at..], apart: [dh, dh], len: group, seen: &|_| seen(0), sink: &sink };
            self.attend(lanes, layout, scores, &rows, &mut scratch, &mut out);
        } else {
            for head in 0..group {
                let (left, apart) = (&q[at + head * dh..], [width, group * dh]);
                let rows = Rows { left, apart, len: many, seen: &seen, sink: &|_| sink(head) };
                self.attend(lanes, layout, scores, &rows, &mut scratch, &mut out[head * dh..]);
            }
        }
        out
    }

    fn attend(&self, lanes: Lanes, layout: BlockLayout, scores: Scores, rows: &Rows, scratch: &mut Vec<f32>, out: &mut [f32]) {
        let dh = layout.head_dim;
        let first = (rows.seen)(0).start / BLOCK_TOKENS;
        let end = (rows.seen)(rows.len - 1).end;
        let blocks = first..end.div_ceil(BLOCK_TOKENS);
        let stride = blocks.len() * BLOCK_TOKENS + GAP;
        scratch.resize(rows.len * stride, 0.0);
        // Rows that see something of a block: the later ones, but for those whose window begins after it.
        let from = |block: usize| (0..rows.len).find(|r| (rows.seen)(*r).end > block * BLOCK_TOKENS).unwrap_or(rows.len);
        for (i, block) in blocks.clone().enumerate() {
            let (r, panel) = (from(block), layout.keys(self.text.blocks[block], self.key_head));
            let left = StridedLeft { data: &rows.left[r * rows.apart[0]..], row: rows.apart[0], column: 1 };
            let product = StridedProduct { data: &mut scratch[r * stride + i * BLOCK_TOKENS..], row: stride };
            let size = Size { m: rows.len - r, k: dh, n: BLOCK_TOKENS, add: false };
            matmul(lanes, size, left, Right { data: panel, row: BLOCK_TOKENS }, product);
        }
        let before = first * BLOCK_TOKENS;
        let factors: Vec<f32> = (scratch.chunks_exact_mut(stride).take(rows.len).enumerate())
            .map(|(r, row)| {
                let seen = (rows.seen)(r);
                let seen = seen.start - before..seen.end - before;
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
                rows::softmax(lanes, &mut row[seen], scores).with_sink((rows.sink)(r)).1
            })
            .collect();
        for (i, block) in blocks.enumerate() {
            let r = from(block);
            let k = (end - block * BLOCK_TOKENS).min(BLOCK_TOKENS);
            let left = StridedLeft { data: &scratch[r * stride + i * BLOCK_TOKENS..], row: stride, column: 1 };
            let values = Right { data: layout.values(self.text.blocks[block], self.key_head), row: dh };
            let product = StridedProduct { data: &mut out[r * rows.apart[1]..], row: rows.apart[1] };
            matmul(lanes, Size { m: rows.len - r, k, n: dh, add: i > 0 }, left, values, product);
        }
        for (r, factor) in factors.into_iter().enumerate() {
            rows::scale_row(lanes, &mut out[r * rows.apart[1]..][..dh], factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::gradient_check;
    use super::super::portable;
    use super::*;

    fn numbers(seed: u64, n: usize) -> Vec<f32> {
        gradient_check::numbers(seed, &[n]).to_vec1::<f32>().unwrap().into_iter().map(|x| 2.0 * x).collect()
    }

    /// Keys and values of `tokens` in blocks, what no token was put into poisoned.
    fn blocks(layout: BlockLayout, k: &[f32], v: &[f32]) -> Vec<Vec<f32>> {
        let each = layout.key_heads * layout.head_dim;
        let mut blocks = vec![vec![f32::NAN; layout.floats()]; (k.len() / each).div_ceil(BLOCK_TOKENS)];
        for (token, (k, v)) in k.chunks_exact(each).zip(v.chunks_exact(each)).enumerate() {
            layout.write(&mut blocks[token / BLOCK_TOKENS], token % BLOCK_TOKENS, k, v);
        }
        blocks
    }

    /// Tokens before, queries, blocks.
    type Text<'a> = (usize, &'a [f32], &'a [Vec<f32>]);

    fn run(layout: BlockLayout, heads: usize, scores: Scores, sinks: Option<&[f32]>, texts: &[Text]) -> Vec<f32> {
        let (mut all, mut given, mut at) = (Vec::new(), Vec::new(), 0);
        for (past, q, blocks) in texts {
            let n = q.len() / heads / layout.head_dim;
            let text = CachedText { queries: at..at + n, past: *past, blocks: blocks.iter().map(Vec::as_slice).collect() };
            given.push(text);
            all.extend_from_slice(q);
            at += n;
        }
        let mut out = vec![f32::NAN; all.len()];
        cached(layout, heads, scores, sinks, &given, &all, &mut out);
        out
    }

    #[test]
    fn agrees_with_the_plain_formula_and_is_the_same_to_the_bit_in_chunks_and_in_company() {
        for (heads, key_heads, head_dim, tokens) in [(9, 3, 64, 150), (4, 4, 10, 33), (2, 1, 80, 97), (6, 2, 7, 1)] {
            let layout = BlockLayout { key_heads, head_dim };
            let q = numbers(1, tokens * heads * head_dim);
            let [k, v] = [2, 3].map(|seed| numbers(seed, tokens * key_heads * head_dim));
            let kept = blocks(layout, &k, &v);
            let tensor = |x: &[f32], h: usize| {
                candle_core::Tensor::from_slice(x, (1, tokens, h, head_dim), &candle_core::Device::Cpu).unwrap()
            };
            let (qt, kt, vt) = (tensor(&q, heads), tensor(&k, key_heads), tensor(&v, key_heads));
            let width = heads * head_dim;
            let keys = |n: usize| n * key_heads * head_dim;
            let given = super::super::tests::sinks(heads);
            let kinds = [(None, None), (Some(2.0), Some(40)), (None, Some(1)), (Some(30.0), Some(64))];
            for ((cap, window), sinks) in kinds.into_iter().flat_map(|kind| [None, Some(&given[..])].map(|sinks| (kind, sinks))) {
                let scores = Scores { scale: 0.3, cap, window };
                let whole = run(layout, heads, scores, sinks, &[(0, &q, &kept)]);
                let want = portable::attention([&qt, &kt, &vt], &vec![0; tokens], scores, sinks).unwrap();
                let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let off = whole.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-5, "{scores:?}, sinks {sinks:?}: {off}");
                let mut at = 0;
                for chunk in [1, 2, 31, 1, 5, 48, 49, 1].into_iter().cycle() {
                    let end = tokens.min(at + chunk);
                    let part = &q[at * width..end * width];
                    // Only what is there by then, beside another text.
                    let (kept, other) = (blocks(layout, &k[..keys(end)], &v[..keys(end)]), &q[..width]);
                    let got = run(layout, heads, scores, sinks, &[(0, other, &kept), (at, part, &kept), (0, other, &kept)]);
                    assert!(got[width..][..part.len()] == whole[at * width..end * width], "{scores:?}: {at}..{end} of {tokens}");
                    if end == tokens {
                        break;
                    }
                    at = end;
                }
            }
        }
    }
}
