//! `lorakit conform DIR...`

use std::path::PathBuf;

use candle_core::Device;
use clap::Args;

use super::Outcome;
use crate::conform::{self, GoldenCase, How};
use crate::device::{self, Compute};
use crate::error::Result;

/// Check golden cases: one line a check, exit code 1 if any fails.
#[derive(Debug, Args)]
pub struct ConformArgs {
    /// Case directories, or directories above them
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Precision of the big matrix products
    #[arg(long, value_parser = ["f32", "bf16"], default_value = "f32")]
    dtype: String,
    /// What computes: kernels over plain buffers (`cpu`), or tensor operations, as on a GPU (`candle`); by default the first on a CPU
    #[arg(long, value_parser = ["cpu", "candle"])]
    machine: Option<String>,
    /// Print one JSON list
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a case's files are missing or damaged.
pub fn run(args: &ConformArgs) -> Result<Outcome> {
    let compute = if args.dtype == "bf16" { Compute::Bf16 } else { Compute::F32 };
    let device = if args.machine.as_deref() == Some("cpu") { Device::Cpu } else { device::best()? };
    let how = How { compute, device, tensors: args.machine.as_deref() == Some("candle") };
    let mut cases = Vec::new();
    for dir in conform::find(&args.dirs)? {
        let case = conform::run(&dir, &how)?;
        if !args.json {
            print(&case);
        }
        cases.push(case);
    }
    let failed = cases.iter().filter(|c| !c.passes()).count();
    if args.json {
        println!("{}", serde_json::json!({"cases": cases, "failed": failed}));
    } else {
        println!("{} of {} cases pass", cases.len() - failed, cases.len());
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}

fn print(case: &GoldenCase) {
    println!("{}", case.dir.display());
    if let Some(why) = &case.unsupported {
        println!("  unsupported: {why}");
    }
    for c in &case.checks {
        let verdict = if c.pass { "ok  " } else { "FAIL" };
        println!("  {verdict} {:<28} {:>9.2e} of {:.0e}  {}", c.name, c.error, c.tolerance, c.detail);
    }
}
