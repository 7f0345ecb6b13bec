//! Adding a frozen bias: differentiable in what it is added to, and in nothing else.
//!
//! candle's own `broadcast_add` computes and keeps a gradient of the size of the activations for the bias too
//! (`backprop.rs`). Refuses to know: the product before it.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::host;
use crate::error::Result;

/// `y + bias` over the last dimension: `y` (.., n), `bias` (n).
///
/// # Errors
/// When the last dimension of `y` is not the length of `bias`.
pub fn add_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if !host::fused(y) || !host::fused(bias) {
        return portable::add_bias(y, bias);
    }
    Ok(y.contiguous()?.apply_op1(AddBias { bias: bias.clone() })?)
}

/// The same in differentiable tensor operations, for any device.
pub mod portable {
    use super::*;

    /// See [`super::add_bias`].
    pub fn add_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
        Ok(y.broadcast_add(bias)?)
    }
}

struct AddBias {
    bias: Tensor,
}

impl CustomOp1 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, y: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = self.bias.elem_count();
        if layout.dims().last() != Some(&width) {
            candle_core::bail!("add bias: {:?} does not end in {width}", layout.dims());
        }
        let mut out = host::slice(y, layout)?.to_vec();
        host::read(&self.bias, |bias| {
            host::for_rows(&mut out, width, |_, rows| {
                for row in rows.chunks_exact_mut(width) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            });
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn it_is_its_twin_and_passes_the_gradient_on() {
        let y = Var::randn(0f32, 1., (3, 5, 7), &Device::Cpu).unwrap();
        let bias = Tensor::randn(0f32, 1., 7, &Device::Cpu).unwrap();
        let sides = [add_bias(&y, &bias).unwrap(), portable::add_bias(&y, &bias).unwrap()];
        let [ours, twin] = sides.map(|out| {
            let grads = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [out, grads.get(&y).unwrap().clone()].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        });
        assert_eq!(ours, twin);
        assert!(add_bias(&y, &Tensor::zeros(6, candle_core::DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}
