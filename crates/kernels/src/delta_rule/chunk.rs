//! One chunk of a head's tokens: its decays, the products of its keys, and the triangular system of its corrections.

use std::ops::Range;

use super::dense::{Sizes, View, product};
use super::heads::Head;
use super::rows::add_scaled;

/// Tokens of a chunk.
pub(super) const CHUNK: usize = 64;

/// Rows of the triangular system that are solved by substitution; what earlier ones take from them is a product.
const BLOCK: usize = 16;

/// With c the running sum of the logarithms of decays:
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
}

impl Chunk {
    pub(super) fn new(head: &Head, at: &Range<usize>) -> Chunk {
        let (len, dim) = (at.len(), head.key_dim);
        let mut sum = 0f64;
        let running = head.log_decay[at.clone()].iter().map(|g| {
            sum += f64::from(*g);
            sum
        });
        let sums: Vec<f64> = running.collect();
        let e = |x: f64| (x as f32).exp();
        let [q, k] = [head.q, head.k].map(|x| &x[at.start * dim..at.end * dim]);
        let (mut scores, mut overlap, mut decay) = (vec![0.0; len * len], vec![0.0; len * len], vec![0.0; len * len]);
        let sizes = Sizes { m: len, n: len, k: dim };
        product(&mut scores, len, sizes, View::rows(q, dim), View::transposed(k, dim), 1.0, false);
        product(&mut overlap, len, sizes, View::rows(k, dim), View::transposed(k, dim), 1.0, false);
        for i in 0..len {
            let row = i * len..(i + 1) * len;
            for (j, decay) in decay[row.clone()][..=i].iter_mut().enumerate() {
                *decay = e(sums[i] - sums[j]);
            }
            scores[row.clone()].iter_mut().zip(&decay[row.clone()]).for_each(|(x, decay)| *x *= decay);
            overlap[row.clone()][..i].iter_mut().zip(&decay[row.clone()]).for_each(|(x, decay)| *x *= decay);
            overlap[row][i..].fill(0.0);
        }
        let from_start = sums.iter().map(|c| e(*c)).collect();
        Chunk { len, from_start, to_end: sums.iter().map(|c| e(sum - c)).collect(), total: e(sum), decay, scores, overlap }
    }

    /// What the corrections' system has below its diagonal of ones: `β∘overlap`.
    pub(super) fn system(&self, beta: &[f32]) -> Vec<f32> {
        super::rows::scaled_rows(&self.overlap, self.len, beta)
    }
}

/// `x ← (1 + a)⁻¹·x`; `a` (l, l), of which what lies below the diagonal is read, `x` (l, width).
pub(super) fn solve(a: &[f32], len: usize, x: &mut [f32], width: usize) {
    for first in (0..len).step_by(BLOCK) {
        let end = len.min(first + BLOCK);
        let (solved, rest) = x.split_at_mut(first * width);
        if first > 0 {
            let below = View { data: &a[first * len..], rows: len, cols: 1 };
            product(rest, width, Sizes { m: end - first, n: width, k: first }, below, View::rows(solved, width), -1.0, true);
        }
        for i in first + 1..end {
            let (solved, row) = x[..(i + 1) * width].split_at_mut(i * width);
            for (j, x) in solved.chunks_exact(width).enumerate().skip(first) {
                add_scaled(row, -a[i * len + j], x);
            }
        }
    }
}

/// `x ← (1 + aᵀ)⁻¹·x`; see [`solve`].
pub(super) fn solve_transposed(a: &[f32], len: usize, x: &mut [f32], width: usize) {
    for first in (0..len).step_by(BLOCK).rev() {
        let end = len.min(first + BLOCK);
        let (block, solved) = x.split_at_mut(end * width);
        let block = &mut block[first * width..];
        if end < len {
            let right = View { data: &a[end * len + first..], rows: 1, cols: len };
            product(block, width, Sizes { m: end - first, n: width, k: len - end }, right, View::rows(solved, width), -1.0, true);
        }
        for i in (first..end).rev() {
            let (row, solved) = block[(i - first) * width..].split_at_mut(width);
            for (j, x) in (i + 1..end).zip(solved.chunks_exact(width)) {
                add_scaled(row, -a[j * len + i], x);
            }
        }
    }
}
