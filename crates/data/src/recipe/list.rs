//! The recipes of a folder, each with the first comment of its head.
//!
//! Refuses to know whether they are valid.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::read_text;

/// A recipe's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub path: PathBuf,
    /// The first comment in it; empty when there is none.
    pub about: String,
}

/// The recipes of a folder, by name.
///
/// # Errors
/// [`Error::Usage`] when the folder cannot be listed; [`Error::Io`] when a file cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Listed>> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        let why = format!("recipes cannot be listed: {e}");
        Error::usage(dir.display().to_string(), why, "name a folder of recipes: `lorakit recipe ls DIR`")
    })?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    paths.into_iter().map(|path| Ok(Listed { about: first_comment(&read_text(&path)?), path })).collect()
}

fn first_comment(text: &str) -> String {
    // `#:schema PATH` is for editors.
    let mut comments = text.lines().filter_map(|line| line.trim().strip_prefix('#')).filter(|line| !line.starts_with(':'));
    comments.next().unwrap_or_default().trim_start_matches('#').trim().to_string()
}
