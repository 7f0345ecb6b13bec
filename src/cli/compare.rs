//! `lorakit compare`: what another implementation needs to be compared with this one, as JSON. The other side of
//! `tests/peft` and `benches/vs_peft`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::base;
use crate::adapter::Adapter;
use crate::data::{ExampleRef, Renderer};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::files;
use crate::model::{Adapt, Batch, Ctx};
use crate::recipe::Base;
use crate::train::order::Order;
use crate::train::schedule;

/// Write what it takes to compare another implementation with this one.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the logits after the last token of each prompt, computed in f32
    Logits {
        /// Base model: a directory, a .gguf file, or a hub id
        #[arg(long)]
        model: String,
        /// Directory of an adapter
        #[arg(long)]
        adapter: Option<PathBuf>,
        /// JSON: {"prompts": [{"ids": [...]}]}
        #[arg(long)]
        prompts: PathBuf,
        /// JSON to write: the same with "last_logits" in each prompt
        #[arg(long)]
        out: PathBuf,
    },
    /// Write a recipe's untrained adapter, and the rows and learning rate of each of its steps
    Run {
        recipe: PathBuf,
        /// Replace a value, e.g. --set train.steps=30
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Directory to write: adapter/ and batches.json
        #[arg(long)]
        out: PathBuf,
    },
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base, adapter, data or prompts, or when the output cannot be written.
pub fn run(args: &CompareArgs) -> Result<()> {
    match &args.verb {
        Verb::Logits { model, adapter, prompts, out } => logits(model, adapter.as_deref(), prompts, out),
        Verb::Run { recipe, set, out } => steps(recipe, set, out),
    }
}

#[derive(Serialize, Deserialize)]
struct Prompts {
    prompts: Vec<Prompt>,
}

#[derive(Serialize, Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    #[serde(default)]
    last_logits: Vec<f32>,
}

fn logits(model: &str, adapter: Option<&Path>, prompts: &Path, out: &Path) -> Result<()> {
    let mut file: Prompts = serde_json::from_str(&files::read_text(prompts)?)
        .map_err(|e| Error::data(prompts, Some(e.line()), e.to_string(), "write {\"prompts\": [{\"ids\": [1, 2]}]}"))?;
    if file.prompts.iter().any(|p| p.ids.is_empty()) {
        return Err(Error::data(prompts, None, "a prompt has no ids", "give each prompt at least one id"));
    }
    let base = Base { model: model.into(), fallback: None, revision: "main".into(), compute: Compute::F32 };
    let opened = base::open(&base, false)?;
    let adapter = adapter.map(|dir| Adapter::load(dir, &opened.model)).transpose()?.map(|a| a.frozen());
    let adapt: &dyn Adapt = adapter.as_ref().map_or(&(), |a| a);
    for prompt in &mut file.prompts {
        let batch = Batch::right_padded(&[&prompt.ids], 0);
        let last = opened.model.forward_last(&mut Ctx::new(adapt), &batch)?; // (1, vocabulary)
        prompt.last_logits = last.flatten_all()?.to_vec1()?;
    }
    files::write_atomic(out, json!(file).to_string().as_bytes())?;
    eprintln!("logits of {} prompts in {}", file.prompts.len(), out.display());
    Ok(())
}

fn steps(recipe: &Path, set: &[String], out: &Path) -> Result<()> {
    let recipe = base::recipe(recipe, set)?;
    let opened = base::open(&recipe.base, false)?;
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let loaded = base::rows(&recipe, &renderer)?;
    opened.covers(&loaded)?;
    let adapter = Adapter::new(&recipe.adapter, opened.resolved.id.clone(), &opened.model, recipe.train.seed)?;
    let s = &recipe.train;
    let order = Order::new(s, &loaded.mixture, &loaded.train)?;
    let rate = |step| s.lr * schedule::factor(s.schedule, s.warmup, step, order.steps);
    let rates: Vec<f64> = (0..order.steps).map(rate).collect();
    let batches: Vec<_> = (0..order.steps)
        .map(|step| {
            let rows: Vec<ExampleRef> =
                order.micro_batches(step).iter().flatten().flatten().map(|i| loaded.train.get(*i)).collect();
            padded(&rows, opened.tokenizer.pad_id())
        })
        .collect();
    adapter.save(&out.join("adapter"))?;
    files::write_atomic(&out.join("batches.json"), json!({"lrs": rates, "batches": batches}).to_string().as_bytes())?;
    eprintln!("{} steps and the untrained adapter in {}", order.steps, out.display());
    Ok(())
}

/// The rows of a step as one batch, padded on the right; label -100 carries no loss.
fn padded(rows: &[ExampleRef], pad: u32) -> serde_json::Value {
    let len = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let fill = |row: &ExampleRef, of: &dyn Fn(usize) -> i64, rest: i64| -> Vec<i64> {
        (0..len).map(|i| if i < row.ids.len() { of(i) } else { rest }).collect()
    };
    let each = |f: &dyn Fn(&ExampleRef) -> Vec<i64>| rows.iter().map(f).collect::<Vec<_>>();
    json!({
        "input_ids": each(&|r| fill(r, &|i| i64::from(r.ids[i]), i64::from(pad))),
        "labels": each(&|r| fill(r, &|i| if r.trained.get(i) { i64::from(r.ids[i]) } else { -100 }, -100)),
        "attention_mask": each(&|r| fill(r, &|_| 1, 0)),
    })
}
