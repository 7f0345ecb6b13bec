//! Writing files so that a crash leaves either the old or the new one, and hashing them.
//!
//! Nothing else in the crate creates files that a later run relies on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Replaces `path` by `bytes`: temporary sibling, fsync, rename, fsync of the directory; mode 0644.
///
/// # Errors
/// [`Error::Io`] naming the file; nothing is left behind.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes).map_err(Error::io("write", path)))
}

/// As [`write_atomic`], for content that is produced piece by piece; gives what `fill` gave.
///
/// # Errors
/// [`Error::Io`] naming the file, or what `fill` failed with; nothing is left behind.
pub fn write_atomic_with<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let dir = parent(path);
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let (staged, filled) = staged(path, fill)?;
    put(staged)?;
    sync_dir(&dir)?;
    Ok(filled)
}

/// Replaces two files of `dir` that belong together; `key` is the one that readers ask for first. Both are written beside
/// their places; where the content of `key` changes, the old one is taken away, the other file replaced, and the new one
/// put in place. A crash leaves the old pair, the new pair, or no `key`, but never halves of different pairs.
///
/// # Errors
/// [`Error::Io`] naming the file; no temporary file is left behind, and the old pair stays.
pub fn write_pair(dir: &Path, other: (&str, &[u8]), key: (&str, &[u8])) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let (other, path) = (staged_bytes(&dir.join(other.0), other.1)?, dir.join(key.0));
    let old = fs::read(&path).ok();
    if old.as_deref() == Some(key.1) {
        return put(other).and_then(|()| sync_dir(dir));
    }
    let new = staged_bytes(&path, key.1)?;
    if let Some(old) = old {
        fs::remove_file(&path).map_err(Error::io("replace", &path))?;
        sync_dir(dir)?;
        if let Err(error) = put(other) {
            return write_atomic(&path, &old).and(Err(error));
        }
    } else {
        put(other)?;
    }
    sync_dir(dir)?;
    put(new)?;
    sync_dir(dir)
}

/// A file's bytes, written and safe on disk, but not yet in its place.
struct Staged {
    tmp: tempfile::NamedTempFile,
    path: PathBuf,
    _unfinished: Unfinished,
}

/// What `fill` writes, for `path`, whose folder is there; and what `fill` gave.
fn staged<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<(Staged, T)> {
    let mut tmp = tempfile::Builder::new()
        .prefix(".lorakit-")
        .suffix(".tmp")
        .tempfile_in(parent(path))
        .map_err(Error::io("write", path))?;
    let unfinished = Unfinished::new(tmp.path());
    let filled = {
        let mut out = std::io::BufWriter::with_capacity(1 << 20, tmp.as_file_mut());
        let filled = fill(&mut out)?;
        out.flush().map_err(Error::io("write", path))?;
        filled
    };
    tmp.as_file().sync_all().map_err(Error::io("write", path))?;
    set_mode(tmp.as_file()).map_err(Error::io("write", path))?;
    Ok((Staged { tmp, path: path.to_path_buf(), _unfinished: unfinished }, filled))
}

/// [`staged`], of bytes that are there.
fn staged_bytes(path: &Path, bytes: &[u8]) -> Result<Staged> {
    Ok(staged(path, |file| file.write_all(bytes).map_err(Error::io("write", path)))?.0)
}

fn put(staged: Staged) -> Result<()> {
    staged.tmp.persist(&staged.path).map_err(|e| Error::io("write", &staged.path)(e.error))?;
    Ok(())
}

/// A file's name without the ending of what it is packed with.
pub fn unpacked_name(name: &str) -> &str {
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name)
}

/// Removes the half-written files that a killed process left in `dir`; nobody else may be writing there.
///
/// # Errors
/// [`Error::Io`] when one cannot be removed.
pub fn sweep(dir: &Path) -> Result<()> {
    let half = |name: &str| name.starts_with(".lorakit-") && name.ends_with(".tmp");
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))?.flatten() {
        if half(&entry.file_name().to_string_lossy()) && entry.file_type().is_ok_and(|t| t.is_file()) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// What is being written now, under its temporary name.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name in [`UNFINISHED`], while this lives.
struct Unfinished(PathBuf);

impl Unfinished {
    fn new(path: &Path) -> Unfinished {
        unfinished().push(path.to_path_buf());
        Unfinished(path.to_path_buf())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().retain(|path| *path != self.0);
    }
}

/// Removes what is half-written, for a process that ends right after this call without waiting for its other threads: no
/// file is begun or finished any more.
pub fn abandon() {
    let mut paths = unfinished();
    for path in paths.drain(..) {
        // Nobody is left to hear of a failure; what stays is swept by the next run in this place. A directory that a thread
        // is still putting a file into is not empty at the first try.
        let removed = |path: &Path| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        let _gone = (0..100).any(|_| {
            let gone = removed(&path).is_ok() || !path.exists();
            if !gone {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            gone
        });
    }
    std::mem::forget(paths);
}

/// Builds a directory beside `path` and renames it into place when `fill` succeeded; an older directory of that
/// name is moved away first and removed last.
///
/// # Errors
/// Whatever `fill` returns, or [`Error::Io`]; nothing half-written is left then, and an older directory stays in its place.
pub fn write_dir_atomic(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = parent(path);
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let tmp = tempfile::Builder::new().prefix(".lorakit-").suffix(".tmp").tempdir_in(&dir).map_err(Error::io("create", path))?;
    let _unfinished = Unfinished::new(tmp.path());
    fill(tmp.path())?;
    for entry in fs::read_dir(tmp.path()).map_err(Error::io("read", tmp.path()))? {
        let file = entry.map_err(Error::io("read", tmp.path()))?.path();
        let opened = File::open(&file).map_err(Error::io("open", &file))?;
        opened.sync_all().map_err(Error::io("write", &file))?;
    }
    set_mode_dir(tmp.path()).map_err(Error::io("write", path))?;
    let old = dir.join(format!(".lorakit-old-{}.tmp", std::process::id()));
    let replaced = swap(tmp.path(), path, &old)?;
    // It has another name now: nothing is left to remove.
    _ = tmp.keep();
    sync_dir(&dir)?;
    if replaced {
        let _unfinished = Unfinished::new(&old);
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
    }
    Ok(())
}

/// Gives `new` the name `path`, and what had that name the name `old`; whether there was such a thing. Where it fails,
/// everything keeps the name it had. A process that is ended in between ([`abandon`]) waits for both steps.
fn swap(new: &Path, path: &Path, old: &Path) -> Result<bool> {
    let _both = unfinished();
    let replaces = path.symlink_metadata().is_ok();
    if replaces {
        fs::rename(path, old).map_err(Error::io("replace", path))?;
    }
    if let Err(e) = fs::rename(new, path) {
        if replaces {
            fs::rename(old, path).map_err(Error::io("put back", path))?;
        }
        return Err(Error::io("write", path)(e));
    }
    Ok(replaces)
}

/// The file as text, or an error that names it.
///
/// # Errors
/// [`Error::Io`] when it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// SHA-256 of a file as lower-case hex.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    use sha2::Digest;
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// SHA-256 of bytes as lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("write", dir))?;
    Ok(())
}

#[cfg(unix)]
fn set_mode(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_mode(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn set_mode_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn set_mode_dir(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// A range of bytes of a read-only file, mapped into memory. Cheap to clone; the file stays mapped while any clone lives.
#[derive(Clone)]
pub struct Mapped {
    map: std::sync::Arc<memmap2::Mmap>,
    start: usize,
    len: usize,
}

impl Mapped {
    /// Maps a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Mapped> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is read-only and private to this type. Changing a model file under a running process is
        // outside what any reader of mapped weights (llama.cpp, safetensors) defends against; the README says so.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let len = map.len();
        Ok(Mapped { map: std::sync::Arc::new(map), start: 0, len })
    }

    /// `len` bytes of memory that belong to no file, as `fill` leaves them.
    ///
    /// # Errors
    /// [`Error::Io`] when there is not enough of it.
    pub fn anonymous(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Mapped> {
        let fail = || Error::io("allocate", Path::new("memory for a matrix"));
        let mut map = memmap2::MmapMut::map_anon(len).map_err(fail())?;
        fill(&mut map);
        let map = map.make_read_only().map_err(fail())?;
        Ok(Mapped { len, map: std::sync::Arc::new(map), start: 0 })
    }

    /// The bytes `start..start + len` of this range, or `None` when they do not lie inside it.
    pub fn slice(&self, start: usize, len: usize) -> Option<Mapped> {
        let end = start.checked_add(len)?;
        (end <= self.len).then(|| Mapped { map: self.map.clone(), start: self.start + start, len })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapped({} bytes at {})", self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_takes_the_place_of_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        for text in ["old", "new"] {
            write_dir_atomic(&out, |tmp| write_atomic(&tmp.join("a"), text.as_bytes())).unwrap();
            assert_eq!(read_text(&out.join("a")).unwrap(), text);
        }
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn what_cannot_be_finished_leaves_the_older_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write_dir_atomic(&out, |tmp| write_atomic(&tmp.join("a"), b"old")).unwrap();
        let failed = write_dir_atomic(&out, |tmp| {
            write_atomic(&tmp.join("a"), b"new")?;
            Err(Error::usage("a test", "it fails here", "nothing"))
        });
        assert!(failed.is_err());
        assert_eq!((names(dir.path()), read_text(&out.join("a")).unwrap()), (vec!["out".into()], "old".into()));
    }

    #[test]
    fn a_rename_that_fails_puts_the_older_one_back() {
        let dir = tempfile::tempdir().unwrap();
        let (out, old) = (dir.path().join("out"), dir.path().join("old"));
        fs::create_dir(&out).unwrap();
        assert!(swap(&dir.path().join("nowhere"), &out, &old).is_err());
        assert_eq!(names(dir.path()), ["out"]);
        // A name that nothing can have: what was made for it goes.
        assert!(write_dir_atomic(&out.join(".."), |_| Ok(())).is_err());
        assert_eq!((names(dir.path()), names(&out)), (vec!["out".into()], Vec::new()));
    }

    #[test]
    fn a_file_whose_rename_fails_leaves_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("inside"), "x").unwrap();
        assert!(write_atomic(&out, b"text").is_err());
        assert_eq!((names(dir.path()), names(&out)), (vec!["out".into()], vec!["inside".into()]));
    }

    #[test]
    fn a_pair_is_replaced_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (weights, config) in [("w1", "c1"), ("w2", "c1"), ("w3", "c3")] {
            write_pair(dir.path(), ("w", weights.as_bytes()), ("c", config.as_bytes())).unwrap();
            assert_eq!([read_text(&at("w")).unwrap(), read_text(&at("c")).unwrap()], [weights, config]);
            assert_eq!(names(dir.path()), ["c", "w"]);
        }
    }

    #[test]
    fn where_one_half_cannot_be_replaced_the_pair_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("w/inside")).unwrap();
        fs::write(dir.path().join("c"), "old").unwrap();
        let error = write_pair(dir.path(), ("w", b"new"), ("c", b"new")).unwrap_err();
        assert!(error.to_string().contains('w'), "{error}");
        assert_eq!(
            (read_text(&dir.path().join("c")).unwrap().as_str(), names(dir.path())),
            ("old", vec!["c".into(), "w".into()])
        );
    }
}
