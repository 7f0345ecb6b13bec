//! The way back of the rule in chunks, last chunk first, and of all that a key head's group computes.
//!
//! The symbols are those of [`super::chunked`]; a `d_` in front is the gradient. With dS that of the state behind a chunk:
//! `d_updates = scoresᵀ·do + writes·dS`, `r = (1 − system)⁻ᵀ·d_updates`, `d_system = −r·updatesᵀ` and `dv = β∘r`.
//! Gradients of c are collected from every factor e^c, and summed backwards they are those of the logarithms of decays.
//! Those of `q·kᵀ` and of `k·kᵀ` are summed over the group before they are multiplied with keys and queries.

use super::chunk::{CHUNK, Chunk, Pairs};
use super::chunked::{self, Left, Room};
use super::heads::{Head, KeyHead, Text};
use super::rows::{dot, dot_body, scale, scale_rows, transpose};
use super::simd::{Lanes, Simd, multiversion, runs};
use super::tile::{Right, Size, StridedLeft, StridedProduct, matmul};
use super::triangular::{add_lower, add_lower_transposed, lower_product, solve_transposed};
use super::{DeltaLayer, DeltaSizes, gated_norm, host};

/// Gradients of what one text and key head was computed of.
pub(super) struct KeyHeadGrads<'a> {
    /// Queries and keys behind the convolution, (t, key_dim).
    qk: [&'a [f32]; 2],
    /// Of every value head of the group.
    heads: Vec<HeadGrads<'a>>,
}

struct HeadGrads<'a> {
    /// Behind the convolution, (t, value_dim).
    v: &'a [f32],
    /// (t, value_dim)
    z: &'a [f32],
    /// (t)
    a: Vec<f32>,
    /// (t)
    b: Vec<f32>,
}

/// Room for the way back, used again from key head to key head.
#[derive(Default)]
pub(super) struct BackRoom {
    forward: Room,
    left: Left,
    core: Vec<f32>,
    d_core: Vec<f32>,
    /// Gradients of the pairs, summed over the group.
    d_pairs: Pairs,
    turned: Turned,
}

/// All gradients of key head `at` of a text, the larger ones in `grads`, of which every element is set; `z` and that of the result are
/// (t, values).
pub(super) fn key_head<'a>(
    layer: &DeltaLayer,
    text: Text,
    at: usize,
    z_and_gradient: [&[f32]; 2],
    (room, grads): (&mut BackRoom, &'a mut [f32]),
) -> KeyHeadGrads<'a> {
    let (lanes, sizes) = (Lanes::in_force(), layer.sizes);
    let keys = KeyHead::new(lanes, sizes, text, at);
    room.forward.pairs.set(lanes, &keys, sizes.key_dim);
    room.d_pairs.clear(&room.forward.pairs);
    let (dq, grads) = grads.split_at_mut(keys.q.len());
    let (dk, mut grads) = grads.split_at_mut(keys.k.len());
    [&mut *dq, &mut *dk].into_iter().for_each(|d| d.fill(0.0));
    let mut heads = Vec::with_capacity(sizes.group());
    for at in at * sizes.group()..(at + 1) * sizes.group() {
        let head = Head::new(lanes, layer, text, &keys, at);
        let width = head.v.len();
        let (v, rest) = grads.split_at_mut(width);
        let (z, rest) = rest.split_at_mut(width);
        grads = rest;
        [&mut room.core, &mut room.d_core].into_iter().for_each(|x| x.resize(width, 0.0));
        chunked::keep(&head, &mut room.forward, &mut room.left, &mut room.core);
        let of_head = z_and_gradient.map(|x| x.get(at * sizes.value_dim..).unwrap_or_default());
        gated_norm::backward(layer, &room.core, of_head, sizes.values(), [&mut room.d_core, z]);
        let GateGrads { log_decay: mut a, beta: mut b } = back(&head, room, [&mut *dq, &mut *dk], v);
        head.backward(lanes, layer, text, at, [&mut a, &mut b]);
        heads.push(HeadGrads { v, z, a, b });
    }
    pairs_back(lanes, &keys, sizes.key_dim, &room.d_pairs, [&mut *dq, &mut *dk]);
    keys.backward(lanes, [&mut *dq, &mut *dk]);
    KeyHeadGrads { qk: [dq, dk], heads }
}

/// Adds what the gradients of pairs give to those of queries and keys.
fn pairs_back(lanes: Lanes, keys: &KeyHead, dim: usize, d_pairs: &Pairs, [dq, dk]: [&mut [f32]; 2]) {
    let rows = CHUNK * dim;
    let d_pairs = d_pairs.of_queries.chunks(CHUNK * CHUNK).zip(d_pairs.of_keys.chunks(CHUNK * CHUNK));
    let own = keys.q.chunks(rows).zip(keys.k.chunks(rows)).zip(dq.chunks_mut(rows).zip(dk.chunks_mut(rows)));
    for (((q, k), (dq, dk)), (of_queries, of_keys)) in own.zip(d_pairs) {
        let len = k.len() / dim;
        let [of_queries, of_keys] = [of_queries, of_keys].map(|x| &x[..len * len]);
        add_lower(lanes, of_queries, k, len, dq);
        add_lower_transposed(lanes, of_queries, q, len, dk);
        add_lower(lanes, of_keys, k, len, dk);
        add_lower_transposed(lanes, of_keys, k, len, dk);
    }
}

/// Puts the gradients of all key heads of a text in their places of `z` (t, values), `a` and `b` (t, value_heads).
pub(super) fn lay(sizes: DeltaSizes, all: &[KeyHeadGrads], [z, a, b]: [&mut [f32]; 3]) {
    let heads = || all.iter().flat_map(|head| &head.heads);
    let of_z: Vec<_> = heads().map(|head| (head.z, sizes.value_dim)).collect();
    host::for_rows(z, sizes.values(), |first, rows| lay_side_by_side(rows, sizes.values(), &of_z, first));
    lay_side_by_side(a, sizes.value_heads, &heads().map(|head| (&head.a[..], 1)).collect::<Vec<_>>(), 0);
    lay_side_by_side(b, sizes.value_heads, &heads().map(|head| (&head.b[..], 1)).collect::<Vec<_>>(), 0);
}

/// The parts of the gradients of queries, keys and values, with their widths.
pub(super) fn mixed<'a>(sizes: DeltaSizes, all: &'a [KeyHeadGrads<'a>]) -> Vec<(&'a [f32], usize)> {
    let of_keys = |which: usize| all.iter().map(move |head| (head.qk[which], sizes.key_dim));
    let values = all.iter().flat_map(|head| &head.heads).map(|head| (head.v, sizes.value_dim));
    of_keys(0).chain(of_keys(1)).chain(values).collect()
}

/// Rows from `first` on of matrices of their own widths, one beside the other.
pub(super) fn lay_side_by_side(out: &mut [f32], width: usize, parts: &[(&[f32], usize)], first: usize) {
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        let mut from = 0;
        for (part, wide) in parts {
            row[from..from + wide].copy_from_slice(&part[(first + i) * wide..][..*wide]);
            from += wide;
        }
    }
}

struct GateGrads {
    /// (t)
    log_decay: Vec<f32>,
    /// (t)
    beta: Vec<f32>,
}

/// The way back of the rule from a state of zeros, given `left` and `d_core` in the room: gradients of values (t, value_dim), set; what does
/// not go through pairs is added to those of queries and keys (t, key_dim).
fn back(head: &Head, room: &mut BackRoom, mut qk: [&mut [f32]; 2], v: &mut [f32]) -> GateGrads {
    let (t, keys, values) = (head.beta.len(), head.key_dim, head.value_dim);
    let (lanes, BackRoom { forward, left, d_core, d_pairs, turned, .. }) = (Lanes::in_force(), room);
    let mut grads = GateGrads { log_decay: vec![0.0; t], beta: vec![0.0; t] };
    let mut d_state = vec![0.0; keys * values];
    for (i, before) in left.states.chunks_exact(keys * values).enumerate().rev() {
        let at = i * CHUNK..t.min((i + 1) * CHUNK);
        let [of_keys, of_values] = [keys, values].map(|width| at.start * width..at.end * width);
        forward.chunk.set(lanes, head, &forward.pairs, &at);
        let [dq, dk] = qk.each_mut().map(|d| &mut d[of_keys.clone()]);
        let (dv, d_beta) = (&mut v[of_values.clone()], &mut grads.beta[at.clone()]);
        let mut d_sums = [0.0; CHUNK];
        let d_sums = &mut d_sums[..at.len()];
        let pairs = i * CHUNK * CHUNK..i * CHUNK * CHUNK + at.len() * at.len();
        let back = ChunkBack {
            lanes,
            keys,
            values,
            before,
            q: &head.q[of_keys.clone()],
            k: &head.k[of_keys],
            beta: &head.beta[at.clone()],
            errors: &left.errors[of_values.clone()],
            updates: &left.updates[of_values.clone()],
            d_out: &d_core[of_values],
            chunk: &forward.chunk,
        };
        turned.set([before, &d_state], back.updates, values);
        back.outputs(&d_state, turned, [dq, &mut *dk], dv, d_sums);
        back.scores(turned, &mut d_pairs.of_queries[pairs.clone()], d_sums);
        back.updates(turned, [dv, dk, d_beta], &mut d_pairs.of_keys[pairs], d_sums);
        back.state(dv, &mut d_state);
        let mut sum = 0.0;
        for (d, d_sum) in grads.log_decay[at].iter_mut().zip(&*d_sums).rev() {
            sum += d_sum;
            *d = sum;
        }
    }
    grads
}

/// Transposes, and room for products.
#[derive(Default)]
struct Turned {
    /// The state before the chunk and the gradient of that behind it, (value_dim, key_dim).
    states: [Vec<f32>; 2],
    /// (value_dim, l)
    updates: Vec<f32>,
    /// (l, key_dim)
    through: Vec<f32>,
    /// (l, l)
    square: Vec<f32>,
    /// (l)
    along: Vec<f32>,
}

impl Turned {
    fn set(&mut self, states: [&[f32]; 2], updates: &[f32], values: usize) {
        let (len, keys) = (updates.len() / values, states[0].len() / values);
        for (to, state) in self.states.iter_mut().zip(states) {
            to.resize(state.len(), 0.0);
            transpose(state, values, to);
        }
        self.updates.resize(updates.len(), 0.0);
        transpose(updates, values, &mut self.updates);
        self.through.resize(len * keys, 0.0);
        self.square.resize(len * len, 0.0);
        self.along.resize(len, 0.0);
    }
}

/// One chunk.
struct ChunkBack<'a> {
    lanes: Lanes,
    keys: usize,
    values: usize,
    /// The state before the chunk.
    before: &'a [f32],
    q: &'a [f32],
    k: &'a [f32],
    beta: &'a [f32],
    errors: &'a [f32],
    updates: &'a [f32],
    d_out: &'a [f32],
    chunk: &'a Chunk,
}

impl ChunkBack<'_> {
    /// What outputs and the state behind the chunk give back but for scores: the gradient of updates into `d_updates`, set; those of queries,
    /// keys and c are added to.
    fn outputs(&self, d_state: &[f32], room: &mut Turned, [dq, dk]: [&mut [f32]; 2], d_updates: &mut [f32], d_sums: &mut [f32]) {
        let (lanes, chunk, len) = (self.lanes, self.chunk, self.chunk.len);
        let write = Size { m: len, k: self.keys, n: self.values, add: false };
        let writes = StridedLeft { data: &chunk.writes, row: self.keys, column: 1 };
        let behind = Right { data: d_state, row: self.values };
        matmul(lanes, write, writes, behind, StridedProduct { data: d_updates, row: self.values });
        add_lower_transposed(lanes, &chunk.scores, self.d_out, len, d_updates);

        let Turned { states: [before, behind], through, along, .. } = room;
        self.through(self.d_out, before, through);
        add_along(lanes, self.q, through, &chunk.from_start, dq, along);
        d_sums.iter_mut().zip(&*along).for_each(|(d, along)| *d += along);
        self.through(self.updates, behind, through);
        add_along(lanes, self.k, through, &chunk.to_end, dk, along);
        let mut last = chunk.total * dot(lanes, self.before, d_state);
        for (d, along) in d_sums.iter_mut().zip(along) {
            *d -= *along;
            last += *along;
        }
        d_sums[len - 1] += last;
    }

    /// What scores give back: the gradient of their pairs and that of c are added to.
    fn scores(&self, room: &mut Turned, d_pairs: &mut [f32], d_sums: &mut [f32]) {
        let (chunk, Turned { updates, square, along, .. }) = (self.chunk, room);
        lower_product(self.lanes, self.d_out, updates, chunk.len, square);
        along.fill(1.0);
        decays_back(self.lanes, [square, &chunk.scores, &chunk.decay], (along, 1), d_pairs, d_sums);
        d_sums.iter_mut().zip(along).for_each(|(d, along)| *d += *along);
    }

    /// The way back of the triangular system: `dv` holds the gradient of updates and becomes that of values; `d_beta` is set, the others are
    /// added to.
    fn updates(&self, room: &mut Turned, [dv, dk, d_beta]: [&mut [f32]; 3], d_pairs: &mut [f32], d_sums: &mut [f32]) {
        let (lanes, chunk, len) = (self.lanes, self.chunk, self.chunk.len);
        solve_transposed(lanes, &chunk.system, len, dv);
        let Turned { updates, square, along, through, states: [before, _] } = room;
        lower_product(lanes, dv, updates, len, square);
        let minus = |(to, beta): (&mut f32, &f32)| *to = -beta;
        along.iter_mut().zip(self.beta).for_each(minus);
        decays_back(lanes, [square, &chunk.overlap, &chunk.decay], (along, 0), d_pairs, d_sums);
        let rows = dv.chunks_exact(self.values).zip(self.errors.chunks_exact(self.values));
        for ((((d_beta, (r, errors)), along), d), beta) in
            d_beta.iter_mut().zip(rows).zip(&*along).zip(&mut *d_sums).zip(self.beta)
        {
            *d_beta = dot(lanes, r, errors) - along;
            *d -= beta * along;
        }
        scale_rows(lanes, dv, self.values, self.beta);
        self.through(dv, before, through);
        scale(lanes, through, -1.0);
        add_along(lanes, self.k, through, &chunk.from_start, dk, along);
        d_sums.iter_mut().zip(along).for_each(|(d, along)| *d += *along);
    }

    /// `d_state`, of the state behind the chunk, becomes that of the state before it.
    fn state(&self, dv: &[f32], d_state: &mut [f32]) {
        let chunk = self.chunk;
        scale(self.lanes, d_state, chunk.total);
        for (x, d) in [(&chunk.reads, self.d_out), (&chunk.takes, dv)] {
            let size = Size { m: self.keys, k: chunk.len, n: self.values, add: true };
            let left = StridedLeft { data: x, row: 1, column: self.keys };
            matmul(
                self.lanes,
                size,
                left,
                Right { data: d, row: self.values },
                StridedProduct { data: d_state, row: self.values },
            );
        }
    }

    /// `x·stateᵀ` (l, key_dim) of `x` (l, value_dim) and a transposed state.
    fn through(&self, x: &[f32], state: &[f32], out: &mut [f32]) {
        let size = Size { m: self.chunk.len, k: self.values, n: self.keys, add: false };
        let left = StridedLeft { data: x, row: self.values, column: 1 };
        matmul(self.lanes, size, left, Right { data: state, row: self.keys }, StridedProduct { data: out, row: self.keys });
    }
}

multiversion! {
    /// Adds `factors∘share` to `d`, all (l, width), and lays every row's `x·(factors∘share)` into `along`.
    fn add_along(x: &[f32], share: &[f32], factors: &[f32], d: &mut [f32], along: &mut [f32]) = add_along_body;
}
multiversion! {
    /// The way back of a triangular matrix of pairs∘decay, given its gradient `d` and itself, `x`: gradients of pairs and of c are added to,
    /// row i times `factors[i]`, which becomes the row's `d·x`. So many columns of a row count behind those before the diagonal.
    fn decays_back(d_x_decay: [&[f32]; 3], factors_and_columns: (&mut [f32], usize), d_pairs: &mut [f32], d_sums: &mut [f32])
        = decays_back_body;
}

#[inline(always)]
fn add_along_body<S: Simd>(s: S, x: &[f32], share: &[f32], factors: &[f32], d: &mut [f32], along: &mut [f32]) {
    let width = x.len() / factors.len();
    let rows = x.chunks_exact(width).zip(share.chunks_exact(width)).zip(d.chunks_exact_mut(width));
    for (((x, share), d), (factor, along)) in rows.zip(factors.iter().zip(along)) {
        *along = factor * dot_body(s, x, share);
        let factor = s.splat(*factor);
        for (share, d) in runs(s, (share, d)) {
            s.store(s.mul_add(factor, s.load(share), s.load(d)), d);
        }
    }
}

#[inline(always)]
fn decays_back_body<S: Simd>(
    s: S,
    [d, x, decay]: [&[f32]; 3],
    (factors, columns): (&mut [f32], usize),
    d_pairs: &mut [f32],
    d_sums: &mut [f32],
) {
    let len = factors.len();
    let rows = d.chunks_exact(len).zip(x.chunks_exact(len)).zip(decay.chunks_exact(len).zip(d_pairs.chunks_exact_mut(len)));
    for (i, (((d, x), (decay, d_pairs)), factor)) in rows.zip(factors).enumerate() {
        let by = s.splat(*factor);
        let mut along = s.splat(0.0);
        for (d, x, decay, d_pairs, d_sums) in runs(s, (&d[..i + columns], x, decay, d_pairs, &mut *d_sums)) {
            let d = s.load(d);
            let product = s.mul(d, s.load(x));
            along = s.add(along, product);
            s.store(s.sub(s.load(d_sums), s.mul(by, product)), d_sums);
            s.store(s.mul_add(s.mul(by, d), s.load(decay), s.load(d_pairs)), d_pairs);
        }
        *factor = s.sum(along);
    }
}
