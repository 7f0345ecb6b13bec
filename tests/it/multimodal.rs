//! Checkpoints that see as well: the text model is read in either spelling, everything else goes through a merge as it was.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::artifact::merge::{self, Dtype, Merged};
use lorakit::conform::{self, How};
use lorakit::device::Compute;
use lorakit::model::{Model, SiteInfo};
use serde_json::{Value, json};

use crate::shared;

fn family(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families").join(name)
}

/// `name`'s golden model as the text side of a checkpoint with `before` its names, and what is beside it.
fn wrap(name: &str, kind: &str, before: &str, dir: &Path) -> BTreeMap<String, Tensor> {
    let from = family(name);
    let text = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for (name, tensor) in text {
        let name = name.strip_prefix("model.").map_or(name.clone(), |rest| format!("{before}{rest}"));
        tensors.insert(name, tensor);
    }
    let vision = Tensor::rand(-1f32, 1f32, (2, 3, 4), &Device::Cpu).unwrap();
    let others: BTreeMap<String, Tensor> = [
        ("model.vision_tower.patch.weight", vision.clone()),
        ("multi_modal_projector.norm.bias", vision.flatten_all().unwrap().to_dtype(DType::BF16).unwrap()),
        ("mtp.layers.0.fc.weight", vision.narrow(0, 0, 1).unwrap().squeeze(0).unwrap().contiguous().unwrap()),
    ]
    .map(|(name, tensor)| (name.to_string(), tensor))
    .into();
    tensors.extend(others.clone());
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    let mut text = shared::json(&from.join("config.json"));
    let tie = text.as_object_mut().unwrap().remove("tie_word_embeddings").unwrap();
    let config = json!({"model_type": kind, "architectures": ["ForConditionalGeneration"], "text_config": text,
        "vision_config": {"hidden_size": 3}, "image_token_index": 7, "tie_word_embeddings": tie});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(from.join("expected.safetensors"), dir.join("expected.safetensors")).unwrap();
    std::fs::write(dir.join("preprocessor_config.json"), "{}").unwrap();
    others
}

#[test]
fn the_text_model_is_read_and_the_rest_goes_through_a_merge_unchanged() {
    for (name, kind, before) in [
        ("gemma3_text", "gemma3", "model.language_model."),
        ("gemma3_text", "gemma3", "language_model.model."),
        ("ministral3", "mistral3", "model.language_model."),
        ("gemma4_text", "gemma4", "model.language_model."),
        ("gemma4_text-moe", "gemma4", "model.language_model."),
        ("qwen3_5_text", "qwen3_5", "model.language_model."),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let others = wrap(name, kind, before, dir.path());
        let case = conform::run(dir.path(), &How { compute: Compute::F32, device: Device::Cpu, tensors: false }).unwrap();
        assert!(case.passes(), "{kind} {before}: {case:#?}");
        let model = Model::open(dir.path(), Compute::F32, &Device::Cpu).unwrap();
        let named = |s: &SiteInfo| s.path.starts_with("model.language_model.layers.") && s.path.ends_with("self_attn.q_proj");
        assert!(model.sites().iter().any(named));
        // An adapter made over the text model alone.
        let adapter = Adapter::load(&family(name).join("adapters/plain"), &model).unwrap();
        // Written for the whole checkpoint it names modules of the text model alone, and is read over either.
        let saved = tempfile::tempdir().unwrap();
        adapter.save(saved.path()).unwrap();
        let config: Value = shared::json(&saved.path().join("adapter_config.json"));
        let targets = config["target_modules"].as_array().unwrap();
        assert!(targets.iter().all(|t| t.as_str().unwrap().starts_with("model.language_model.layers.")), "{targets:?}");
        let rows: [&[u32]; 1] = [&[3, 5, 7, 9, 4, 6]];
        let alone = Model::open(&family(name), Compute::F32, &Device::Cpu).unwrap();
        let of = |model: &Model| model.text_logits(&Adapter::load(saved.path(), model).unwrap(), &rows).unwrap().concat();
        assert_eq!(of(&alone), of(&model));
        let want = model.text_logits(&adapter, &rows).unwrap().concat();
        let out = tempfile::tempdir().unwrap();
        let merged = out.path().join("merged");
        let job = Merged { model: &model, adapter: &adapter, base: dir.path(), dtype: Dtype::F32, spoken: None, card: None };
        merge::write(&job, &merged, &mut |_, _| {}).unwrap();
        let written = candle_core::safetensors::load(merged.join("model.safetensors"), &Device::Cpu).unwrap();
        for (name, tensor) in &others {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            let parts = |t: &Tensor| (t.dims().to_vec(), t.dtype(), flat(t));
            assert_eq!(parts(&written[name]), parts(tensor), "{name}");
        }
        let names = |dir: &Path| {
            let mut names: Vec<String> =
                candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap().into_keys().collect();
            names.sort();
            names
        };
        assert_eq!(names(&merged), names(dir.path()));
        assert!(merged.join("preprocessor_config.json").is_file());
        let config: Value = shared::json(&merged.join("config.json"));
        assert_eq!((&config["model_type"], &config["vision_config"]["hidden_size"]), (&json!(kind), &json!(3)));
        let again = Model::open(&merged, Compute::F32, &Device::Cpu).unwrap();
        let got = again.text_logits(&(), &rows).unwrap().concat();
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{kind} {before}");
    }
}

#[test]
fn an_adapter_over_the_whole_checkpoint_fits_its_text_model_alone() {
    let dir = tempfile::tempdir().unwrap();
    let from = family("gemma3_text").join("adapters/plain");
    std::fs::copy(from.join("adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
    let tensors = candle_core::safetensors::load(from.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    let nested: HashMap<String, Tensor> =
        tensors.into_iter().map(|(key, t)| (key.replace("model.layers", "model.language_model.layers"), t)).collect();
    assert!(nested.keys().all(|key| key.starts_with("base_model.model.model.language_model.layers.")));
    candle_core::safetensors::save(&nested, dir.path().join("adapter_model.safetensors")).unwrap();
    let model = Model::open(&family("gemma3_text"), Compute::F32, &Device::Cpu).unwrap();
    let rows: [&[u32]; 1] = [&[3, 5, 7, 9, 4, 6]];
    let logits = |dir: &Path| model.text_logits(&Adapter::load(dir, &model).unwrap(), &rows).unwrap().concat();
    assert_eq!(logits(dir.path()), logits(&from));
}

#[test]
fn a_tensor_of_no_known_part_is_not_carried() {
    let dir = tempfile::tempdir().unwrap();
    wrap("gemma3_text", "gemma3", "model.language_model.", dir.path());
    let file = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    tensors.insert("model.taste.weight".into(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let error = Model::open(dir.path(), Compute::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("taste.weight"), "{error}");
}

#[test]
fn a_tensor_in_two_spellings_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    wrap("gemma3_text", "gemma3", "model.language_model.", dir.path());
    let file = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let norm = tensors["model.language_model.norm.weight"].clone();
    tensors.insert("language_model.model.norm.weight".into(), norm);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let error = Model::open(dir.path(), Compute::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("norm.weight") && error.contains("twice"), "{error}");
}

/// As in published files of Gemma 4, whose last layers read keys and values of earlier ones.
#[test]
fn projections_that_no_layer_reads_are_carried_along() {
    let (dir, from) = (tempfile::tempdir().unwrap(), family("gemma4_text"));
    let mut tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let unread = Tensor::rand(-1f32, 1f32, (12, 16), &Device::Cpu).unwrap();
    tensors.insert("model.layers.4.self_attn.k_proj.weight".into(), unread.clone());
    tensors.insert("model.layers.4.self_attn.k_norm.weight".into(), unread.narrow(1, 0, 1).unwrap().flatten_all().unwrap());
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    for file in ["config.json", "expected.safetensors"] {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    let case = conform::run(dir.path(), &How { compute: Compute::F32, device: Device::Cpu, tensors: false }).unwrap();
    assert!(case.passes(), "{case:#?}");
    let model = Model::open(dir.path(), Compute::F32, &Device::Cpu).unwrap();
    let adapter = Adapter::load(&from.join("adapters/plain"), &model).unwrap();
    let out = tempfile::tempdir().unwrap();
    let merged = out.path().join("merged");
    let job = Merged { model: &model, adapter: &adapter, base: dir.path(), dtype: Dtype::F32, spoken: None, card: None };
    merge::write(&job, &merged, &mut |_, _| {}).unwrap();
    let written = candle_core::safetensors::load(merged.join("model.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(written.len(), tensors.len());
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(flat(&written["model.layers.4.self_attn.k_proj.weight"]), flat(&unread));
}
