//! A GGUF file: its container, its config, its tensors, its tokenizer and its chat template.
#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use lorakit::device::Compute;
use lorakit::model::{Model, weights::ModelFiles, text};
use lorakit_fuzz::{fair, write};

fuzz_target!(|input: &[u8]| {
    let path = write("model.gguf", input);
    if let Some(files) = fair(ModelFiles::open(&path)) {
        for stored in files.tensors.values() {
            fair(stored.matrix());
            fair(stored.vector_f32());
        }
    }
    fair(Model::open(&path, Compute::F32, &Device::Cpu));
    if let Some(tokenizer) = fair(text::tokenizer(&path)) {
        if let Some(ids) = fair(tokenizer.encode_text("Hello, <s> wörld 123!")) {
            fair(tokenizer.decode(&ids, false));
        }
    }
});
