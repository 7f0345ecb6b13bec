//! A few rows of f32 times rows of a frozen matrix: each row of it becomes f32 in the first-level cache.
//!
//! Refuses to know: row orders, threads.

use std::ops::Range;

use super::Put;
use crate::kernels::simd::{Lanes, Simd, multiversion};

/// Rows of x and of `W` that are multiplied at once.
const HIGH: usize = 4;
const WIDE: usize = 2;

/// Rows `rows` of the file.
pub(super) fn rows(level: Lanes, x: &[f32], to: &Put, rows: Range<usize>, decoded: &mut Vec<f32>) {
    let (k, stride) = (to.w.cols, to.stride());
    decoded.resize(k * WIDE, 0.0);
    for row in rows.clone().step_by(WIDE) {
        let here = WIDE.min(rows.end - row);
        crate::kernels::weight::decode(to.w.dtype, &to.bytes(row)[..here * stride], &mut decoded[..here * k]);
        let mut sums = [[0f32; super::MOST]; WIDE];
        dots(level, x, k, decoded, &mut sums);
        sums.iter().take(here).enumerate().for_each(|(r, sums)| to.put(row + r, sums));
    }
}

multiversion! { fn dots(x: &[f32], k: usize, w: &[f32], sums: &mut [[f32; super::MOST]; WIDE]) = dots_body; }

#[inline(always)]
fn dots_body<S: Simd>(s: S, x: &[f32], k: usize, w: &[f32], sums: &mut [[f32; super::MOST]; WIDE]) {
    let m = x.len() / k;
    let mut i = 0;
    while i < m {
        if m - i >= HIGH {
            tile::<S, HIGH>(s, &x[i * k..], k, w, sums, i);
            i += HIGH;
        } else {
            tile::<S, 1>(s, &x[i * k..], k, w, sums, i);
            i += 1;
        }
    }
}

/// `M` rows of x, from row `i` of the sums on. Each sum is made in two parts, even and odd vectors.
#[inline(always)]
fn tile<S: Simd, const M: usize>(s: S, x: &[f32], k: usize, w: &[f32], sums: &mut [[f32; super::MOST]; WIDE], i: usize) {
    let mut acc = [[s.splat(0.0); M]; WIDE];
    let mut at = 0;
    while at < k {
        let end = (at + S::LANES).min(k);
        let w: [S::V; WIDE] = std::array::from_fn(|r| s.load(&w[r * k + at..r * k + end]));
        for m in 0..M {
            let x = s.load(&x[m * k + at..m * k + end]);
            for r in 0..WIDE {
                acc[r][m] = s.mul_add(w[r], x, acc[r][m]);
            }
        }
        at = end;
    }
    for r in 0..WIDE {
        for m in 0..M {
            sums[r][i + m] = s.sum(acc[r][m]);
        }
    }
}
