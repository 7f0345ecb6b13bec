//! Continuations by real models, as their references have them.

use std::sync::Arc;

use candle_core::Device;
use lorakit::device::Compute;
use lorakit::generate::{CachedConversation, Limits, Sampling, TextStream, batch};
use lorakit::model::{Model, text};

use crate::shared::{find, ids, json, smollm2};

#[test]
fn stories260k_continues_as_its_reference_does() {
    let Some(root) = find("data/models/stories260k") else { return };
    let reference = &json(&root.join("reference.json"))["greedy_from_bos_200"];
    let expected = ids(&reference["ids"]);
    for path in [root.clone(), root.join("stories260K-f32.gguf")] {
        let model = Model::open(&path, Compute::F32, &Device::Cpu).unwrap();
        let limits = Limits { min_new_tokens: 0, max_new_tokens: expected.len() - 1, stop: Vec::new() };
        let tokenizer = text::tokenizer(&path).unwrap();
        let mut stream = TextStream::new(tokenizer.clone(), &[]);
        let mut said = String::new();
        let mut session = CachedConversation::new(&model, 512);
        let answer =
            session.generate(&Arc::new(model.prepare(&()).unwrap()), &expected[..1], &Sampling::GREEDY, &limits, &mut |id| {
                said += &stream.push(id).unwrap();
                true
            });
        assert_eq!(answer.unwrap(), expected[1..]);
        said += &stream.finish().unwrap();
        assert_eq!(said.trim_start(), reference["text"].as_str().unwrap());
        // Eight beginnings of the same story, in one batch.
        let beginnings: Vec<Vec<u32>> = (1..9).map(|n| expected[..n * 9].to_vec()).collect();
        let limits = Limits { min_new_tokens: 0, max_new_tokens: 100, stop: Vec::new() };
        let answers = batch(&model, &(), &beginnings, &Sampling::GREEDY, &limits, 8, &mut |_| Ok(())).unwrap();
        for (beginning, answer) in beginnings.iter().zip(answers) {
            assert_eq!(answer, expected[beginning.len()..beginning.len() + 100]);
        }
    }
}

#[test]
fn smollm2_continues_as_transformers_does() {
    let (Some(path), Some(golden)) = (smollm2(), find("golden/smollm2/prompts.json")) else { return };
    let model = Model::open(&path, Compute::F32, &Device::Cpu).unwrap();
    let golden = json(&golden);
    let cases: Vec<(Vec<u32>, Vec<u32>)> =
        golden["prompts"].as_array().unwrap().iter().map(|p| (ids(&p["ids"]), ids(&p["greedy_ids"]))).collect();
    let limits = Limits { min_new_tokens: 0, max_new_tokens: cases[0].1.len(), stop: Vec::new() };
    let prompts: Vec<Vec<u32>> = cases.iter().map(|(prompt, _)| prompt.clone()).collect();
    for rows in [1, 8] {
        let answers = batch(&model, &(), &prompts, &Sampling::GREEDY, &limits, rows, &mut |_| Ok(())).unwrap();
        for ((_, expected), answer) in cases.iter().zip(&answers) {
            assert_eq!(answer, expected, "{rows} rows");
        }
    }
}
