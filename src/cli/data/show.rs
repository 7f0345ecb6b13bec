//! `lorakit data show`: what a recipe's rows become, before anything is trained.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::mixture_shares::planned;
use super::account::account;
use super::examples::{as_json, show, write};
use super::show_page;
use crate::cli::base;
use crate::data::{self, Renderer, Tokenizer};
use crate::error::Result;
use crate::files;
use crate::job::{PlannedRows, packing};
use crate::recipe::Recipe;

/// Print rendered examples with their trained tokens marked, and what became of every row.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    recipe: PathBuf,
    /// Examples to print
    #[arg(short, default_value_t = 5)]
    n: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the first rows of each file as a page too: roles in colours, what is learnt marked, both sides of preferences
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace a value, e.g. --set train.max_length=512
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the verb; `open` finds the tokenizer of a recipe's base model.
///
/// # Errors
/// What is wrong with the recipe, the tokenizer or the data; writing to standard output failed.
pub(super) fn run(args: &ShowArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<()> {
    let ShowArgs { recipe, n, json, html, set } = args;
    let recipe = base::recipe(recipe, set)?;
    let tokenizer = open(&recipe)?;
    let renderer = Renderer::new(tokenizer.clone(), &recipe.template)?;
    let PlannedRows { loaded, mixture } = base::rows(&recipe, &renderer)?;
    if let Some(path) = html {
        let turns = data::preview(&recipe.data, &renderer, recipe.train.seed, *n)?;
        files::write_atomic(path, show_page::page(&turns, &account(&loaded.report))?.as_bytes())?;
    }
    let mut out = std::io::stdout().lock();
    let fill = packing(&recipe.train, &loaded.train, &mixture);
    if *json {
        let mut line = as_json(&loaded, &tokenizer, *n)?;
        line["packing"] = json!(fill);
        line["mixture"] = json!(mixture.planned());
        return write(&mut out, &format!("{line:#}\n"));
    }
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let said = match colour {
        true => {
            Some(data::preview_examples(&loaded.train, *n, &recipe.data, &renderer, recipe.train.max_length, recipe.train.seed)?)
        }
        false => None,
    };
    show(&loaded, &tokenizer, *n, &mut out, said.as_deref())?;
    write(&mut out, &planned(&mixture))?;
    fill.map_or(Ok(()), |fill| write(&mut out, &format!("packed: {fill}\n")))
}
