//! SHA-256 of large files, remembered in our cache: the weights of a base are hashed once, not at every start.
//!
//! A hash is remembered together with everything the file system says about the file (size, time of last change of content
//! and of entry, inode) and holds as long as all of it stays. Refuses to know: what the hash is for.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Places;
use crate::error::{Error, Result};
use crate::files;

/// Smaller files are hashed each time.
const WORTH: u64 = 4 << 20;
/// A file changed this recently is not remembered: a second change within the clock's resolution would not be seen.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    /// Nanoseconds since 1970.
    modified: u64,
    /// Time of last change of the entry itself (0 where the system has none), and its inode.
    changed: i64,
    inode: u64,
}

#[derive(Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    stamp: Stamp,
    sha256: String,
}

/// SHA-256 of a file as lower-case hex, from memory when the file is the one that was hashed before.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read. A memory that cannot be read or written costs time only.
pub fn sha256(places: &Places, path: &Path) -> Result<String> {
    let stamp = Stamp::of(path).map_err(Error::io("read", path))?;
    let memory = places.cache.as_deref().filter(|_| stamp.size >= WORTH).map(|cache| stamp.memory(cache));
    if let Some(known) = memory.as_deref().and_then(read).filter(|known| known.stamp == stamp) {
        return Ok(known.sha256);
    }
    let sha256 = files::sha256_file(path)?;
    if let Some(memory) = memory
        && stamp.settled()
        && Stamp::of(path).is_ok_and(|after| after == stamp)
    {
        let known = serde_json::to_vec_pretty(&Known { stamp, sha256: sha256.clone() });
        _ = known.map(|bytes| files::write_atomic(&memory, &bytes));
    }
    Ok(sha256)
}

fn read(memory: &Path) -> Option<Known> {
    serde_json::from_slice(&std::fs::read(memory).ok()?).ok()
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Stamp> {
        let path = path.canonicalize()?;
        let meta = std::fs::metadata(&path)?;
        let since = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (changed, inode) = entry(&meta);
        Ok(Stamp { path, size: meta.len(), modified: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), changed, inode })
    }

    /// Where the hash of this path is remembered.
    fn memory(&self, cache: &Path) -> PathBuf {
        let name = blake3::hash(self.path.as_os_str().as_encoded_bytes()).to_hex();
        cache.join("sha256").join(format!("{}.json", &name[..16]))
    }

    fn settled(&self) -> bool {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.modified);
        modified.elapsed().is_ok_and(|age| age >= SETTLED)
    }
}

#[cfg(unix)]
fn entry(meta: &std::fs::Metadata) -> (i64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.ctime().wrapping_mul(1_000_000_000).wrapping_add(meta.ctime_nsec()), meta.ino())
}

#[cfg(not(unix))]
fn entry(_: &std::fs::Metadata) -> (i64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `WORTH` bytes of `byte`, last changed an hour ago.
    fn file(dir: &Path, byte: u8) -> PathBuf {
        let path = dir.join("weights");
        std::fs::write(&path, vec![byte; WORTH as usize]).unwrap();
        let hour = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(hour).unwrap();
        path
    }

    fn remembered(cache: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(cache.join("sha256")).into_iter().flatten().flatten();
        entries.map(|e| e.path()).collect()
    }

    #[test]
    fn a_known_file_is_not_read_again_and_a_changed_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { cache: Some(dir.path().join("cache")), ..Places::default() };
        let path = file(dir.path(), 1);
        let first = sha256(&places, &path).unwrap();
        assert_eq!(first, files::sha256_file(&path).unwrap());
        let memory = remembered(&dir.path().join("cache"));
        assert_eq!(memory.len(), 1);
        // What is remembered is what is answered: the file itself is not read.
        let text = std::fs::read_to_string(&memory[0]).unwrap().replace(&first, "remembered");
        std::fs::write(&memory[0], text).unwrap();
        assert_eq!(sha256(&places, &path).unwrap(), "remembered");
        let path = file(dir.path(), 2);
        assert_eq!(sha256(&places, &path).unwrap(), files::sha256_file(&path).unwrap());
        std::fs::write(&memory[0], "{").unwrap();
        assert_eq!(sha256(&places, &path).unwrap(), files::sha256_file(&path).unwrap());
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { cache: Some(dir.path().join("cache")), ..Places::default() };
        let path = file(dir.path(), 1);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
        assert_eq!(sha256(&places, &path).unwrap(), files::sha256_file(&path).unwrap());
        assert!(remembered(&dir.path().join("cache")).is_empty());
        let none = Places::default();
        assert_eq!(sha256(&none, &path).unwrap(), files::sha256_file(&path).unwrap());
    }
}
