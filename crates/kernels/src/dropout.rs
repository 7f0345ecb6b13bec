//! Dropout whose mask is never stored: element `i` is decided by a hash of `i`, forwards and backwards alike.
//!
//! Refuses to know: where a key comes from.

use rayon::prelude::*;

use super::element::Element;
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::random;

/// A mask as a function: each element is kept with probability `1 - p` and divided by it, else zero (inverted dropout, Srivastava et al.
/// 2014, section 10), by `key` and the element's index only.
#[derive(Debug, Clone, Copy)]
pub struct DropoutMask {
    key: u64,
    /// Hashes below it drop their element.
    limit: u64,
    keep: f32,
}

impl DropoutMask {
    pub fn new(key: u64, p: f64) -> DropoutMask {
        DropoutMask { key, limit: (p * u64::MAX as f64) as u64, keep: 1.0 / (1.0 - p) as f32 }
    }

    /// What is kept is multiplied with this.
    pub fn keep(&self) -> f32 {
        self.keep
    }

    fn keeps(&self, i: usize) -> bool {
        random::indexed(self.key, i as u64) >= self.limit
    }

    fn at(&self, i: usize) -> f32 {
        if self.keeps(i) { self.keep } else { 0.0 }
    }
}

/// A mask over tokens: token `i` of a slice is row `rows[i]` of the tensor that the mask is of.
#[derive(Debug, Clone, Copy)]
pub struct TokenMask<'a> {
    pub mask: DropoutMask,
    pub rows: &'a [u64],
}

impl TokenMask<'_> {
    /// The factors of one token's `width` elements.
    fn factors(&self, token: usize, out: &mut [f32]) {
        let first = self.rows[token] as usize * out.len();
        out.iter_mut().enumerate().for_each(|(i, factor)| *factor = self.mask.at(first + i));
    }

    /// Whether each element is dropped, eight in a byte from its lowest bit on: (tokens, ⌈width / 8⌉).
    pub fn bits(&self, width: usize) -> Vec<u8> {
        let bytes = width.div_ceil(8);
        let mut all = vec![0u8; self.rows.len() * bytes];
        all.par_chunks_exact_mut(bytes).zip(self.rows).for_each(|(out, row)| {
            let first = *row as usize * width;
            (0..width).for_each(|i| out[i / 8] |= u8::from(!self.mask.keeps(first + i)) << (i % 8));
        });
        all
    }

    /// `x` (tokens, width) by the factors.
    pub fn apply<T: Element>(&self, x: &[T]) -> Vec<T> {
        let (lanes, width) = (Lanes::in_force(), x.len() / self.rows.len());
        let mut out = vec![T::default(); x.len()];
        out.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).enumerate().for_each_init(
            || vec![0f32; width],
            |factors, (token, (out, x))| {
                self.factors(token, factors);
                multiplied(lanes, x, factors, out);
            },
        );
        out
    }

    /// `dx (tokens, i) += mask ∘ (g (tokens, r) · a (r, i))`: the way back of a pair whose input was dropped.
    pub fn add_delta<T: Element>(&self, g: &[f32], a: &[f32], dx: &mut [T]) {
        let (lanes, width) = (Lanes::in_force(), dx.len() / self.rows.len());
        let rank = a.len() / width;
        dx.par_chunks_exact_mut(width).zip(g.par_chunks_exact(rank)).enumerate().for_each_init(
            || (vec![0f32; width], vec![0f32; width]),
            |(factors, delta), (token, (dx, g))| {
                self.factors(token, factors);
                delta.fill(0.0);
                g.iter().zip(a.chunks_exact(width)).for_each(|(g, a)| add_multiple(lanes, *g, a, delta));
                add_product(lanes, factors, delta, dx);
            },
        );
    }
}

multiversion! { fn multiplied<T: Element>(x: &[T], factors: &[f32], out: &mut [T]) = multiplied_body; }
multiversion! { fn add_multiple(factor: f32, x: &[f32], y: &mut [f32]) = add_multiple_body; }
multiversion! { fn add_product<T: Element>(a: &[f32], b: &[f32], y: &mut [T]) = add_product_body; }

#[inline(always)]
fn multiplied_body<S: Simd, T: Element>(s: S, x: &[T], factors: &[f32], out: &mut [T]) {
    for (x, f, out) in runs(s, (x, factors, out)) {
        T::store(s, s.mul(T::load(s, x), s.load(f)), out);
    }
}

#[inline(always)]
fn add_multiple_body<S: Simd>(s: S, factor: f32, x: &[f32], y: &mut [f32]) {
    let factor = s.splat(factor);
    for (x, y) in runs(s, (x, y)) {
        s.store(s.mul_add(factor, s.load(x), s.load(y)), y);
    }
}

#[inline(always)]
fn add_product_body<S: Simd, T: Element>(s: S, a: &[f32], b: &[f32], y: &mut [T]) {
    for (a, b, y) in runs(s, (a, b, y)) {
        T::store(s, s.mul_add(s.load(a), s.load(b), T::load(s, y)), y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::numbers;

    #[test]
    fn tokens_take_the_factors_of_their_rows_there_and_back() {
        let (width, rank, rows) = (1000, 3, [4, 0, 7, 31]);
        let mask = TokenMask { mask: DropoutMask::new(9, 0.3), rows: &rows };
        let all: Vec<f32> = rows.iter().flat_map(|row| (0..width).map(|i| mask.mask.at(*row as usize * width + i))).collect();
        let bits = mask.bits(width);
        assert!(
            (0..all.len())
                .all(|i| (all[i] == 0.0) == (bits[i / width * width.div_ceil(8) + i % width / 8] >> (i % width % 8) & 1 == 1))
        );
        let flat = |seed, len: usize| numbers(seed, &[len]).to_vec1::<f32>().unwrap();
        let (x, g, a) = (flat(1, rows.len() * width), flat(2, rows.len() * rank), flat(3, rank * width));
        assert!(mask.apply(&x).iter().zip(&x).zip(&all).all(|((out, x), f)| *out == x * f));
        let mut dx = x.clone();
        mask.add_delta(&g, &a, &mut dx);
        for (at, dx) in dx.iter().enumerate() {
            let delta: f32 = (0..rank).map(|r| g[at / width * rank + r] * a[r * width + at % width]).sum();
            assert!((dx - x[at] - all[at] * delta).abs() < 1e-5);
        }
    }

    #[test]
    fn the_right_share_is_dropped_and_the_mean_stays() {
        for p in [0.05, 0.5, 0.9] {
            let out = TokenMask { mask: DropoutMask::new(3, p), rows: &[0] }.apply(&vec![1f32; 100_000]);
            let zeros = out.iter().filter(|v| **v == 0.0).count() as f64 / 1e5;
            let mean = out.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
            assert!((zeros - p).abs() < 0.01 && (mean - 1.0).abs() < 0.05, "{p}: {zeros}, {mean}");
        }
    }
}
