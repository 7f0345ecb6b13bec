//! `lorakit compare`: what another implementation needs to be compared with this one, as JSON. The other side of
//! `tests/peft` and `benches/vs_peft`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::base;
use super::ignore_arg::IgnoreArg;
use crate::adapter::Adapter;
use crate::conform::exchange::{PromptFile, Steps};
use crate::data::Renderer;
use crate::device::Compute;
use crate::error::Result;
use crate::job::PlannedRows;
use crate::model::Adapt;
use crate::recipe::Base;

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
        #[command(flatten)]
        ignore: IgnoreArg,
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
        Verb::Logits { model, ignore, adapter, prompts, out } => {
            let base = Base { compute: Compute::F32, ..base::named(Some(model), None, ignore, None)? };
            logits(&base, adapter.as_deref(), prompts, out)
        }
        Verb::Run { recipe, set, out } => steps(recipe, set, out),
    }
}

fn logits(base: &Base, adapter: Option<&Path>, prompts: &Path, out: &Path) -> Result<()> {
    let mut prompts = PromptFile::read(prompts)?;
    let opened = base::open(base, false)?;
    let adapter = adapter.map(|dir| base::adapter(dir, &opened)).transpose()?.map(|a| a.frozen());
    let adapt: &dyn Adapt = adapter.as_ref().map_or(&(), |a| a);
    prompts.answer(&opened.model, adapt)?;
    prompts.write(out)?;
    eprintln!("logits of {} prompts in {}", prompts.len(), out.display());
    Ok(())
}

fn steps(recipe: &Path, set: &[String], out: &Path) -> Result<()> {
    let recipe = base::recipe(recipe, set)?;
    let opened = base::open(&recipe.base, false)?;
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let PlannedRows { loaded, mixture } = base::rows(&recipe, &renderer)?;
    opened.covers(&loaded)?;
    let adapter = Adapter::new(&recipe.adapter, opened.resolved.id.clone(), &opened.model, recipe.train.seed)?;
    let steps = Steps::of(&recipe.train, &mixture, &loaded.train, opened.tokenizer.pad_id())?;
    adapter.save(&out.join("adapter"))?;
    steps.write(&out.join("batches.json"))?;
    eprintln!("{} steps and the untrained adapter in {}", steps.len(), out.display());
    Ok(())
}
