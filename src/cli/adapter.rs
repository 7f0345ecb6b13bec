//! `lorakit adapter ls | inspect`: what adapter directories hold.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::adapter_lines::{described, listed, listed_json};
use crate::adapter::inspect;
use crate::error::Result;

/// List adapters, or look into one.
#[derive(Debug, Args)]
pub struct AdapterArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the adapters in a folder
    Ls {
        #[arg(default_value = "adapters")]
        dir: PathBuf,
        /// Print one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Rank, scale, targets, parameters and the norms of every module
    Inspect {
        /// Directory of the adapter
        dir: PathBuf,
        /// Go on although a field of adapter_config.json is unknown and set, at your own risk; once for each field
        #[arg(long = "ignore-field", value_name = "FIELD")]
        ignored: Vec<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// When a folder cannot be listed or an adapter cannot be used.
pub fn run(args: &AdapterArgs) -> Result<()> {
    super::print(&text(args)?)
}

fn text(args: &AdapterArgs) -> Result<String> {
    match &args.verb {
        Verb::Ls { dir, json } => {
            let all = inspect::all(dir)?;
            Ok(if *json { listed_json(&all) } else { listed(dir, &all) })
        }
        Verb::Inspect { dir, ignored, json: true } => Ok(format!("{:#}\n", json!(inspect::inspect(dir, ignored)?))),
        Verb::Inspect { dir, ignored, json: false } => Ok(described(&inspect::inspect(dir, ignored)?)),
    }
}
