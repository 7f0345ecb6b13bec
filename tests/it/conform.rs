//! The golden cases that are part of the repository: what PyTorch and PEFT computed, within tolerance.

use std::path::Path;

use candle_core::Device;
use lorakit::adapter::Adapter;
use lorakit::conform::{self, How};
use lorakit::device::Compute;
use lorakit::generate::{Limits, Sampling, batch};
use lorakit::model::Model;

/// Model and adapter cases under `tests/data/golden`, but for `families`.
const CASES: usize = 20;

/// Those under `tests/data/golden/families`.
const FAMILY_CASES: usize = 155;

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// The cases of the first families, wide enough for bf16.
fn cases() -> Vec<std::path::PathBuf> {
    conform::find(&[golden().join("models"), golden().join("adapters")]).unwrap()
}

/// In f32 on the CPU, in kernels or in tensor operations.
fn how(tensors: bool) -> How {
    How { compute: Compute::F32, device: Device::Cpu, tensors }
}

#[test]
fn every_case_passes_in_f32_in_kernels_and_in_tensor_operations() {
    let dirs = cases();
    assert_eq!(dirs.len(), CASES);
    for dir in dirs {
        for tensors in [false, true] {
            let case = conform::run(&dir, &how(tensors)).unwrap();
            assert!(case.passes(), "{tensors}: {case:#?}");
            assert!(case.checks.len() >= 6, "{tensors}: {case:#?}");
        }
    }
}

/// Tiny and irregular, every switch of the family on.
#[test]
fn every_family_passes_in_f32_in_kernels_and_in_tensor_operations() {
    let dirs = conform::find(&[golden().join("families")]).unwrap();
    assert_eq!(dirs.len(), FAMILY_CASES);
    for dir in dirs {
        for tensors in [false, true] {
            let case = conform::run(&dir, &how(tensors)).unwrap();
            assert!(case.passes(), "{tensors}: {case:#?}");
            assert!(case.checks.len() >= 6, "{tensors}: {case:#?}");
        }
    }
}

/// In f32 the same answers; in bf16, keys and values are kept in it and answers come.
#[test]
fn tensor_operations_answer_as_kernels_do() {
    let limits = Limits { min_new_tokens: 0, max_new_tokens: 12, stop: Vec::new() };
    let prompts = [vec![5, 6, 7], (1..40).collect(), vec![9]];
    for name in ["llama", "qwen2", "gpt2", "gemma2"] {
        let open = |compute| Model::open(&golden().join("models").join(name), compute, &Device::Cpu).unwrap();
        let answers = |model: &Model| batch(model, &(), &prompts, &Sampling::GREEDY, &limits, 2, &mut |_| Ok(())).unwrap();
        let kernels = answers(&open(Compute::F32));
        assert_eq!(answers(&open(Compute::F32).in_tensors()), kernels, "{name}");
        assert!(answers(&open(Compute::Bf16).in_tensors()).iter().all(|answer| answer.len() == 12), "{name}");
    }
}

#[test]
fn the_older_spelling_of_a_config_gives_the_same_model() {
    let families = std::fs::read_dir(golden().join("families")).unwrap().map(|entry| entry.unwrap().path());
    let models = ["llama", "llama3", "qwen2", "gpt2", "gemma2"].map(|name| golden().join("models").join(name));
    let mut read = 0;
    for from in models.into_iter().chain(families) {
        let to = tempfile::tempdir().unwrap();
        for (file, as_name) in [("config_v4.json", "config.json"), ("model.safetensors", ""), ("expected.safetensors", "")] {
            let as_name = if as_name.is_empty() { file } else { as_name };
            std::fs::copy(from.join(file), to.path().join(as_name)).unwrap();
        }
        match conform::run(to.path(), &how(false)) {
            // Versions 4 and 5 of transformers read it differently.
            Err(error) if from.ends_with("olmo3") => assert!(error.to_string().contains("rope_theta"), "{error}"),
            case => {
                let case = case.unwrap();
                assert!(case.passes(), "{case:#?}");
                read += 1;
            }
        }
    }
    assert_eq!(read, 5 + 31);
}

#[test]
fn a_case_whose_model_is_another_one_fails() {
    let (from, to) = (golden().join("models"), tempfile::tempdir().unwrap());
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join("llama").join(file), to.path().join(file)).unwrap();
    }
    std::fs::copy(from.join("qwen2/expected.safetensors"), to.path().join("expected.safetensors")).unwrap();
    assert!(!conform::run(to.path(), &how(false)).unwrap().passes());
}

/// Losses, gradients and five steps in bf16: as training computes them on CPUs with AVX-512 BF16, elsewhere in plain code.
#[test]
fn every_case_passes_in_bf16_on_every_cpu() {
    for dir in cases() {
        for tensors in [false, true] {
            let case = conform::run(&dir, &How { compute: Compute::Bf16, ..how(tensors) }).unwrap();
            assert!(case.passes(), "{tensors}: {case:#?}");
            let least = if dir.join("adapter_config.json").is_file() { 9 } else { 2 };
            assert!(case.checks.len() >= least, "{tensors}: {case:#?}");
        }
    }
}

/// Prompts of several lengths at once, sampled and not: each as it is alone, and under kernels as in tensor operations.
#[test]
fn an_encoder_and_its_decoder_answer_in_batches_as_one_by_one() {
    let limits = Limits { min_new_tokens: 0, max_new_tokens: 12, stop: vec![1] };
    let prompts = [vec![5, 6, 7], (2..20).collect(), vec![9], vec![3, 3, 4, 8]];
    let sampled = Sampling { temperature: 1.0, top_k: Some(12), seed: 5, ..Sampling::GREEDY };
    for name in ["t5", "t5-relu"] {
        let open = || Model::open(&golden().join("families").join(name), Compute::F32, &Device::Cpu).unwrap();
        let adapter = Adapter::load(&golden().join("families").join(name).join("adapters/all_linear"), &open()).unwrap();
        for sampling in [&Sampling::GREEDY, &sampled] {
            let answers =
                |model: &Model, rows| batch(model, &adapter, &prompts, sampling, &limits, rows, &mut |_| Ok(())).unwrap();
            let alone = answers(&open(), 1);
            assert_eq!(answers(&open(), 3), alone, "{name}");
            assert_eq!(answers(&open().in_tensors(), 2), alone, "{name}");
            assert!(alone.iter().any(|answer| answer != &alone[0]), "{name}: {alone:?}");
        }
    }
}
