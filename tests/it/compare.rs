//! `compare`: what it writes is what a run does, so that another implementation can follow it.

use std::path::Path;
use std::process::Command;

use lorakit::adapter::Adapter;
use lorakit::model::{Adapt, Batch, Targets};
use lorakit::recipe::Recipe;
use lorakit::train::adamw::{AdamW, norm, settings as update_settings};
use serde_json::{Value, json};

use crate::oracle::Oracle;
use crate::shared::{ids, json};
use crate::tiny_models;

fn lorakit(args: &[&str]) {
    let out = Command::new(env!("CARGO_BIN_EXE_lorakit"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&out.stderr));
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

const RECIPE: &str = "tests/data/tiny/recipe.toml";

/// Follows the written batches, rates and initial adapter with a loop of its own; every loss and norm is that of the run.
#[test]
fn the_written_steps_are_those_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (init, run) = (dir.path().join("init"), dir.path().join("run"));
    let set = ["train.steps=4", "train.batch_size=3", "train.accumulate=2", "train.warmup=1", "eval.samples=0"];
    let set: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
    lorakit(&[&["compare", "run", RECIPE, "--out", &text(&init)], set.as_slice()].concat());
    lorakit(&[&["train", RECIPE, "--out", &text(&run)], set.as_slice()].concat());
    let written = json(&init.join("batches.json"));
    let events = std::fs::read_to_string(run.join("events.jsonl")).unwrap();
    let events = events.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let steps: Vec<Value> = events.filter(|e| e["event"] == "step").collect();
    let lists = |key: &str| written[key].as_array().unwrap().clone();
    assert_eq!((steps.len(), lists("lrs").len(), lists("batches").len()), (4, 4, 4));

    let settings = Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(RECIPE), &[]).unwrap().train;
    let model = tiny_models::open("llama");
    let adapter = Adapter::load(&init.join("adapter"), &model).unwrap();
    let (oracle, mut optim) = (Oracle::new("llama", &model), AdamW::new(adapter.params()).unwrap());
    for ((step, rate), rows) in steps.iter().zip(lists("lrs")).zip(lists("batches")) {
        let mask: Vec<usize> =
            rows["attention_mask"].as_array().unwrap().iter().map(|m| ids(m).iter().sum::<u32>() as usize).collect();
        let tokens: Vec<Vec<u32>> = rows["input_ids"].as_array().unwrap().iter().map(ids).collect();
        assert!(tokens.len() == 6 && tokens.iter().all(|t| t.len() == *mask.iter().max().unwrap()));
        let batch = Batch::right_padded(&tokens, 0);
        let targets = Targets::shifted(&batch, |row, i| rows["labels"][row][i] != -100);
        assert!(
            targets.len() as u64 == step["trained"].as_u64().unwrap()
                && mask.iter().sum::<usize>() as u64 == step["tokens"].as_u64().unwrap()
        );
        let loss = (oracle.loss_sum(&adapter, &batch, &targets) / targets.len() as f64).unwrap();
        let grads = loss.backward().unwrap();
        let grads: Vec<_> = adapter.params().iter().map(|p| grads.get(&p.var).cloned()).collect();
        let grad_norm = norm(&grads).unwrap();
        let near = |got: f64, key: &str| {
            let want = step[key].as_f64().unwrap();
            assert!((got - want).abs() <= 1e-4 * want, "{key}: {got} and {want}");
        };
        near(loss.to_scalar::<f64>().unwrap(), "loss");
        near(grad_norm, "grad_norm");
        near(rate.as_f64().unwrap(), "lr");
        let update = update_settings(&settings, rate.as_f64().unwrap(), grad_norm);
        optim.step(adapter.params(), &grads, &update).unwrap();
    }
}

#[test]
fn the_written_logits_are_those_of_the_texts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let prompts = [vec![1u32, 7, 300], vec![5]];
    let file = json!({"prompts": prompts.iter().map(|p| json!({"ids": p})).collect::<Vec<_>>()});
    std::fs::write(path("prompts.json"), file.to_string()).unwrap();
    let base = text(&tiny_models::dir("llama"));
    let adapter = "tests/data/golden/adapters/llama/plain";
    let model = tiny_models::open("llama");
    let loaded = Adapter::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(adapter), &model).unwrap().frozen();
    let common = ["compare", "logits", "--model", &base, "--prompts", &text(&path("prompts.json")), "--out"].map(String::from);
    let common: Vec<&str> = common.iter().map(String::as_str).collect();
    lorakit(&[common.as_slice(), &[&text(&path("base.json"))]].concat());
    lorakit(&[common.as_slice(), &[&text(&path("with.json")), "--adapter", adapter]].concat());
    let (without, with) = (json(&path("base.json")), json(&path("with.json")));
    for (i, ids) in prompts.iter().enumerate() {
        let of = |adapt: &dyn Adapt| {
            let logits = model.text_logits(adapt, &[ids]).unwrap().concat();
            logits[logits.len() - model.config.vocab..].to_vec()
        };
        let read = |file: &Value| -> Vec<f32> { serde_json::from_value(file["prompts"][i]["last_logits"].clone()).unwrap() };
        assert_eq!(read(&without), of(&()));
        assert_eq!(read(&with), of(&loaded));
        assert_ne!(read(&with), read(&without));
    }
}
