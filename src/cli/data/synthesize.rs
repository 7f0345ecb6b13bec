//! `lorakit data synthesize`: instruction data that a model writes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::draw_args::DrawArgs;
use super::generator_args::{LocalArgs, ServerArgs, StyleArg};
use super::synthesis_progress::Making;
use super::synthesized::told;
use crate::cli::print;
use crate::error::{Error, Result};
use crate::synth::{Ended, Goal, PromptStyle, Seeds, Variant};

/// Write instruction data with a model: Self-Instruct's loop, or Alpaca's one call for whole tasks.
///
/// The same command goes on where an earlier one ended or was killed; a larger --count goes further.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["base", "endpoint"]))]
pub(super) struct SynthesizeArgs {
    /// Tasks written by people, a JSON object a line: id, instruction, instances, is_classification
    #[arg(long, value_name = "FILE")]
    seeds: PathBuf,
    /// Folder for rows.jsonl, and for everything that is needed to go on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rows to make
    #[arg(long, value_name = "N")]
    count: usize,
    /// How rows are made
    #[arg(long, value_enum, default_value = "self-instruct")]
    variant: Way,
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Put requests as messages, or as texts to be continued (default: chat; completion for a base without chat template)
    #[arg(long, value_name = "chat|completion", value_enum)]
    style: Option<StyleArg>,
    #[command(flatten)]
    draw: DrawArgs,
    /// Print one JSON line at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    SelfInstruct,
    Alpaca,
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the seeds, the settings, the folder or the generator; an interrupt; no row for many rounds.
pub(super) fn run(args: &SynthesizeArgs) -> Result<()> {
    let variant = if matches!(args.variant, Way::Alpaca) { Variant::Alpaca } else { Variant::SelfInstruct };
    let settings = args.draw.settings(variant, args.local.base.is_some().then_some(args.local.batch.into()));
    let goal = Goal { rows: args.count, patience: args.draw.patience };
    settings.check(goal)?;
    let seeds = Seeds::read(&args.seeds)?;
    let (making, style) =
        (Making { out: &args.out, settings: &settings, goal, seeds: &seeds }, args.style.map(PromptStyle::from));
    let summary = match &args.server.endpoint {
        Some(url) => making.by(&mut args.server.http(url, style.unwrap_or(PromptStyle::Chat))?)?,
        None => args.local.with(style, args.json, |generator| making.by(generator))?,
    };
    if args.json {
        let mut line = json!(summary);
        line["out"] = json!(args.out);
        print(&format!("{line}\n"))?;
    } else {
        print(&told(&summary, &args.out))?;
    }
    match summary.ended {
        Ended::Complete => Ok(()),
        Ended::Barren => Err(Error::usage(
            args.out.display().to_string(),
            format!("{} rows of {}, and none more in {} rounds", summary.rows, args.count, args.draw.patience),
            "look at the reasons in candidates.jsonl; try --style, --temperature or a stronger model; --patience goes on",
        )),
    }
}
