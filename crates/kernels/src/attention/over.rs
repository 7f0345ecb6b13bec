//! Attention of the tokens of texts over those of others, or over all of their own: what an encoder and its decoder are made of.
//!
//! One head of a text is a task, which holds the scores of one block of queries at a time. Refuses to know: shared heads, caps, windows.

use std::ops::Range;

use rayon::prelude::*;

use super::super::dense::{Sizes, View, product};
use super::super::simd::Lanes;
use super::distance::DistanceBias;
use super::rows;
use super::{Normaliser, Normalisers, Scores};

/// Queries whose scores are held at once.
const QUERIES: usize = 64;

/// Queries of a text, among all, and the keys that they may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
    /// The first query's place, counted as the keys are.
    pub past: usize,
}

/// Queries of texts over keys of texts.
#[derive(Debug, Clone, Copy)]
pub struct Over<'a> {
    pub texts: &'a [Seen],
    pub heads: usize,
    pub head_dim: usize,
    /// What `q·k` is multiplied with.
    pub scale: f64,
    /// A query sees keys up to its own place only.
    pub causal: bool,
    /// What is added to scores; it is frozen.
    pub bias: Option<&'a DistanceBias>,
}

/// What [`Over::forward`] made, and the gradient of that.
#[derive(Clone, Copy)]
pub struct Behind<'a> {
    pub out: &'a [f32],
    pub grad: &'a [f32],
    pub normalisers: &'a Normalisers,
}

/// What one head of one text gives.
struct HeadGrads {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Over<'_> {
    /// Attention of `q` (n, h, dh) over `k` and `v` (m, h, dh), and what the way back needs. A query that sees no key gives zeros.
    pub fn forward(&self, [q, k, v]: [&[f32]; 3], out: &mut [f32]) -> Normalisers {
        let (width, dh) = (self.heads * self.head_dim, self.head_dim);
        let made: Vec<(Vec<f32>, Vec<Normaliser>)> = self.tasks().map(|(text, head)| self.head([q, k, v], text, head)).collect();
        let mut normalisers = vec![Normaliser::default(); q.len() / dh];
        for ((text, head), (own, rows)) in self.each().zip(made) {
            for ((query, own), row) in text.queries.clone().zip(own.chunks_exact(dh)).zip(rows) {
                out[query * width + head * dh..][..dh].copy_from_slice(own);
                normalisers[query * self.heads + head] = row;
            }
        }
        Normalisers(normalisers)
    }

    /// Sets the gradients of q, k and v. `dv = pᵀ·g`, `ds = p∘(g·vᵀ − Σ g∘o)`, `dq = scale·ds·k`, `dk = scale·dsᵀ·q`.
    pub fn backward(&self, qkv: [&[f32]; 3], behind: Behind, [dq, dk, dv]: [&mut [f32]; 3]) {
        let (width, dh) = (self.heads * self.head_dim, self.head_dim);
        let made: Vec<HeadGrads> = self.tasks().map(|(text, head)| self.head_back(qkv, behind, text, head)).collect();
        let place = |to: &mut [f32], tokens: &Range<usize>, head: usize, from: &[f32]| {
            for (token, from) in tokens.clone().zip(from.chunks_exact(dh)) {
                to[token * width + head * dh..][..dh].copy_from_slice(from);
            }
        };
        for ((text, head), own) in self.each().zip(made) {
            place(dq, &text.queries, head, &own.q);
            place(dk, &text.keys, head, &own.k);
            place(dv, &text.keys, head, &own.v);
        }
    }

    fn each(&self) -> impl Iterator<Item = (&Seen, usize)> {
        self.texts.iter().flat_map(|text| (0..self.heads).map(move |head| (text, head)))
    }

    fn tasks(&self) -> impl IndexedParallelIterator<Item = (&Seen, usize)> {
        (0..self.texts.len() * self.heads).into_par_iter().map(|at| (&self.texts[at / self.heads], at % self.heads))
    }

    /// A head's vectors from token `first` on, and how far they are apart.
    fn from<'x>(&self, x: &'x [f32], first: usize, head: usize) -> (&'x [f32], usize) {
        let width = self.heads * self.head_dim;
        (&x[(first * width + head * self.head_dim).min(x.len())..], width)
    }

    /// The biases of a text, by key less query, from the last query's first key on.
    fn biases(&self, text: &Seen, head: usize) -> Option<Vec<f32>> {
        let bias = self.bias?;
        let last = text.past + text.queries.len().saturating_sub(1);
        let mut along = vec![0.0; text.queries.len() + text.keys.len()];
        bias.along(head, -(last as i64), &mut along);
        Some(along)
    }

    /// Products `q·k` by the scale with their bias of the queries `block`, (block, keys).
    fn scores(&self, [q, k]: [&[f32]; 2], text: &Seen, head: usize, block: &Range<usize>, along: Option<&[f32]>) -> Vec<f32> {
        let keys = text.keys.len();
        let mut scores = vec![0.0; block.len() * keys];
        let (q, apart) = self.from(q, text.queries.start + block.start, head);
        let (k, _) = self.from(k, text.keys.start, head);
        let sizes = Sizes { m: block.len(), n: keys, k: self.head_dim };
        let (q, k) = (View { data: q, rows: apart, cols: 1 }, View { data: k, rows: 1, cols: apart });
        product(&mut scores, keys, sizes, q, k, self.scale as f32, false);
        if let Some(along) = along {
            for (row, scores) in block.clone().zip(scores.chunks_exact_mut(keys)) {
                let along = &along[text.queries.len() - 1 - row..];
                scores.iter_mut().zip(along).for_each(|(score, bias)| *score += bias);
            }
        }
        scores
    }

    /// Keys that the query `row` of a text sees.
    fn visible(&self, text: &Seen, row: usize) -> usize {
        let keys = text.keys.len();
        if self.causal { keys.min(text.past + row + 1) } else { keys }
    }

    fn head(&self, [q, k, v]: [&[f32]; 3], text: &Seen, head: usize) -> (Vec<f32>, Vec<Normaliser>) {
        let (n, keys, dh) = (text.queries.len(), text.keys.len(), self.head_dim);
        let (mut out, mut normalisers) = (vec![0.0; n * dh], vec![Normaliser::default(); n]);
        if keys == 0 {
            return (out, normalisers);
        }
        let (along, lanes) = (self.biases(text, head), Lanes::in_force());
        let (v, apart) = self.from(v, text.keys.start, head);
        for first in (0..n).step_by(QUERIES) {
            let block = first..n.min(first + QUERIES);
            let mut p = self.scores([q, k], text, head, &block, along.as_deref());
            for (row, p) in block.clone().zip(p.chunks_exact_mut(keys)) {
                let (seen, hidden) = p.split_at_mut(self.visible(text, row));
                normalisers[row] = rows::softmax(lanes, seen, Scores::scaled(1.0));
                rows::scale_row(lanes, seen, 1.0 / normalisers[row].sum);
                hidden.fill(0.0);
            }
            let sizes = Sizes { m: block.len(), n: dh, k: keys };
            let values = View { data: v, rows: apart, cols: 1 };
            product(&mut out[first * dh..], dh, sizes, View::rows(&p, keys), values, 1.0, false);
        }
        (out, normalisers)
    }

    fn head_back(&self, [q, k, v]: [&[f32]; 3], behind: Behind, text: &Seen, head: usize) -> HeadGrads {
        let (n, keys, dh) = (text.queries.len(), text.keys.len(), self.head_dim);
        let mut grads = HeadGrads { q: vec![0.0; n * dh], k: vec![0.0; keys * dh], v: vec![0.0; keys * dh] };
        if keys == 0 {
            return grads;
        }
        let along = self.biases(text, head);
        let (from_k, apart) = self.from(k, text.keys.start, head);
        let (from_v, _) = self.from(v, text.keys.start, head);
        for first in (0..n).step_by(QUERIES) {
            let block = first..n.min(first + QUERIES);
            let mut p = self.scores([q, k], text, head, &block, along.as_deref());
            let (grad, _) = self.from(behind.grad, text.queries.start + first, head);
            let (query, _) = self.from(q, text.queries.start + first, head);
            let mut ds = vec![0.0; p.len()];
            let sizes = Sizes { m: block.len(), n: keys, k: dh };
            let values = View { data: from_v, rows: 1, cols: apart };
            product(&mut ds, keys, sizes, View { data: grad, rows: apart, cols: 1 }, values, 1.0, false);
            self.softmax_back(behind, text, head, &block, [&mut p, &mut ds]);
            // (keys, block) · (block, dh)
            let sizes = Sizes { m: keys, n: dh, k: block.len() };
            let own = |data| View { data, rows: apart, cols: 1 };
            product(&mut grads.v, dh, sizes, View::transposed(&p, keys), own(grad), 1.0, true);
            product(&mut grads.k, dh, sizes, View::transposed(&ds, keys), own(query), self.scale as f32, true);
            let sizes = Sizes { m: block.len(), n: dh, k: keys };
            product(&mut grads.q[first * dh..], dh, sizes, View::rows(&ds, keys), own(from_k), self.scale as f32, false);
        }
        grads
    }

    /// Scores become probabilities, and their gradients those of the scores; zero where a query does not see.
    fn softmax_back(&self, behind: Behind, text: &Seen, head: usize, block: &Range<usize>, [p, ds]: [&mut [f32]; 2]) {
        let (keys, dh, lanes) = (text.keys.len(), self.head_dim, Lanes::in_force());
        for (row, (p, ds)) in block.clone().zip(p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys))) {
            let at = (text.queries.start + row) * self.heads + head;
            let delta = rows::dot(lanes, &behind.grad[at * dh..][..dh], &behind.out[at * dh..][..dh]);
            let seen = self.visible(text, row);
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
            rows::softmax_back(lanes, [&mut p[..seen], &mut ds[..seen]], Scores::scaled(1.0), behind.normalisers.0[at], delta);
        }
    }
}

#[cfg(test)]
#[path = "over_tests.rs"]
pub(crate) mod tests;
