//! A model directory: `config.json`, a zero byte, `model.safetensors`. Without a config, that of a tiny llama.
#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use lorakit::device::Compute;
use lorakit::model::Model;
use lorakit::model::weights::ModelFiles;
use lorakit_fuzz::{FOLDER, fair, halves, write};

const CONFIG: &[u8] = br#"{"model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 4, "tie_word_embeddings": true, "max_position_embeddings": 16}"#;

fuzz_target!(|input: &[u8]| {
    let (config, weights) = halves(input);
    write("config.json", if config.is_empty() { CONFIG } else { config });
    write("model.safetensors", weights);
    if let Some(files) = fair(ModelFiles::open(&FOLDER)) {
        for stored in files.tensors.values() {
            fair(stored.matrix());
            fair(stored.vector_f32());
        }
    }
    fair(Model::open(&FOLDER, Compute::F32, &Device::Cpu));
});
