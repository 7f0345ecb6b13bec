//! Figures of real models: logits, losses and the text around them, against transformers and a float64 reference.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lorakit::device::Compute;
use lorakit::model::{Model, text};
use serde_json::Value;

use crate::shared::{find, ids, json, smollm2};

/// Largest difference of a logit from the golden ones.
const LOGITS: f64 = 2e-3;

fn open(path: &Path) -> Model {
    Model::open(path, Compute::F32, &Device::Cpu).unwrap()
}

/// Logits of every position of one text.
fn logits(model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
    let all = model.text_logits(&(), &[ids]).unwrap().concat();
    all.chunks(model.config.vocab).map(<[f32]>::to_vec).collect()
}

/// Sum of the losses of every token but the first.
fn loss_sum(model: &Model, ids: &[u32]) -> f64 {
    let logps = model.target_logps(&(), &[ids], &|_, _| true).unwrap().concat();
    assert_eq!(logps.len(), ids.len() - 1);
    logps.iter().map(|logp| -f64::from(*logp)).sum()
}

fn floats(tensors: &HashMap<String, Tensor>, name: String) -> Vec<f32> {
    tensors[&name].to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn integers(tensors: &HashMap<String, Tensor>, name: String) -> Vec<usize> {
    tensors[&name].flatten_all().unwrap().to_vec1::<i64>().unwrap().into_iter().map(|i| i as usize).collect()
}

/// `ln Σ eˣ`.
fn logsumexp(row: &[f32]) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().map(|x| f64::from(x - top).exp()).sum::<f64>().ln() + f64::from(top)
}

fn mean(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64
}

/// Largest difference between two lists of the same length.
fn worst(got: impl IntoIterator<Item = f64>, want: &[f32]) -> f64 {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (g - f64::from(*w)).abs()).fold(0.0, f64::max)
}

#[test]
fn smollm2_has_the_logits_and_losses_of_transformers() {
    let (Some(path), Some(golden)) = (smollm2(), find("golden/smollm2")) else { return };
    let model = open(&path);
    let tensors = candle_core::safetensors::load(golden.join("logits.safetensors"), &Device::Cpu).unwrap();
    let prompts = json(&golden.join("prompts.json"));
    let prompts = prompts["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 3);
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = ids(&prompt["ids"]);
        let rows = logits(&model, &ids);
        let tops = integers(&tensors, format!("{i}.top20_ids"));
        let mut differences = Vec::new();
        for (at, want) in integers(&tensors, format!("{i}.positions")).into_iter().zip(tops.chunks(20)) {
            let row = &rows[at];
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            assert_eq!(order[0], want[0], "prompt {i}, position {at}");
            // The rest may change places only where two logits are closer than the tolerance.
            for (ours, theirs) in order.iter().zip(want) {
                assert!(f64::from((row[*ours] - row[*theirs]).abs()) <= 2.0 * LOGITS, "prompt {i}, position {at}");
            }
            differences.extend(want.iter().map(|id| f64::from(row[*id])));
        }
        let last = rows.last().unwrap().iter().step_by(97).map(|v| f64::from(*v));
        let errors = [
            worst(differences, &floats(&tensors, format!("{i}.top20_values"))),
            worst(last, &floats(&tensors, format!("{i}.last_logits_stride97"))),
            worst(rows.iter().map(|r| logsumexp(r)), &floats(&tensors, format!("{i}.logits_logsumexp"))),
            worst(rows.iter().map(|r| mean(r)), &floats(&tensors, format!("{i}.logits_mean"))),
        ];
        let loss = loss_sum(&model, &ids) / (ids.len() - 1) as f64;
        let off = (loss - prompt["loss"].as_f64().unwrap()).abs();
        let [top, last, lse, avg] = errors;
        println!("prompt {i}: top 20 {top:.1e}, last row {last:.1e}, logsumexp {lse:.1e}, mean {avg:.1e}, loss {off:.1e}");
        assert!(errors.iter().all(|e| *e <= LOGITS), "prompt {i}: {errors:?}");
        assert!(off <= 1e-3, "prompt {i}: loss {loss} and {}", prompt["loss"]);
    }
}

/// The model's own template and tokenizer, from the GGUF's metadata, through the crate's own types.
#[test]
fn smollm2_reads_and_writes_text_as_transformers_does() {
    use lorakit::data::{Clock, Jinja, Message, Special};
    let (Some(path), Some(golden)) = (smollm2(), find("golden/smollm2")) else { return };
    let tokenizer = text::tokenizer(&path).unwrap();
    let golden = json(&golden.join("chat_and_tokens.json"));
    let source = tokenizer.chat_template().unwrap();
    let template = Jinja::new("SmolLM2", source, &Special::default(), Clock::default()).unwrap();
    for (with, case) in
        golden["conversations"].as_array().unwrap().iter().map(|c| (c["add_generation_prompt"].as_bool().unwrap(), c))
    {
        let message = |m: &Value| Message::new(m["role"].as_str().unwrap(), m["content"].as_str().unwrap());
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let text = template.render(&messages, with).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode(&text).unwrap(), ids(&case["ids"]), "{text}");
    }
    for case in golden["raw"].as_array().unwrap() {
        let raw = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(raw).unwrap(), ids(&case["ids"]), "{raw}");
        assert_eq!(tokenizer.decode(&ids(&case["ids"]), false).unwrap(), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn stories260k_is_its_float64_reference_from_either_file() {
    let Some(root) = find("data/models/stories260k") else { return };
    let reference = json(&root.join("reference.json"));
    let prompt = ids(&reference["prompt_ids"]);
    let want: Vec<f32> = reference["last_logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let stories = std::fs::read_to_string(root.join("../../text/tinystories_sample.jsonl")).unwrap();
    let stories: Vec<Value> = stories.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut of_files = Vec::new();
    for path in [root.clone(), root.join("stories260K-f32.gguf")] {
        let (model, tokenizer) = (open(&path), text::tokenizer(&path).unwrap());
        let rows = logits(&model, &prompt);
        let off = worst(rows.last().unwrap().iter().map(|v| f64::from(*v)), &want);
        assert!(off <= 1e-4, "{}: {off}", path.display());
        for case in reference["nll"].as_array().unwrap() {
            let story = stories[case["story_index"].as_u64().unwrap() as usize]["text"].as_str().unwrap();
            let mut ids: Vec<u32> = tokenizer.bos_id().into_iter().chain(tokenizer.encode_text(story).unwrap()).collect();
            ids.truncate(512);
            let (sum, tokens) = (loss_sum(&model, &ids), ids.len() - 1);
            assert_eq!(tokens as u64, case["tokens"].as_u64().unwrap(), "{case}");
            let expected = case["nll_sum"].as_f64().unwrap();
            assert!((sum - expected).abs() <= 1e-5 * expected, "{}: {sum} and {case}", path.display());
        }
        of_files.push(rows.concat());
    }
    assert_eq!(of_files[0], of_files[1]);
}
