//! `lorakit recipe new DATA…`: rows become a recipe.

use std::path::PathBuf;

use clap::Args;

use crate::cli::proposal::{NewBaseArgs, file_for, proposal};
use crate::error::{Error, Result};
use crate::files;

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Files of rows: paths, folders, patterns, data sets of the hub (hf://datasets/…); those that are called test, valid or
    /// heldout are judged by
    #[arg(required = true, value_name = "DATA")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    base: NewBaseArgs,
    /// File to write; by default the name of the first file of rows, in this folder
    #[arg(long, value_name = "RECIPE")]
    out: Option<PathBuf>,
}

/// Writes the recipe and says what to type next.
///
/// # Errors
/// Whatever is wrong with base or rows; when the file exists.
pub(super) fn run(args: &NewArgs) -> Result<String> {
    let path = args.out.clone().unwrap_or_else(|| file_for(&args.data[0]));
    if path.exists() {
        return Err(Error::usage(path.display().to_string(), "it exists already", "choose another --out, or remove it first"));
    }
    let text = proposal(&args.data, &args.base, &path)?.text;
    files::write_atomic(&path, text.as_bytes())?;
    let path = path.display();
    Ok(format!("{text}\nwritten      {path}\nlook at it   lorakit data show {path}\ntrain it     lorakit train {path}\n"))
}
