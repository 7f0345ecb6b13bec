//! Attention over whole texts in bf16 (f32 sums), forward and backward, with AVX-512 BF16.
//!
//! Queries are the columns everywhere: 48 of them fill three registers, keys are rows, so that the softmax runs down
//! columns without a horizontal step, and every product is the tile of `tile_bf16`. Texts lie one after another; a query
//! sees its own text up to itself, of a window its newest keys, and blocks of keys that no query of a block sees are left
//! out (Dao et al. 2022, algorithms 1 and 4, with keys in blocks).
//! Legend: n tokens of all texts, h heads, g key heads, e head size (even).
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `columns` | a block of scores |
//! | 1 | `twin` | what happens between the products, in plain code |
//! | 2 | `lanes` | the same by instructions, where they are in force |
//! | 3 | `forward`, `backward` | all blocks, there and back |
#![cfg(target_arch = "x86_64")]

mod backward;
mod columns;
mod forward;
mod lanes;
mod twin;

#[cfg(test)]
mod tests;

use half::bf16;
use rayon::prelude::*;

use super::super::panel::{self, RowPointer};
use super::Varlen;
pub(crate) use backward::{HalfSaved, backward};
pub(crate) use forward::forward;

/// Queries of a block: the columns of a tile.
const QUERIES: usize = 48;
/// Keys of a block: scores of a block of queries stay in the second-level cache.
const KEYS: usize = 256;

/// Vectors of one head: token `i` begins `i · stride` elements on.
#[derive(Clone, Copy)]
struct Head<'a> {
    data: &'a [bf16],
    stride: usize,
    dim: usize,
}

impl<'a> Head<'a> {
    /// Head `head` of `data` (tokens, heads · e), from token `from` on.
    fn of(data: &'a [bf16], from: usize, head: usize, heads: usize, dim: usize) -> Head<'a> {
        Head { data: &data[from * heads * dim + head * dim..], stride: heads * dim, dim }
    }

    fn row(self, i: usize) -> &'a [bf16] {
        &self.data[i * self.stride..][..self.dim]
    }

    /// Tokens `first..first + count` as the columns of a panel of [`QUERIES`]; missing ones are zero.
    fn columns(self, first: usize, count: usize, panel: &mut [u32]) {
        let row = |j: usize| -> RowPointer { if j < count { self.row(first + j).as_ptr() } else { std::ptr::null() } };
        // SAFETY: AVX-512 BF16 was detected by the caller; rows hold e/2 pairs.
        unsafe { panel::columns_from_rows(row, QUERIES, self.dim / 2, panel) }
    }

    /// Tokens `first..first + count` along the sum of panels of 64 elements of the head: panel `j` begins at
    /// `j · ⌈QUERIES / 2⌉ · 64`.
    fn along(self, first: usize, count: usize, panels: &mut [u32]) {
        let pairs = QUERIES / 2;
        for (j, panel) in panels.chunks_exact_mut(pairs * 64).enumerate() {
            panel.fill(0);
            let width = 64.min(self.dim - 64 * j);
            for p in 0..count.div_ceil(2) {
                let at = |i: usize| -> RowPointer {
                    if i < count { self.row(first + i)[64 * j..].as_ptr() } else { std::ptr::null() }
                };
                // SAFETY: AVX-512 BF16 was detected by the caller; rows hold the columns, the panel a row of 64.
                unsafe { panel::interleave(at(2 * p), at(2 * p + 1), width, panel[p * 64..].as_mut_ptr()) }
            }
        }
    }
}

/// A head of keys or values by elements: (e, ⌈s/2⌉) pairs of tokens.
struct Transposed {
    data: Vec<u32>,
    pairs: usize,
}

impl Transposed {
    fn new(head: Head, tokens: usize) -> Transposed {
        let pairs = tokens.div_ceil(2);
        let e = head.dim.next_multiple_of(16);
        // Sixteen pairs of tokens at a time are interleaved, then transposed.
        let (mut data, mut rows) = (vec![0u32; e * pairs], vec![0u32; 16 * e]);
        for p0 in (0..pairs).step_by(16) {
            let count = 16.min(pairs - p0);
            for p in 0..16 {
                let at = |i: usize| -> RowPointer { if i < tokens { head.row(i).as_ptr() } else { std::ptr::null() } };
                let first = if p < count { 2 * (p0 + p) } else { tokens };
                // SAFETY: AVX-512 BF16 was detected by the caller; rows hold e elements.
                unsafe { panel::interleave(at(first), at(first + 1), head.dim, rows[p * e..].as_mut_ptr()) }
            }
            lanes::turn(&rows, e, count, &mut data[p0..], pairs);
        }
        Transposed { data, pairs }
    }

    /// All heads of all texts, `[text · key_heads + head]`.
    fn all(data: &[bf16], texts: &Varlen) -> Vec<Transposed> {
        let (g, e) = (texts.key_heads, texts.head_dim);
        (0..texts.spans.len() * g)
            .into_par_iter()
            .map(|at| {
                let span = &texts.spans[at / g];
                Transposed::new(Head::of(data, span.start, at % g, g, e), span.len())
            })
            .collect()
    }
}
