//! `lorakit eval RECIPE --adapter DIR`: base beside adapter on the recipe's held-out rows.

use std::path::PathBuf;

use clap::Args;

use super::{base, prove};
use crate::adapter::Adapter;
use crate::data::Renderer;
use crate::error::Result;

/// Held-out loss, perplexity, exact match and ROUGE-L of the base and of an adapter, by task and with intervals
#[derive(Debug, Args)]
pub struct EvalArgs {
    recipe: PathBuf,
    /// Directory of the adapter
    #[arg(long)]
    adapter: PathBuf,
    /// Replace a value, e.g. --set eval.limit=50
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base, adapter or data.
pub fn run(args: &EvalArgs) -> Result<()> {
    let recipe = base::recipe(&args.recipe, &args.set)?;
    let opened = base::open(&recipe.base, args.json)?;
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let adapter = Adapter::load(&args.adapter, &opened.model)?;
    let loaded = super::rows::load(&recipe, &renderer)?;
    opened.covers(&loaded)?;
    let sets = prove::sets(&recipe, &opened, &renderer)?;
    let proof = prove::measure(&recipe, &opened, &renderer, (&loaded, &sets), &adapter)?;
    if args.json {
        let mut line = proof.json();
        line["adapter_dir"] = serde_json::json!(args.adapter);
        println!("{line}");
        return Ok(());
    }
    println!("{}", proof.table());
    println!("{}", prove::before_and_after(&proof.samples(recipe.eval.samples, &opened, &loaded)?));
    Ok(())
}
