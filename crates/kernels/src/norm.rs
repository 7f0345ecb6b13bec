//! Root-mean-square norm (Zhang & Sennrich 2019, eq. 4) and layer norm (Ba et al. 2016, eq. 4).
//!
//! Their weights are frozen: no gradient of them is ever computed. Refuses to know: where a norm stands in a model.
//! Legend: `n` rows, `d` elements of a row.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};

use rayon::prelude::*;

use super::element::{Element, convert_here};
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::error::Result;

/// `x / √(mean(x²) + eps) · weight` along the last dimension.
///
/// `x` is (.., d), `weight` (d); the result has the shape of `x`. Errors when the widths disagree.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check("rms_norm", x, &[weight])?;
    if !host::fused(x) || !host::fused(weight) {
        return portable::rms_norm(x, weight, eps);
    }
    Ok(x.contiguous()?.apply_op1(RmsNorm { weight: weight.detach().contiguous()?, eps: eps as f32, lanes: Lanes::in_force() })?)
}

/// `(x − mean) / √(var + eps) · weight + bias` along the last dimension, with the biased variance.
///
/// `x` is (.., d), `weight` and `bias` (d); the result has the shape of `x`. Errors when the widths disagree.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check("layer_norm", x, &[weight, bias])?;
    if !host::fused(x) || !host::fused(weight) || !host::fused(bias) {
        return portable::layer_norm(x, weight, bias, eps);
    }
    let (weight, bias) = (weight.detach().contiguous()?, bias.detach().contiguous()?);
    Ok(x.contiguous()?.apply_op1(LayerNorm { weight, bias, eps: eps as f32, lanes: Lanes::in_force() })?)
}

fn check(op: &str, x: &Tensor, parameters: &[&Tensor]) -> Result<()> {
    let d = x.dim(D::Minus1)?;
    for parameter in parameters {
        if parameter.dims() != [d] {
            Err(candle_core::Error::Msg(format!("{op}: rows have {d} elements, a parameter has shape {:?}", parameter.dims())))?;
        }
    }
    Ok(())
}

/// The same functions in differentiable tensor operations, for any device.
pub mod portable {
    use super::*;

    /// See [`super::rms_norm`].
    pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?; // (.., 1)
        let normed = x.broadcast_div(&(mean_square + eps)?.sqrt()?)?;
        Ok(normed.broadcast_mul(&weight.detach())?)
    }

    /// See [`super::layer_norm`].
    pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?; // (.., 1)
        let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
        Ok(normed.broadcast_mul(&weight.detach())?.broadcast_add(&bias.detach())?)
    }
}

/// A frozen norm on slices, for either precision of activations.
#[derive(Debug, Clone, Copy)]
pub enum FrozenNorm<'a> {
    Rms { weight: &'a [f32], eps: f32 },
    Layer { weight: &'a [f32], bias: &'a [f32], eps: f32 },
}

impl FrozenNorm<'_> {
    /// The norm of each row of `x` (n, d).
    pub fn forward<X: Element, T: Element>(&self, x: &[X], out: &mut [T]) {
        let lanes = Lanes::in_force();
        match *self {
            FrozenNorm::Rms { weight, eps } => rms_forward_at(lanes, x, weight, eps, out),
            FrozenNorm::Layer { weight, bias, eps } => host::for_rows(out, weight.len(), |row, out| {
                layer_rows(lanes, &x[row * weight.len()..][..out.len()], weight, bias, eps, out);
            }),
        }
    }

    /// As [`FrozenNorm::forward`], with a copy of `x`.
    pub fn keep<T: Element>(&self, x: &[f32], out: &mut [T], kept: &mut [T]) {
        let (lanes, rows) = (Lanes::in_force(), host::rows_per_task(self.width()) * self.width());
        let tasks = out.par_chunks_mut(rows).zip(kept.par_chunks_mut(rows)).zip(x.par_chunks(rows));
        tasks.for_each(|((out, kept), x)| {
            match *self {
                FrozenNorm::Rms { weight, eps } => rms_rows(lanes, x, weight, eps, out),
                FrozenNorm::Layer { weight, bias, eps } => layer_rows(lanes, x, weight, bias, eps, out),
            }
            convert_here(lanes, x, kept);
        });
    }

    /// The gradient of [`FrozenNorm::forward`] with respect to `x`, given that of its result.
    pub fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32]) {
        let lanes = Lanes::in_force();
        host::for_rows(dx, self.width(), |row, dx| {
            let run = row * self.width()..row * self.width() + dx.len();
            match *self {
                FrozenNorm::Rms { weight, eps } => rms_rows_back(lanes, &x[run.clone()], &g[run], weight, eps, dx),
                FrozenNorm::Layer { weight, eps, .. } => layer_rows_back(lanes, &x[run.clone()], &g[run], weight, eps, dx),
            }
        });
    }

    /// Adds the gradient with respect to `x` to `dx`, and copies the sum to `copy`.
    pub fn backward_add<T: Element>(&self, x: &[T], g: &[f32], dx: &mut [f32], copy: &mut [T]) {
        let (lanes, rows) = (Lanes::in_force(), host::rows_per_task(self.width()) * self.width());
        let tasks = dx.par_chunks_mut(rows).zip(copy.par_chunks_mut(rows)).zip(x.par_chunks(rows).zip(g.par_chunks(rows)));
        tasks.for_each(|((dx, copy), (x, g))| match *self {
            FrozenNorm::Rms { weight, eps } => rms_rows_back_add(lanes, x, g, weight, eps, dx, copy),
            FrozenNorm::Layer { weight, eps, .. } => layer_rows_back_add(lanes, x, g, weight, eps, dx, copy),
        });
    }

    fn width(&self) -> usize {
        match self {
            FrozenNorm::Rms { weight, .. } | FrozenNorm::Layer { weight, .. } => weight.len(),
        }
    }
}

/// [`rms_norm`] on slices, with `w.len()` columns.
fn rms_forward_at<X: Element, T: Element>(lanes: Lanes, x: &[X], w: &[f32], eps: f32, out: &mut [T]) {
    host::for_rows(out, w.len(), |row, out| rms_rows(lanes, &x[row * w.len()..][..out.len()], w, eps, out));
}

/// The gradient of [`rms_norm`] with respect to `x`, given that of its result.
fn rms_backward_at(lanes: Lanes, x: &[f32], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32]) {
    host::for_rows(dx, w.len(), |row, dx| {
        let run = row * w.len()..row * w.len() + dx.len();
        rms_rows_back(lanes, &x[run.clone()], &g[run], w, eps, dx);
    });
}

struct RmsNorm {
    weight: Tensor,
    eps: f32,
    lanes: Lanes,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = host::slice(storage, layout)?;
        let mut out = vec![0.0; x.len()];
        host::read(&self.weight, |w| {
            rms_forward_at(self.lanes, x, w, self.eps, &mut out);
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut out = vec![0.0; x.elem_count()];
        host::read(x, |x| {
            host::read(&grad, |g| {
                host::read(&self.weight, |w| {
                    rms_backward_at(self.lanes, x, g, w, self.eps, &mut out);
                    Ok(())
                })
            })
        })?;
        Ok(Some(host::tensor(out, x.shape())?))
    }
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
    lanes: Lanes,
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = host::slice(storage, layout)?;
        let mut out = vec![0.0; x.len()];
        host::read(&self.weight, |w| {
            host::read(&self.bias, |b| {
                host::for_rows(&mut out, w.len(), |row, out| {
                    layer_rows(self.lanes, &x[row * w.len()..][..out.len()], w, b, self.eps, out);
                });
                Ok(())
            })
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut out = vec![0.0; x.elem_count()];
        host::read(x, |x| {
            host::read(&grad, |g| {
                host::read(&self.weight, |w| {
                    host::for_rows(&mut out, w.len(), |row, out| {
                        let run = row * w.len()..row * w.len() + out.len();
                        layer_rows_back(self.lanes, &x[run.clone()], &g[run], w, self.eps, out);
                    });
                    Ok(())
                })
            })
        })?;
        Ok(Some(host::tensor(out, x.shape())?))
    }
}

multiversion! { fn rms_rows<X: Element, T: Element>(x: &[X], w: &[f32], eps: f32, out: &mut [T]) = rms_rows_body; }
multiversion! {
    fn rms_rows_back_add<T: Element>(x: &[T], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32], copy: &mut [T])
        = rms_rows_back_add_body;
}
multiversion! { fn rms_rows_back(x: &[f32], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32]) = rms_rows_back_body; }
multiversion! {
    fn layer_rows<X: Element, T: Element>(x: &[X], w: &[f32], b: &[f32], eps: f32, out: &mut [T]) = layer_rows_body;
}
multiversion! {
    fn layer_rows_back_add<T: Element>(x: &[T], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32], copy: &mut [T])
        = layer_rows_back_add_body;
}
multiversion! { fn layer_rows_back(x: &[f32], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32]) = layer_rows_back_body; }

#[inline(always)]
fn rms_rows_body<S: Simd, X: Element, T: Element>(s: S, x: &[X], w: &[f32], eps: f32, out: &mut [T]) {
    for (x, out) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
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

/// As [`rms_rows_back_body`], added to `dx`, with a copy of the sum.
#[inline(always)]
fn rms_rows_back_add_body<S: Simd, T: Element>(s: S, x: &[T], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32], copy: &mut [T]) {
    let d = w.len();
    let rows = x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(copy.chunks_exact_mut(d));
    for (((x, g), dx), copy) in rows {
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

/// With r = 1/√(mean(x²)+eps) and u = g·w: dx = r·u − x·r³·mean(u·x).
#[inline(always)]
fn rms_rows_back_body<S: Simd>(s: S, x: &[f32], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32]) {
    let d = w.len();
    for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
        let inv = inverse_rms(s, x, eps);
        let mut dot = s.splat(0.0);
        for (x, g, w) in runs(s, (x, g, w)) {
            dot = s.mul_add(s.mul(s.load(g), s.load(w)), s.load(x), dot);
        }
        let pull = s.splat(-inv * inv * inv * s.sum(dot) / d as f32);
        let inv = s.splat(inv);
        for (x, g, w, dx) in runs(s, (x, g, w, dx)) {
            let direct = s.mul(s.mul(s.load(g), s.load(w)), inv);
            s.store(s.mul_add(s.load(x), pull, direct), dx);
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
fn layer_rows_body<S: Simd, X: Element, T: Element>(s: S, x: &[X], w: &[f32], b: &[f32], eps: f32, out: &mut [T]) {
    let d = w.len();
    for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        let (mean, inv) = moments(s, x, eps);
        let (mean, inv) = (s.splat(mean), s.splat(inv));
        for (x, w, b, out) in runs(s, (x, w, b, out)) {
            let normed = s.mul(s.sub(X::load(s, x), mean), inv);
            T::store(s, s.mul_add(normed, s.load(w), s.load(b)), out);
        }
    }
}

/// With z the normed row, r = 1/√(var+eps) and u = g·w: dx = r·(u − mean(u) − z·mean(u·z)).
#[inline(always)]
fn layer_rows_back_body<S: Simd>(s: S, x: &[f32], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32]) {
    let d = w.len();
    for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
        let (mean, inv) = moments(s, x, eps);
        let (mean_v, inv_v) = (s.splat(mean), s.splat(inv));
        let (mut sum, mut dot) = (s.splat(0.0), s.splat(0.0));
        for (x, g, w) in runs(s, (x, g, w)) {
            let u = s.mul(s.load(g), s.load(w));
            sum = s.add(sum, u);
            dot = s.mul_add(u, s.mul(s.sub(s.load(x), mean_v), inv_v), dot);
        }
        let shift = s.splat(s.sum(sum) / d as f32);
        let pull = s.splat(-s.sum(dot) / d as f32);
        for (x, g, w, dx) in runs(s, (x, g, w, dx)) {
            let u = s.sub(s.mul(s.load(g), s.load(w)), shift);
            let normed = s.mul(s.sub(s.load(x), mean_v), inv_v);
            s.store(s.mul(s.mul_add(normed, pull, u), inv_v), dx);
        }
    }
}

/// As [`layer_rows_back_body`], added to `dx`, with a copy of the sum.
#[inline(always)]
fn layer_rows_back_add_body<S: Simd, T: Element>(s: S, x: &[T], g: &[f32], w: &[f32], eps: f32, dx: &mut [f32], copy: &mut [T]) {
    let d = w.len();
    let rows = x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(copy.chunks_exact_mut(d));
    for (((x, g), dx), copy) in rows {
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

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{self, Tolerance};
    use super::*;

    const SHAPES: [&[usize]; 5] = [&[1, 1, 576], &[3, 5, 7], &[2, 16], &[40, 613], &[1, 33]];

    #[test]
    fn rms_norm_agrees_with_its_twin() {
        for shape in SHAPES {
            let x = gradient_check::numbers(1, shape);
            let weight = gradient_check::numbers(2, &shape[shape.len() - 1..]);
            let want = gradient_check::run(&[gradient_check::double(&x)], |x| {
                portable::rms_norm(&x[0], &gradient_check::double(&weight), 1e-5)
            });
            for lanes in Lanes::available() {
                let op = || RmsNorm { weight: weight.clone(), eps: 1e-5, lanes };
                let got = gradient_check::run(std::slice::from_ref(&x), |x| Ok(x[0].apply_op1(op())?));
                gradient_check::same(&got, &want, Tolerance::default(), &format!("{} {shape:?}", lanes.name()));
            }
            let got = gradient_check::run(&[x], |x| rms_norm(&x[0], &weight, 1e-5));
            gradient_check::same(&got, &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn layer_norm_agrees_with_its_twin() {
        for shape in SHAPES {
            let d = &shape[shape.len() - 1..];
            let (x, weight, bias) =
                (gradient_check::numbers(1, shape), gradient_check::numbers(2, d), gradient_check::numbers(3, d));
            let (weight64, bias64) = (gradient_check::double(&weight), gradient_check::double(&bias));
            let want =
                gradient_check::run(&[gradient_check::double(&x)], |x| portable::layer_norm(&x[0], &weight64, &bias64, 1e-5));
            for lanes in Lanes::available() {
                let op = || LayerNorm { weight: weight.clone(), bias: bias.clone(), eps: 1e-5, lanes };
                let got = gradient_check::run(std::slice::from_ref(&x), |x| Ok(x[0].apply_op1(op())?));
                gradient_check::same(&got, &want, Tolerance::default(), &format!("{} {shape:?}", lanes.name()));
            }
            let got = gradient_check::run(&[x], |x| layer_norm(&x[0], &weight, &bias, 1e-5));
            gradient_check::same(&got, &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn on_slices_it_is_the_same_with_copies_and_sums() {
        let flat = |seed: u64, n: usize| gradient_check::numbers(seed, &[n]).to_vec1::<f32>().unwrap();
        let (x, g, w, b) = (flat(1, 5 * 33), flat(2, 5 * 33), flat(3, 33), flat(4, 33));
        for norm in [FrozenNorm::Rms { weight: &w, eps: 1e-5 }, FrozenNorm::Layer { weight: &w, bias: &b, eps: 1e-5 }] {
            let tensor = |v: &[f32]| Tensor::from_slice(v, (5, v.len() / 5), &candle_core::Device::Cpu).unwrap();
            let (wt, bt) = (gradient_check::numbers(3, &[33]), gradient_check::numbers(4, &[33]));
            let want = gradient_check::run(&[tensor(&x)], |x| match norm {
                FrozenNorm::Rms { .. } => rms_norm(&x[0], &wt, 1e-5),
                FrozenNorm::Layer { .. } => layer_norm(&x[0], &wt, &bt, 1e-5),
            });
            let (mut out, mut kept) = (vec![0f32; x.len()], vec![0f32; x.len()]);
            norm.keep(&x, &mut out, &mut kept);
            assert!(kept == x && out.iter().zip(&want[0]).all(|(o, w)| f64::from(*o) == *w), "{norm:?}");
            let (mut dx, mut sum, mut copy) = (vec![0f32; x.len()], g.clone(), vec![0f32; x.len()]);
            norm.backward(&x, &g, &mut dx);
            norm.backward_add(&x, &g, &mut sum, &mut copy);
            assert_eq!(sum, copy);
            assert!(sum.iter().zip(&dx).zip(&g).all(|((sum, dx), g)| (sum - dx - g).abs() < 1e-5), "{norm:?}");
        }
    }

    #[test]
    fn twins_agree_with_finite_differences() {
        let x = gradient_check::double(&gradient_check::numbers(4, &[3, 9]));
        let (w, b) = (
            gradient_check::double(&gradient_check::numbers(5, &[9])),
            gradient_check::double(&gradient_check::numbers(6, &[9])),
        );
        gradient_check::finite_differences(std::slice::from_ref(&x), |x| portable::rms_norm(&x[0], &w, 1e-5));
        gradient_check::finite_differences(&[x], |x| portable::layer_norm(&x[0], &w, &b, 1e-5));
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, w) = (gradient_check::numbers(7, &[301, 576]), gradient_check::numbers(8, &[576]));
        gradient_check::threads_agree(std::slice::from_ref(&x), |x| rms_norm(&x[0], &w, 1e-5));
        gradient_check::threads_agree(&[x], |x| layer_norm(&x[0], &w, &w, 1e-5));
    }

    #[test]
    fn views_and_wrong_widths() {
        let x = gradient_check::numbers(9, &[6, 4]).t().unwrap();
        let w = gradient_check::numbers(10, &[6]);
        let dense = rms_norm(&x.contiguous().unwrap(), &w, 1e-5).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rms_norm(&x, &w, 1e-5).unwrap().to_vec2::<f32>().unwrap(), dense);
        let message = rms_norm(&gradient_check::numbers(9, &[2, 4]), &w, 1e-5).unwrap_err().to_string();
        assert!(message.contains("rows have 4 elements"), "{message}");
    }

    #[test]
    fn nothing_is_tracked_without_a_variable() {
        let (x, w) = (gradient_check::numbers(11, &[2, 8]), gradient_check::numbers(12, &[8]));
        assert!(!rms_norm(&x, &w, 1e-5).unwrap().track_op());
    }
}
