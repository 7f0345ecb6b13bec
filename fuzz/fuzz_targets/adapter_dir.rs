//! An adapter directory: `adapter_config.json`, a zero byte, `adapter_model.safetensors`.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use lorakit::adapter::{Adapter, inspect, peft};
use lorakit::device::Compute;
use lorakit::model::Model;
use lorakit_fuzz::{FOLDER, fair, halves, repository, write};

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let path = repository("tests/data/golden/models/llama");
    Model::open(&path, Compute::F32, &Device::Cpu).expect("the model of the golden cases")
});

fuzz_target!(|input: &[u8]| {
    let (config, weights) = halves(input);
    write(peft::CONFIG, config);
    write(peft::WEIGHTS, weights);
    let dir: &Path = &FOLDER;
    fair(inspect::inspect(dir));
    if let Some(adapter) = fair(Adapter::load(dir, &MODEL)) {
        let bytes = fair(adapter.to_safetensors()).expect("an adapter that was read can be written");
        fair(adapter.set_from_safetensors(&bytes, dir)).expect("what was written can be read");
    }
});
