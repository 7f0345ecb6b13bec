//! Where tensors live. The only place that knows about accelerator features.

use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// Precision of the multiplicands in the big matrix products. Everything else stays f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// bf16 where the CPU multiplies it natively, f32 elsewhere.
    #[default]
    Auto,
    /// Full single precision.
    F32,
    /// Multiplicands rounded to bf16, sums in f32.
    Bf16,
}

impl Compute {
    /// Of activations in tensor operations on `device`: bf16 where the device multiplies it, unless another was asked for.
    pub fn dtype(self, device: &Device) -> DType {
        match self {
            Compute::F32 => DType::F32,
            Compute::Bf16 => DType::BF16,
            Compute::Auto if !device.is_cpu() && device.supports_bf16() => DType::BF16,
            Compute::Auto => DType::F32,
        }
    }
}

/// The device a run uses: a GPU if the build has one and one is present, the CPU otherwise.
///
/// # Errors
/// When an accelerator was compiled in but cannot be initialised for a reason other than absence.
pub fn best() -> Result<Device> {
    #[cfg(feature = "cuda")]
    if candle_core::utils::cuda_is_available() {
        return Ok(Device::new_cuda(0)?);
    }
    #[cfg(feature = "metal")]
    if candle_core::utils::metal_is_available() {
        return Ok(Device::new_metal(0)?);
    }
    Ok(Device::Cpu)
}

/// The accelerators this build can use.
pub fn accelerators() -> Vec<&'static str> {
    let all = [("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))];
    all.into_iter().filter(|(_, compiled)| *compiled).map(|(name, _)| name).collect()
}

/// Sizes the one thread pool that all CPU work shares. Call once, before any tensor work.
///
/// # Errors
/// When the pool was already started with another size.
pub fn set_threads(threads: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|e| {
        Error::usage("--threads", format!("the thread pool cannot be sized: {e}"), "pass --threads once, before other work")
    })
}
