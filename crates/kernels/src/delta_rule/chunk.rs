//! One chunk of a head's tokens: its decays, the products of its keys, and the triangular system of its corrections.

use std::ops::Range;

use super::heads::{Head, KeyHead};
use super::rows::{exponentials, scale, scaled_rows, transpose};
use super::simd::{Lanes, Simd, multiversion, runs};
use super::triangular::lower_product;

/// Tokens of a chunk.
pub(super) const CHUNK: usize = 64;

/// What the value heads of a key head share: `q·kᵀ` and `k·kᵀ` of every chunk, (l, l) on and below the diagonal, chunk i from `i·CHUNK²` on.
#[derive(Default)]
pub(super) struct Pairs {
    pub of_queries: Vec<f32>,
    pub of_keys: Vec<f32>,
}

impl Pairs {
    /// Zeros in the sizes of others.
    pub(super) fn clear(&mut self, like: &Pairs) {
        for (x, like) in [(&mut self.of_queries, &like.of_queries), (&mut self.of_keys, &like.of_keys)] {
            x.clear();
            x.resize(like.len(), 0.0);
        }
    }

    /// Those of `keys`, in place of what was there.
    pub(super) fn set(&mut self, lanes: Lanes, keys: &KeyHead, dim: usize) {
        let chunks = keys.k.len().div_ceil(CHUNK * dim);
        let Pairs { of_queries, of_keys } = self;
        [&mut *of_queries, of_keys].into_iter().for_each(|x| x.resize(chunks * CHUNK * CHUNK, 0.0));
        let mut turned = vec![0.0; CHUNK * dim];
        let out = of_queries.chunks_exact_mut(CHUNK * CHUNK).zip(of_keys.chunks_exact_mut(CHUNK * CHUNK));
        for ((of_queries, of_keys), (q, k)) in out.zip(keys.q.chunks(CHUNK * dim).zip(keys.k.chunks(CHUNK * dim))) {
            let turned = &mut turned[..k.len()];
            transpose(k, dim, turned);
            lower_product(lanes, q, turned, k.len() / dim, of_queries);
            lower_product(lanes, k, turned, k.len() / dim, of_keys);
        }
    }
}

/// With c the running sum of the logarithms of decays:
#[derive(Default)]
pub(super) struct Chunk {
    /// Tokens, l in what follows.
    pub len: usize,
    /// e^cᵢ: what the state before the chunk has decayed by at token i.
    pub from_start: Vec<f32>,
    /// e^(c_last − cᵢ): what token i's correction decays by up to the end.
    pub to_end: Vec<f32>,
    /// e^c_last
    pub total: f32,
    /// e^(cᵢ − cⱼ) for j ≤ i, else 0, (l, l).
    pub decay: Vec<f32>,
    /// (q·kᵀ)∘decay, (l, l)
    pub scores: Vec<f32>,
    /// (k·kᵀ)∘decay below the diagonal, else 0, (l, l).
    pub overlap: Vec<f32>,
    /// −β∘overlap, (l, l): one minus it is the system of the corrections.
    pub system: Vec<f32>,
    /// e^c∘q, (l, key_dim)
    pub reads: Vec<f32>,
    /// −e^c∘k, (l, key_dim)
    pub takes: Vec<f32>,
    /// e^(c_last − c)∘k, (l, key_dim)
    pub writes: Vec<f32>,
}

impl Chunk {
    /// That of the tokens `at`, in place of what was there.
    pub(super) fn set(&mut self, lanes: Lanes, head: &Head, pairs: &Pairs, at: &Range<usize>) {
        let (len, dim, first) = (at.len(), head.key_dim, at.start * CHUNK);
        self.len = len;
        let mut sums = [0f64; CHUNK];
        let mut sum = 0f64;
        for (c, log_decay) in sums.iter_mut().zip(&head.log_decay[at.clone()]) {
            sum += f64::from(*log_decay);
            *c = sum;
        }
        // Two floats for each sum: a difference of sums is as exact as its own size allows.
        let high = sums.map(|c| c as f32);
        let low: [f32; CHUNK] = std::array::from_fn(|i| (sums[i] - f64::from(high[i])) as f32);
        self.from_start.clear();
        self.from_start.extend_from_slice(&high[..len]);
        self.to_end.clear();
        self.to_end.extend(sums[..len].iter().map(|c| (sum - c) as f32));
        exponentials(lanes, &mut self.from_start);
        exponentials(lanes, &mut self.to_end);
        self.total = (sum as f32).exp();
        for matrix in [&mut self.decay, &mut self.scores, &mut self.overlap, &mut self.system] {
            matrix.resize(len * len, 0.0);
        }
        let pairs = [&pairs.of_queries, &pairs.of_keys].map(|x| &x[first..first + len * len]);
        let out = [&mut self.decay, &mut self.scores].map(|x| &mut x[..]);
        decays(lanes, [&high[..len], &low[..len]], pairs[0], out);
        systems(lanes, &head.beta[at.clone()], [&self.decay, pairs[1]], [&mut self.overlap, &mut self.system]);
        let [q, k] = [head.q, head.k].map(|x| &x[at.start * dim..at.end * dim]);
        for (x, factors, out) in
            [(q, &self.from_start, &mut self.reads), (k, &self.from_start, &mut self.takes), (k, &self.to_end, &mut self.writes)]
        {
            out.resize(len * dim, 0.0);
            scaled_rows(lanes, x, dim, factors, out);
        }
        scale(lanes, &mut self.takes, -1.0);
    }
}

multiversion! {
    /// Decays of running sums (in two parts), and pairs with them: `decay` and `scores`.
    fn decays(sums: [&[f32]; 2], pairs: &[f32], out: [&mut [f32]; 2]) = decays_body;
}
multiversion! {
    /// From `decay` and pairs: `overlap` and `system`.
    fn systems(beta: &[f32], decay_and_pairs: [&[f32]; 2], out: [&mut [f32]; 2]) = systems_body;
}

#[inline(always)]
fn decays_body<S: Simd>(s: S, [high, low]: [&[f32]; 2], pairs: &[f32], [decay, scores]: [&mut [f32]; 2]) {
    let len = high.len();
    let rows = decay.chunks_exact_mut(len).zip(scores.chunks_exact_mut(len)).zip(pairs.chunks_exact(len));
    for (i, ((decay, scores), pairs)) in rows.enumerate() {
        let (high_here, low_here) = (s.splat(high[i]), s.splat(low[i]));
        let (decay, none) = decay.split_at_mut(i + 1);
        none.fill(0.0);
        let (scores, none) = scores.split_at_mut(i + 1);
        none.fill(0.0);
        for (high, low, pairs, decay, scores) in runs(s, (high, low, pairs, decay, scores)) {
            let e = s.exp(s.add(s.sub(high_here, s.load(high)), s.sub(low_here, s.load(low))));
            s.store(e, decay);
            s.store(s.mul(e, s.load(pairs)), scores);
        }
    }
}

#[inline(always)]
fn systems_body<S: Simd>(s: S, beta: &[f32], [decay, pairs]: [&[f32]; 2], [overlap, system]: [&mut [f32]; 2]) {
    let len = beta.len();
    let rows = overlap.chunks_exact_mut(len).zip(system.chunks_exact_mut(len));
    for (i, ((overlap, system), (decay, pairs))) in rows.zip(decay.chunks_exact(len).zip(pairs.chunks_exact(len))).enumerate() {
        let minus = s.splat(-beta[i]);
        let (overlap, none) = overlap.split_at_mut(i);
        none.fill(0.0);
        let (system, none) = system.split_at_mut(i);
        none.fill(0.0);
        for (decay, pairs, overlap, system) in runs(s, (decay, pairs, overlap, system)) {
            let x = s.mul(s.load(decay), s.load(pairs));
            s.store(x, overlap);
            s.store(s.mul(minus, x), system);
        }
    }
}
