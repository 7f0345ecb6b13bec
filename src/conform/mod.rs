//! Golden cases: what PyTorch and PEFT computed, against what is computed here.
//!
//! A case is a directory with `expected.safetensors` beside a model (`config.json`) or an adapter
//! (`adapter_config.json`, whose `base_model_name_or_path` is relative to it). [`exchange`] writes what such an
//! implementation needs to be compared on a whole run.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `compare`, `exchange` | the expected tensors; what another implementation needs for a whole run |
//! | 1 | `model_case`, `adapter_case` | what is computed of a model and of an adapter |

mod adapter_case;
mod compare;
pub mod exchange;
mod model_case;

use std::path::{Path, PathBuf};

use candle_core::Device;
pub use compare::ToleranceCheck;

use crate::device::Compute;
use crate::error::{Error, Result};
use crate::model::Model;

/// One case and what came of it.
#[derive(Debug, serde::Serialize)]
pub struct GoldenCase {
    pub dir: PathBuf,
    pub checks: Vec<ToleranceCheck>,
    /// Why the case cannot be run yet; counts as failed.
    pub unsupported: Option<String>,
}

impl GoldenCase {
    /// Whether every check is within its tolerance.
    pub fn passes(&self) -> bool {
        self.unsupported.is_none() && self.checks.iter().all(|c| c.pass)
    }
}

/// Every case directory at or below `dirs`, in order of their names.
///
/// # Errors
/// [`Error::Usage`] for a directory without any case.
pub fn find(dirs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut cases = Vec::new();
    for dir in dirs {
        let before = cases.len();
        collect(dir, &mut cases)?;
        if cases.len() == before {
            return Err(Error::usage(
                dir.display().to_string(),
                "no golden case here (a directory with expected.safetensors beside a model or an adapter)",
                "give a case's directory or one above it",
            ));
        }
    }
    Ok(cases)
}

fn collect(dir: &Path, cases: &mut Vec<PathBuf>) -> Result<()> {
    let is_case = dir.join("expected.safetensors").is_file()
        && (dir.join("config.json").is_file() || dir.join("adapter_config.json").is_file());
    if is_case {
        cases.push(dir.to_path_buf());
    }
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut below: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    below.sort();
    below.iter().try_for_each(|d| collect(d, cases))
}

/// What cases are computed with.
#[derive(Debug, Clone)]
pub struct How {
    /// `F32`, or `Bf16`: that also where the CPU has no instructions for it.
    pub compute: Compute,
    pub device: Device,
    /// In tensor operations, as on an accelerator, also on the CPU.
    pub tensors: bool,
}

/// The model in `dir`.
fn open(dir: &Path, how: &How) -> Result<Model> {
    let compute = if how.compute == Compute::Bf16 { Compute::Bf16Anywhere } else { how.compute };
    let model = Model::open(dir, compute, &how.device)?;
    Ok(if how.tensors { model.in_tensors() } else { model })
}

/// Runs one case.
///
/// # Errors
/// When files of the case are missing or damaged; a feature that is not there yet is not an error but `unsupported`.
pub fn run(dir: &Path, how: &How) -> Result<GoldenCase> {
    let checks = match dir.join("adapter_config.json").is_file() {
        true => adapter_case::run(dir, how),
        false => model_case::run(dir, how),
    };
    match checks {
        Ok(checks) => Ok(GoldenCase { dir: dir.to_path_buf(), checks, unsupported: None }),
        Err(Error::Unsupported { what, why, .. }) => {
            Ok(GoldenCase { dir: dir.to_path_buf(), checks: Vec::new(), unsupported: Some(format!("{what}: {why}")) })
        }
        Err(other) => Err(other),
    }
}
