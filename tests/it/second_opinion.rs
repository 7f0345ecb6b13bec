//! A second opinion on logits: `candle-transformers`, whose models share no line with ours, reads the same weights.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{self, Llama};
use candle_transformers::models::qwen2;
use lorakit::device::Compute;
use lorakit::model::{BlockTable, Chunk, Model, PagedKv, Phase, Recompute, Workspace};
use lorakit::random;
use serde_json::{Value, json};

use crate::shared::{self, find};
use crate::tiny_models;

/// Largest difference of a logit.
const TOLERANCE: f32 = 1e-4;

/// Lengths of the prompts: on both sides of a block of keys (32 tokens), and near the most positions of the small models (256).
const PROMPTS: [usize; 7] = [1, 2, 31, 32, 33, 100, 240];

/// Tokens behind each prompt, one at a time.
const DECODED: usize = 6;

enum Other {
    Llama(Llama, llama::Config),
    Qwen2(qwen2::ModelForCausalLM),
}

impl Other {
    /// The weights in `dir`, under `config` in its older spelling: of the newer it would not see the angles' base and scaling.
    fn open(dir: &Path, mut config: Value) -> Other {
        assert!(config["rope_theta"].is_number(), "{config}");
        let weights = std::fs::read(dir.join("model.safetensors")).unwrap();
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
        match config["model_type"].as_str() {
            Some("llama") => {
                let config = serde_json::from_value::<llama::LlamaConfig>(config).unwrap().into_config(false);
                Other::Llama(Llama::load(weights, &config).unwrap(), config)
            }
            Some("qwen2") => {
                // It takes no null for "no window".
                assert_eq!(config["sliding_window"], Value::Null);
                config["sliding_window"] = config["max_position_embeddings"].clone();
                Other::Qwen2(qwen2::ModelForCausalLM::new(&serde_json::from_value(config).unwrap(), weights).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    /// The logits after the last of `ids`, all computed anew.
    fn last(&mut self, ids: &[u32]) -> Vec<f32> {
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = match self {
            Other::Llama(model, config) => {
                let mut cache = llama::Cache::new(false, DType::F32, config, &Device::Cpu).unwrap();
                model.forward(&ids, 0, &mut cache).unwrap()
            }
            Other::Qwen2(model) => {
                model.clear_kv_cache();
                model.forward(&ids, 0).unwrap()
            }
        };
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// Each prompt and the tokens to decode behind it.
fn texts(vocab: usize) -> Vec<Vec<u32>> {
    let token = |seed, at| (random::indexed(seed, at) % vocab as u64) as u32;
    let text = |(seed, prompt): (u64, &usize)| (0..(prompt + DECODED) as u64).map(|at| token(seed, at)).collect();
    (1..).zip(&PROMPTS).map(text).collect()
}

/// Largest difference between two lists of logits.
fn difference(ours: &[f32], other: &[f32]) -> f32 {
    assert_eq!(ours.len(), other.len());
    let each = ours.iter().zip(other).map(|(a, b)| (a - b).abs());
    each.inspect(|d| assert!(d.is_finite())).fold(0.0, f32::max)
}

/// Largest difference in the pass over whole texts, of every prompt and of all that stands before each decoded token.
fn in_whole_texts(model: &Model, other: &mut Other) -> f32 {
    let texts = texts(model.config.vocab);
    let parts = texts.iter().flat_map(|text| (text.len() - DECODED..=text.len()).map(move |n| &text[..n]));
    let one = |ids: &[u32]| {
        let logits = model.text_logits(&(), &[ids]).unwrap().concat();
        difference(&logits[logits.len() - model.config.vocab..], &other.last(ids))
    };
    parts.map(one).fold(0.0, f32::max)
}

/// Largest difference in the pass that serves, all texts in one call: after the prompts, and after every decoded token.
fn in_serving(model: &Model, other: &mut Other) -> [f32; 2] {
    let (texts, prepared) = (texts(model.config.vocab), model.prepare(&()).unwrap());
    let blocks: usize = texts.iter().map(|text| PagedKv::blocks(text.len())).sum();
    let mut kv = PagedKv::new(&model.config, blocks * 32);
    let mut room = Workspace::new(Recompute::Never);
    let mut tables: Vec<BlockTable> = texts.iter().map(|_| BlockTable::default()).collect();
    let mut most = [0.0f32; 2];
    for step in 0..=DECODED {
        let phase = if step == 0 { Phase::Blocked } else { Phase::Decode };
        let end = |text: &Vec<u32>| text.len() - DECODED + step;
        let mut chunks: Vec<Chunk> = tables
            .iter_mut()
            .zip(&texts)
            .map(|(table, text)| Chunk { ids: &text[table.len()..end(text)], table, adapter: &prepared, logits: 1 })
            .collect();
        let logits = model.extend(&mut room, &mut kv, phase, &mut chunks).unwrap();
        assert_eq!(logits.len(), texts.len() * model.config.vocab);
        for (text, ours) in texts.iter().zip(logits.chunks(model.config.vocab)) {
            let most = &mut most[step.min(1)];
            *most = most.max(difference(ours, &other.last(&text[..end(text)])));
        }
    }
    assert!(tables.iter().zip(&texts).all(|(table, text)| table.len() == text.len()));
    most
}

fn check(name: &str, model: &Model, other: &mut Other) {
    let [prompts, decoded] = in_serving(model, other);
    let found = [in_whole_texts(model, other), prompts, decoded];
    println!("{name}: largest differences: whole texts {:e}, served prompts {:e}, decoded {:e}", found[0], found[1], found[2]);
    assert!(found.iter().all(|d| *d <= TOLERANCE), "{name}: {found:?}");
}

fn check_small(name: &str) {
    let dir = tiny_models::dir(name);
    check(name, &tiny_models::open(name), &mut Other::open(&dir, shared::json(&dir.join("config_v4.json"))));
}

#[test]
fn another_implementation_gives_the_logits_of_llama() {
    check_small("llama");
}

#[test]
fn another_implementation_gives_the_logits_of_llama_with_scaled_angles() {
    check_small("llama3");
}

#[test]
fn another_implementation_gives_the_logits_of_qwen2() {
    check_small("qwen2");
}

#[test]
fn another_implementation_gives_the_logits_of_a_trained_llama() {
    let Some(dir) = find("data/models/stories260k") else { return };
    let model = Model::open(&dir, Compute::F32, &Device::Cpu).unwrap();
    check("stories260k", &model, &mut Other::open(&dir, shared::json(&dir.join("config.json"))));
}

#[test]
fn the_other_implementation_under_another_config_does_not_agree() {
    for (name, key, value) in [
        ("llama", "rope_theta", json!(90_000.0)),
        ("llama3", "rope_scaling", Value::Null),
        ("qwen2", "rms_norm_eps", json!(1e-4)),
    ] {
        let (dir, model) = (tiny_models::dir(name), tiny_models::open(name));
        let mut config = shared::json(&dir.join("config_v4.json"));
        config[key] = value;
        let mut other = Other::open(&dir, config);
        let [prompts, decoded] = in_serving(&model, &mut other);
        let found = [in_whole_texts(&model, &mut other), prompts, decoded];
        println!("{name} with another {key}: {found:?}");
        assert!(found.iter().all(|d| *d > 10.0 * TOLERANCE), "{name}, {key}: {found:?}");
    }
}
