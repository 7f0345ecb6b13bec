//! The low-rank delta for a few rows of x: `h = s·x·Aᵀ`, then `y += h·Bᵀ`. Its matrices are small and lie in a cache, so
//! what counts is how little is done around them.
//!
//! Every result is summed in one order, whatever other rows and threads there are. Refuses to know: the base's product.

use rayon::prelude::*;

use super::lanes::{WIDE, dots};
use super::{MOST, SharedOutput};
use crate::simd::{Lanes, Simd, multiversion};

/// Rows of B of one task.
const ROWS: usize = 192;

/// `h (m, r) = scale · x (m, i) · Aᵀ`, `a` (r, i).
pub(crate) fn narrow(x: &[f32], i: usize, a: &[f32], scale: f32) -> Vec<f32> {
    let mut h = vec![0f32; x.len() / i * (a.len() / i)];
    let parts = x.chunks(MOST * i).zip(h.chunks_mut(MOST * (a.len() / i)));
    parts.for_each(|(x, h)| narrow_part(x, i, a, scale, h));
    h
}

/// Of up to [`MOST`] rows.
fn narrow_part(x: &[f32], i: usize, a: &[f32], scale: f32, h: &mut [f32]) {
    let r = a.len() / i;
    let level = Lanes::in_force();
    for (first, a) in (0..r).step_by(WIDE).zip(a.chunks(WIDE * i)) {
        let mut sums = [[0f32; MOST]; WIDE];
        dots(level, x, i, a, &mut sums);
        for (at, sums) in (first..r).zip(&sums) {
            for (h, sum) in h.chunks_exact_mut(r).zip(sums) {
                h[at] = sum * scale;
            }
        }
    }
}

/// `y (m, o) += h (m, r) · Bᵀ`, `b` (o, r).
pub(crate) fn widen(h: &[f32], r: usize, b: &[f32], y: &mut [f32]) {
    let (m, o, level) = (h.len() / r, b.len() / r, Lanes::in_force());
    assert!(h.len() == m * r && b.len() == o * r && y.len() == m * o, "low-rank delta: shapes");
    let out = SharedOutput(y.as_mut_ptr());
    b.par_chunks(ROWS * r).enumerate().for_each(|(task, b)| {
        for (i, h) in h.chunks_exact(r).enumerate() {
            // SAFETY: these outputs of row i lie inside y and are this task's own.
            let y = unsafe { std::slice::from_raw_parts_mut({ out }.0.add(i * o + task * ROWS), b.len() / r) };
            add_products(level, h, b, y);
        }
    });
}

multiversion! { fn add_products(h: &[f32], b: &[f32], y: &mut [f32]) = add_body; }

#[inline(always)]
fn add_body<S: Simd>(s: S, h: &[f32], b: &[f32], y: &mut [f32]) {
    let r = h.len();
    for (b, y) in b.chunks_exact(r).zip(y) {
        let mut acc = s.splat(0.0);
        let mut at = 0;
        while at < r {
            let end = (at + S::LANES).min(r);
            acc = s.mul_add(s.load(&h[at..end]), s.load(&b[at..end]), acc);
            at = end;
        }
        *y += s.sum(acc);
    }
}
