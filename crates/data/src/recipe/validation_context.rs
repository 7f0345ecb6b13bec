//! A recipe while it is checked: what was written, and where its paths start.
//!
//! Refuses to know: the keys there are (`validate`) and which files a path of data stands for (`sources`).

use std::path::{Path, PathBuf};

use super::locate::Written;
use super::paths::absolute;
use crate::error::Result;

/// Whether the files that a recipe names must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    MustExist,
    MayBeAbsent,
}

/// A recipe while it is checked.
pub(super) struct ValidationContext<'a> {
    pub(super) written: &'a Written,
    /// Where relative paths of the file start.
    pub(super) folder: PathBuf,
    pub(super) files: Files,
}

impl ValidationContext<'_> {
    /// A path of the file starts at the recipe's folder, one of the command line at the current directory.
    pub(super) fn path(&self, key: &str, given: &str) -> PathBuf {
        let start = if self.written.was_set(key) { Path::new(".") } else { &self.folder };
        absolute(start, Path::new(given))
    }

    pub(super) fn file(&self, key: &str, given: &str) -> Result<PathBuf> {
        let path = self.path(key, given);
        if path.is_file() || self.files == Files::MayBeAbsent {
            return Ok(path);
        }
        let why = match path.is_dir() {
            true => format!("{} is a folder, not a file", path.display()),
            false => format!("there is no file {}", path.display()),
        };
        let help = match () {
            () if given.starts_with('~') => "write the home folder out; `~` is the shell's",
            () if self.written.was_set(key) => "a relative path in --set starts at the current directory; correct the path",
            () if path.is_dir() => "name a file in it",
            () => "a relative path starts at the recipe's folder; correct the path, or put the file there",
        };
        Err(self.written.complain(key, why, help))
    }

    /// Of two keys that exclude each other, the one that alone comes from the command line.
    pub(super) fn later<'k>(&self, one: &'k str, other: &'k str) -> Option<&'k str> {
        match (self.written.was_set(one), self.written.was_set(other)) {
            (true, false) => Some(one),
            (false, true) => Some(other),
            _ => None,
        }
    }
}
