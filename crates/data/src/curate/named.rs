//! From what a user names to files of rows.
//!
//! Refuses to know how a data set of the hub is fetched, and what is in the files.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hub::Dataset;
use crate::recipe::{in_folder, is_pattern, matching};
use crate::{files, piped};

/// The files named, those in the folders named, those that patterns match, those of the hub's data sets (`fetch`
/// gets them by their address), and standard input.
///
/// # Errors
/// [`Error::Usage`] when a pattern is none, or nothing is where a name says; what `fetch` returns.
pub fn files_of(named: &[PathBuf], fetch: impl Fn(&str) -> Result<Vec<PathBuf>>) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in named {
        let given = path.to_string_lossy();
        let found = match () {
            () if Dataset::is_meant(&given) => Ok(fetch(&given)?),
            () if given == piped::PATH => Ok(vec![piped::file()?]),
            () if path.is_dir() => in_folder(path),
            () if is_pattern(path) => matching(path),
            () => Ok(vec![path.clone()]),
        };
        let found = found.map_err(|why| Error::usage(&*given, why, "name files instead"))?;
        if found.is_empty() {
            return Err(Error::usage(given, "no file of rows is there", "name another, or files"));
        }
        all.extend(found);
    }
    Ok(all)
}

/// Whether it is a recipe: a TOML file with a `[data]` or `[base]` section; one without is a task of shape `flan`.
pub fn is_recipe(path: &Path) -> bool {
    let toml = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    toml && match files::read_text(path) {
        Ok(text) => text.lines().any(|l| matches!(l.trim(), "[data]" | "[base]")),
        Err(_) => true,
    }
}
