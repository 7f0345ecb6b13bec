//! Where kept rows go, and what may not be written over.
//!
//! Refuses to know what is written.

use std::path::{Path, PathBuf};

use super::{File, ScanSettings};
use crate::error::{Error, Result};
use crate::recipe::Source;

/// A file of rows, or a folder that gets a file a source, with the account beside it.
#[derive(Debug, Clone)]
pub struct CurateOut {
    pub path: PathBuf,
    /// Replace what is there.
    pub force: bool,
}

impl CurateOut {
    /// Whether a folder is to be written: a name without an ending.
    pub fn folder(&self) -> bool {
        self.path.extension().is_none()
    }

    /// Where the account goes: beside the rows.
    pub fn sidecar(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(".curation.json");
        self.path.with_file_name(name)
    }

    /// Refuses to write over rows, whoever's they are.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file that is read, a form that is not written, and what is there and may not be replaced.
    pub fn refuse(&self, settings: &ScanSettings) -> Result<()> {
        let what = self.path.display().to_string();
        let same = |a: &Path| a.canonicalize().ok().is_some_and(|a| self.path.canonicalize().ok() == Some(a));
        let read = settings.sources.iter().chain(&settings.heldout).map(|s| s.path.as_path());
        if read.chain(settings.against.iter().map(PathBuf::as_path)).any(same) {
            return Err(Error::usage(what, "the file is read from", "name another file with --out"));
        }
        if !self.folder() && !self.path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson") {
            return Err(Error::usage(
                what,
                "rows are written as JSON Lines",
                "let the name end in .jsonl, or in nothing for a folder",
            ));
        }
        if !self.force && (self.path.exists() || self.sidecar().exists()) {
            return Err(Error::usage(what, "there is such a file (or its account)", "name another with --out, or add --force"));
        }
        // A folder is replaced whole: only one that was made here may be.
        if self.path.is_dir() && !self.sidecar().exists() {
            return Err(Error::usage(what, "this folder was not written by data curate", "name another with --out"));
        }
        if self.path.exists() && self.path.is_dir() != self.folder() {
            return Err(Error::usage(what, "a folder is named like a file, or a file like a folder", "name another with --out"));
        }
        Ok(())
    }

    /// Refuses rows of differing shapes for one file: it would not be read again.
    ///
    /// # Errors
    /// Two sources that differ, named.
    pub fn holds(&self, files: &[File], settings: &ScanSettings) -> Result<()> {
        if self.folder() {
            return Ok(());
        }
        let Some((first, source)) = files.first().zip(settings.sources.first()) else { return Ok(()) };
        let differs = |(file, s): &(&File, &Source)| file.shape != first.shape || s.columns != source.columns;
        match files.iter().zip(&settings.sources).find(differs) {
            None => Ok(()),
            Some((other, _)) => {
                let (a, b) = (first.path.display(), other.path.display());
                let why = format!("{a} and {b} have differing shapes or columns and cannot be one file");
                Err(Error::usage(
                    self.path.display().to_string(),
                    why,
                    "name a folder with --out (a name without an ending): it gets a file each",
                ))
            }
        }
    }
}
