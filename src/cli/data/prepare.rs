//! `lorakit data prepare`: everything that happens to rows before the first step, done now.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::super::mixture_shares::planned;
use super::account::account;
use crate::cli::base;
use crate::data::{Renderer, Tokenizer};
use crate::error::{Error, Result};
use crate::job::{PlannedRows, packing};
use crate::recipe::Recipe;
use crate::train::order::Order;

/// Read, tokenise and pack all rows now and keep the tokens, so that `train` starts at once; say what it would use.
#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    recipe: PathBuf,
    /// Replace a value, e.g. --set train.max_length=512
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb; `open` finds the tokenizer of a recipe's base model.
///
/// # Errors
/// What is wrong with the recipe, the tokenizer or the data; writing to standard output failed.
pub(super) fn run(args: &PrepareArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<()> {
    let recipe = base::recipe(&args.recipe, &args.set)?;
    let renderer = Renderer::new(open(&recipe)?, &recipe.template)?;
    let started = Instant::now();
    let PlannedRows { loaded, mixture } = base::rows(&recipe, &renderer)?;
    let packed = packing(&recipe.train, &loaded.train, &mixture);
    let steps = Order::new(&recipe.train, &mixture, &loaded.train)?.steps;
    let (seconds, report) = (started.elapsed().as_secs_f64(), &loaded.report);
    let (kept, tokens) = (&loaded.kept, report.train.tokens + report.heldout.tokens);
    let text = if args.json {
        let line = json!({
            "rows": report.rows_read(),
            "train": report.train,
            "heldout": report.heldout,
            "dropped": report.dropped.len(),
            "packing": packed,
            "mixture": mixture.planned(),
            "steps": steps,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "kept_in": kept,
        });
        format!("{line}\n")
    } else {
        let packed = packed.map(|fill| format!("packed: {fill}\n")).unwrap_or_default();
        let kept = match kept {
            Some(folder) => format!("kept in {}", folder.display()),
            None => "not kept: small sets are read as quickly (`data.cache` names a folder to keep them in)".to_string(),
        };
        format!(
            "{}{}{packed}{steps} steps\n{} rows, {tokens} tokens in {seconds:.1} s; {kept}\n",
            account(report),
            planned(&mixture),
            report.rows_read()
        )
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write", Path::new("standard output")))
}
