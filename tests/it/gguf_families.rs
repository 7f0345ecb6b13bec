//! GGUF files of every architecture that is read: what transformers computes from the same weights (`gen_gguf.py`), from the file
//! itself and from the Hugging Face directory that a merge makes of it. llama.cpp's own answers are compared by hand
//! (`benches/vs_llamacpp/gguf_logits.py`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::artifact::merge::{self, Dtype, Merged};
use lorakit::device::Compute;
use lorakit::model::Model;
use lorakit::recipe;

const CASES: usize = 34;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/gguf")
}

/// Ids and logits of a case.
fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let tensors = candle_core::safetensors::load(folder().join(format!("{name}.safetensors")), &Device::Cpu).unwrap();
    let flat = |key: &str, dtype: DType| tensors[key].flatten_all().unwrap().to_dtype(dtype).unwrap();
    (flat("input_ids", DType::U32).to_vec1().unwrap(), flat("logits", DType::F32).to_vec1().unwrap())
}

fn open(path: &Path) -> Model {
    Model::open(path, Compute::F32, &Device::Cpu).unwrap()
}

/// The largest difference of a model's logits from what was expected.
fn off(model: &Model, (ids, want): &(Vec<u32>, Vec<f32>)) -> f32 {
    let got = model.text_logits(&(), &[ids]).unwrap().concat();
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cases() -> Vec<String> {
    let names = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter_map(|n| n.strip_suffix(".safetensors").map(String::from)).collect();
    names.sort();
    names
}

#[test]
fn every_architecture_computes_what_transformers_does_and_becomes_a_hugging_face_directory() {
    let (out, settings) = (tempfile::tempdir().unwrap(), recipe::Adapter::lora(2, recipe::TargetModules::AllLinear));
    let names = cases();
    assert_eq!(names.len(), CASES);
    for name in names {
        let (base, expected) = (folder().join(format!("{name}.gguf")), expected(&name));
        let model = open(&base);
        let difference = off(&model, &expected);
        println!("{name}: {difference:.1e}");
        assert!(difference < 1e-4, "{name}: {difference}");
        assert!(off(&open(&base).in_tensors(), &expected) < 1e-4, "{name}: in tensor operations");
        let (adapter, dir) = (Adapter::new(&settings, None, &model, 3).unwrap(), out.path().join(&name));
        let merged = Merged { model: &model, adapter: &adapter, base: &base, dtype: Dtype::F32, spoken: None, card: None };
        merge::write(&merged, &dir, &mut |_, _| ()).unwrap();
        let difference = off(&open(&dir), &expected);
        assert!(difference < 1e-4, "{name}, merged: {difference}");
    }
}

/// Of experts that GGUF stacks otherwise than Hugging Face: an adapter on their parameters, and the directory that it is merged into.
#[test]
fn adapters_of_experts_are_merged_into_the_familys_own_form() {
    let out = tempfile::tempdir().unwrap();
    for (name, experts) in [("qwen3moe", "mlp.experts"), ("gpt-oss", "mlp.experts"), ("gemma4-moe", "experts")] {
        let (base, (ids, plain)) = (folder().join(format!("{name}.gguf")), expected(name));
        let model = open(&base);
        let parameters = ["gate_up_proj", "down_proj"].map(|parameter| format!("{experts}.{parameter}")).to_vec();
        let lora = recipe::Adapter::lora(2, recipe::TargetModules::Names(vec!["q_proj".into()]));
        let adapter = Adapter::new(&recipe::Adapter { target_parameters: parameters, ..lora }, None, &model, 3).unwrap();
        for (i, parameter) in adapter.params().iter().enumerate() {
            let (rows, cols) = parameter.var.dims2().unwrap();
            let values: Vec<f32> = (0..rows * cols).map(|j| ((i + 7 * j) as f32).sin() * 0.3).collect();
            parameter.var.set(&Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()).unwrap();
        }
        let want = model.text_logits(&adapter, &[&ids]).unwrap().concat();
        assert!(want.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 0.05), "{name}: the adapter does nothing");
        let dir = out.path().join(name);
        let merged = Merged { model: &model, adapter: &adapter, base: &base, dtype: Dtype::F32, spoken: None, card: None };
        merge::write(&merged, &dir, &mut |_, _| ()).unwrap();
        let difference = off(&open(&dir), &(ids, want));
        println!("{name}, merged with its adapter: {difference:.1e}");
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

/// Without a step of the conversion the same file is another model: the step is undone here.
#[test]
fn a_file_without_a_step_of_the_conversion_is_another_model() {
    for (name, step) in [
        ("llama", "interleaved"),
        ("gemma", "one"),
        ("gptneox", "by kind"),
        ("gpt-oss", "in turn"),
        ("qwen35", "one"),
        ("qwen35", "tiled"),
    ] {
        let difference = off(&open(&folder().join(format!("{name}.without {step}.gguf"))), &expected(name));
        assert!(difference > 0.1, "{name} without {step}: {difference}");
    }
}

/// Layers that predict further tokens are no part of the model, and a merge writes them under the names of a directory.
#[test]
fn layers_that_predict_further_tokens_are_carried_along() {
    let (base, out) = (folder().join("qwen35-blocks.gguf"), tempfile::tempdir().unwrap());
    let (model, dir) = (open(&base), out.path().join("merged"));
    assert_eq!(model.config.layers, 4);
    let settings = recipe::Adapter::lora(2, recipe::TargetModules::AllLinear);
    let adapter = Adapter::new(&settings, None, &model, 3).unwrap();
    let merged = Merged { model: &model, adapter: &adapter, base: &base, dtype: Dtype::F32, spoken: None, card: None };
    merge::write(&merged, &dir, &mut |_, _| ()).unwrap();
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let ahead: Vec<&String> = tensors.keys().filter(|name| name.starts_with("mtp.")).collect();
    assert_eq!(ahead.len(), 15, "{ahead:?}");
    assert_eq!(tensors["mtp.fc.weight"].dims(), [16, 32]);
    assert_eq!(tensors["model.layers.0.linear_attn.conv1d.weight"].dims(), [160, 1, 4]);
    let values = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for part in ["input_layernorm", "self_attn.q_norm", "self_attn.q_proj", "mlp.down_proj"] {
        assert_eq!(values(&format!("mtp.layers.0.{part}.weight")), values(&format!("model.layers.2.{part}.weight")), "{part}");
    }
    // One was taken off.
    assert!(values("mtp.norm.weight").iter().sum::<f32>().abs() < 4.0);
}

/// The file with another number under a key.
fn patched(name: &str, key: &str, value: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let mut bytes = std::fs::read(folder().join(format!("{name}.gguf"))).unwrap();
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4;
    bytes[at..at + value.len()].copy_from_slice(value);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// The file with other bytes of the same number.
fn renamed(name: &str, from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    let mut bytes = std::fs::read(folder().join(format!("{name}.gguf"))).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn what_experts_and_kinds_of_layers_cannot_be_is_refused_by_name() {
    let count = |n: u32| n.to_le_bytes().to_vec();
    let sections = |n: [i32; 4]| [&count(5)[..], &4u64.to_le_bytes(), n.map(i32::to_le_bytes).as_flattened()].concat();
    let cases = [
        (patched("qwen3moe", "qwen3moe.expert_used_count", &count(6)), vec!["num_experts_per_tok", "6 of 5"]),
        (patched("mixtral", "llama.expert_used_count", &count(0)), vec!["llama.expert_used_count", "not a possible size"]),
        (patched("qwen3moe", "qwen3moe.expert_count", &count(4)), vec!["_exps.weight", "each of 4 experts"]),
        (patched("mixtral", "llama.expert_count", &count(1 << 20)), vec!["llama.expert_count", "the limit is 4096"]),
        (patched("qwen3moe", "qwen3moe.expert_feed_forward_length", &count(7)), vec!["mlp.experts.0.", "[8, 18]"]),
        (renamed("mixtral", "blk.1.ffn_up_exps", "blk.1.ffn_uq_exps"), vec!["blk.1.ffn_uq_exps.weight", "no part of `llama`"]),
        (patched("gpt-oss", "gpt-oss.expert_feed_forward_length", &count(16)), vec!["expert_feed_forward_length", "16 beside"]),
        (
            renamed("gpt-oss", "blk.2.ffn_up_exps.w", "blk.2.ffn_uq_exps.w"),
            vec!["blk.2.ffn_gate_exps.weight", "blk.2.ffn_up_exps.weight"],
        ),
        (renamed("gpt-oss", "yarn", "none"), vec!["gpt-oss.rope.scaling.type", "only yarn"]),
        (renamed("gpt-oss", "blk.0.attn_sinks", "blk.0.attn_sinkz"), vec!["blk.0.attn_sinkz.weight"]),
        (patched("gemma4", "gemma4.attention.shared_kv_layers", &count(5)), vec!["shared_kv_layers", "5 layers"]),
        (patched("gemma4", "gemma4.attention.value_length_swa", &count(6)), vec!["value_length_swa", "different sizes"]),
        (
            patched("gemma4", "gemma4.rope.dimension_count_swa", &count(4)),
            vec!["rope.dimension_count_swa", "not the size of these heads, 8"],
        ),
        (renamed("gemma4", "rope_freqs.weight", "rope_freqz.weight"), vec!["rope_freqs.weight", "which part of a head turns"]),
        (patched("qwen35", "qwen35.ssm.group_count", &count(4)), vec!["qwen35.ssm.group_count", "6 heads of values"]),
        (patched("qwen35", "qwen35.ssm.inner_size", &count(25)), vec!["qwen35.ssm.inner_size", "25 cannot be divided"]),
        (
            patched("qwen35", "qwen35.ssm.inner_size", &count(30)),
            vec!["linear_attn.conv1d.weight", "40 rows are not 16 and heads of 5"],
        ),
        (
            patched("qwen35", "qwen35.ssm.state_size", &count(5)),
            vec!["linear_attn.conv1d.weight", "20 and heads of 4 for each of 2"],
        ),
        (patched("qwen35", "qwen35.full_attention_interval", &count(2)), vec!["model.layers.1.self_attn"]),
        (patched("qwen35-blocks", "qwen35.nextn_predict_layers", &count(5)), vec!["nextn_predict_layers", "5 of 5 layers"]),
        (patched("qwen35-blocks", "qwen35.nextn_predict_layers", &count(0)), vec!["nextn.eh_proj", "no part of `qwen35`"]),
        (
            patched("qwen35", "qwen35.rope.dimension_sections", &sections([1, 2, 0, 0])),
            vec!["dimension_sections", "leaves pair 2"],
        ),
        (renamed("qwen35", "blk.1.ssm_alpha", "blk.1.ssm_alphz"), vec!["blk.1.ssm_alphz.weight"]),
    ];
    for ((_dir, path), words) in cases {
        let error = Model::open(&path, Compute::F32, &Device::Cpu).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} are not in: {error}");
    }
}

/// Each key that only some architectures have changes what comes out: it is read.
#[test]
fn every_key_of_the_families_is_carried_out() {
    let number = |x: f32| x.to_le_bytes().to_vec();
    let count = |n: u32| n.to_le_bytes().to_vec();
    let cases = [
        ("llama", "llama.rope.freq_base", number(1e4)),
        ("llama", "llama.attention.layer_norm_rms_epsilon", number(1e-6)),
        ("llama-yarn", "llama.rope.scaling.factor", number(1.0)),
        ("mistral3", "mistral3.attention.temperature_scale", number(0.01)),
        ("mistral3", "mistral3.rope.scaling.yarn_log_multiplier", number(1.0)),
        ("mistral3", "mistral3.rope.scaling.yarn_beta_fast", number(32.0)),
        ("gemma2", "gemma2.attention.sliding_window", count(64)),
        ("gemma2", "gemma2.attn_logit_softcapping", number(50.0)),
        ("gemma2", "gemma2.final_logit_softcapping", number(30.0)),
        ("gemma3", "gemma3.attention.sliding_window", count(64)),
        ("gemma3", "gemma3.attention.sliding_window", count(0)),
        ("gemma3", "gemma3.rope.freq_base_swa", number(1e4)),
        ("gemma3", "gemma3.rope.scaling.factor", number(1.0)),
        ("phi3", "phi3.rope.scaling.attn_factor", number(1.0)),
        ("phi3", "phi3.attention.sliding_window", count(5)),
        ("granite", "granite.attention.scale", number(0.5)),
        ("granite", "granite.embedding_scale", number(1.0)),
        ("granite", "granite.residual_scale", number(1.0)),
        ("granite", "granite.logit_scale", number(1.0)),
        ("olmo3", "olmo2.attention.sliding_window", count(64)),
        ("olmo3", "olmo2.rope.scaling.factor", number(1.0)),
        ("glm4", "glm4.rope.dimension_count", count(10)),
        ("starcoder2", "starcoder2.attention.layer_norm_epsilon", number(1e-6)),
        ("stablelm", "stablelm.rope.dimension_count", count(8)),
        ("command-r", "command-r.logit_scale", number(1.0)),
        ("cohere2", "cohere2.logit_scale", number(1.0)),
        ("cohere2", "cohere2.attention.sliding_window", count(64)),
        ("qwen3moe", "qwen3moe.expert_used_count", count(1)),
        ("qwen35", "qwen35.rope.freq_base", number(1e4)),
        ("qwen35", "qwen35.rope.dimension_count", count(4)),
        ("qwen35", "qwen35.attention.layer_norm_rms_epsilon", number(1e-6)),
        ("mixtral", "llama.expert_used_count", count(1)),
        ("mixtral", "llama.rope.freq_base", number(1e4)),
        ("gpt-oss", "gpt-oss.expert_used_count", count(1)),
        ("gpt-oss", "gpt-oss.attention.sliding_window", count(64)),
        ("gpt-oss", "gpt-oss.rope.scaling.factor", number(1.0)),
        ("gpt-oss", "gpt-oss.rope.freq_base", number(1e4)),
        ("gemma4", "gemma4.attention.sliding_window", count(64)),
        ("gemma4", "gemma4.rope.freq_base", number(1e4)),
        ("gemma4", "gemma4.rope.freq_base_swa", number(1e4)),
        ("gemma4", "gemma4.final_logit_softcapping", number(30.0)),
        ("gemma4-moe", "gemma4.expert_used_count", count(1)),
        ("gptneox", "gptneox.use_parallel_residual", vec![0]),
        ("gptneox", "gptneox.rope.dimension_count", count(8)),
    ];
    for (name, key, value) in cases {
        let (_dir, path) = patched(name, key, &value);
        let difference = off(&open(&path), &expected(name));
        assert!(difference > 5e-3, "{name}: `{key}` as {value:?} changes nothing: {difference}");
    }
}
