//! The second opinion family by family: models of `candle-transformers` over the golden weights. Where one of them computes less than
//! its family does, both sides are given a configuration without that; what cannot be compared is listed with the reason.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma, gemma2, gemma3, glm4_new, granitemoehybrid, llama, mistral, mixtral, olmo2, phi3, qwen2, qwen3, qwen3_moe,
    smol::smollm3, stable_lm, starcoder2,
};
use lorakit::device::Compute;
use lorakit::model::Model;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::shared;

/// Largest difference of a logit.
const TOLERANCE: f32 = 1e-4;

const COMPARED: usize = 19;

const NO_MODEL: &str = "candle has no model of the family";
const ENCODER: &str = "candle's decoder halves the buckets of distances, as an encoder does";

/// Golden models that are not compared, and why.
const LEFT_OUT: [(&str, &str); 18] = [
    ("cohere", NO_MODEL),
    ("cohere-plain", NO_MODEL),
    ("cohere2", NO_MODEL),
    ("gemma4_text", "candle's norms add one, its scores are over the root of a head, and layers have neither inputs nor scales"),
    ("gemma4_text-moe", "as gemma4_text, and without experts"),
    ("gpt2", NO_MODEL),
    ("gpt_neox", NO_MODEL),
    ("gpt_neox-sequential", NO_MODEL),
    ("gpt_oss", NO_MODEL),
    ("llama-bias", "candle's llama has no biases and no heads of a width of their own: what is left is `llama`"),
    ("llama-yarn", "candle's llama has no yarn, and no heads of a width of their own"),
    ("ministral3", NO_MODEL),
    ("olmo3", NO_MODEL),
    ("qwen3_5_text", NO_MODEL),
    ("stablelm-parallel", "candle's has no parallel blocks, and the weights have one norm for both halves"),
    ("stablelm-qk", "candle's has no norms of queries and keys: what is left is `stablelm`"),
    ("t5", ENCODER),
    ("t5-relu", ENCODER),
];

type Weights = HashMap<String, Tensor>;

/// The logits after the last of some ids (1, n), of candle's model.
type Last = fn(Value, Weights, &Tensor) -> Result<Tensor>;

struct Case {
    name: &'static str,
    /// Keys of the configuration that are changed for both sides, and for candle's alone.
    changed: [Value; 2],
    weights: fn(Weights) -> Weights,
    last: Last,
}

fn read<C: DeserializeOwned>(config: Value) -> C {
    serde_json::from_value(config).unwrap()
}

fn builder(weights: Weights) -> VarBuilder<'static> {
    VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)
}

/// `Last` of the usual form; with `false`, of one that asks for flash attention first.
macro_rules! last {
    ($model:ty) => {
        |config, weights, ids| <$model>::new(&read(config), builder(weights))?.forward(ids, 0)
    };
    ($model:ty, $flash:literal) => {
        |config, weights, ids| <$model>::new($flash, &read(config), builder(weights))?.forward(ids, 0)
    };
}

fn last_llama(config: Value, weights: Weights, ids: &Tensor) -> Result<Tensor> {
    let config = read::<llama::LlamaConfig>(config).into_config(false);
    let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
    llama::Llama::load(builder(weights), &config)?.forward(ids, 0, &mut cache)
}

/// Candle's `granite` has none of the multipliers; its model of the hybrids has them all, and gate and up in one matrix.
fn last_granite(config: Value, mut weights: Weights, ids: &Tensor) -> Result<Tensor> {
    for layer in 0..config["num_hidden_layers"].as_u64().unwrap() {
        let mut take = |name: &str| weights.remove(&format!("model.layers.{layer}.mlp.{name}.weight")).unwrap();
        let (inner, down) = (Tensor::cat(&[take("gate_proj"), take("up_proj")], 0)?, take("down_proj"));
        weights.insert(format!("model.layers.{layer}.shared_mlp.input_linear.weight"), inner);
        weights.insert(format!("model.layers.{layer}.shared_mlp.output_linear.weight"), down);
    }
    let config = read::<granitemoehybrid::GraniteMoeHybridConfig>(config).into_config(false);
    let mut cache = granitemoehybrid::GraniteMoeHybridCache::new(false, DType::F32, &config, &Device::Cpu)?;
    granitemoehybrid::GraniteMoeHybrid::load(builder(weights), &config)?.forward(ids, 0, &mut cache)
}

fn without_biases(weights: Weights) -> Weights {
    weights.into_iter().filter(|(name, _)| !name.ends_with("_proj.bias")).collect()
}

/// Heads as wide as the width divided among them: the first 4 of 10.
fn with_narrow_heads(weights: Weights) -> Weights {
    let narrow = |(name, weight): (String, Tensor)| {
        let (dim, len) = match name.rsplit('.').nth(1) {
            Some("q_proj") => (0, 16),
            Some("k_proj" | "v_proj") => (0, 4),
            Some("o_proj") => (1, 16),
            _ => return (name, weight),
        };
        let weight = weight.narrow(dim, 0, len).unwrap().contiguous().unwrap();
        (name, weight)
    };
    weights.into_iter().map(narrow).collect()
}

/// The layer without experts, one with, and the first again.
fn with_experts_in_every_second(weights: Weights) -> Weights {
    let mut all = Weights::new();
    for (name, weight) in weights {
        let Some((layer, rest)) = name.strip_prefix("model.layers.").and_then(|path| path.split_once('.')) else {
            all.insert(name, weight);
            continue;
        };
        let to: &[usize] = match layer {
            "0" => &[1],
            "1" => &[0, 2],
            _ => &[],
        };
        all.extend(to.iter().map(|layer| (format!("model.layers.{layer}.{rest}"), weight.clone())));
    }
    all
}

/// A window of candle's is one longer than its number says.
fn cases() -> Vec<Case> {
    let same = || json!({});
    let case = |name, changed, last| Case { name, changed, weights: |all| all, last };
    let windows = |kinds: &[&str]| kinds.iter().map(|kind| format!("{kind}_attention")).collect::<Vec<_>>();
    let all_slide = json!({"query_pre_attn_scalar": 24, "layer_types": windows(&["sliding"; 3])});
    let every_second = json!({"query_pre_attn_scalar": 10, "rope_scaling": null, "layer_types": windows(&["sliding", "full", "sliding", "full"])});
    let no_window = json!({"use_sliding_window": false, "sliding_window": null, "layer_types": null});
    let plain_angles = json!({"rope_scaling": null, "sliding_window": null});
    vec![
        case("llama", [same(), same()], last_llama as Last),
        case("llama3", [same(), same()], last_llama),
        case("qwen2", [same(), json!({"sliding_window": 256})], last!(qwen2::ModelForCausalLM)),
        // Candle's windows are in every layer, and scores over the root of the head.
        case("gemma2", [all_slide, json!({"sliding_window": 7})], last!(gemma2::Model, false)),
        case("gemma", [same(), same()], last!(gemma::Model, false)),
        case(
            "gemma3_text",
            [every_second, json!({"sliding_window": 4, "sliding_window_pattern": 2})],
            last!(gemma3::Model, false),
        ),
        case("glm4", [same(), same()], last!(glm4_new::ModelForCausalLM)),
        Case {
            weights: without_biases,
            ..case("granite", [json!({"attention_bias": false, "mlp_bias": false}), same()], last_granite)
        },
        case("mistral", [same(), json!({"sliding_window": 6})], last!(mistral::Model)),
        Case {
            weights: with_narrow_heads,
            ..case(
                "mixtral",
                [json!({"head_dim": 4}), json!({"sliding_window": 6, "use_flash_attn": false})],
                last!(mixtral::Model),
            )
        },
        case("olmo2", [same(), same()], last!(olmo2::Model)),
        // Candle's longrope multiplies by the factors that transformers divides by.
        case("phi3", [plain_angles.clone(), json!({"partial_rotary_factor": null})], last!(phi3::Model)),
        case("phi4-mini", [plain_angles, same()], last!(phi3::Model)),
        case("qwen2-window", [json!({"max_window_layers": 0}), json!({"sliding_window": 6})], last!(qwen2::ModelForCausalLM)),
        case("qwen3", [no_window.clone(), same()], last!(qwen3::ModelForCausalLM)),
        Case {
            weights: with_experts_in_every_second,
            ..case(
                "qwen3_moe",
                [json!({"mlp_only_layers": [], "decoder_sparse_step": 2}), json!({"max_window_layers": 3})],
                last!(qwen3_moe::ModelForCausalLM),
            )
        },
        case("smollm3", [no_window, same()], last!(smollm3::ModelForCausalLM)),
        case("stablelm", [same(), same()], last!(stable_lm::Model)),
        case("starcoder2", [same(), json!({"sliding_window": 6})], last!(starcoder2::Model)),
    ]
}

/// The golden models by name.
fn golden() -> HashMap<String, PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let of = |part: &str| std::fs::read_dir(golden.join(part)).unwrap().map(|entry| entry.unwrap());
    let all = of("models").chain(of("families"));
    all.map(|entry| (entry.file_name().into_string().unwrap(), entry.path())).collect()
}

fn change(config: &mut Value, by: &Value) {
    for (key, value) in by.as_object().unwrap() {
        config[key] = value.clone();
    }
}

/// Ids of the golden case, ours of them, and candle's configuration and weights.
struct Sides {
    rows: Vec<Vec<u32>>,
    ours: Vec<Vec<f32>>,
    vocab: usize,
    config: Value,
    weights: Weights,
}

impl Sides {
    fn new(case: &Case, dir: &Path) -> Sides {
        let load = |file: &str| candle_core::safetensors::load(dir.join(file), &Device::Cpu).unwrap();
        let mut config = shared::json(&dir.join("config_v4.json"));
        change(&mut config, &case.changed[0]);
        let weights = (case.weights)(load("model.safetensors"));
        let to = tempfile::tempdir().unwrap();
        std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
        candle_core::safetensors::save(&weights, to.path().join("model.safetensors")).unwrap();
        let model = Model::open(to.path(), Compute::F32, &Device::Cpu).unwrap();
        change(&mut config, &case.changed[1]);
        let rows: Vec<Vec<u32>> = load("expected.safetensors")["input_ids"].to_dtype(DType::U32).unwrap().to_vec2().unwrap();
        let ours = model.text_logits(&(), &rows.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        Sides { rows, ours, vocab: model.config.vocab, config, weights }
    }

    /// Largest difference of a logit after the first `len` ids of a row.
    fn difference(&self, last: Last, row: usize, len: usize) -> f32 {
        let ids = Tensor::new(&self.rows[row][..len], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let theirs = last(self.config.clone(), self.weights.clone(), &ids).unwrap();
        let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
        let ours = &self.ours[row][(len - 1) * self.vocab..][..self.vocab];
        assert_eq!(theirs.len(), ours.len());
        let each = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
        each.inspect(|d| assert!(d.is_finite())).fold(0.0, f32::max)
    }
}

#[test]
fn every_golden_model_is_compared_or_left_out_for_a_reason() {
    let (golden, cases) = (golden(), cases());
    assert_eq!(cases.len(), COMPARED);
    let mut named: Vec<&str> = cases.iter().map(|case| case.name).chain(LEFT_OUT.iter().map(|(name, _)| *name)).collect();
    named.sort_unstable();
    let mut all: Vec<&str> = golden.keys().map(String::as_str).collect();
    all.sort_unstable();
    assert_eq!(named, all);
}

/// After every token of the golden texts. Other angles on candle's side must be seen.
#[test]
fn another_implementation_gives_the_logits_of_every_family_that_it_has() {
    let (golden, mut failed) = (golden(), Vec::new());
    for case in cases() {
        let mut sides = Sides::new(&case, &golden[case.name]);
        let mut most = 0f32;
        for row in 0..sides.rows.len() {
            most = (1..=sides.rows[row].len()).map(|len| sides.difference(case.last, row, len)).fold(most, f32::max);
        }
        let theta = sides.config["rope_theta"].as_f64().unwrap();
        change(&mut sides.config, &json!({"rope_theta": 9.0 * theta}));
        let other = sides.difference(case.last, 0, sides.rows[0].len());
        println!("{}: off by {most:e}, with other angles {other:e}", case.name);
        if most > TOLERANCE || other < 10.0 * TOLERANCE {
            failed.push((case.name, most, other));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
