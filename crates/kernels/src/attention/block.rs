//! One block of queries of one head: which keys it sees, and the products of that shape.
//!
//! Products go by chunks of [`ROWS`] queries or keys, each only as far as the diagonal: what no query sees is
//! (almost) never computed.

use std::ops::Range;

use super::super::tile::{ROWS, Right, Size, StridedLeft, StridedProduct, matmul};
use super::rows::Panels;
use super::{Attention, Heads};

/// Floats between the end of a row of scores and the next row: without them, rows of a power of two of keys would
/// all fall into the same few cache sets.
const GAP: usize = 16;

/// Queries `first..first + len` of `head` of row `b`.
pub(super) struct QueryBlock<'a> {
    pub op: &'a Attention,
    pub b: usize,
    pub head: usize,
    pub first: usize,
    pub len: usize,
    /// Keys that any of the queries sees, the first rounded down to a whole panel.
    pub seen: Range<usize>,
    /// Floats from one row of scores to the next.
    pub stride: usize,
    width: usize,
}

impl<'a> QueryBlock<'a> {
    /// `None` when no query of the block sees a key.
    pub(super) fn new(op: &'a Attention, b: usize, head: usize, queries: Range<usize>) -> Option<QueryBlock<'a>> {
        let width = op.lanes.tile_columns();
        let visible = queries.clone().map(|i| op.visible(b, i)).filter(|keys| !keys.is_empty());
        let (first, end) = visible.fold((usize::MAX, 0), |(first, end), keys| (first.min(keys.start), end.max(keys.end)));
        if end == 0 {
            return None;
        }
        let seen = first / width * width..end;
        let stride = seen.len().div_ceil(width) * width + GAP;
        Some(QueryBlock { op, b, head, first: queries.start, len: queries.len(), seen, stride, width })
    }

    /// The head of k and v that this block reads.
    pub(super) fn key_head(&self) -> usize {
        self.head / self.op.dims.group()
    }

    /// Columns of scores that query `row` of the block sees.
    pub(super) fn columns(&self, row: usize) -> Range<usize> {
        let keys = self.op.visible(self.b, self.first + row);
        // A query that sees nothing may stand outside of what the others see.
        let start = keys.start.clamp(self.seen.start, self.seen.end);
        start - self.seen.start..keys.end.clamp(start, self.seen.end) - self.seen.start
    }

    /// Chunks of queries, each with the columns that any of its queries sees; those that see none are left out.
    fn chunks(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.len).step_by(ROWS).filter_map(|first| {
            let chunk = first..self.len.min(first + ROWS);
            let visible = chunk.clone().map(|row| self.columns(row)).filter(|columns| !columns.is_empty());
            let columns = visible.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
            Some((chunk, columns))
        })
    }

    /// `out` (queries, keys) = left (queries, dh) · panels (dh, keys), where a query of the chunk sees the key;
    /// other elements of `out` keep what they held.
    pub(super) fn times_panels(&self, left: &[f32], left_row: usize, panels: &Panels, out: &mut Vec<f32>) {
        out.resize(self.len * self.stride, 0.0);
        let first_panel = self.seen.start / self.width;
        for panel in 0..self.seen.len().div_ceil(self.width) {
            let from = panel * self.width;
            for (chunk, columns) in self.chunks() {
                if columns.end <= from || columns.start >= from + self.width {
                    continue;
                }
                let n = (columns.end - from).next_multiple_of(GAP).min(self.width);
                let size = Size { m: chunk.len(), k: self.op.dims.dh, n, add: false };
                let left = StridedLeft { data: &left[chunk.start * left_row..], row: left_row, column: 1 };
                let right = Right { data: panels.panel(first_panel + panel), row: self.width };
                let product = StridedProduct { data: &mut out[chunk.start * self.stride + from..], row: self.stride };
                matmul(self.op.lanes, size, left, right, product);
            }
        }
    }

    /// `out` (queries, dh) = weights (queries, keys) · values (keys, dh); rows that see no key keep what they held.
    pub(super) fn times_values(&self, weights: &[f32], values: Heads<'_>, out: &mut [f32], out_row: usize) {
        for (chunk, columns) in self.chunks() {
            let size = Size { m: chunk.len(), k: columns.len(), n: self.op.dims.dh, add: false };
            let left = StridedLeft { data: &weights[chunk.start * self.stride + columns.start..], row: self.stride, column: 1 };
            let right = Right { data: values.from(self.b, self.seen.start + columns.start, self.key_head()), row: values.time };
            matmul(self.op.lanes, size, left, right, StridedProduct { data: &mut out[chunk.start * out_row..], row: out_row });
        }
    }

    /// `out` (t, dh) += weightsᵀ (keys, queries) · right (queries, dh).
    pub(super) fn add_transposed(&self, weights: &[f32], right: &[f32], right_row: usize, out: &mut [f32]) {
        let dh = self.op.dims.dh;
        let mut key = 0;
        while key < self.seen.len() {
            // The first query that sees this key or a later one; all keys up to the diagonal go at once.
            let query = (0..self.len).find(|row| self.columns(*row).end > key).unwrap_or(self.len);
            let keys = if query == 0 { self.columns(0).end - key } else { ROWS.min(self.seen.len() - key) };
            let size = Size { m: keys, k: self.len - query, n: dh, add: true };
            let left = StridedLeft { data: &weights[query * self.stride + key..], row: 1, column: self.stride };
            let right = Right { data: &right[query * right_row..], row: right_row };
            let product = StridedProduct { data: &mut out[(self.seen.start + key) * dh..], row: dh };
            matmul(self.op.lanes, size, left, right, product);
            key += keys;
        }
    }
}
