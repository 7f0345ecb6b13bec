//! The gated delta rule: what a linear-attention layer of Qwen 3.5 computes between its four input projections and its output
//! projection (Yang et al. 2024, "Gated Delta Networks"; in transformers 5.24 `Qwen3_5GatedDeltaNet`).
//!
//! A depthwise causal convolution and SiLU make queries, keys and values. A value head keeps a matrix S (key_dim, value_dim) that a token
//! decays, corrects and reads: `S = e^g·S`, `S += kᵀ·β·(v − k·S)`, `o = q·S`. An RMS norm of `o`, gated with SiLU(z), is the result.
//! All weights are frozen. Refuses to know: projections, model families, where states are kept.
//! Legend: t tokens of a text, n of all texts; a group is the value heads that share a key head.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `rows`, `triangular` | arithmetic on rows; products with triangular matrices and their systems |
//! | 1 | `convolution`, `gated_norm`, `heads` | what stands before the rule and behind it; queries, keys, values and gates of a head |
//! | 2 | `chunk`, `recurrent` | a chunk's products and its triangular system; the rule token by token |
//! | 3 | `chunked` | the rule in chunks |
//! | 4 | `chunked_back` | its way back |

use std::ops::Range;

use rayon::prelude::*;

use super::{element, host, simd, tile};

mod chunk;
mod chunked;
mod chunked_back;
mod convolution;
mod gated_norm;
mod heads;
mod recurrent;
mod rows;
mod triangular;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use chunked::Room;
use chunked_back::{BackRoom, KeyHeadGrads};
use convolution::Convolution;
use heads::{Head, KeyHead, Text};
use simd::Lanes;

/// The sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaSizes {
    /// Heads of queries and keys; they divide `value_heads`.
    pub key_heads: usize,
    /// Value head `h` reads key head `h / (value_heads / key_heads)`.
    pub value_heads: usize,
    /// Elements of a query and of a key.
    pub key_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Tokens that an output of the convolution sees, at least 1.
    pub kernel: usize,
}

impl DeltaSizes {
    /// Width of the queries of all heads, and of the keys.
    pub const fn keys(self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Width of the values of all heads: of `z` and of the result.
    pub const fn values(self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Width of queries, keys and values side by side: of `qkv` and the convolution.
    pub const fn channels(self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Value heads that share a key head.
    pub const fn group(self) -> usize {
        self.value_heads / self.key_heads
    }

    /// Floats a token that [`forward`], [`backward`] and [`extend`] work in: queries, keys and values behind the convolution, and what heads
    /// read.
    pub const fn room(self) -> usize {
        self.channels() + self.values()
    }

    /// Floats of the convolution's part of a text's state: the newest `kernel − 1` rows of `qkv`, oldest first.
    pub const fn tail(self) -> usize {
        (self.kernel - 1) * self.channels()
    }

    /// Floats of the rule's part of a text's state: S (value_heads, key_dim, value_dim).
    pub const fn memory(self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }

    /// Floats of one text's state, which begins as zeros: the tail, then the memory.
    pub const fn state(self) -> usize {
        self.tail() + self.memory()
    }
}

/// A layer's frozen weights.
#[derive(Debug, Clone, Copy)]
pub struct DeltaLayer<'a> {
    /// Of the convolution, (channels, kernel); the last column is the newest token's.
    pub conv: &'a [f32],
    /// (value_heads)
    pub a_log: &'a [f32],
    /// (value_heads)
    pub dt_bias: &'a [f32],
    /// Of the gated norm, (value_dim).
    pub norm: &'a [f32],
    /// Of the gated norm.
    pub eps: f32,
    pub sizes: DeltaSizes,
}

/// Tokens up to which [`extend`] goes token by token.
const FEW: usize = 8;

/// The result (n, values) of whole texts one after another, each from a state of zeros, into `out`; `qkv` (n, channels), `z` (n, values),
/// `a` and `b` (n, value_heads). Spans follow each other from 0 to n. What lies between takes `room`, (n, [`DeltaSizes::room`]).
pub fn forward(layer: &DeltaLayer, spans: &[Range<usize>], parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]) {
    let sizes = layer.sizes;
    let n = tokens(layer, spans, parts);
    assert!(
        out.len() == n * sizes.values() && room.len() == n * sizes.room(),
        "delta rule: an output of {} and room of {} for {n} tokens",
        out.len(),
        room.len()
    );
    let (mixed, cores) = room.split_at_mut(n * sizes.channels());
    convolve(layer, spans, parts[0], mixed);
    by_key_head(spans, cores, sizes, sizes.group() * sizes.value_dim).into_par_iter().enumerate().for_each_init(
        Room::default,
        |room, (at, cores)| {
            let text = Text::new(sizes, &spans[at / sizes.key_heads], mixed, parts);
            let mut state = vec![0.0; sizes.memory() / sizes.key_heads];
            group_reads(layer, text, at % sizes.key_heads, &mut state, Some(room), cores);
        },
    );
    by_text(spans, out, sizes.values()).into_par_iter().zip(spans).for_each(|(out, span)| {
        gated_norm::forward(layer, rows_of(cores, span, sizes.values()), rows_of(parts[1], span, sizes.values()), out);
    });
}

/// The gradients of `qkv`, into `d_qkv`, of `z`, in the place of that of [`forward`]'s result (n, values), and of `a` and `b`, which are
/// returned. What lies between is computed again and takes `room`; a task holds the states at the borders of chunks of one text and key head.
pub fn backward(
    layer: &DeltaLayer,
    spans: &[Range<usize>],
    parts: [&[f32]; 4],
    room: &mut [f32],
    [d_out, d_qkv]: [&mut [f32]; 2],
) -> [Vec<f32>; 2] {
    let sizes = layer.sizes;
    let n = tokens(layer, spans, parts);
    let fits = d_out.len() == n * sizes.values() && d_qkv.len() == n * sizes.channels() && room.len() == n * sizes.room();
    assert!(fits, "delta rule: gradients of {} and {}, room of {} for {n} tokens", d_out.len(), d_qkv.len(), room.len());
    convolve(layer, spans, parts[0], d_qkv);
    let (mixed, gradient) = (&*d_qkv, &*d_out);
    let rooms = by_key_head(spans, room, sizes, sizes.room() / sizes.key_heads);
    let one = |room: &mut BackRoom, (at, grads)| {
        let span = &spans[at / sizes.key_heads];
        let text = Text::new(sizes, span, mixed, parts);
        let z_and_gradient = [parts[1], gradient].map(|x| rows_of(x, span, sizes.values()));
        chunked_back::key_head(layer, text, at % sizes.key_heads, z_and_gradient, (room, grads))
    };
    let heads: Vec<KeyHeadGrads> = rooms.into_par_iter().enumerate().map_init(BackRoom::default, one).collect();
    let [mut a, mut b] = [parts[2], parts[3]].map(|x| vec![0.0; x.len()]);
    let convolution = Convolution::new(layer.conv, sizes.channels());
    let texts = by_text(spans, d_qkv, sizes.channels())
        .into_par_iter()
        .zip(by_text(spans, d_out, sizes.values()))
        .zip(by_text(spans, &mut a, sizes.value_heads).into_par_iter().zip(by_text(spans, &mut b, sizes.value_heads)));
    texts.zip(spans).zip(heads.par_chunks(sizes.key_heads)).for_each(|((((qkv, z), (a, b)), span), heads)| {
        chunked_back::lay(sizes, heads, [z, a, b]);
        let mixed = chunked_back::mixed(sizes, heads);
        let lay = |rows: Range<usize>, out: &mut [f32]| chunked_back::lay_side_by_side(out, sizes.channels(), &mixed, rows.start);
        convolution.backward(rows_of(parts[0], span, sizes.channels()), lay, qkv);
    });
    [a, b]
}

/// The result (t, values) of new tokens of one text behind its state, into `out`; the state (see [`DeltaSizes::state`]) becomes that behind
/// them. A few tokens are computed one by one, more of them in chunks; `room` as for [`forward`].
pub fn extend(layer: &DeltaLayer, state: &mut [f32], parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]) {
    let sizes = layer.sizes;
    let t = parts[0].len() / sizes.channels();
    let span = 0..t;
    tokens(layer, std::slice::from_ref(&span), parts);
    assert!(
        out.len() == t * sizes.values() && state.len() == sizes.state() && room.len() == t * sizes.room(),
        "delta rule: {t} tokens behind a state of other sizes"
    );
    let (mixed, cores) = room.split_at_mut(t * sizes.channels());
    let (tail, memory) = state.split_at_mut(sizes.tail());
    Convolution::new(layer.conv, sizes.channels()).forward(tail, parts[0], mixed);
    let text = Text::new(sizes, &span, mixed, parts);
    let states = memory.par_chunks_mut(sizes.memory() / sizes.key_heads).enumerate();
    let by_head = by_key_head(std::slice::from_ref(&span), cores, sizes, sizes.group() * sizes.value_dim);
    states.zip(by_head).for_each_init(Room::default, |room, ((head, state), cores)| {
        group_reads(layer, text, head, state, (t > FEW).then_some(room), cores);
    });
    gated_norm::forward(layer, cores, parts[1], out);
    let kept = tail.len().saturating_sub(parts[0].len());
    tail.copy_within(tail.len() - kept.., 0);
    let new = &parts[0][parts[0].len() - (tail.len() - kept)..];
    tail[kept..].copy_from_slice(new);
}

/// The sum of all spans, once every size was found to agree.
fn tokens(layer: &DeltaLayer, spans: &[Range<usize>], parts: [&[f32]; 4]) -> usize {
    let sizes = layer.sizes;
    let n = spans.iter().fold(0, |end, span| {
        assert!(span.start == end && span.end >= end, "delta rule: a text at {span:?} behind token {end}");
        span.end
    });
    let widths = [sizes.channels(), sizes.values(), sizes.value_heads, sizes.value_heads];
    assert!(parts.iter().zip(widths).all(|(x, width)| x.len() == n * width), "delta rule: inputs are not of {n} tokens");
    let weights = [layer.conv, layer.a_log, layer.dt_bias, layer.norm].map(<[f32]>::len);
    let wanted = [sizes.channels() * sizes.kernel, sizes.value_heads, sizes.value_heads, sizes.value_dim];
    assert!(weights == wanted && sizes.value_heads.is_multiple_of(sizes.key_heads), "delta rule: weights of {weights:?}");
    n
}

/// Queries, keys and values of whole texts, into `mixed` (n, channels).
fn convolve(layer: &DeltaLayer, spans: &[Range<usize>], qkv: &[f32], mixed: &mut [f32]) {
    let channels = layer.sizes.channels();
    let convolution = Convolution::new(layer.conv, channels);
    let texts = by_text(spans, mixed, channels).into_par_iter().zip(spans);
    texts.for_each(|(out, span)| convolution.forward(&[], rows_of(qkv, span, channels), out));
}

/// What every value head of a key head reads, into `out` (group, t, value_dim), in chunks where there is room for them, else token by token;
/// `state` is theirs, (group, key_dim, value_dim).
fn group_reads(layer: &DeltaLayer, text: Text, head: usize, state: &mut [f32], mut room: Option<&mut Room>, out: &mut [f32]) {
    let (lanes, sizes) = (Lanes::in_force(), layer.sizes);
    let keys = KeyHead::new(lanes, sizes, text, head);
    if let Some(room) = &mut room {
        room.pairs.set(lanes, &keys, sizes.key_dim);
    }
    let rows = text.tokens * sizes.value_dim;
    for (at, state) in state.chunks_exact_mut(sizes.key_dim * sizes.value_dim).enumerate() {
        let head = Head::new(lanes, layer, text, &keys, head * sizes.group() + at);
        let out = &mut out[at * rows..][..rows];
        match &mut room {
            Some(room) => chunked::rule(&head, room, state, out),
            None => recurrent::rule(&head, state, out),
        }
    }
}

/// Every text's rows of `x` in an equal piece of `width` a token for each key head.
fn by_key_head<'a>(spans: &[Range<usize>], mut x: &'a mut [f32], sizes: DeltaSizes, width: usize) -> Vec<&'a mut [f32]> {
    let pieces = spans.iter().flat_map(|span| std::iter::repeat_n(span.len() * width, sizes.key_heads));
    pieces.map(|len| x.split_off_mut(..len).unwrap_or_default()).collect()
}

fn rows_of<'a>(x: &'a [f32], span: &Range<usize>, width: usize) -> &'a [f32] {
    &x[span.start * width..span.end * width]
}

/// Each text's rows of `x`.
fn by_text<'a>(spans: &[Range<usize>], mut x: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
    spans.iter().map(|span| x.split_off_mut(..span.len() * width).unwrap_or_default()).collect()
}
