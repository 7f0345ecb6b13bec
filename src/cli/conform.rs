//! `lorakit conform DIR...`

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::machine_arg::MachineArg;
use crate::conform::{self, GoldenCase, How};
use crate::device::{self, Compute};
use crate::error::Result;

/// Check golden cases: one line a check, exit code 1 if any fails.
#[derive(Debug, Args)]
pub struct ConformArgs {
    /// Case directories, or directories above them
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Precision of the big matrix products; bf16 in plain code where the CPU has no instructions for it
    #[arg(long, value_parser = ["f32", "bf16"], default_value = "f32")]
    dtype: String,
    #[command(flatten)]
    pub(super) machine: MachineArg,
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
    let how = How { compute, device: device::best()?, tensors: args.machine.tensors() };
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
