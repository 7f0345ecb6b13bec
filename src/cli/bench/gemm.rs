//! `lorakit bench gemm`: the machine's limit, and what the products with a model's matrices reach of it.

use clap::Args;
use serde_json::json;

use super::tables::rates;
use super::values::precision;
use crate::bench::gemm;
use crate::cli::ignore_arg::IgnoreArg;
use crate::cli::{base, print};
use crate::device::Compute;
use crate::error::Result;
use crate::recipe::Base;

#[derive(Debug, Args)]
pub(super) struct GemmArgs {
    /// Base model whose matrices are multiplied: a directory, a .gguf file, or a hub id (default: the limit alone)
    #[arg(long)]
    model: Option<String>,
    /// Where to get the base when the hub cannot be reached
    #[arg(long, requires = "model")]
    fallback: Option<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
    /// Rows of a product; up to 16 (decoding) are judged by bytes a second
    #[arg(long, default_value_t = 512, requires = "model", value_parser = clap::value_parser!(u16).range(1..=8192))]
    rows: u16,
    /// Precision of the big matrix products: auto, f32 or bf16
    #[arg(long, default_value = "auto", value_parser = precision())]
    compute: Compute,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the model cannot be opened or the limit cannot be measured.
pub(super) fn run(args: &GemmArgs) -> Result<()> {
    let compute = args.compute;
    let Some(model) = &args.model else {
        let peak = gemm::peak(compute)?;
        return match args.json {
            true => print(&format!("{}\n", json!({"gemm_peak_gflops": peak}))),
            false => print(&format!("{peak:.0} GFLOP/s\n")),
        };
    };
    let base = Base { compute, ..base::named(Some(model), args.fallback.as_deref(), &args.ignore, None)? };
    let opened = base::open(&base, args.json)?;
    let report = gemm::products(&opened.model, args.rows.into(), compute)?;
    match args.json {
        true => print(&format!("{}\n", json!(report))),
        false => print(&rates(&report)),
    }
}
