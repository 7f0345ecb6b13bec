//! A block of scores: keys are rows, queries columns. Refuses to know: instructions.

use std::ops::Range;

use half::bf16;

use super::super::Scores;
use super::QUERIES;

/// Stands for a score that a query does not see.
pub(super) const UNSEEN: f32 = -1e30;

/// What the hyperbolic tangent of a soft cap takes a raw score times, and what it is multiplied with itself.
pub(super) fn inside_and_outside(cap: f64, scores: Scores) -> [f32; 2] {
    [(scores.scale / cap) as f32, cap as f32]
}

/// What scores of a block are multiplied with in the exponent: soft-capped ones were scaled before.
pub(super) fn exponent_scale(scores: Scores) -> f32 {
    if scores.cap.is_some() { 1.0 } else { scores.scale as f32 }
}

/// Running maximum of the scores of each query, raw or soft-capped, and Σ exp(scale · (score − maximum)), see [`exponent_scale`];
/// a sink is among them from the beginning.
pub(super) struct Softmax {
    pub(super) largest: [f32; QUERIES],
    pub(super) sum: [f32; QUERIES],
}

impl Softmax {
    /// Of no key yet.
    pub(super) fn new(sink: Option<f32>, scores: Scores) -> Softmax {
        match sink {
            None => Softmax { largest: [UNSEEN; QUERIES], sum: [0.0; QUERIES] },
            Some(sink) => Softmax { largest: [(sink / exponent_scale(scores)).max(UNSEEN); QUERIES], sum: [1.0; QUERIES] },
        }
    }
}

/// Where a block of scores begins: its first key and its first query, as places in a text.
#[derive(Clone, Copy)]
pub(super) struct Corner {
    pub key: usize,
    pub query: usize,
}

impl Corner {
    /// Whether query `q` of the block sees key `k` of it.
    pub(super) fn sees(self, window: Option<usize>, k: usize, q: usize) -> bool {
        let (key, query) = (self.key + k, self.query + q);
        key <= query && window.is_none_or(|window| query - key < window)
    }

    /// Keys of the block that each of the queries `queries` of it sees.
    pub(super) fn seen_by_all(self, window: Option<usize>, queries: Range<usize>) -> Range<usize> {
        let oldest = window.map_or(0, |window| (self.query + queries.end).saturating_sub(window));
        oldest.saturating_sub(self.key)..(self.query + queries.start + 1).saturating_sub(self.key)
    }
}

/// The numbers of each query that the backward pass needs.
pub(super) struct QueryColumns {
    /// Logarithm of the normaliser.
    pub normaliser: [f32; QUERIES],
    /// Σ out ∘ d out.
    pub delta: [f32; QUERIES],
}

/// Where `lanes::slopes` writes: rows of keys for the gradients of k and v, pairs of keys for that of q.
pub(super) struct Slopes<'a> {
    /// p (keys, queries)
    pub weights: &'a mut [bf16],
    /// ds (keys, queries)
    pub rows: &'a mut [bf16],
    /// ds (⌈keys/2⌉, queries)
    pub pairs: &'a mut [u32],
}
