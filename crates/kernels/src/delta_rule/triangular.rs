//! Products with triangular matrices, which leave out most of what is zero, and the solution of unit triangular systems.

use super::simd::{Lanes, Simd, multiversion, runs};
use super::tile::{ROWS, Right, Size, StridedLeft, StridedProduct, matmul};

/// Rows of a triangular matrix that are multiplied at once.
const STRIP: usize = 2 * ROWS;

/// Rows of a system that are solved by substitution; what earlier ones take from them is a product.
const BLOCK: usize = 16;

/// `out` (l, l) `= a` (l, k) `· b` (k, l) on and below the diagonal; a few elements above it are written as well.
pub(super) fn lower_product(lanes: Lanes, a: &[f32], b: &[f32], len: usize, out: &mut [f32]) {
    let k = a.len() / len;
    for first in (0..len).step_by(STRIP) {
        let end = len.min(first + STRIP);
        let size = Size { m: end - first, k, n: end.next_multiple_of(BLOCK).min(len), add: false };
        let left = StridedLeft { data: &a[first * k..], row: k, column: 1 };
        matmul(lanes, size, left, Right { data: b, row: len }, StridedProduct { data: &mut out[first * len..], row: len });
    }
}

/// `out` (l, width) `+= a · b` (l, width); `a` (l, l) has zeros above its diagonal.
pub(super) fn add_lower(lanes: Lanes, a: &[f32], b: &[f32], len: usize, out: &mut [f32]) {
    let width = b.len() / len;
    for first in (0..len).step_by(STRIP) {
        let end = len.min(first + STRIP);
        let size = Size { m: end - first, k: end, n: width, add: true };
        let left = StridedLeft { data: &a[first * len..], row: len, column: 1 };
        matmul(lanes, size, left, Right { data: b, row: width }, StridedProduct { data: &mut out[first * width..], row: width });
    }
}

/// `out` (l, width) `+= aᵀ · b`; see [`add_lower`].
pub(super) fn add_lower_transposed(lanes: Lanes, a: &[f32], b: &[f32], len: usize, out: &mut [f32]) {
    let width = b.len() / len;
    for first in (0..len).step_by(STRIP) {
        let end = len.min(first + STRIP);
        let size = Size { m: end - first, k: len - first, n: width, add: true };
        let left = StridedLeft { data: &a[first * len + first..], row: 1, column: len };
        let right = Right { data: &b[first * width..], row: width };
        matmul(lanes, size, left, right, StridedProduct { data: &mut out[first * width..], row: width });
    }
}

/// `x ← (1 − a)⁻¹·x`; `a` (l, l), of which what lies below the diagonal is read, `x` (l, width).
pub(super) fn solve(lanes: Lanes, a: &[f32], len: usize, x: &mut [f32]) {
    let width = x.len() / len;
    for first in (0..len).step_by(BLOCK) {
        let end = len.min(first + BLOCK);
        let (solved, rest) = x.split_at_mut(first * width);
        let size = Size { m: end - first, k: first, n: width, add: true };
        let left = StridedLeft { data: &a[first * len..], row: len, column: 1 };
        matmul(lanes, size, left, Right { data: solved, row: width }, StridedProduct { data: rest, row: width });
        substitute(lanes, &a[first * len + first..], len, &mut x[first * width..end * width], width);
    }
}

/// `x ← (1 − aᵀ)⁻¹·x`; see [`solve`].
pub(super) fn solve_transposed(lanes: Lanes, a: &[f32], len: usize, x: &mut [f32]) {
    let width = x.len() / len;
    for first in (0..len).step_by(BLOCK).rev() {
        let end = len.min(first + BLOCK);
        let (block, solved) = x.split_at_mut(end * width);
        let block = &mut block[first * width..];
        if end < len {
            let size = Size { m: end - first, k: len - end, n: width, add: true };
            let left = StridedLeft { data: &a[end * len + first..], row: 1, column: len };
            matmul(lanes, size, left, Right { data: solved, row: width }, StridedProduct { data: block, row: width });
        }
        substitute_back(lanes, &a[first * len + first..], len, block, width);
    }
}

multiversion! {
    /// Solves one block of [`solve`]; rows of `a` are `len` apart.
    fn substitute(a: &[f32], len: usize, x: &mut [f32], width: usize) = substitute_body;
}
multiversion! {
    /// Solves one block of [`solve_transposed`].
    fn substitute_back(a: &[f32], len: usize, x: &mut [f32], width: usize) = substitute_back_body;
}

#[inline(always)]
fn substitute_body<S: Simd>(s: S, a: &[f32], len: usize, x: &mut [f32], width: usize) {
    for i in 1..x.len() / width {
        let (solved, row) = x[..(i + 1) * width].split_at_mut(i * width);
        let factors = &a[i * len..][..i];
        let mut at = 0;
        for (row,) in runs(s, (row,)) {
            let mut sum = s.load(row);
            for (factor, solved) in factors.iter().zip(solved.chunks_exact(width)) {
                sum = s.mul_add(s.splat(*factor), s.load(&solved[at..at + row.len()]), sum);
            }
            at += row.len();
            s.store(sum, row);
        }
    }
}

#[inline(always)]
fn substitute_back_body<S: Simd>(s: S, a: &[f32], len: usize, x: &mut [f32], width: usize) {
    for i in (0..x.len() / width).rev() {
        let (row, solved) = x[i * width..].split_at_mut(width);
        let mut at = 0;
        for (row,) in runs(s, (row,)) {
            let mut sum = s.load(row);
            for (j, solved) in (i + 1..).zip(solved.chunks_exact(width)) {
                sum = s.mul_add(s.splat(a[j * len + i]), s.load(&solved[at..at + row.len()]), sum);
            }
            at += row.len();
            s.store(sum, row);
        }
    }
}
