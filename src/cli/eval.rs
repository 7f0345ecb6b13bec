//! `lorakit eval RECIPE --adapter DIR`: base beside adapters and merged models on the recipe's held-out rows.

use std::path::PathBuf;

use clap::Args;

use super::base;
use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use serde_json::{Value, json};

use crate::adapter::inspect::RECIPE;
use crate::error::{Error, Result};
use crate::job::{self, Contestant, Evaluated, Evaluation};

/// Held-out loss, perplexity, exact match, ROUGE-L and multiple choice of the base and of an adapter, by task and with intervals
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Whose rows and base; the recipe beside the (first) adapter when absent
    recipe: Option<PathBuf>,
    /// Directory of an adapter; once for each, or not at all: then the base alone is judged
    #[arg(long, value_name = "DIR")]
    adapter: Vec<PathBuf>,
    /// A whole model to judge beside the base, such as a merged one: a directory or a .gguf file; once for each
    #[arg(long, value_name = "MODEL")]
    merged: Vec<PathBuf>,
    /// Go on although a field of adapter_config.json is unknown and set, at your own risk; once for each field
    #[arg(long = "ignore-field", value_name = "FIELD")]
    ignored: Vec<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
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
    args.adapter.iter().try_for_each(|dir| base::adapter_folder(dir))?;
    let saved = || args.adapter.first().map(|dir| dir.join(RECIPE)).filter(|path| path.is_file());
    let Some(path) = args.recipe.clone().or_else(saved) else {
        let why = "no recipe is named, and there is none beside an adapter";
        return Err(Error::usage("lorakit eval", why, "name one: lorakit eval RECIPE --adapter DIR"));
    };
    let mut recipe = base::recipe(&path, &args.set)?;
    args.ignore.add_to(&mut recipe.base);
    let adapters = args.adapter.iter().map(|dir| Contestant::Adapter(dir.clone(), args.ignored.clone()));
    let contestants: Vec<Contestant> = adapters.chain(args.merged.iter().cloned().map(Contestant::Model)).collect();
    let done = job::evaluate(&recipe, &contestants, &mut EventPrinter::new(args.json).listener())?;
    if args.json {
        println!("{}", json(&done, &contestants));
        return Ok(());
    }
    if contestants.is_empty() {
        println!("{}", done.evaluations[0].base_table());
    }
    for (i, (contestant, evaluation)) in contestants.iter().zip(&done.evaluations).enumerate() {
        if contestants.len() > 1 {
            println!("{}", contestant.path().display());
        }
        println!("{}", evaluation.table());
        println!("{}", job::before_and_after(&done.samples(i, recipe.eval.samples)?));
    }
    Ok(())
}

/// One object for a single contestant, and for none; with several, one each in the list `models`.
fn json(done: &Evaluated, contestants: &[Contestant]) -> Value {
    let named = |((contestant, evaluation), told): ((&Contestant, &Evaluation), &Vec<String>)| {
        let mut line = evaluation.json();
        let key = if matches!(contestant, Contestant::Adapter(..)) { "adapter_dir" } else { "merged_dir" };
        line[key] = json!(contestant.path());
        line["told"] = json!(told);
        line
    };
    let mut each = contestants.iter().zip(&done.evaluations).zip(&done.told).map(named);
    match contestants {
        [] => {
            let mut line = done.evaluations[0].json();
            for key in ["adapter", "compared", "tasks", "clusters"] {
                _ = line.as_object_mut().and_then(|line| line.remove(key));
            }
            line
        }
        [_] => each.next().unwrap_or_default(),
        _ => json!({"models": each.collect::<Vec<_>>()}),
    }
}
