//! The folder of a run's checkpoints: two kept, the newest that verifies is used.
//!
//! A checkpoint is two files: `state-0007.safetensors`, and then `state-0007.json`, its manifest, with size and SHA-256.
//! Each is replaced as a whole and none is ever written twice, so at every moment the files with a manifest are complete;
//! a state without one was cut off by a crash and counts for nothing. Refuses to know what is in a state.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// How many are kept.
const KEEP: usize = 2;

/// The checkpoints of one run, held by this process alone.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    /// Open and locked while the run goes on; the system lets go of it however the process ends.
    _lock: Option<File>,
    /// Numbers of those that did not verify.
    damaged: Vec<u32>,
}

/// What is known of a state before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateManifest {
    /// The state's file.
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// Optimiser steps done.
    pub step: usize,
    /// Micro-steps done of the next one.
    pub micro: usize,
    /// Version that wrote it.
    pub lorakit: String,
}

impl Checkpoints {
    /// Takes the folder of the run whose adapter goes to `out`, which is created. What a killed process left half-written
    /// in either is removed.
    ///
    /// # Errors
    /// [`Error::Usage`] when another process holds it, [`Error::Io`] when it cannot be had.
    pub fn take(out: &Path) -> Result<Checkpoints> {
        let dir = folder(out);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let lock = lock(&dir, out)?;
        files::sweep(out)?;
        files::sweep(&dir)?;
        Ok(Checkpoints { dir, _lock: lock, damaged: Vec::new() })
    }

    /// Whether anything was saved for the run whose adapter goes to `out`.
    pub fn any(out: &Path) -> bool {
        numbers(&folder(out), MANIFEST).is_ok_and(|found| !found.is_empty())
    }

    /// Writes a state, then its manifest, and removes all but the newest two that are good.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&mut self, state: &[u8], step: usize, micro: usize) -> Result<PathBuf> {
        let number = self.all()?.last().map_or(1, |last| last + 1);
        let (path, manifest) = (self.path(number, STATE), self.path(number, MANIFEST));
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let lorakit = env!("CARGO_PKG_VERSION").to_string();
        let about = StateManifest { file, bytes: state.len() as u64, sha256: files::sha256(state), step, micro, lorakit };
        let json = serde_json::to_string_pretty(&about)
            .map_err(|e| Error::usage(manifest.display().to_string(), e.to_string(), "report this as a bug"))?;
        files::write_atomic(&path, state)?;
        files::write_atomic(&manifest, format!("{json}\n").as_bytes())?;
        self.prune()?;
        Ok(path)
    }

    /// Removes every checkpoint, the oldest first.
    ///
    /// # Errors
    /// [`Error::Io`] when one cannot be removed.
    pub fn clear(&mut self) -> Result<()> {
        self.all()?.into_iter().try_for_each(|number| self.remove(number))
    }

    /// The newest state that verifies and that `read` accepts; `None` when none was ever saved. Each one that is damaged
    /// is reported through `skipped` and removed at the next [`Checkpoints::save`].
    ///
    /// # Errors
    /// [`Error::Usage`] when there are some and all are damaged.
    pub fn newest<T>(
        &mut self,
        read: impl Fn(&[u8], &Path) -> Result<T>,
        skipped: &mut dyn FnMut(&Path, &Error),
    ) -> Result<Option<T>> {
        let found = numbers(&self.dir, MANIFEST)?;
        for number in found.iter().rev() {
            let path = self.path(*number, STATE);
            match self.verified(*number).and_then(|bytes| read(&bytes, &path)) {
                Ok(state) => return Ok(Some(state)),
                Err(e) => skipped(&path, &e),
            }
            self.damaged.push(*number);
        }
        match found.len() {
            0 => Ok(None),
            n => Err(Error::usage(
                "--resume",
                format!("no usable checkpoint in {}: all {n} are damaged", self.dir.display()),
                "put a copy of one back, or start anew with --overwrite",
            )),
        }
    }

    /// The bytes of a state, if they are those that were written.
    fn verified(&self, number: u32) -> Result<Vec<u8>> {
        let (path, manifest) = (self.path(number, STATE), self.path(number, MANIFEST));
        let damaged = |file: &Path, why: String| Error::usage(file.display().to_string(), why, "restore the file from a copy");
        let about: StateManifest = serde_json::from_str(&files::read_text(&manifest)?)
            .map_err(|e| damaged(&manifest, format!("the manifest is damaged: {e}")))?;
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        if bytes.len() as u64 != about.bytes {
            return Err(damaged(&path, format!("{} bytes, {} were written", bytes.len(), about.bytes)));
        }
        let sha256 = files::sha256(&bytes);
        match sha256 == about.sha256 {
            true => Ok(bytes),
            false => Err(damaged(&path, format!("its SHA-256 is {sha256}, that of what was written {}", about.sha256))),
        }
    }

    fn prune(&mut self) -> Result<()> {
        let good: Vec<u32> = numbers(&self.dir, MANIFEST)?.into_iter().filter(|n| !self.damaged.contains(n)).collect();
        let kept = &good[good.len().saturating_sub(KEEP)..];
        self.all()?.into_iter().filter(|n| !kept.contains(n)).try_for_each(|number| self.remove(number))
    }

    /// The manifest goes first: what is left of a removal that is cut off counts for nothing.
    fn remove(&self, number: u32) -> Result<()> {
        [MANIFEST, STATE].iter().map(|kind| self.path(number, kind)).try_for_each(|path| match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
            _ => Ok(()),
        })
    }

    /// Numbers of all states, complete or not, in order.
    fn all(&self) -> Result<Vec<u32>> {
        let mut all = numbers(&self.dir, MANIFEST)?;
        all.extend(numbers(&self.dir, STATE)?);
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn path(&self, number: u32, kind: &str) -> PathBuf {
        self.dir.join(format!("state-{number:04}{kind}"))
    }
}

const STATE: &str = ".safetensors";
const MANIFEST: &str = ".json";

fn folder(out: &Path) -> PathBuf {
    out.join("checkpoints")
}

/// Numbers of the files `state-NNNN` with this ending, in order.
fn numbers(dir: &Path, ending: &str) -> Result<Vec<u32>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("state-")?.strip_suffix(ending)?.parse().ok();
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut found: Vec<u32> = entries.filter_map(|e| number(&e.ok()?.path())).collect();
    found.sort_unstable();
    Ok(found)
}

/// The folder, locked; `None` where the system cannot lock a folder.
fn lock(dir: &Path, out: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(dir) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(Error::usage(
            out.display().to_string(),
            "another process is training here",
            "wait for it, or pass --out DIR for another place",
        )),
        Err(fs::TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(c: &mut Checkpoints) -> (Result<Option<String>>, Vec<String>) {
        let mut skipped = Vec::new();
        let read = |bytes: &[u8], _: &Path| Ok(String::from_utf8_lossy(bytes).into_owned());
        let found = c.newest(read, &mut |path, e| skipped.push(format!("{}: {e}", path.display())));
        (found, skipped)
    }

    fn saved(dir: &Path, n: usize) -> Checkpoints {
        let mut c = Checkpoints::take(dir).unwrap();
        for step in 1..=n {
            c.save(format!("state {step}").as_bytes(), step, 0).unwrap();
        }
        c
    }

    #[test]
    fn two_are_kept_and_the_newest_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = saved(dir.path(), 3);
        assert_eq!(c.all().unwrap(), [2, 3]);
        assert_eq!(text(&mut c).0.unwrap().as_deref(), Some("state 3"));
        assert_eq!(fs::read_dir(&c.dir).unwrap().count(), 4);
        c.clear().unwrap();
        assert_eq!(fs::read_dir(&c.dir).unwrap().count(), 0);
        assert!(text(&mut c).0.unwrap().is_none());
    }

    #[test]
    fn a_damaged_one_is_reported_skipped_and_replaced() {
        for damage in [|b: &mut Vec<u8>| b.truncate(3), |b: &mut Vec<u8>| b[2] ^= 1, |b: &mut Vec<u8>| b.push(0)] {
            let dir = tempfile::tempdir().unwrap();
            let mut c = saved(dir.path(), 3);
            let path = c.path(3, STATE);
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, &bytes).unwrap();
            let (found, skipped) = text(&mut c);
            assert_eq!(found.unwrap().as_deref(), Some("state 2"));
            assert!(skipped.len() == 1 && skipped[0].contains("state-0003"), "{skipped:?}");
            c.save(b"again", 3, 0).unwrap();
            assert_eq!(c.all().unwrap(), [2, 4], "two good ones are kept");
        }
    }

    #[test]
    fn all_damaged_is_an_error_and_none_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = saved(dir.path(), 2);
        fs::write(c.path(1, MANIFEST), "{").unwrap();
        fs::remove_file(c.path(2, STATE)).unwrap();
        let (found, skipped) = text(&mut c);
        assert!(found.unwrap_err().to_string().contains("all 2 are damaged"));
        assert_eq!(skipped.len(), 2);
    }

    #[test]
    fn a_state_that_was_cut_off_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = saved(dir.path(), 2);
        fs::write(c.path(3, STATE), "half").unwrap();
        fs::write(c.dir.join(".lorakit-x.tmp"), "less").unwrap();
        let (found, skipped) = text(&mut c);
        assert_eq!((found.unwrap().as_deref(), skipped.len()), (Some("state 2"), 0));
        drop(c);
        let mut c = Checkpoints::take(dir.path()).unwrap();
        c.save(b"next", 3, 0).unwrap();
        assert_eq!(c.all().unwrap(), [2, 4]);
        assert_eq!(fs::read_dir(&c.dir).unwrap().count(), 4);
    }

    #[cfg(unix)]
    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = Checkpoints::take(dir.path()).unwrap();
        assert!(Checkpoints::take(dir.path()).unwrap_err().to_string().contains("another process"));
        drop(held);
        Checkpoints::take(dir.path()).unwrap();
    }
}
