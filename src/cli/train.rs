//! `lorakit train RECIPE`: the main job, from recipe to proven adapter.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::event_printer::{EventPrinter, results, say};
use super::proposal::{NewBaseArgs, recipe_or_rows};
use super::{base, forecast, print, stop};
use crate::error::{Error, Result};
use crate::job::{self, Existing, TrainJob};
use crate::recipe::Recipe;

/// Train an adapter, prove it against the base, and write it with its record.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A recipe; or, with --model, rows for which one is made up (`lorakit recipe new` writes it down)
    #[arg(value_name = "RECIPE|DATA")]
    recipe: PathBuf,
    #[command(flatten)]
    base: NewBaseArgs,
    /// Replace a value, e.g. --set train.lr=1e-4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Directory for the adapter (default: output.dir of the recipe)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the output directory
    #[arg(long)]
    resume: bool,
    /// Replace an adapter that is there already
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Check everything up to the first step, say what would be trained and what it would take, and write nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// End with one JSON line on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base or data; [`Error::Interrupted`] or [`Error::Terminated`] after a signal, with
/// everything saved.
pub fn run(args: &TrainArgs) -> Result<()> {
    let recipe = &recipe_or_rows(&args.recipe, &args.base, &args.set)?;
    let out = args.out.as_ref().unwrap_or(&recipe.output.dir);
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Replace,
        _ => Existing::Refuse,
    };
    let mut listener = EventPrinter::new(args.json && args.dry_run).aside(args.json).listener();
    if args.dry_run {
        job::claim(out, existing)?;
        let told = job::estimate(recipe, None, &mut listener)?;
        return print(&if args.json { format!("{}\n", told.json()) } else { forecast::dry_run(&told, recipe, out) });
    }
    let train = TrainJob { recipe, out, existing, began: base::started() };
    let done = train.run(&mut listener).map_err(|e| stopped(e, args, recipe, out))?;
    if let Some(fresh) = &done.fresh {
        results(fresh, args.json);
    }
    say(args.json, &where_it_lies(out, recipe));
    if args.json {
        let mut line = done.results;
        line["adapter_dir"] = json!(out);
        println!("{line}");
    }
    Ok(())
}

/// How to go on, in place of what ended the work, if that was a signal.
fn stopped(error: Error, args: &TrainArgs, recipe: &Recipe, out: &Path) -> Error {
    if !matches!(error, Error::Interrupted { .. } | Error::Terminated { .. }) {
        return error;
    }
    let named = if args.base.words().is_empty() { &recipe.path } else { &args.recipe };
    let mut words = vec![named.display().to_string()];
    words.extend(args.base.words());
    words.extend(args.set.iter().flat_map(|set| ["--set".to_string(), set.clone()]));
    words.extend(["--out".to_string(), out.display().to_string()]);
    let words: Vec<String> = words.iter().map(|word| stop::quoted(word)).collect();
    stop::stopped(format!("everything is saved; go on with: lorakit train {} --resume", words.join(" ")))
}

fn where_it_lies(out: &Path, recipe: &Recipe) -> String {
    let out = out.display();
    format!(
        "\nadapter      {out}/adapter_model.safetensors\ncard         {out}/README.md\ntrace        {out}/trace.json\n\
         events       {out}/events.jsonl\ncurve        {out}/loss.svg\ncheckpoints  {out}/checkpoints\n\n\
         judge it     lorakit eval --adapter {out}\ntalk to it   lorakit chat --adapter {}={out}",
        recipe.output.name
    )
}
