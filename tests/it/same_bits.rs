//! Tokens and log-probabilities of a text are the same to the bit whatever its company, however its prompt is cut, and whatever was
//! kept of earlier texts, with two adapters and the base in one batch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::device::Compute;
use lorakit::generate::{Limits, Request, Sampling, Scheduler, WantedLogps};
use lorakit::model::{Model, PreparedAdapter};
use lorakit::{random, recipe};

use crate::shared::{find, smollm2};

/// Of each text, its tokens and the bits of their log-probabilities.
type Answers = BTreeMap<u64, Vec<(u32, u32)>>;

/// An adapter that changes answers.
fn adapter(model: &Model, seed: u64, dora: bool) -> Arc<PreparedAdapter> {
    let recipe = recipe::Adapter { dora, ..recipe::Adapter::lora(8, recipe::TargetModules::AllLinear) };
    let adapter = Adapter::new(&recipe, None, model, seed).unwrap();
    for (param, i) in adapter.params().iter().zip(0..).filter(|(p, _)| p.var.dims().len() == 2) {
        let of = |at| (random::indexed(seed * 1000 + i, at) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        let values: Vec<f32> = (0..param.var.elem_count() as u64).map(|at| of(at) * 0.04).collect();
        param.var.set(&Tensor::from_vec(values, param.var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    Arc::new(model.prepare(&adapter.frozen()).unwrap())
}

/// Prompts of 1 to 100 tokens, each third behind a common beginning of 70; shorter ones for a model of few positions.
fn prompts(model: &Model, n: usize) -> Vec<Vec<u32>> {
    let (common, most) = if model.config.max_positions >= 200 { (70, 100) } else { (34, 20) };
    let token = |seed: u64, at: u64| (random::indexed(seed, at) % model.config.vocab as u64) as u32;
    let one = |i: u64| {
        let common = (0..if i.is_multiple_of(3) { common } else { 0 }).map(|at| token(7, at));
        common.chain((0..1 + random::indexed(11, i) % most).map(|at| token(100 + i, at))).collect()
    };
    (0..n as u64).map(one).collect()
}

fn answers(scheduler: &mut Scheduler, prompts: &[Vec<u32>], adapters: &[Arc<PreparedAdapter>], which: &[usize]) -> Answers {
    let limits = Limits { min_new_tokens: 0, max_new_tokens: 6, stop: vec![0] };
    for i in which {
        let sampling = Sampling { temperature: if i % 2 == 0 { 0.0 } else { 0.9 }, seed: 5, ..Sampling::GREEDY };
        let (id, adapter, prompt) = (*i as u64, adapters[i % adapters.len()].clone(), prompts[*i].clone());
        let logps = WantedLogps { answer: Some(0), prompt: None };
        scheduler.submit(Request { logps, ..Request::new(id, adapter, prompt, sampling, limits.clone()) }).unwrap();
    }
    let mut all = Answers::new();
    while !scheduler.is_idle() {
        for turn in scheduler.turn().unwrap() {
            let answer = all.entry(turn.request).or_default();
            answer.push((turn.token.unwrap_or(u32::MAX), turn.logp.unwrap().logp.to_bits()));
            if turn.ended.is_some() {
                scheduler.finish(turn.request);
            }
        }
    }
    all
}

fn differences(a: &Answers, b: &Answers) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().filter(|(i, answer)| b[*i] != **answer).count()
}

/// Says how many texts there were, and how many differed in each company.
fn check(name: &str, model: &Model, n: usize) {
    let adapters = [Arc::new(model.prepare(&()).unwrap()), adapter(model, 3, false), adapter(model, 4, false)];
    let prompts = prompts(model, n);
    let each: Vec<usize> = (0..n).collect();
    let mut alone = Answers::new();
    for i in &each {
        alone.extend(answers(&mut Scheduler::new(model, 1, 400), &prompts, &adapters, &[*i]));
    }
    let distinct: std::collections::HashSet<&Vec<(u32, u32)>> = alone.values().collect();
    assert!(distinct.len() > n * 9 / 10, "{} different answers of {n}", distinct.len());
    let mut found = Vec::new();
    for rows in [2, 8, 17, 64] {
        let got = answers(&mut Scheduler::new(model, rows, rows * 400), &prompts, &adapters, &each);
        found.push((format!("{rows} rows"), differences(&alone, &got)));
    }
    // Pieces of 7 cost a pass over the weights each: on the real model, only where many prompts are asked for.
    let pieces: &[usize] = if n < 10 { &[50] } else { &[7, 50] };
    for tokens in pieces.iter().copied() {
        let mut scheduler = Scheduler::new(model, 8, 8 * 400).with_prompt_tokens(tokens);
        found.push((
            format!("prompts in pieces of {tokens}"),
            differences(&alone, &answers(&mut scheduler, &prompts, &adapters, &each)),
        ));
    }
    // The same prompts again, from what the first time left.
    let mut scheduler = Scheduler::new(model, 4, 400 * n);
    answers(&mut scheduler, &prompts, &adapters, &each);
    let kept: usize = each.iter().map(|i| scheduler.reusable(&adapters[i % 3], &prompts[*i]).unwrap()).sum();
    assert!(kept > 0);
    found.push((format!("{kept} tokens kept"), differences(&alone, &answers(&mut scheduler, &prompts, &adapters, &each))));
    // A pool so small that what was kept must go.
    let got = answers(&mut Scheduler::new(model, 3, 400), &prompts, &adapters, &each);
    found.push(("little room".to_string(), differences(&alone, &got)));
    println!("{name}: {n} prompts under the base and two adapters; texts that differ: {found:?}");
    assert!(found.iter().all(|(_, differ)| *differ == 0), "{name}: {found:?}");
}

#[test]
fn tiny_models_answer_the_same_to_the_bit_in_any_company() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models");
    for name in ["llama", "gpt2", "qwen2"] {
        let dir = golden.join(name);
        for compute in [Compute::Auto, Compute::F32, Compute::Bf16Anywhere] {
            let model = Model::open(&dir, compute, &Device::Cpu).unwrap();
            check(&format!("{name} {compute:?}"), &model, 24);
        }
    }
}

#[test]
fn adapters_with_magnitudes_share_a_batch_too() {
    let Some(root) = find("data/models/stories260k") else { return };
    let model = Model::open(&root, Compute::F32, &Device::Cpu).unwrap();
    let adapters = [Arc::new(model.prepare(&()).unwrap()), adapter(&model, 3, true), adapter(&model, 4, false)];
    let prompts = prompts(&model, 30);
    let each: Vec<usize> = (0..prompts.len()).collect();
    let alone: Answers =
        each.iter().flat_map(|i| answers(&mut Scheduler::new(&model, 1, 400), &prompts, &adapters, &[*i])).collect();
    let together = answers(&mut Scheduler::new(&model, 16, 16 * 400), &prompts, &adapters, &each);
    assert_eq!(differences(&alone, &together), 0);
}

/// `LORAKIT_BITS_PROMPTS` prompts (6 without it) on the model of the quickstart, or on that of `LORAKIT_REAL_MODEL`.
#[test]
fn the_real_model_answers_the_same_to_the_bit_in_any_company() {
    let Some(path) = smollm2() else { return };
    let n = std::env::var("LORAKIT_BITS_PROMPTS").map_or(6, |n| n.parse().unwrap());
    for compute in [Compute::Auto, Compute::F32] {
        let model = Model::open(&path, compute, &Device::Cpu).unwrap();
        check(&format!("{} {compute:?}", path.display()), &model, n);
    }
}
