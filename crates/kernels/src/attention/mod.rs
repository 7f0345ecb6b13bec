//! Causal grouped-query attention, `softmax(scores of q·kᵀ) · v`, one block of queries of one head at a time.
//!
//! The forward gives what normalises each row; the backward recomputes the probabilities from it (Dao et al. 2022,
//! "FlashAttention", algorithm 4). A head may have a sink (Xiao et al. 2023, "Efficient Streaming Language Models with Attention
//! Sinks"; gpt-oss): one more score, frozen, neither scaled nor capped, that carries no value. It joins what normalises a row, so that
//! the backward is the same with it. Refuses to know: masks other than a first visible key and a window, model families.
//! Legend: `b` batch, `t` tokens, `h` heads, `hkv` key heads, `dh` head size.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `rows`, `distance`, `flash_bf16` | one row of scores; biases by distance; whole texts in bf16 |
//! | 1 | `block`, `cached`, `over` | a block of queries; new tokens over a cache in blocks; texts over other texts |
//! | 2 | `forward`, `backward` | all blocks, there and back |

use std::ops::Range;

use super::host;
use super::simd::Lanes;

mod backward;
mod block;
pub mod cached;
pub mod distance;
mod forward;
pub mod over;
#[cfg(target_arch = "x86_64")]
pub(crate) mod flash_bf16;
mod rows;

#[cfg(test)]
mod portable;
#[cfg(test)]
mod tests;

/// Queries of one block: a multiple of the six rows of a tile.
const BLOCK: usize = 48;

/// Heads of a block's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    pub heads: usize,
    /// Of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Numbers that queries, keys and values of a token have.
    pub fn widths(self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }
}

/// How scores are made and which keys a query sees beside the text's beginning and its own place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// What `q·k` is multiplied with.
    pub scale: f64,
    /// Soft cap: scores become `cap · tanh(score / cap)` (Gemma 2).
    pub cap: Option<f64>,
    /// Sliding window: a query sees the newest `window` keys up to its own, that one among them (Mistral, Gemma 2).
    pub window: Option<usize>,
}

impl Scores {
    /// No cap, no window.
    pub const fn scaled(scale: f64) -> Scores {
        Scores { scale, cap: None, window: None }
    }
}

/// The sizes of one call.
#[derive(Debug, Clone, Copy)]
struct Dims {
    b: usize,
    t: usize,
    h: usize,
    hkv: usize,
    dh: usize,
}

impl Dims {
    /// Heads of q that share one head of k.
    fn group(self) -> usize {
        self.h / self.hkv
    }

    /// Keys that query `i` of row `b` sees, as a half-open range; empty when it sees none.
    fn visible(self, starts: &[u32], window: Option<usize>, b: usize, i: usize) -> Range<usize> {
        let end = i + 1;
        let oldest = window.map_or(0, |window| end.saturating_sub(window));
        (starts[b * self.t + i] as usize).max(oldest).min(end)..end
    }
}

/// The vectors of contiguous (b, t, heads, dh).
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f32],
    batch: usize,
    time: usize,
    head: usize,
}

impl<'a> Heads<'a> {
    /// Everything from the vector of token `i` on, the next token `self.time` further.
    fn from(self, b: usize, i: usize, head: usize) -> &'a [f32] {
        &self.data[b * self.batch + i * self.time + head * self.head..]
    }
}

/// The largest scaled score of a row, and Σ exp(scaled score − largest). Kept apart so that large scores cost no digits.
#[derive(Debug, Clone, Copy, Default)]
struct Normaliser {
    max: f32,
    sum: f32,
}

impl Normaliser {
    /// With the head's sink, if it has one; and what `exp(scaled score − self.max)` is multiplied with to be a probability.
    fn with_sink(self, sink: Option<f32>) -> (Normaliser, f32) {
        let Some(sink) = sink else { return (self, 1.0 / self.sum) };
        let max = self.max.max(sink);
        let shrunk = (self.max - max).exp();
        let sum = self.sum * shrunk + (sink - max).exp();
        (Normaliser { max, sum }, shrunk / sum)
    }
}

/// Whole texts, one after another, that attend to themselves only.
#[derive(Debug, Clone)]
pub struct Varlen<'a> {
    /// First and past-the-last token of each text.
    pub spans: &'a [Range<usize>],
    /// First token of each token's text.
    pub starts: &'a [u32],
    pub heads: usize,
    pub key_heads: usize,
    pub head_dim: usize,
    pub scores: Scores,
    /// Sinks of the query heads, if they have any.
    pub sinks: Option<&'a [f32]>,
}

#[cfg(target_arch = "x86_64")]
impl Varlen<'_> {
    /// Query heads that share a head of keys and values.
    fn group(&self) -> usize {
        self.heads / self.key_heads
    }

    /// The oldest key that query `query` of a text sees, rounded down to a pair.
    fn oldest_pair(&self, query: usize) -> usize {
        self.scores.window.map_or(0, |window| (query + 1).saturating_sub(window) & !1)
    }
}

/// Attention of `q` (b, t, h, dh) over `k` and `v` (b, t, hkv, dh), contiguous.
///
/// Query `i` of row `b` sees keys `starts[b·t + i] ..= i`: `starts` hides earlier texts of a packed row; a window hides all but the
/// newest of the others. A query that sees no key gives zeros. Head `j` of `q` reads key head `j / (h / hkv)`.
pub struct Slices<'a> {
    op: Attention,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// What a backward pass needs of the forward one beside its output.
#[derive(Debug, Default)]
pub struct Normalisers(Vec<Normaliser>);

impl Normalisers {
    /// Of a token and head.
    pub(super) const BYTES: usize = size_of::<Normaliser>();
}

impl<'a> Slices<'a> {
    /// `rows` rows of equal length with `starts` (one a query) and heads of `dh`.
    pub fn new([q, k, v]: [&'a [f32]; 3], rows: usize, starts: &[u32], dh: usize, scores: Scores) -> Slices<'a> {
        let tokens = starts.len();
        let (t, h, hkv) = (tokens / rows, q.len() / tokens / dh, k.len() / tokens / dh);
        let dims = Dims { b: rows, t, h, hkv, dh };
        assert!(q.len() == tokens * h * dh && k.len() == tokens * hkv * dh && v.len() == k.len(), "attention: {dims:?}");
        let lanes = Lanes::in_force();
        Slices { op: Attention { dims, starts: starts.into(), scores, sinks: None, lanes }, q, k, v }
    }

    /// The same with sinks, one a query head.
    #[must_use]
    pub fn with_sinks(mut self, sinks: Option<&[f32]>) -> Slices<'a> {
        assert!(sinks.is_none_or(|sinks| sinks.len() == self.op.dims.h), "attention: {:?}, sinks {sinks:?}", self.op.dims);
        self.op.sinks = sinks.map(Into::into);
        self
    }

    fn heads(&self, data: &'a [f32], heads: usize) -> Heads<'a> {
        let d = self.op.dims;
        Heads { data, batch: d.t * heads * d.dh, time: heads * d.dh, head: d.dh }
    }

    /// The output (b, t, h, dh), and what [`Slices::backward`] needs.
    pub fn forward(&self) -> (Vec<f32>, Normalisers) {
        let d = self.op.dims;
        let (q, k, v) = (self.heads(self.q, d.h), self.heads(self.k, d.hkv), self.heads(self.v, d.hkv));
        let (out, normalisers) = forward::run(&self.op, q, k, v);
        (out, Normalisers(normalisers))
    }

    /// Gradients of q, k and v, given the output and its gradient.
    pub fn backward(&self, out: &[f32], grad: &[f32], normalisers: &Normalisers) -> [Vec<f32>; 3] {
        let d = self.op.dims;
        let (q, k, v) = (self.heads(self.q, d.h), self.heads(self.k, d.hkv), self.heads(self.v, d.hkv));
        let saved = backward::Saved { out, grad, normalisers: &normalisers.0 };
        let grads = backward::run(&self.op, q, k, v, saved);
        [grads.q, grads.k, grads.v]
    }
}

struct Attention {
    dims: Dims,
    starts: Box<[u32]>,
    scores: Scores,
    /// One a query head.
    sinks: Option<Box<[f32]>>,
    lanes: Lanes,
}

impl Attention {
    /// See [`Dims::visible`].
    fn visible(&self, b: usize, i: usize) -> Range<usize> {
        self.dims.visible(&self.starts, self.scores.window, b, i)
    }
}
