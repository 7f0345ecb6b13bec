//! Dropout whose mask is never stored: element `i` is decided by a hash of `i`, forwards and backwards alike.
//!
//! Refuses to know: where a key comes from.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

use rayon::prelude::*;

use super::element::Element;
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::error::Result;
use crate::random;

/// `x` with each element kept with probability `1 - p` and divided by it, else zero (inverted dropout, Srivastava et al.
/// 2014, section 10). The mask is a function of `key` and of an element's index only.
///
/// # Errors
/// When memory for the result cannot be had on the device.
pub fn dropout(x: &Tensor, key: u64, p: f64) -> Result<Tensor> {
    let mask = DropoutMask::new(key, p);
    if !host::fused(x) {
        return portable::dropout(x, &mask);
    }
    Ok(x.contiguous()?.apply_op1(mask)?)
}

/// The same in differentiable tensor operations, for any device; the mask is made on the host.
pub mod portable {
    use super::*;

    /// See [`super::dropout`].
    pub(super) fn dropout(x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
        let values: Vec<f32> = (0..x.elem_count()).map(|i| mask.at(i)).collect();
        Ok((x * Tensor::from_vec(values, x.shape(), &Device::Cpu)?.to_device(x.device())?)?)
    }
}

/// A mask as a function.
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

/// A mask over tokens: token `i` of a slice is row `rows[i]` of the tensor that [`dropout`] would see.
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

    /// [`dropout`] of `x` (tokens, width).
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
    pub fn add_share<T: Element>(&self, g: &[f32], a: &[f32], dx: &mut [T]) {
        let (lanes, width) = (Lanes::in_force(), dx.len() / self.rows.len());
        let rank = a.len() / width;
        dx.par_chunks_exact_mut(width).zip(g.par_chunks_exact(rank)).enumerate().for_each_init(
            || (vec![0f32; width], vec![0f32; width]),
            |(factors, share), (token, (dx, g))| {
                self.factors(token, factors);
                share.fill(0.0);
                g.iter().zip(a.chunks_exact(width)).for_each(|(g, a)| add_multiple(lanes, *g, a, share));
                add_product(lanes, factors, share, dx);
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

impl CustomOp1 for DropoutMask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut out = host::slice(x, layout)?.to_vec();
        host::for_rows(&mut out, 1, |first, run| {
            run.iter_mut().enumerate().for_each(|(i, v)| *v *= self.at(first + i));
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;

    #[test]
    fn it_is_its_twin_forwards_and_backwards() {
        let x = Var::randn(0f32, 1., (40, 1000), &Device::Cpu).unwrap();
        let sides = [dropout(&x, 9, 0.3).unwrap(), portable::dropout(&x, &DropoutMask::new(9, 0.3)).unwrap()];
        let [ours, twin] = sides.map(|out| {
            let grads = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [out, grads.get(&x).unwrap().clone()].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        });
        assert_eq!(ours, twin);
    }

    #[test]
    fn the_right_share_is_dropped_and_the_mean_stays() {
        let x = Tensor::ones(100_000, DType::F32, &Device::Cpu).unwrap();
        for p in [0.05, 0.5, 0.9] {
            let out: Vec<f32> = dropout(&x, 3, p).unwrap().to_vec1().unwrap();
            let zeros = out.iter().filter(|v| **v == 0.0).count() as f64 / 1e5;
            let mean = out.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
            assert!((zeros - p).abs() < 0.01 && (mean - 1.0).abs() < 0.05, "{p}: {zeros}, {mean}");
        }
    }
}
