//! The folder of a run's checkpoints: two kept, the newest that can be read is used.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// How many are kept.
const KEEP: usize = 2;

/// A folder of `step-000123.safetensors`.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Of the run whose adapter goes to `out`.
    pub fn of(out: &Path) -> Checkpoints {
        Checkpoints { dir: out.join("checkpoints") }
    }

    /// Writes the state of `step` and removes all but the newest two.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&self, step: usize, state: &[u8]) -> Result<PathBuf> {
        let path = self.dir.join(format!("step-{step:06}.safetensors"));
        files::write_atomic(&path, state)?;
        for (_, old) in self.list()?.into_iter().rev().skip(KEEP) {
            std::fs::remove_file(&old).map_err(Error::io("remove", &old))?;
        }
        Ok(path)
    }

    /// Removes the checkpoints of an earlier run.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be removed.
    pub fn clear(&self) -> Result<()> {
        match self.dir.is_dir() {
            true => std::fs::remove_dir_all(&self.dir).map_err(Error::io("remove", &self.dir)),
            false => Ok(()),
        }
    }

    /// Steps and files, oldest first.
    fn list(&self) -> Result<Vec<(usize, PathBuf)>> {
        if !self.dir.is_dir() {
            return Ok(Vec::new());
        }
        let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok();
        let entries = std::fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))?;
        let paths = entries.filter_map(|e| Some(e.ok()?.path()));
        let mut all: Vec<(usize, PathBuf)> = paths.filter_map(|p| Some((step(&p)?, p))).collect();
        all.sort();
        Ok(all)
    }

    /// The newest state that `read` accepts; each one it does not is reported through `skipped` and left alone.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is none.
    pub fn newest<T>(&self, read: impl Fn(&[u8], &Path) -> Result<T>, skipped: &mut dyn FnMut(&Path, &Error)) -> Result<T> {
        for (_, path) in self.list()?.into_iter().rev() {
            match std::fs::read(&path).map_err(Error::io("read", &path)).and_then(|bytes| read(&bytes, &path)) {
                Ok(state) => return Ok(state),
                Err(e) => skipped(&path, &e),
            }
        }
        Err(Error::usage("--resume", format!("no usable checkpoint in {}", self.dir.display()), "train without --resume"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_kept_and_a_damaged_one_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::of(dir.path());
        for step in [1, 2, 10] {
            c.save(step, format!("state {step}").as_bytes()).unwrap();
        }
        assert_eq!(c.list().unwrap().iter().map(|(s, _)| *s).collect::<Vec<_>>(), [2, 10]);
        let mut skipped = Vec::new();
        let read = |bytes: &[u8], path: &Path| match bytes {
            b"state 10" => Err(Error::usage(path.display().to_string(), "damaged", "none")),
            other => Ok(String::from_utf8_lossy(other).into_owned()),
        };
        let got = c.newest(read, &mut |p, _| skipped.push(p.to_path_buf())).unwrap();
        assert_eq!((got.as_str(), skipped.len()), ("state 2", 1));
    }
}
