//! `lorakit bench train`: steps of training, timed.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::tables::figures;
use super::values::{precision, targets};
use crate::bench::{self, BenchReport, BenchRun, MadeUp};
use crate::cli::{base, ignore_arg::IgnoreArg, machine_arg::MachineArg, print};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::job::Prepared;
use crate::recipe::{Base, TargetModules};

#[derive(Debug, Args)]
pub(super) struct BenchTrainArgs {
    /// Base model: a directory, a .gguf file, or a hub id
    #[arg(long, required_unless_present = "recipe")]
    model: Option<String>,
    /// Base, adapter, rows and settings of a recipe instead of made-up ones
    #[arg(long, conflicts_with_all = ["model", "fallback", "batch", "seq", "targets", "rank", "compute", "trained"])]
    recipe: Option<PathBuf>,
    /// Replace a value of the recipe, e.g. --set train.batch_size=4
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    set: Vec<String>,
    /// Where to get the base when the hub cannot be reached
    #[arg(long)]
    fallback: Option<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
    /// Rows of a step
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Tokens of a row
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..))]
    seq: u16,
    /// Names of the adapted modules, separated by commas, or all-linear
    #[arg(long, default_value = "q_proj,v_proj", value_parser = targets)]
    targets: TargetModules,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    rank: u16,
    /// Precision of the big matrix products: auto, f32 or bf16
    #[arg(long, default_value = "auto", value_parser = precision())]
    compute: Compute,
    #[command(flatten)]
    pub(super) machine: MachineArg,
    /// Share of each row, at its end, that carries loss
    #[arg(long, default_value_t = 0.5)]
    trained: f64,
    /// Steps that are timed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the model, the recipe or the arguments.
pub(super) fn run(args: &BenchTrainArgs) -> Result<()> {
    if !(args.trained > 0.0 && args.trained <= 1.0) {
        return Err(Error::usage("--trained", format!("{} is no share of a row", args.trained), "give more than 0, up to 1"));
    }
    let report = match (&args.recipe, &args.model) {
        (Some(recipe), _) => of_recipe(args, recipe)?,
        (None, Some(model)) => made_up(args, model)?,
        (None, None) => {
            return Err(Error::usage("bench train", "nothing to train is named", "give --recipe FILE or --model BASE"));
        }
    };
    match args.json {
        true => print(&format!("{}\n", json!(report))),
        false => print(&figures(&report)),
    }
}

/// Steps of a recipe: its rows in its order, its batches, its adapter.
fn of_recipe(args: &BenchTrainArgs, path: &Path) -> Result<BenchReport> {
    let mut recipe = base::recipe(path, &args.set)?;
    args.ignore.add_to(&mut recipe.base);
    let Prepared { opened, loaded, adapter, .. } = base::prepare(&recipe, args.json)?;
    let (settings, compute, steps) = (&recipe.train, recipe.base.compute, args.steps.into());
    let (model, examples) = (args.machine.on(opened.model), &loaded.train);
    bench::train(&BenchRun { model: &model, adapter: &adapter, examples, settings, compute, steps })
}

/// Steps over rows of random ids.
fn made_up(args: &BenchTrainArgs, model: &str) -> Result<BenchReport> {
    let compute = args.compute;
    let base = Base { compute, ..base::named(Some(model), args.fallback.as_deref(), &args.ignore, None)? };
    let opened = base::open(&base, args.json)?;
    let (batch, seq, rank, steps) = (args.batch.into(), args.seq.into(), args.rank.into(), args.steps.into());
    let (trained, targets) = (args.trained, args.targets.clone());
    MadeUp { batch, seq, trained, rank, targets, compute, steps }.train(&args.machine.on(opened.model))
}
