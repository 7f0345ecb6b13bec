//! Dropout whose mask is never stored: element `i` is decided by a hash of `i`, forwards and backwards alike.
//!
//! Refuses to know: where a key comes from.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

use super::host;
use crate::Result;
use crate::random;

/// `x` with each element kept with probability `1 - p` and divided by it, else zero (inverted dropout, Srivastava et al.
/// 2014, section 10). The mask is a function of `key` and of an element's index only.
///
/// # Errors
/// When memory for the result cannot be had on the device.
pub fn dropout(x: &Tensor, key: u64, p: f64) -> Result<Tensor> {
    let mask = Mask::new(key, p);
    if !host::fused(x) {
        return portable::dropout(x, &mask);
    }
    Ok(x.contiguous()?.apply_op1(mask)?)
}

/// The same in differentiable tensor operations, for any device; the mask is made on the host.
pub mod portable {
    use super::*;

    /// See [`super::dropout`].
    pub(super) fn dropout(x: &Tensor, mask: &Mask) -> Result<Tensor> {
        let values: Vec<f32> = (0..x.elem_count()).map(|i| mask.at(i)).collect();
        Ok((x * Tensor::from_vec(values, x.shape(), &Device::Cpu)?.to_device(x.device())?)?)
    }
}

/// A mask as a function.
#[derive(Debug, Clone, Copy)]
struct Mask {
    key: u64,
    /// Hashes below it drop their element.
    limit: u64,
    keep: f32,
}

impl Mask {
    fn new(key: u64, p: f64) -> Mask {
        Mask { key, limit: (p * u64::MAX as f64) as u64, keep: 1.0 / (1.0 - p) as f32 }
    }

    fn at(&self, i: usize) -> f32 {
        if random::indexed(self.key, i as u64) < self.limit { 0.0 } else { self.keep }
    }
}

impl CustomOp1 for Mask {
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
        let sides = [dropout(&x, 9, 0.3).unwrap(), portable::dropout(&x, &Mask::new(9, 0.3)).unwrap()];
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
