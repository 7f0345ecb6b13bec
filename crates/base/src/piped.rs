//! Rows from standard input: kept in a file while the program runs, as they are read more than once.
//!
//! Refuses to know what they are.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// How standard input is written as a path.
pub const PATH: &str = "-";
const WHAT: &str = "standard input";

static FILE: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);

/// The file with what came from standard input, JSON Lines or one JSON value; read when it is first asked for.
///
/// # Errors
/// [`Error::Usage`] when standard input is a terminal, [`Error::Io`] when it cannot be read or kept.
pub fn file() -> Result<PathBuf> {
    let mut kept = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = kept.as_ref() {
        return Ok(name_in(folder.path()));
    }
    if std::io::stdin().is_terminal() {
        let help = "pipe rows in: `cat rows.jsonl | lorakit …`, or name a file";
        return Err(Error::usage(WHAT, "nothing is piped in", help));
    }
    let folder = tempfile::Builder::new().prefix("lorakit-").tempdir().map_err(Error::io("create", &std::env::temp_dir()))?;
    copy(&mut std::io::stdin().lock(), folder.path())?;
    let file = name_in(folder.path());
    *kept = Some(folder);
    Ok(file)
}

fn copy(from: &mut impl BufRead, folder: &Path) -> Result<()> {
    let cannot = Error::io("read", Path::new(WHAT));
    let head = from.fill_buf().map_err(cannot)?;
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    let path = folder.join(if first == Some(&b'[') { "stdin.json" } else { "stdin.jsonl" });
    let mut file = std::fs::File::create(&path).map_err(Error::io("write", &path))?;
    std::io::copy(from, &mut file).and_then(|_| file.flush()).map_err(Error::io("keep standard input in", &path))
}

fn name_in(folder: &Path) -> PathBuf {
    let json = folder.join("stdin.json");
    if json.is_file() { json } else { folder.join("stdin.jsonl") }
}

/// Whether a path is that of [`file`].
pub fn is_it(path: &Path) -> bool {
    let kept = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    kept.as_ref().is_some_and(|folder| path.starts_with(folder.path()))
}

/// Removes the file; the last thing that a program does.
pub fn forget() {
    // What cannot be removed lies in the folder for temporary files.
    drop(FILE.lock().unwrap_or_else(PoisonError::into_inner).take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_told_from_lines_by_how_it_begins() {
        for (text, name) in [("{\"text\": 1}\n", "stdin.jsonl"), ("\n [{\"text\": 1}]", "stdin.json"), ("", "stdin.jsonl")] {
            let folder = tempfile::tempdir().unwrap();
            copy(&mut text.as_bytes(), folder.path()).unwrap();
            let path = name_in(folder.path());
            assert_eq!((path.file_name().unwrap().to_str(), std::fs::read_to_string(&path).unwrap()), (Some(name), text.into()));
        }
    }
}
