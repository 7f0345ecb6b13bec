//! For tests: a random llama of two layers, and adapters on it.

use candle_core::{DType, Device, Tensor};

use crate::adapter::Adapter;
use crate::device::Compute;
use crate::model::Model;
use crate::{random, recipe};

/// At least what `data::tiny` has.
const VOCAB: usize = 280;

/// Values in (-scale, scale), by a seed.
fn values(shape: (usize, usize), seed: u64, scale: f32) -> Tensor {
    let n = shape.0 * shape.1;
    let of = |i| (random::indexed(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0;
    Tensor::from_vec((0..n).map(|i| of(i) * scale).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

/// Its logits differ enough that rounding decides nothing. Positions up to 256.
pub(crate) fn model(seed: u64) -> Model {
    let (d, f, kv) = (32, 48, 16);
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": d, "intermediate_size": f, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu",
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens".to_string(), (VOCAB, d)), ("lm_head".to_string(), (VOCAB, d))];
    let mut norms = vec!["model.norm".to_string()];
    for i in 0..2 {
        let at = |name: &str| format!("model.layers.{i}.{name}");
        norms.extend([at("input_layernorm"), at("post_attention_layernorm")]);
        shapes.extend([
            (at("self_attn.q_proj"), (d, d)),
            (at("self_attn.k_proj"), (kv, d)),
            (at("self_attn.v_proj"), (kv, d)),
            (at("self_attn.o_proj"), (d, d)),
            (at("mlp.gate_proj"), (f, d)),
            (at("mlp.up_proj"), (f, d)),
            (at("mlp.down_proj"), (d, f)),
        ]);
    }
    let weights = shapes.into_iter().zip(0..).map(|((name, shape), i)| (name, values(shape, seed * 100 + i, 0.4)));
    let ones = norms.into_iter().map(|name| (name, Tensor::ones(d, DType::F32, &Device::Cpu).unwrap()));
    let tensors = weights.chain(ones).map(|(name, tensor)| (format!("{name}.weight"), tensor)).collect();
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    // The map outlives the directory's entry.
    Model::open(dir.path(), Compute::F32, &Device::Cpu).unwrap()
}

/// An adapter that changes the answers.
pub(crate) fn adapter(model: &Model, seed: u64) -> Adapter {
    let recipe = recipe::Adapter::lora(4, recipe::TargetModules::AllLinear);
    let adapter = Adapter::new(&recipe, None, model, seed).unwrap();
    for (param, i) in adapter.params().iter().zip(0..) {
        let (rows, cols) = param.var.dims2().unwrap();
        param.var.set(&values((rows, cols), seed * 1000 + i, 0.4)).unwrap();
    }
    adapter.frozen()
}

pub(crate) fn prompt(seed: u64, len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (random::indexed(seed + 77, i) % VOCAB as u64) as u32).collect()
}
