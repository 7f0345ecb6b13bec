//! A random llama of a few kilobytes with a tokenizer and a chat template, and adapters on it, made here.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::device::Compute;
use lorakit::model::Model;
use lorakit::{random, recipe};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// A token for each byte, and two that mark turns.
pub(crate) const VOCAB: usize = 258;

fn values(shape: (usize, usize), seed: u64) -> Tensor {
    let of = |i| (random::indexed(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32 * 0.8 - 0.4;
    Tensor::from_vec((0..shape.0 * shape.1).map(of).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

/// Writes a base that takes `positions` tokens into the new folder `dir`.
pub(crate) fn base(dir: &Path, positions: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.join(name), value.to_string()).unwrap();
    write(
        "config.json",
        json!({
            "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": false,
        }),
    );
    write("tokenizer_config.json", json!({"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": TEMPLATE}));
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: Vocab = alphabet.into_iter().map(String::from).zip(0..).collect();
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::builder().vocab_and_merges(vocab, Vec::new()).build().unwrap());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, false))).with_decoder(Some(ByteLevel::default()));
    let special = ["<|im_start|>", "<|im_end|>"].map(|t| tokenizers::AddedToken::from(t, true));
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer.save(dir.join("tokenizer.json"), false).unwrap();
    let linear = [
        ("self_attn.q_proj", (32, 32)),
        ("self_attn.k_proj", (16, 32)),
        ("self_attn.v_proj", (16, 32)),
        ("self_attn.o_proj", (32, 32)),
        ("mlp.gate_proj", (48, 32)),
        ("mlp.up_proj", (48, 32)),
        ("mlp.down_proj", (32, 48)),
    ];
    let linear = linear.iter().map(|(name, shape)| (format!("model.layers.0.{name}"), *shape));
    let ends = [("model.embed_tokens".to_string(), (VOCAB, 32)), ("lm_head".to_string(), (VOCAB, 32))];
    let matrices = linear.chain(ends).zip(1..);
    let norms = ["model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"];
    let norms = norms.map(|name| (name.to_string(), Tensor::ones(32, DType::F32, &Device::Cpu).unwrap()));
    let all = matrices.map(|((name, shape), seed)| (name, values(shape, seed))).chain(norms);
    let all = all.map(|(name, tensor)| (format!("{name}.weight"), tensor)).collect();
    candle_core::safetensors::save(&all, dir.join("model.safetensors")).unwrap();
}

/// Writes an adapter on `base` into `dir`, its matrices drawn by `seed`, so strong that it answers otherwise than the base.
/// `sections` of its recipe say what it acts on and how it is spoken to.
pub(crate) fn adapter(base: &Path, dir: &Path, sections: &str, seed: u64) {
    let model = Model::open(base, Compute::F32, &Device::Cpu).unwrap();
    let text = format!("[base]\nmodel = '{}'\n[data]\ntrain = 'none.jsonl'\n{sections}", base.display());
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("recipe.toml"), text).unwrap();
    let recipe = recipe::Recipe::load_saved(&dir.join("recipe.toml")).unwrap();
    let adapter = Adapter::new(&recipe.adapter, Some("a/b".into()), &model, 1).unwrap();
    for (param, seed) in adapter.params().iter().zip(seed..) {
        param.var.set(&values(param.var.dims2().unwrap(), seed)).unwrap();
    }
    adapter.save(dir).unwrap();
}
