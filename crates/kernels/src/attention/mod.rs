//! Causal grouped-query attention, `softmax(scores of q·kᵀ) · v`, one block of queries of one head at a time.
//!
//! The forward keeps what normalises each row only when a gradient is tracked; the backward recomputes the
//! probabilities from it (Dao et al. 2022, "FlashAttention", algorithm 4). Refuses to know: caches, masks other than
//! a first visible key and a window, model families.
//! Legend: `b` batch, `t` queries, `s` keys, `h` heads, `hkv` key heads, `dh` head size.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `rows`, `portable`, `half` | one row of scores; any device; whole texts in bf16 |
//! | 1 | `block`, `decode`, `cached` | a block of queries; a few queries over a cache; new tokens over a cache in blocks |
//! | 2 | `forward`, `backward` | all blocks, there and back |

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, bail};

use super::host;
use super::simd::Lanes;
use crate::error::Result;

mod backward;
mod block;
pub mod cached;
mod decode;
mod forward;
#[cfg(target_arch = "x86_64")]
pub(crate) mod half;
pub mod portable;
mod rows;

#[cfg(test)]
mod tests;

/// Up to this many queries a row, each is done by itself: packing the keys would cost more than it saves.
const FEW: usize = 4;
/// Queries of one block: a multiple of the six rows of a tile.
const BLOCK: usize = 48;

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

    /// Whether there is neither a cap nor a window.
    pub const fn only_scaled(self) -> bool {
        self.cap.is_none() && self.window.is_none()
    }
}

/// Attention of `q` (b, t, h, dh) over `k` and `v` (b, s, hkv, dh); the result is (b, t, h, dh).
///
/// Query `i` of row `b` sees keys `starts[b·t + i] ..= (s − t) + i`: causal, with the newest query at the newest key;
/// `starts` hides left padding and earlier examples of a packed row; a window hides all but the newest of the others.
/// A query that sees no key gives zeros.
/// Head `j` of `q` reads key head `j / (h / hkv)`. `k` and `v` may be narrowed views of a cache.
/// Errors when shapes disagree, h is not a multiple of hkv, t > s, or there are not b·t starts.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, starts: &[u32], scores: Scores) -> Result<Tensor> {
    let dims = Dims::of(q, k, v, starts)?;
    if !host::fused(q) || !host::fused(k) || !host::fused(v) {
        return portable::attention(q, k, v, starts, scores);
    }
    attention_at(Lanes::in_force(), dims, [q, k, v], starts, scores)
}

fn attention_at(lanes: Lanes, dims: Dims, [q, k, v]: [&Tensor; 3], starts: &[u32], scores: Scores) -> Result<Tensor> {
    let tracked = q.track_op() || k.track_op() || v.track_op();
    let normalisers = tracked.then(OnceLock::new);
    let op = Attention { dims, starts: starts.into(), scores, normalisers, lanes };
    Ok(last_dense(q)?.apply_op3(&last_dense(k)?, &last_dense(v)?, op)?)
}

/// The tensor itself when the elements of a head lie side by side, else a copy.
fn last_dense(x: &Tensor) -> Result<Tensor> {
    if x.stride()[3] == 1 || x.dims()[3] == 1 { Ok(x.clone()) } else { Ok(x.contiguous()?) }
}

/// The sizes of one call.
#[derive(Debug, Clone, Copy)]
struct Dims {
    b: usize,
    t: usize,
    s: usize,
    h: usize,
    hkv: usize,
    dh: usize,
}

impl Dims {
    fn of(q: &Tensor, k: &Tensor, v: &Tensor, starts: &[u32]) -> Result<Dims> {
        let (b, t, h, dh) = q.dims4()?;
        let (kb, s, hkv, kdh) = k.dims4()?;
        let problem = if kb != b || kdh != dh || k.dims() != v.dims() {
            format!("q is {:?}, k {:?}, v {:?}", q.dims(), k.dims(), v.dims())
        } else if hkv == 0 || h % hkv != 0 {
            format!("{h} heads cannot share {hkv} key heads evenly")
        } else if t > s {
            format!("{t} queries but only {s} keys")
        } else if starts.len() != b * t {
            format!("{} starts for {b} rows of {t} queries", starts.len())
        } else {
            return Ok(Dims { b, t, s, h, hkv, dh });
        };
        Err(candle_core::Error::Msg(format!("attention: {problem}")).into())
    }

    /// Heads of q that share one head of k.
    fn group(self) -> usize {
        self.h / self.hkv
    }

    /// Keys that query `i` of row `b` sees, as a half-open range; empty when it sees none.
    fn visible(self, starts: &[u32], window: Option<usize>, b: usize, i: usize) -> Range<usize> {
        let end = self.s - self.t + i + 1;
        let oldest = window.map_or(0, |window| end.saturating_sub(window));
        (starts[b * self.t + i] as usize).max(oldest).min(end)..end
    }
}

/// The vectors of a (b, n, heads, dh) tensor of any strides but the last.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f32],
    batch: usize,
    time: usize,
    head: usize,
}

impl<'a> Heads<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Heads<'a>> {
        let [batch, time, head, _] = *layout.stride() else { bail!("attention: {:?} is not 4-dimensional", layout.dims()) };
        Ok(Heads { data: &storage.as_slice::<f32>()?[layout.start_offset()..], batch, time, head })
    }

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

/// Whole texts, one after another, that attend to themselves only.
#[derive(Debug, Clone)]
pub struct TextSpans<'a> {
    /// First and past-the-last token of each text.
    pub spans: &'a [Range<usize>],
    /// First token of each token's text.
    pub starts: &'a [u32],
    pub heads: usize,
    pub key_heads: usize,
    pub head_dim: usize,
    pub scores: Scores,
}

#[cfg(target_arch = "x86_64")]
impl TextSpans<'_> {
    /// Query heads that share a head of keys and values.
    fn group(&self) -> usize {
        self.heads / self.key_heads
    }
}

/// [`attention`] of one batch on slices: contiguous q (b, t, h, dh), k and v (b, t, hkv, dh), as many keys as queries.
pub struct Slices<'a> {
    op: Attention,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// What a backward pass needs of the forward one beside its output.
#[derive(Debug, Default)]
pub struct Normalisers(Vec<Normaliser>);

impl<'a> Slices<'a> {
    /// `rows` rows of equal length with `starts` (one a query) and heads of `dh`.
    pub fn new([q, k, v]: [&'a [f32]; 3], rows: usize, starts: &[u32], dh: usize, scores: Scores) -> Slices<'a> {
        let tokens = starts.len();
        let (t, h, hkv) = (tokens / rows, q.len() / tokens / dh, k.len() / tokens / dh);
        let dims = Dims { b: rows, t, s: t, h, hkv, dh };
        assert!(q.len() == tokens * h * dh && k.len() == tokens * hkv * dh && v.len() == k.len(), "attention: {dims:?}");
        let lanes = Lanes::in_force();
        Slices { op: Attention { dims, starts: starts.into(), scores, normalisers: None, lanes }, q, k, v }
    }

    fn heads(&self, data: &'a [f32], heads: usize) -> Heads<'a> {
        let d = self.op.dims;
        Heads { data, batch: d.t * heads * d.dh, time: heads * d.dh, head: d.dh }
    }

    /// The output (b, t, h, dh), and what [`Slices::backward`] needs.
    pub fn forward(&self) -> (Vec<f32>, Normalisers) {
        let d = self.op.dims;
        let (q, k, v) = (self.heads(self.q, d.h), self.heads(self.k, d.hkv), self.heads(self.v, d.hkv));
        let run = if d.t <= FEW { decode::run } else { forward::run };
        let (out, normalisers) = run(&self.op, q, k, v);
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
    /// What normalises each row (b, t, h), kept only when a gradient will be asked for.
    normalisers: Option<OnceLock<Vec<Normaliser>>>,
    lanes: Lanes,
}

impl Attention {
    /// See [`Dims::visible`].
    fn visible(&self, b: usize, i: usize) -> Range<usize> {
        self.dims.visible(&self.starts, self.scores.window, b, i)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k, v) = (Heads::of(q, lq)?, Heads::of(k, lk)?, Heads::of(v, lv)?);
        let (out, normalisers) = if self.dims.t <= FEW { decode::run(self, q, k, v) } else { forward::run(self, q, k, v) };
        if let Some(cell) = &self.normalisers {
            // The op runs forward once, so the cell is empty; were it not, it would hold the same numbers.
            let _ = cell.set(normalisers);
        }
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(normalisers) = self.normalisers.as_ref().and_then(|n| n.get()) else {
            bail!("attention: asked for a gradient that was not tracked in the forward pass")
        };
        let grad = grad.contiguous()?;
        let grads = host::with_storage(q, |qs, lq| {
            host::with_storage(k, |ks, lk| {
                host::with_storage(v, |vs, lv| {
                    let (q, k, v) = (Heads::of(qs, lq)?, Heads::of(ks, lk)?, Heads::of(vs, lv)?);
                    host::read(out, |out| {
                        host::read(&grad, |grad| Ok(backward::run(self, q, k, v, backward::Saved { out, grad, normalisers })))
                    })
                })
            })
        })?;
        let keep = |x: &Tensor, g: Vec<f32>| x.track_op().then(|| host::tensor(g, x.shape())).transpose();
        Ok((keep(q, grads.q)?, keep(k, grads.k)?, keep(v, grads.v)?))
    }
}
