//! Root-mean-square norm (Zhang & Sennrich 2019, eq. 4) and layer norm (Ba et al. 2016, eq. 4).
//!
//! Their weights are frozen: no gradient of them is ever computed. Refuses to know: where a norm stands in a model.
//! Legend: `n` rows, `d` elements of a row. Weights of several rows are those of rows that follow one another: heads of a token.

use rayon::prelude::*;

use super::element::{Element, convert_here};
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// A frozen norm on slices, for either precision of activations.
#[derive(Debug, Clone, Copy)]
pub enum FrozenNorm<'a> {
    /// `x / √(mean(x²) + eps) · weight`, over rows of `width`.
    Rms { weight: &'a [f32], width: usize, eps: f32 },
    /// `(x − mean) / √(var + eps) · weight + bias`, with the biased variance, over rows of `width`.
    Layer { weight: &'a [f32], bias: &'a [f32], width: usize, eps: f32 },
    /// `by · x`: where a family has no norm, or a factor in its place.
    Scale { by: f32 },
}

impl FrozenNorm<'_> {
    /// The norm of each row of `x` (n, d).
    pub fn forward<X: Element, T: Element>(&self, x: &[X], out: &mut [T]) {
        let (lanes, period) = (Lanes::in_force(), self.period());
        host::for_rows(out, period, |row, out| self.forward_here(lanes, &x[row * period..][..out.len()], out));
    }

    /// As [`FrozenNorm::forward`] on this thread.
    fn forward_here<X: Element, T: Element>(&self, lanes: Lanes, x: &[X], out: &mut [T]) {
        match *self {
            FrozenNorm::Rms { weight, width, eps } => rms_rows(lanes, x, (weight, width), eps, out),
            FrozenNorm::Layer { weight, bias, width, eps } => layer_rows(lanes, x, (weight, bias, width), eps, out),
            FrozenNorm::Scale { by } => scaled(lanes, x, by, out),
        }
    }

    /// As [`FrozenNorm::forward`], with a copy of `x`.
    pub fn keep<T: Element>(&self, x: &[f32], out: &mut [T], kept: &mut [T]) {
        let (lanes, rows) = (Lanes::in_force(), host::rows_per_task(self.period()) * self.period());
        let tasks = out.par_chunks_mut(rows).zip(kept.par_chunks_mut(rows)).zip(x.par_chunks(rows));
        tasks.for_each(|((out, kept), x)| {
            self.forward_here(lanes, x, out);
            convert_here(lanes, x, kept);
        });
    }

    /// Adds the gradient of [`FrozenNorm::forward`] with respect to `x`, given that of its result, to `dx`, and copies the sum to `copy`.
    pub fn backward_add<T: Element>(&self, x: &[T], g: &[f32], dx: &mut [f32], copy: &mut [T]) {
        let (lanes, rows) = (Lanes::in_force(), host::rows_per_task(self.period()) * self.period());
        let tasks = dx.par_chunks_mut(rows).zip(copy.par_chunks_mut(rows)).zip(x.par_chunks(rows).zip(g.par_chunks(rows)));
        tasks.for_each(|((dx, copy), (x, g))| self.backward_here(lanes, x, g, dx, copy));
    }

    /// As [`FrozenNorm::backward_add`] on this thread.
    fn backward_here<T: Element>(&self, lanes: Lanes, x: &[T], g: &[f32], dx: &mut [f32], copy: &mut [T]) {
        match *self {
            FrozenNorm::Rms { weight, width, eps } => rms_rows_back_add(lanes, x, g, (weight, width), eps, dx, copy),
            FrozenNorm::Layer { weight, width, eps, .. } => layer_rows_back_add(lanes, x, g, (weight, width), eps, dx, copy),
            FrozenNorm::Scale { by } => scaled_back_add(lanes, g, by, dx, copy),
        }
    }

    /// Elements after which weights begin anew.
    fn period(&self) -> usize {
        match self {
            FrozenNorm::Rms { weight, .. } | FrozenNorm::Layer { weight, .. } => weight.len(),
            FrozenNorm::Scale { .. } => 1,
        }
    }
}

/// The weights of each row, over and over.
fn by_row(weights: &[f32], width: usize) -> impl Iterator<Item = &[f32]> {
    weights.chunks_exact(width).cycle()
}

multiversion! { fn rms_rows<X: Element, T: Element>(x: &[X], w: (&[f32], usize), eps: f32, out: &mut [T]) = rms_rows_body; }
multiversion! {
    fn rms_rows_back_add<T: Element>(x: &[T], g: &[f32], w: (&[f32], usize), eps: f32, dx: &mut [f32], copy: &mut [T])
        = rms_rows_back_add_body;
}
multiversion! {
    fn layer_rows<X: Element, T: Element>(x: &[X], wb: (&[f32], &[f32], usize), eps: f32, out: &mut [T]) = layer_rows_body;
}
multiversion! {
    fn layer_rows_back_add<T: Element>(x: &[T], g: &[f32], w: (&[f32], usize), eps: f32, dx: &mut [f32], copy: &mut [T])
        = layer_rows_back_add_body;
}
multiversion! { fn scaled<X: Element, T: Element>(x: &[X], by: f32, out: &mut [T]) = scaled_body; }
multiversion! { fn scaled_back_add<T: Element>(g: &[f32], by: f32, dx: &mut [f32], copy: &mut [T]) = scaled_back_add_body; }

#[inline(always)]
fn scaled_body<S: Simd, X: Element, T: Element>(s: S, x: &[X], by: f32, out: &mut [T]) {
    let by = s.splat(by);
    for (x, out) in runs(s, (x, out)) {
        T::store(s, s.mul(X::load(s, x), by), out);
    }
}

#[inline(always)]
fn scaled_back_add_body<S: Simd, T: Element>(s: S, g: &[f32], by: f32, dx: &mut [f32], copy: &mut [T]) {
    let by = s.splat(by);
    for (g, dx, copy) in runs(s, (g, dx, copy)) {
        let sum = s.mul_add(s.load(g), by, s.load(dx));
        s.store(sum, dx);
        T::store(s, sum, copy);
    }
}

#[inline(always)]
fn rms_rows_body<S: Simd, X: Element, T: Element>(s: S, x: &[X], (w, d): (&[f32], usize), eps: f32, out: &mut [T]) {
    for ((x, out), w) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(by_row(w, d)) {
        let inv = s.splat(inverse_rms(s, x, eps));
        for (x, w, out) in runs(s, (x, w, out)) {
            T::store(s, s.mul(s.mul(X::load(s, x), inv), s.load(w)), out);
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Simd, X: Element>(s: S, x: &[X], eps: f32) -> f32 {
    let mut squares = s.splat(0.0);
    for x in x.chunks(S::LANES) {
        let x = X::load(s, x);
        squares = s.mul_add(x, x, squares);
    }
    1.0 / (s.sum(squares) / x.len() as f32 + eps).sqrt()
}

/// With r = 1/√(mean(x²)+eps) and u = g·w: dx += r·u − x·r³·mean(u·x), with a copy of the sum.
#[inline(always)]
fn rms_rows_back_add_body<S: Simd, T: Element>(
    s: S,
    x: &[T],
    g: &[f32],
    (w, d): (&[f32], usize),
    eps: f32,
    dx: &mut [f32],
    copy: &mut [T],
) {
    let rows = x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(copy.chunks_exact_mut(d));
    for ((((x, g), dx), copy), w) in rows.zip(by_row(w, d)) {
        let inv = inverse_rms(s, x, eps);
        let mut dot = s.splat(0.0);
        for (x, g, w) in runs(s, (x, g, w)) {
            dot = s.mul_add(s.mul(s.load(g), s.load(w)), T::load(s, x), dot);
        }
        let pull = s.splat(-inv * inv * inv * s.sum(dot) / d as f32);
        let inv = s.splat(inv);
        for (x, g, w, dx, copy) in runs(s, (x, g, w, dx, copy)) {
            let direct = s.mul(s.mul(s.load(g), s.load(w)), inv);
            let sum = s.add(s.load(dx), s.mul_add(T::load(s, x), pull, direct));
            s.store(sum, dx);
            T::store(s, sum, copy);
        }
    }
}

/// Mean and 1/√(var + eps) of one row, in two passes.
#[inline(always)]
fn moments<S: Simd, X: Element>(s: S, x: &[X], eps: f32) -> (f32, f32) {
    let mut sum = s.splat(0.0);
    for x in x.chunks(S::LANES) {
        sum = s.add(sum, X::load(s, x));
    }
    let mean = s.sum(sum) / x.len() as f32;
    let mut squares = s.splat(0.0);
    for x in x.chunks(S::LANES) {
        let centred = s.first(s.sub(X::load(s, x), s.splat(mean)), x.len());
        squares = s.mul_add(centred, centred, squares);
    }
    (mean, 1.0 / (s.sum(squares) / x.len() as f32 + eps).sqrt())
}

#[inline(always)]
fn layer_rows_body<S: Simd, X: Element, T: Element>(s: S, x: &[X], (w, b, d): (&[f32], &[f32], usize), eps: f32, out: &mut [T]) {
    for ((x, out), (w, b)) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(by_row(w, d).zip(by_row(b, d))) {
        let (mean, inv) = moments(s, x, eps);
        let (mean, inv) = (s.splat(mean), s.splat(inv));
        for (x, w, b, out) in runs(s, (x, w, b, out)) {
            let normed = s.mul(s.sub(X::load(s, x), mean), inv);
            T::store(s, s.mul_add(normed, s.load(w), s.load(b)), out);
        }
    }
}

/// With z the normed row, r = 1/√(var+eps) and u = g·w: dx += r·(u − mean(u) − z·mean(u·z)), with a copy of the sum.
#[inline(always)]
fn layer_rows_back_add_body<S: Simd, T: Element>(
    s: S,
    x: &[T],
    g: &[f32],
    (w, d): (&[f32], usize),
    eps: f32,
    dx: &mut [f32],
    copy: &mut [T],
) {
    let rows = x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(copy.chunks_exact_mut(d));
    for ((((x, g), dx), copy), w) in rows.zip(by_row(w, d)) {
        let (mean, inv) = moments(s, x, eps);
        let (mean, inv) = (s.splat(mean), s.splat(inv));
        let (mut sum, mut dot) = (s.splat(0.0), s.splat(0.0));
        for (x, g, w) in runs(s, (x, g, w)) {
            let u = s.mul(s.load(g), s.load(w));
            sum = s.add(sum, u);
            dot = s.mul_add(u, s.mul(s.sub(T::load(s, x), mean), inv), dot);
        }
        let (shift, pull) = (s.splat(s.sum(sum) / d as f32), s.splat(-s.sum(dot) / d as f32));
        for (x, g, w, dx, copy) in runs(s, (x, g, w, dx, copy)) {
            let u = s.sub(s.mul(s.load(g), s.load(w)), shift);
            let normed = s.mul(s.sub(T::load(s, x), mean), inv);
            let sum = s.mul_add(s.mul_add(normed, pull, u), inv, s.load(dx));
            s.store(sum, dx);
            T::store(s, sum, copy);
        }
    }
}

/// The same functions in differentiable tensor operations, which tests compare with.
#[cfg(test)]
pub(crate) mod portable {
    use candle_core::{D, Tensor};

    use crate::error::Result;

    /// `x` (.., d), `weight` (d).
    pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?; // (.., 1)
        let normed = x.broadcast_div(&(mean_square + eps)?.sqrt()?)?;
        Ok(normed.broadcast_mul(weight)?)
    }

    /// `x` (.., d), `weight` and `bias` (d).
    pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?; // (.., 1)
        let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
        Ok(normed.broadcast_mul(weight)?.broadcast_add(bias)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::super::gradient_check::{self, Tolerance, double, numbers};
    use super::*;
    use crate::error::Result;

    fn flat(seed: u64, n: usize) -> Vec<f32> {
        numbers(seed, &[n]).to_vec1().unwrap()
    }

    /// Of rows as long as the weights, and of one factor.
    fn all<'a>(weight: &'a [f32], bias: &'a [f32]) -> [FrozenNorm<'a>; 3] {
        let width = weight.len();
        [
            FrozenNorm::Rms { weight, width, eps: 1e-5 },
            FrozenNorm::Layer { weight, bias, width, eps: 1e-5 },
            FrozenNorm::Scale { by: 0.3 },
        ]
    }

    /// In f64.
    fn twin(norm: &FrozenNorm, x: &Tensor) -> Result<Tensor> {
        let vector = |values: &[f32]| Ok::<_, crate::error::Error>(double(&Tensor::new(values, x.device())?));
        match norm {
            FrozenNorm::Rms { weight, .. } => portable::rms_norm(x, &vector(weight)?, 1e-5),
            FrozenNorm::Layer { weight, bias, .. } => portable::layer_norm(x, &vector(weight)?, &vector(bias)?, 1e-5),
            FrozenNorm::Scale { by } => Ok((x * f64::from(*by))?),
        }
    }

    fn dispatched(norm: &FrozenNorm, x: &Tensor) -> Vec<Vec<f64>> {
        gradient_check::run_slices(&[x], x.elem_count(), |x, g| {
            let [mut out, mut dx, mut copy] = [(); 3].map(|()| vec![0f32; g.len()]);
            norm.forward(&x[0], &mut out);
            norm.backward_add(&x[0], g, &mut dx, &mut copy);
            vec![out, dx]
        })
    }

    #[test]
    fn norms_agree_with_their_twins() {
        for [n, d] in [[1, 576], [15, 7], [2, 16], [40, 613], [1, 33]] {
            let (x, weight, bias) = (numbers(1, &[n, d]), flat(2, d), flat(3, d));
            for norm in all(&weight, &bias) {
                let want = gradient_check::run(&[double(&x)], |x| twin(&norm, &x[0]));
                for lanes in Lanes::available() {
                    let got = gradient_check::run_slices(&[&x], n * d, |x, g| {
                        let [mut out, mut dx, mut copy] = [(); 3].map(|()| vec![0f32; g.len()]);
                        norm.forward_here(lanes, &x[0], &mut out);
                        norm.backward_here(lanes, &x[0], g, &mut dx, &mut copy);
                        vec![out, dx]
                    });
                    gradient_check::same(&got, &want, Tolerance::default(), &format!("{} {n}x{d} {norm:?}", lanes.name()));
                }
                gradient_check::same(&dispatched(&norm, &x), &want, Tolerance::default(), "dispatched");
            }
        }
    }

    /// Heads of a token, each with weights of its own: as many norms of one row each.
    #[test]
    fn weights_of_several_rows_are_those_of_rows_that_follow() {
        let (x, g, w, b) = (flat(1, 10 * 3 * 12), flat(2, 10 * 3 * 12), flat(3, 36), flat(4, 36));
        let of = |weight, bias| {
            [FrozenNorm::Rms { weight, width: 12, eps: 1e-5 }, FrozenNorm::Layer { weight, bias, width: 12, eps: 1e-5 }]
        };
        for (kind, norm) in of(&w, &b).into_iter().enumerate() {
            let [mut out, mut dx, mut copy] = [(); 3].map(|()| vec![0f32; x.len()]);
            norm.forward(&x, &mut out);
            norm.backward_add(&x, &g, &mut dx, &mut copy);
            for row in 0..30 {
                let (head, at) = ((row % 3) * 12..(row % 3) * 12 + 12, row * 12..row * 12 + 12);
                let alone = of(&w[head.clone()], &b[head])[kind];
                let [mut one, mut back, mut copy] = [(); 3].map(|()| vec![0f32; 12]);
                alone.forward(&x[at.clone()], &mut one);
                alone.backward_add(&x[at.clone()], &g[at.clone()], &mut back, &mut copy);
                assert!(one == out[at.clone()] && back == dx[at], "{norm:?}");
            }
        }
    }

    #[test]
    fn copies_are_those_of_the_input_and_of_the_sum() {
        let (x, g, w, b) = (flat(1, 5 * 33), flat(2, 5 * 33), flat(3, 33), flat(4, 33));
        for norm in all(&w, &b) {
            let [mut out, mut same, mut kept, mut dx, mut copy] = [(); 5].map(|()| vec![0f32; x.len()]);
            norm.forward(&x, &mut out);
            norm.keep(&x, &mut same, &mut kept);
            assert!(kept == x && same == out, "{norm:?}");
            let mut sum = g.clone();
            norm.backward_add(&x, &g, &mut dx, &mut copy);
            norm.backward_add(&x, &g, &mut sum, &mut copy);
            assert_eq!(sum, copy);
            assert!(sum.iter().zip(&dx).zip(&g).all(|((sum, dx), g)| (sum - dx - g).abs() < 1e-5), "{norm:?}");
        }
    }

    #[test]
    fn twins_agree_with_finite_differences() {
        let (w, b) = (flat(5, 9), flat(6, 9));
        for norm in all(&w, &b) {
            gradient_check::finite_differences(&[double(&numbers(4, &[3, 9]))], |x| twin(&norm, &x[0]));
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, w) = (numbers(7, &[301, 576]), flat(8, 576));
        for norm in all(&w, &w) {
            gradient_check::threads_agree(|| dispatched(&norm, &x));
        }
    }
}
