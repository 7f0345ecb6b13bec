//! A few rows of f32 times rows of a frozen matrix, in f32: bf16 and f32 are read where they lie, other types become f32
//! in the first-level cache.
//!
//! Refuses to know: row orders, threads.

use std::ops::Range;

use half::bf16;

use super::{MOST, SkinnyOutput};
use crate::element::Element;
use crate::simd::{Lanes, Simd, multiversion};
use crate::weight::{WeightType, decode};

/// Rows of `W` that are multiplied at once.
pub(super) const WIDE: usize = 4;
/// What they give with each row of x.
pub(super) type LaneSums = [[f32; MOST]; WIDE];

/// Rows `rows` of the file.
pub(super) fn rows(level: Lanes, x: &[f32], to: &SkinnyOutput, rows: Range<usize>, decoded: &mut Vec<f32>) {
    let (k, stride, dtype) = (to.w.cols, to.stride(), to.w.dtype);
    for row in rows.clone().step_by(WIDE) {
        let here = WIDE.min(rows.end - row);
        let bytes = &to.bytes(row)[..here * stride];
        let mut sums = [[0f32; MOST]; WIDE];
        // SAFETY: any bits are numbers of these types.
        let (halves, floats) = unsafe { (bytes.align_to::<bf16>(), bytes.align_to::<f32>()) };
        match dtype {
            WeightType::BF16 if halves.1.len() == here * k => dots(level, x, k, halves.1, &mut sums),
            WeightType::F32 if floats.1.len() == here * k => dots(level, x, k, floats.1, &mut sums),
            _ => {
                decoded.resize(k * WIDE, 0.0);
                decode(dtype, bytes, &mut decoded[..here * k]);
                dots(level, x, k, &decoded[..here * k], &mut sums);
            }
        }
        sums.iter().take(here).enumerate().for_each(|(r, sums)| to.put(row + r, 0, sums));
    }
}

multiversion! {
    /// Up to `WIDE` rows of `w`, each of `k` elements, with up to `MOST` rows of x.
    pub(super) fn dots<T: Element>(x: &[f32], k: usize, w: &[T], sums: &mut LaneSums) = dots_body;
}

#[inline(always)]
fn dots_body<S: Simd, T: Element>(s: S, x: &[f32], k: usize, w: &[T], sums: &mut LaneSums) {
    if w.len() == WIDE * k {
        return x_rows::<S, T, WIDE>(s, x, k, w, sums);
    }
    for (w, sums) in w.chunks_exact(k).zip(sums) {
        let mut one = [*sums];
        x_rows::<S, T, 1>(s, x, k, w, &mut one);
        *sums = one[0];
    }
}

/// As many rows of x at once as the registers hold sums of.
#[inline(always)]
fn x_rows<S: Simd, T: Element, const R: usize>(s: S, x: &[f32], k: usize, w: &[T], sums: &mut [[f32; MOST]; R]) {
    let m = x.len() / k;
    let mut i = 0;
    while i < m {
        let x = &x[i * k..];
        match m - i {
            4.. if S::LANES == 16 => {
                tile::<S, T, R, 4>(s, x, k, w, sums, i);
                i += 4;
            }
            2.. => {
                tile::<S, T, R, 2>(s, x, k, w, sums, i);
                i += 2;
            }
            _ => {
                tile::<S, T, R, 1>(s, x, k, w, sums, i);
                i += 1;
            }
        }
    }
}

/// `M` rows of x, into the sums from row `i` on.
#[inline(always)]
fn tile<S: Simd, T: Element, const R: usize, const M: usize>(
    s: S,
    x: &[f32],
    k: usize,
    w: &[T],
    sums: &mut [[f32; MOST]; R],
    i: usize,
) {
    let (x, w): ([&[f32]; M], [&[T]; R]) = (std::array::from_fn(|m| &x[m * k..][..k]), std::array::from_fn(|r| &w[r * k..][..k]));
    let mut acc = [[s.splat(0.0); M]; R];
    let mut at = 0;
    while at + S::LANES <= k {
        step(s, x.map(|x| &x[at..at + S::LANES]), w.map(|w| &w[at..at + S::LANES]), &mut acc);
        at += S::LANES;
    }
    if at < k {
        step(s, x.map(|x| &x[at..]), w.map(|w| &w[at..]), &mut acc);
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sum, acc) in sums[i..].iter_mut().zip(acc) {
            *sum = s.sum(acc);
        }
    }
}

/// One vector of every row.
#[inline(always)]
fn step<S: Simd, T: Element, const R: usize, const M: usize>(s: S, x: [&[f32]; M], w: [&[T]; R], acc: &mut [[S::V; M]; R]) {
    let mut xs = [s.splat(0.0); M];
    let mut m = 0;
    while m < M {
        xs[m] = s.load(x[m]);
        m += 1;
    }
    let mut r = 0;
    while r < R {
        let w = T::load(s, w[r]);
        let mut m = 0;
        while m < M {
            acc[r][m] = s.mul_add(w, xs[m], acc[r][m]);
            m += 1;
        }
        r += 1;
    }
}
