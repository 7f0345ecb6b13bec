//! The training loop on the tiny model: accumulation, early stop, numbers that are none, and the whole verb.

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::Device;
use lorakit::adapter::Adapter;
use lorakit::data::{self, Loaded, Renderer};
use lorakit::device::Compute;
use lorakit::model::{Model, text};
use lorakit::recipe::Recipe;
use lorakit::train::mixture::Mixture;
use lorakit::train::{self, Control, Event, State, StopReason, TrainSetup};
use lorakit::{Error, Result};
use serde_json::{Map, Value, json};

use crate::tiny_models;

pub(crate) fn recipe_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/recipe.toml")
}

/// A model of experts, rows of its words, and a recipe of an adapter on the experts' parameters and on queries: its path.
fn experts_folder(dir: &Path) -> PathBuf {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families/mixtral");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(base.join(file), dir.join(file)).unwrap();
    }
    let vocab: Map<String, Value> = (0..24).map(|i| (format!("t{i}"), json!(i))).collect();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let words = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "t0"});
    let tokenizer = json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": words});
    write("tokenizer.json", tokenizer.to_string());
    let row = |row: usize| {
        let words: Vec<String> = (0..8 + row % 5).map(|i| format!("t{}", (7 * row + 3 * i + i * i) % 21 + 3)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    };
    write("rows.jsonl", (0..24).map(row).collect());
    let experts = r#"target_parameters = ["experts.gate_up_proj", "experts.down_proj"]"#;
    let adapter = format!("[adapter]\nrank = 2\ntargets = [\"q_proj\"]\n{experts}\n");
    let data = "[data]\ntrain = \"rows.jsonl\"\nheldout_fraction = 0.2\n[train]\nmax_length = 32\n";
    write("recipe.toml", format!("[base]\nmodel = {dir:?}\n{adapter}{data}"));
    dir.join("recipe.toml")
}

/// Model and data of the tiny recipe under some overrides.
pub(crate) struct Fixture {
    recipe: Recipe,
    model: Model,
    pub(crate) rows: Loaded,
    pub(crate) mixture: Mixture,
}

impl Fixture {
    pub(crate) fn new(set: &[&str]) -> Fixture {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let recipe = Recipe::load(&recipe_file(), &set).unwrap();
        let renderer = Renderer::new(text::tokenizer(&tiny_models::dir("llama")).unwrap(), &recipe.template).unwrap();
        let rows = data::load(&recipe.data, &renderer, recipe.train.max_length, recipe.train.seed).unwrap();
        let mixture = Mixture::plan(&recipe.data, &rows.train).unwrap();
        Fixture { recipe, model: tiny_models::open("llama"), rows, mixture }
    }

    /// What [`experts_folder`] writes.
    pub(crate) fn of_experts(set: &[&str]) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let file = experts_folder(dir.path());
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let recipe = Recipe::load(&file, &set).unwrap();
        let renderer = Renderer::new(text::tokenizer(dir.path()).unwrap(), &recipe.template).unwrap();
        let rows = data::load(&recipe.data, &renderer, recipe.train.max_length, recipe.train.seed).unwrap();
        let mixture = Mixture::plan(&recipe.data, &rows.train).unwrap();
        let model = Model::open(dir.path(), Compute::F32, &Device::Cpu).unwrap();
        Fixture { recipe, model, rows, mixture }
    }

    /// The same, computed in tensor operations.
    pub(crate) fn in_tensors(self) -> Fixture {
        Fixture { model: self.model.in_tensors(), ..self }
    }

    pub(crate) fn adapter(&self) -> Adapter {
        Adapter::new(&self.recipe.adapter, None, &self.model, self.recipe.train.seed).unwrap()
    }

    pub(crate) fn run(
        &self,
        adapter: &Adapter,
        resume: Option<State>,
        listen: &mut dyn FnMut(Event) -> Result<Control>,
    ) -> Result<StopReason> {
        let (Loaded { train: examples, heldout, .. }, mixture) = (&self.rows, &self.mixture);
        let job = TrainSetup { model: &self.model, adapter, examples, mixture, heldout, settings: &self.recipe.train };
        train::run(&job, resume, listen)
    }

    /// The adapter's bytes and the losses of an undisturbed run.
    pub(crate) fn undisturbed(&self) -> (Vec<u8>, Vec<f64>) {
        let adapter = self.adapter();
        let mut losses = Vec::new();
        self.run(&adapter, None, &mut |event| {
            if let Event::Step { loss, .. } = event {
                losses.push(loss);
            }
            Ok(Control::Go)
        })
        .unwrap();
        (adapter.to_safetensors().unwrap(), losses)
    }
}

#[test]
fn accumulation_is_weighted_by_tokens() {
    let whole = Fixture::new(&["train.steps=4", "train.batch_size=6"]).undisturbed().1;
    let pieces = Fixture::new(&["train.steps=4", "train.batch_size=2", "train.accumulate=3"]).undisturbed().1;
    println!("one batch {whole:?}, three pieces {pieces:?}");
    for (w, p) in whole.iter().zip(&pieces) {
        assert!((w - p).abs() < 1e-4 * w, "{whole:?} against {pieces:?}");
    }
    let lengths: std::collections::BTreeSet<usize> = Fixture::new(&[]).rows.train.iter().map(|e| e.trained.count()).collect();
    assert!(lengths.len() > 1, "rows of one length cannot tell the mean of means from the mean of tokens");
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_last_good_state_kept() {
    let f = Fixture::new(&["train.steps=30", "train.lr=1.0", "train.warmup=0", "train.clip=0.0"]);
    let adapter = f.adapter();
    for p in adapter.params().iter().filter(|p| p.key.contains("lora_B")) {
        p.var.set(&(p.var.ones_like().unwrap() * 1e30).unwrap()).unwrap();
    }
    let mut saved = 0;
    let error = f.run(&adapter, None, &mut |event| {
        saved += usize::from(matches!(event, Event::Save { .. }));
        Ok(Control::Go)
    });
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 1, .. }), "{error}");
    assert_eq!(saved, 1, "the state before the step is offered");
}

#[test]
fn early_stop_ends_a_run_whose_heldout_loss_no_longer_falls() {
    let f =
        Fixture::new(&["train.steps=400", "train.lr=0.2", "train.eval_every=2", "train.early_stop=3", "train.schedule=constant"]);
    let mut evals = Vec::new();
    let reason = f.run(&f.adapter(), None, &mut |event| {
        if let Event::Eval { loss, best, .. } = event {
            evals.push((loss, best));
        }
        Ok(Control::Go)
    });
    assert_eq!(reason.unwrap(), StopReason::EarlyStop);
    let (last, before) = evals.split_at(evals.len() - 3);
    assert!(before.iter().all(|(_, best)| !best), "three evaluations without a better one: {evals:?}");
    assert!(last.iter().any(|(_, best)| *best));
}

#[test]
fn an_evaluation_that_is_no_number_is_never_the_best() {
    let f = Fixture::new(&["train.steps=6", "train.eval_every=2", "train.early_stop=9"]);
    let adapter = f.adapter();
    let spoilt = adapter.params().iter().find(|p| p.key.contains("lora_B")).unwrap();
    let (mut kept, mut evals) = (None, Vec::new());
    let reason = f.run(&adapter, None, &mut |event| {
        match event {
            Event::Step { step: 2, .. } => {
                kept = Some(spoilt.var.as_tensor().detach().copy()?);
                spoilt.var.set(&(spoilt.var.ones_like()? * f64::NAN)?)?;
            }
            Event::Eval { step, loss, best } => {
                evals.push((step, loss.is_finite(), best));
                if let Some(kept) = kept.take() {
                    spoilt.var.set(&kept)?;
                }
            }
            _ => {}
        }
        Ok(Control::Go)
    });
    assert_eq!(reason.unwrap(), StopReason::Complete);
    assert_eq!(evals[..2], [(2, false, false), (4, true, true)], "{evals:?}");
}

#[test]
fn an_error_of_the_model_ends_a_run_with_what_was_trained_kept() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"prompt\": \"q\", \"completion\": \"{}\"}}\n", "x".repeat(400));
    std::fs::write(dir.path().join("long.jsonl"), long).unwrap();
    let heldout = format!("data.heldout={:?}", dir.path().join("long.jsonl"));
    let f = Fixture::new(&["train.steps=6", "train.eval_every=2", "train.max_length=600", &heldout]);
    let mut saved = Vec::new();
    let error = f.run(&f.adapter(), None, &mut |event| {
        if let Event::Save { step, .. } = event {
            saved.push(step);
        }
        Ok(Control::Go)
    });
    assert!(error.unwrap_err().to_string().contains("256 tokens"));
    assert_eq!(saved, [2]);
}

fn lorakit(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(dir).arg("train").arg(recipe_file()).args(args).env("HF_HUB_OFFLINE", "1");
    command
}

#[test]
fn the_verb_keeps_the_best_adapter_and_ends_in_one_json_line() {
    let dir = tempfile::tempdir().unwrap();
    let set = ["--set", "train.lr=0.1", "--set", "train.eval_every=3", "--set", "eval.exact_match=true"];
    let done = lorakit(dir.path(), &[&["--json", "--out", "a"], set.as_slice()].concat()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let line: Value = serde_json::from_slice(&done.stdout).unwrap();
    let out = dir.path().join("a");
    for file in
        ["adapter_config.json", "adapter_model.safetensors", "recipe.toml", "README.md", "trace.json", "events.jsonl", "loss.svg"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    let events = std::fs::read_to_string(out.join("events.jsonl")).unwrap();
    let evals = events.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|e| e["event"] == "eval");
    let best = evals.map(|e| e["loss"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
    let kept = line["adapter"]["loss"].as_f64().unwrap();
    assert!((kept - best).abs() < 1e-4, "the adapter kept has loss {kept}, the best evaluation was {best}");
    assert!(line["base"]["loss"].as_f64().unwrap() > kept && line["adapter"]["exact_match"].is_number());
    assert_eq!(line["adapter_dir"], "a");
}

/// What PEFT makes of pairs at single experts is told where they are trained and beside the adapter; of their parameters there is
/// nothing to tell.
#[test]
fn an_adapter_says_what_peft_makes_of_its_pairs_at_single_experts() {
    let dir = tempfile::tempdir().unwrap();
    let file = experts_folder(dir.path());
    let single = r#"[adapter]
rank = 2
targets = ["q_proj", "w2"]
"#;
    let text = std::fs::read_to_string(&file).unwrap();
    let (start, end) = (text.find("[adapter]").unwrap(), text.find("[data]").unwrap());
    std::fs::write(dir.path().join("single.toml"), format!("{}{single}{}", &text[..start], &text[end..])).unwrap();
    for (name, told) in [("recipe", false), ("single", true)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.current_dir(dir.path()).args(["train", &format!("{name}.toml"), "--out", name, "--set", "train.steps=2"]);
        let done = command.args(["--set", "eval.max_new_tokens=2"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        let card = std::fs::read_to_string(dir.path().join(name).join("README.md")).unwrap();
        let sentence = "its pairs at `w2` are those of single layers";
        assert_eq!([said.contains(sentence), card.contains(&format!("Of the adapter: {sentence}"))], [told; 2], "{said}\n{card}");
        let events = std::fs::read_to_string(dir.path().join(name).join("events.jsonl")).unwrap();
        assert_eq!(events.matches("\"balance\":").count(), 2, "{events}");
    }
}
