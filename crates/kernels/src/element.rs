//! What activations are kept in: f32, or bf16 where matrices are multiplied in bf16. Sums are f32 in both.
//!
//! Refuses to know: operations.

use half::bf16;
use rayon::prelude::*;

use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// A stored number that vectors of f32 are read from and rounded to.
pub trait Element: Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// The first `min(lanes, from.len())` elements; the other lanes are zero.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::V;
    /// Writes the first `min(lanes, to.len())` lanes.
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self]);
    /// 1 / (1 + e⁻ˣ), as exact as a stored number can tell.
    fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
        s.load(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [f32]) {
        s.store(v, to);
    }
    #[inline(always)]
    fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
        let one = s.splat(1.0);
        s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), x))))
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[bf16]) -> S::V {
        s.load_half(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [bf16]) {
        s.store_half(v, to);
    }
    #[inline(always)]
    fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
        s.reciprocal_rough(s.add(s.splat(1.0), s.exp_rough(s.sub(s.splat(0.0), x))))
    }
}

/// `to = from`, rounded.
pub fn convert<X: Element, T: Element>(from: &[X], to: &mut [T]) {
    let lanes = Lanes::in_force();
    host::for_rows(to, 1, |at, to| convert_here(lanes, &from[at..][..to.len()], to));
}

/// Every row of `y` (rows, n) `+= bias` (n).
pub fn add_to_rows<T: Element>(y: &mut [T], bias: &[f32]) {
    let lanes = Lanes::in_force();
    host::for_rows(y, bias.len(), |_, y| y.chunks_exact_mut(bias.len()).for_each(|y| add_run(lanes, bias, y)));
}

/// Rows of `x` are `groups` times a piece of each part, one after another; each part's pieces come together in its rows.
pub fn split_rows<T: Element>(x: &[T], rows: usize, groups: usize, parts: &mut [&mut [T]]) {
    let pieces = rows.max(1) * groups;
    let (width, mut at) = (x.len() / pieces, 0);
    for part in parts {
        let own = part.len() / pieces;
        part.par_chunks_exact_mut(own)
            .zip(x.par_chunks_exact(width))
            .for_each(|(to, from)| to.copy_from_slice(&from[at..at + own]));
        at += own;
    }
}

/// [`split_rows`] undone.
pub fn join_rows<T: Element>(parts: &[&[T]], rows: usize, groups: usize, x: &mut [T]) {
    let pieces = rows.max(1) * groups;
    let width = x.len() / pieces;
    x.par_chunks_exact_mut(width).enumerate().for_each(|(piece, mut to)| {
        for part in parts {
            let own = part.len() / pieces;
            let (here, rest) = to.split_at_mut(own);
            here.copy_from_slice(&part[piece * own..][..own]);
            to = rest;
        }
    });
}

/// `y = Σ parts`, parts of the length of `y` side by side, on this thread.
pub(super) fn sum_here(lanes: Lanes, parts: &[f32], y: &mut [f32]) {
    let (first, rest) = parts.split_at(y.len());
    y.copy_from_slice(first);
    rest.chunks_exact(y.len()).for_each(|part| add_run(lanes, part, y));
}

multiversion! {
    /// [`convert`] on this thread.
    pub(super) fn convert_here<X: Element, T: Element>(from: &[X], to: &mut [T]) = convert_body;
}
multiversion! { fn add_run<T: Element>(x: &[f32], y: &mut [T]) = add_body; }

#[inline(always)]
fn convert_body<S: Simd, X: Element, T: Element>(s: S, from: &[X], to: &mut [T]) {
    for (x, y) in runs(s, (from, to)) {
        T::store(s, X::load(s, x), y);
    }
}

#[inline(always)]
fn add_body<S: Simd, T: Element>(s: S, x: &[f32], y: &mut [T]) {
    for (x, y) in runs(s, (x, y)) {
        T::store(s, s.add(T::load(s, y), s.load(x)), y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even_at_every_level_and_keeps_what_is_no_number() {
        let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(0x3f80_8000)];
        let many = (0..100_003u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        let xs: Vec<f32> = special.into_iter().chain(many).collect();
        for lanes in Lanes::available() {
            let mut got = vec![bf16::ZERO; xs.len()];
            convert_here(lanes, &xs, &mut got);
            for (x, got) in xs.iter().zip(&got) {
                let want = bf16::from_f32(*x);
                assert!(want == *got || (x.is_nan() && got.is_nan()), "{}: {x:e} became {got}", lanes.name());
            }
            let mut back = vec![0f32; got.len()];
            convert_here(lanes, &got, &mut back);
            assert!(back.iter().zip(&got).all(|(b, g)| *b == g.to_f32() || g.is_nan()), "{}", lanes.name());
        }
    }
}
