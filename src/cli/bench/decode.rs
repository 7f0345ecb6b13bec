//! `lorakit bench decode`: greedy decoding, timed.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::tables::place;
use super::values::precision;
use crate::bench;
use crate::cli::ignore_arg::IgnoreArg;
use crate::cli::machine_arg::MachineArg;
use crate::cli::{base, print};
use crate::device::Compute;
use crate::error::Result;
use crate::job::OpenedBase;
use crate::model::Adapt;
use crate::recipe::Base;

#[derive(Debug, Args)]
pub(super) struct DecodeArgs {
    /// Base model: a directory, a .gguf file, or a hub id
    #[arg(long)]
    model: String,
    /// Where to get the base when the hub cannot be reached
    #[arg(long)]
    fallback: Option<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
    /// Directory of an adapter (default: the base alone); of several, rows are under each in turn
    #[arg(long = "adapter", value_name = "DIR")]
    adapters: Vec<PathBuf>,
    /// Rows that are decoded together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    rows: u16,
    /// Tokens of each row that are timed
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    tokens: u16,
    /// Precision of the big matrix products: auto, f32 or bf16
    #[arg(long, default_value = "auto", value_parser = precision())]
    compute: Compute,
    #[command(flatten)]
    pub(super) machine: MachineArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the model, the adapter or the arguments.
pub(super) fn run(args: &DecodeArgs) -> Result<()> {
    let base = base::named(Some(&args.model), args.fallback.as_deref(), &args.ignore, None)?;
    let base = Base { compute: args.compute, ..base };
    let opened = base::open(&base, args.json)?;
    let opened = OpenedBase { model: args.machine.on(opened.model), ..opened };
    let adapters = args.adapters.iter().map(|dir| base::adapter(dir, &opened)).collect::<Result<Vec<_>>>()?;
    let adapts: Vec<&dyn Adapt> = adapters.iter().map(|adapter| adapter as &dyn Adapt).collect();
    let report = bench::decode(&opened.model, &adapts, args.rows.into(), args.tokens.into())?;
    match args.json {
        true => print(&format!("{}\n", json!(report))),
        false => print(&format!("{:.1} tokens/s{}\n", report.tok_s, place(report.machine, &report.device))),
    }
}
