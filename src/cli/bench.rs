//! `lorakit bench train | gemm`: how fast this machine trains, and its limit.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{base, print};
use crate::adapter::Adapter;
use crate::bench::gemm::{self, Gemm, Rate, Shape};
use crate::bench::{self, Report, Work};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::job::Prepared;
use crate::recipe::{self, Base};

/// Time training steps, on made-up rows or a recipe's, or the matrix products alone.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Steps of training: tokens a second, memory, share of the machine's limit
    Train(TrainArgs),
    /// The machine's limit for products with frozen matrices, and what a model's own reach of it
    Gemm(GemmArgs),
}

#[derive(Debug, Args)]
struct GemmArgs {
    /// Base model whose matrices are multiplied: a directory, a .gguf file, or a hub id (default: the limit alone)
    #[arg(long)]
    model: Option<String>,
    /// Where to get the base when the hub cannot be reached
    #[arg(long, requires = "model")]
    fallback: Option<String>,
    /// Rows of a product; up to 16 (decoding) are judged by bytes a second
    #[arg(long, default_value_t = 512, requires = "model", value_parser = clap::value_parser!(u16).range(1..=8192))]
    rows: u16,
    /// Precision of the big matrix products: auto, f32 or bf16
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16"])]
    compute: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TrainArgs {
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
    /// Rows of a step
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Tokens of a row
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..))]
    seq: u16,
    /// Names of the adapted modules, separated by commas, or all-linear
    #[arg(long, default_value = "q_proj,v_proj")]
    targets: String,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    rank: u16,
    /// Precision of the big matrix products: auto, f32 or bf16
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16"])]
    compute: String,
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
/// Whatever is wrong with the model or the arguments.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.verb {
        Verb::Train(args) => train(args),
        Verb::Gemm(args) => gemm(args),
    }
}

fn precision(name: &str) -> Compute {
    match name {
        "f32" => Compute::F32,
        "bf16" => Compute::Bf16,
        _ => Compute::Auto,
    }
}

fn gemm(args: &GemmArgs) -> Result<()> {
    let compute = precision(&args.compute);
    let Some(model) = &args.model else {
        let peak = gemm::peak(compute)?;
        return match args.json {
            true => print(&format!("{}\n", serde_json::json!({"gemm_peak_gflops": peak}))),
            false => print(&format!("{peak:.0} GFLOP/s\n")),
        };
    };
    let base = Base { model: model.clone(), fallback: args.fallback.clone(), revision: "main".into(), compute };
    let opened = base::open(&base, args.json)?;
    let report = gemm::products(&opened.model, args.rows.into(), compute)?;
    match args.json {
        true => print(&format!("{}\n", serde_json::json!(report))),
        false => print(&rates(&report)),
    }
}

/// The limit, then a line a shape.
fn rates(report: &Gemm) -> String {
    let limit = match report.read_gb_s {
        Some(limit) => format!("reading memory: {limit:.1} GB/s; multiplying: {:.0} GFLOP/s\n", report.gemm_peak_gflops),
        None => {
            let tile = report.tile_gflops.map(|t| format!(" (one tile from the first-level cache: {t:.0})")).unwrap_or_default();
            format!("multiplying with a packed matrix: {:.0} GFLOP/s{tile}\n", report.gemm_peak_gflops)
        }
    };
    let rate = |r: &Rate| match report.read_gb_s {
        Some(_) => format!("{:>7.1} GB/s {:>4.0} %", r.gb_s, r.share * 100.0),
        None => format!("{:>6.0} GFLOP/s {:>3.0} %", r.gflops, r.share * 100.0),
    };
    let head = format!("{:<30}{:>19}{:>21}\n", format!("{} rows", report.rows), "x·Wᵀ", "dy·W");
    let line = |s: &Shape| {
        let what = format!("{} × {} {}", s.outputs, s.inputs, s.dtype);
        format!("{what:<30}{:>19}{:>21}   {}\n", rate(&s.forward), rate(&s.backward), s.sites.join(", "))
    };
    limit + &head + &report.shapes.iter().map(line).collect::<String>()
}

fn train(args: &TrainArgs) -> Result<()> {
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
        true => print(&format!("{}\n", serde_json::json!(report))),
        false => print(&table(&report)),
    }
}

/// Steps of a recipe: its rows in its order, its batches, its adapter.
fn of_recipe(args: &TrainArgs, path: &Path) -> Result<Report> {
    let recipe = base::recipe(path, &args.set)?;
    let Prepared { opened, loaded, adapter, .. } = base::prepare(&recipe, args.json)?;
    bench::train(&Work {
        model: &opened.model,
        adapter: &adapter,
        examples: &loaded.train,
        settings: &recipe.train,
        compute: recipe.base.compute,
        steps: args.steps.into(),
        pad: opened.tokenizer.pad_id(),
    })
}

/// Steps over rows of random ids.
fn made_up(args: &TrainArgs, model: &str) -> Result<Report> {
    let compute = precision(&args.compute);
    let base = Base { model: model.to_string(), fallback: args.fallback.clone(), revision: "main".into(), compute };
    let opened = base::open(&base, args.json)?;
    let adapter = Adapter::new(&wanted(args), None, &opened.model, 0)?;
    let vocab = opened.model.config.vocab;
    let (examples, settings) = bench::made_up_rows(args.batch.into(), args.seq.into(), args.trained, vocab);
    bench::train(&Work {
        model: &opened.model,
        adapter: &adapter,
        examples: &examples,
        settings: &settings,
        compute,
        steps: args.steps.into(),
        pad: 0,
    })
}

fn wanted(args: &TrainArgs) -> recipe::Adapter {
    let names = || args.targets.split(',').map(|t| t.trim().to_string()).collect();
    let targets = match args.targets.as_str() {
        "all-linear" => recipe::Targets::AllLinear,
        _ => recipe::Targets::Names(names()),
    };
    recipe::Adapter::lora(args.rank.into(), targets)
}

fn table(r: &Report) -> String {
    format!(
        "tokens/s            {:>8.0}  ({:.0} of them trained)\nstep                {:>8.0} ms  (forward {:.0}, backward {:.0}, optimiser {:.0})\n\
         peak resident       {:>8.0} MB  (anonymous {:.0})\nFLOP utilisation    {:>8.2}  of {:.0} GFLOP/s\n",
        r.tok_s,
        r.trained_tok_s,
        r.ms_step,
        r.ms_forward,
        r.ms_backward,
        r.ms_optimizer,
        r.peak_rss_mb,
        r.peak_anon_mb,
        r.mfu,
        r.gemm_peak_gflops
    )
}
