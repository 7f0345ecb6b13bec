//! `lorakit eval RECIPE --adapter DIR`: base beside adapter on the recipe's held-out rows.

use std::path::PathBuf;

use clap::Args;

use super::base;
use super::event_printer::EventPrinter;
use crate::error::Result;
use crate::job;

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
    base::adapter_folder(&args.adapter)?;
    let done = job::evaluate(&recipe, &args.adapter, &mut EventPrinter::new(args.json).listener())?;
    if args.json {
        let mut line = done.evaluation.json();
        line["adapter_dir"] = serde_json::json!(args.adapter);
        println!("{line}");
        return Ok(());
    }
    println!("{}", done.evaluation.table());
    println!("{}", job::before_and_after(&done.samples(recipe.eval.samples)?));
    Ok(())
}
