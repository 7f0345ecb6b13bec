//! Verbs: what they are given, where they write, and what was there before.

use super::{Case, TRAIN, ValidSetup, case, check, run};

/// A finished run in `run`.
fn trained(shop: &ValidSetup) {
    let (code, _, stderr) = run(shop, TRAIN);
    assert_eq!(code, Some(0), "{stderr}");
}

/// A run that was killed before its proof was written: checkpoints of steps 1 and 2.
fn unfinished(shop: &ValidSetup) {
    let set = ["--set", "train.save_every=1"];
    let (code, _, stderr) = run(shop, &[TRAIN, set.as_slice()].concat());
    assert_eq!(code, Some(0), "{stderr}");
    for file in ["trace.json", "adapter_model.safetensors"] {
        std::fs::remove_file(shop.path("run").join(file)).unwrap();
    }
}

const RESUME: &[&str] = &["train", "recipe.toml", "--resume"];

#[test]
fn places() {
    let cases: &[Case] = &[
        case("an output that is taken", trained, TRAIN, &["run", "there is a run here already", "--overwrite"]),
        case("an output that is a file", |s| s.write("run", "x"), TRAIN, &["run", "help:"]),
        case("an output below a file", |_| (), &["train", "recipe.toml", "--out", "rows.jsonl/run"], &["rows.jsonl", "help:"]),
        case(
            "a merge onto something",
            |s| {
                s.adapter("adapter");
                s.write("merged/keep.txt", "x");
            },
            super::MERGE,
            &["merged", "exists already", "--out"],
        ),
        case(
            "a merge into its own base",
            |s| s.adapter("adapter"),
            &["merge", "--model", "model", "--adapter", "adapter", "--out", "model"],
            &["model", "exists already", "--out"],
        ),
        case(
            "resuming an adapter that was not trained here",
            |s| s.adapter("run"),
            RESUME,
            &["--resume", "an adapter without checkpoints", "--overwrite"],
        ),
        case(
            "resuming when every checkpoint is damaged",
            |s| {
                unfinished(s);
                s.write("run/checkpoints/state-0001.safetensors", "x");
                s.write("run/checkpoints/state-0002.json", "{");
            },
            RESUME,
            &["--resume", "state-0001", "1 bytes", "state-0002", "manifest", "all 2 are damaged", "help:"],
        ),
        case(
            "resuming a complete run with another rate",
            trained,
            &["train", "recipe.toml", "--resume", "--set", "train.lr=1e-5"],
            &["--resume", "train.lr: 0.0002 → 0.00001", "--overwrite"],
        ),
        case(
            "resuming with another rank and more steps",
            unfinished,
            &["train", "recipe.toml", "--resume", "--set", "adapter.rank=4", "--set", "train.steps=3"],
            &["--resume", "the checkpoint of step 2", "adapter.rank: 2 → 4", "train.steps: 2 → 3", "--overwrite"],
        ),
        case(
            "resuming with other data",
            |s| {
                unfinished(s);
                s.edit("rows.jsonl", "yes", "perhaps");
            },
            RESUME,
            &["--resume", "data:", "rows.jsonl", "rows, SHA-256", "--overwrite"],
        ),
        case(
            "resuming on another base",
            |s| {
                unfinished(s);
                s.edit("model/config.json", "{", "{ ");
            },
            RESUME,
            &["--resume", "base: config.json (SHA-256", "--overwrite"],
        ),
        case(
            "resuming under another template",
            unfinished,
            &["train", "recipe.toml", "--resume", "--set", "template.kind=alpaca", "--set", "train.max_length=512"],
            &["--resume", "template: the model's own (SHA-256", "→ alpaca", "train.max_length: 64 → 512", "data:", "--overwrite"],
        ),
        case(
            "overwriting with a broken file",
            |s| {
                trained(s);
                s.write("rows.jsonl", "{");
            },
            &["train", "recipe.toml", "--overwrite"],
            &["rows.jsonl:1", "malformed JSON", "help:"],
        ),
    ];
    check(cases, 13);
}

#[test]
fn arguments() {
    let cases: &[Case] = &[
        case("an unknown verb", |_| (), &["trian"], &["trian", "train"]),
        case("an unknown argument", |_| (), &["train", "recipe.toml", "--stepz", "3"], &["--stepz"]),
        case("a verb without its recipe", |_| (), &["train"], &["<RECIPE|DATA>"]),
        case(
            "arguments that exclude each other",
            |_| (),
            &["train", "recipe.toml", "--resume", "--overwrite"],
            &["--resume", "--overwrite"],
        ),
        case("no threads", |_| (), &["--threads", "0", "train", "recipe.toml"], &["--threads", "1..=1024"]),
        case(
            "a type of element that is none",
            |s| s.adapter("adapter"),
            &["merge", "--model", "model", "--adapter", "adapter", "--out", "m", "--dtype", "int3"],
            &["int3", "bf16"],
        ),
        case(
            "a merge of a base that is nowhere",
            |s| s.adapter("adapter"),
            &["merge", "--model", "nobody/nothing", "--adapter", "adapter", "--out", "m"],
            &["base model `nobody/nothing`", "help:"],
        ),
        case(
            "an evaluation on another base",
            |s| {
                s.adapter("adapter");
                s.set("model/config.json", "model_type", "gpt2".into());
            },
            super::EVAL,
            &["model", "help:"],
        ),
        case("conformance without a case", |_| (), &["conform", "model"], &["model", "no golden case here", "help:"]),
        case("conformance of nothing", |_| (), &["conform", "none"], &["none", "help:"]),
        case(
            "a golden case that is damaged",
            |s| s.write("model/expected.safetensors", "x"),
            &["conform", "model"],
            &["expected.safetensors", "help:"],
        ),
        case("a folder without recipes", |_| (), &["recipe", "ls", "none"], &["none", "recipe ls DIR"]),
        case(
            "data of a recipe that is not there",
            |_| (),
            &["data", "show", "none.toml"],
            &["none.toml", "there is no such recipe"],
        ),
        case(
            "prompts that are no JSON",
            |s| s.write("p.json", "{"),
            &["compare", "logits", "--model", "model", "--prompts", "p.json", "--out", "l.json"],
            &["p.json:1", "help:"],
        ),
        case(
            "a prompt without ids",
            |s| s.write("p.json", r#"{"prompts": [{"ids": []}]}"#),
            &["compare", "logits", "--model", "model", "--prompts", "p.json", "--out", "l.json"],
            &["p.json", "no ids", "help:"],
        ),
        case(
            "a prompt of foreign ids",
            |s| s.write("p.json", r#"{"prompts": [{"ids": [4000]}]}"#),
            &["compare", "logits", "--model", "model", "--prompts", "p.json", "--out", "l.json"],
            &["token id 4000", "320", "help:"],
        ),
        case("threads beyond any machine", |_| (), &["--threads", "100000", "train", "recipe.toml"], &["--threads", "1..=1024"]),
        case("generating from nothing", |_| (), &["generate", "--model", "model"], &["--prompt"]),
        case(
            "generating with an adapter that is not there",
            |_| (),
            &["generate", "--model", "model", "--adapter", "none", "--prompt", "a"],
            &["none", "adapter_config.json", "help:"],
        ),
        case(
            "generating at a temperature below zero",
            |_| (),
            &["generate", "--model", "model", "--prompt", "a", "--temperature=-1"],
            &["temperature"],
        ),
        case("generating nothing at all", |_| (), &["generate", "--model", "model", "--prompt", ""], &["prompt", "help:"]),
        case(
            "chatting with a base that is nowhere",
            |_| (),
            &["chat", "--model", "nobody/nothing"],
            &["base model `nobody/nothing`", "help:"],
        ),
        case(
            "inspecting what is no adapter",
            |_| (),
            &["adapter", "inspect", "model"],
            &["model", "adapter_config.json", "help:"],
        ),
        case("listing adapters of nothing", |_| (), &["adapter", "ls", "none"], &["none", "help:"]),
    ];
    check(cases, 24);
}
