//! Where tensors live. The only place that knows about accelerator features.

use std::str::FromStr;
use std::sync::OnceLock;

use candle_core::{DType, Device, DeviceLocation};

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
    /// The same on a CPU without instructions for it too, in plain code: slow, to compare with; not a choice of recipes.
    #[serde(skip)]
    Bf16Anywhere,
}

impl Compute {
    /// Of activations in tensor operations on `device`: bf16 where the device multiplies it, unless another was asked for.
    pub fn dtype(self, device: &Device) -> DType {
        match self {
            Compute::F32 => DType::F32,
            Compute::Bf16 | Compute::Bf16Anywhere => DType::BF16,
            Compute::Auto if !device.is_cpu() && device.supports_bf16() => DType::BF16,
            Compute::Auto => DType::F32,
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// A GPU if the build has one and one is there, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
    Metal,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Choice, String> {
        let number = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        match (text, number) {
            ("auto", _) => Ok(Choice::Auto),
            ("cpu", _) => Ok(Choice::Cpu),
            ("cuda", _) => Ok(Choice::Cuda(0)),
            ("metal", _) => Ok(Choice::Metal),
            (_, Some(n)) => Ok(Choice::Cuda(n)),
            _ => Err("give auto, cpu, cuda, cuda:N or metal".to_string()),
        }
    }
}

static CHOICE: OnceLock<Choice> = OnceLock::new();

/// What [`best`] gives from now on. Call once, before it.
pub fn choose(choice: Choice) {
    // Whoever came first has chosen.
    _ = CHOICE.set(choice);
}

/// The device a run uses, and why it is no accelerator where the build has one but none answers.
///
/// # Errors
/// When what was asked for by [`choose`] is not in this build or does not answer.
pub fn chosen() -> Result<(Device, Option<String>)> {
    let choice = CHOICE.get().copied().unwrap_or_default();
    let refuse = |what: String, why: String| {
        Err(Error::usage(what, why, "`lorakit doctor` says what this build and this machine have; --device cpu always works"))
    };
    match choice {
        Choice::Cpu => Ok((Device::Cpu, None)),
        Choice::Cuda(n) if cfg!(feature = "cuda") => match Device::new_cuda(n) {
            Ok(device) => Ok((device, None)),
            Err(e) => refuse(format!("--device cuda:{n}"), format!("it does not answer: {e}")),
        },
        Choice::Metal if cfg!(feature = "metal") => match Device::new_metal(0) {
            Ok(device) => Ok((device, None)),
            Err(e) => refuse("--device metal".into(), format!("it does not answer: {e}")),
        },
        Choice::Cuda(n) => refuse(format!("--device cuda:{n}"), "this build has no CUDA (`--features cuda`)".into()),
        Choice::Metal => refuse("--device metal".into(), "this build has no Metal (`--features metal`)".into()),
        Choice::Auto => {
            let found = match () {
                () if cfg!(feature = "cuda") => Device::new_cuda(0),
                () if cfg!(feature = "metal") => Device::new_metal(0),
                () => return Ok((Device::Cpu, None)),
            };
            Ok(found.map_or_else(|e| (Device::Cpu, Some(e.to_string())), |device| (device, None)))
        }
    }
}

/// As [`chosen`], the device alone.
///
/// # Errors
/// As [`chosen`].
pub fn best() -> Result<Device> {
    chosen().map(|(device, _)| device)
}

/// A device as `--device` takes it.
pub fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_string(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { .. } => "metal".to_string(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_pytorch_names_them() {
        let read = |text: &str| text.parse::<Choice>();
        assert_eq!(read("cuda"), Ok(Choice::Cuda(0)));
        assert_eq!(read("cuda:3"), Ok(Choice::Cuda(3)));
        assert_eq!((read("cpu"), read("auto"), read("metal")), (Ok(Choice::Cpu), Ok(Choice::Auto), Ok(Choice::Metal)));
        for bad in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
