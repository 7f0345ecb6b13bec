//! The five small models of the golden cases, which are part of the repository.

use std::path::{Path, PathBuf};

use candle_core::Device;
use lorakit::device::Compute;
use lorakit::model::Model;

/// The directory of `llama`, `llama3`, `qwen2`, `gpt2` or `gemma2`.
pub(crate) fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models").join(name)
}

/// The model, in f32 on the CPU.
pub(crate) fn open(name: &str) -> Model {
    open_in(name, Compute::F32)
}

/// The model, its matrices multiplied in `compute`.
pub(crate) fn open_in(name: &str, compute: Compute) -> Model {
    Model::open(&dir(name), compute, &Device::Cpu).unwrap()
}
