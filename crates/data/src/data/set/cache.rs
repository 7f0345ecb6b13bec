//! Tokens of rows, kept for the next start.
//!
//! They lie in a folder named by the hash of all that they follow from: this program, tokenizer and template, what the
//! recipe says of its data, and the content of every file. Nothing is ever looked up by name or date, so nothing can be
//! stale; a folder may be deleted at any time. Refuses to know how rows become tokens.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::column::{Column, Lists};
use super::examples::{PromptColumns, RowColumns};
use super::loaded::Columns;
use super::report::Report;
use super::request::Request;
use crate::data::read::shape::Reader;
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::Source;

/// Columns of tokens longer than this are checked in samples: reading all of them would cost the start that they save.
const WHOLE: usize = 32 << 20;
/// Samples of a column, and bytes of each.
const SAMPLES: usize = 256;
const SAMPLE: usize = 64 << 10;

/// Where tokens are kept.
pub struct Cache<'a> {
    pub folder: PathBuf,
    /// Sets of fewer bytes are not kept: they are read as quickly.
    pub least: u64,
    /// SHA-256 of a file's content.
    pub hash: &'a dyn Fn(&Path) -> Result<String>,
    /// Hears what a user should know.
    pub say: &'a dyn Fn(&str),
}

/// What lies in a folder of the cache.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Column → bytes and BLAKE3 of them (or of samples).
    columns: BTreeMap<String, (u64, String)>,
    report: Report,
}

/// Why there are no kept tokens.
pub(crate) enum Unkept {
    /// What is wrong with the rows: no cache would help.
    Rows(Error),
    /// What is wrong with the cache, or with a file that cannot be read.
    Cache(String),
}

impl From<Error> for Unkept {
    fn from(error: Error) -> Unkept {
        match error {
            Error::Io { .. } => Unkept::Cache(error.to_string()),
            other => Unkept::Rows(other),
        }
    }
}

impl Cache<'_> {
    /// Whether the rows of a request are so many that their tokens are kept.
    pub(crate) fn is_worth(&self, request: &Request) -> bool {
        let size: u64 = request.sources().filter_map(|s| fs::metadata(&s.path).ok()).map(|m| m.len()).sum();
        size >= self.least
    }

    /// What is kept for a request, and where it lies; nowhere when a file changed meanwhile. Where nothing is kept, `make` is
    /// asked first to lay columns, as files, into a folder.
    ///
    /// # Errors
    /// Those of `make`, and why nothing can be kept.
    pub(crate) fn open_or_make(
        &self,
        request: &Request,
        make: impl Fn(&Path) -> Result<Columns>,
    ) -> std::result::Result<(Columns, Option<PathBuf>), Unkept> {
        let sources: Vec<&Source> = request.sources().collect();
        let (times, key) = (times(&sources)?, self.key(request, &sources)?);
        let folder = self.folder.join(&key[..32]);
        let lock = lock(&folder, self).map_err(Error::io("lock", &folder))?;
        let tokens = folder.join("tokens");
        match open(&tokens) {
            Ok(Some(columns)) => return Ok((columns, Some(folder))),
            Ok(None) => {}
            Err(e) => (self.say)(&format!("the kept tokens in {} are damaged and made anew ({e})", tokens.display())),
        }
        clear(&folder)?;
        clear_others(&self.folder);
        files::write_dir_atomic(&tokens, |dir| save(make(dir)?, dir))?;
        let gone = || Unkept::Cache(format!("{} is gone as soon as it is written", tokens.display()));
        let columns = open(&tokens)?.ok_or_else(gone)?;
        let unchanged = self::times(&sources)? == times && self.key(request, &sources)? == key;
        if !unchanged {
            (self.say)("tokens are not kept: a file of rows changed while it was read");
            clear(&folder)?;
        }
        drop(lock);
        Ok((columns, unchanged.then_some(folder)))
    }

    /// Hash of all that the tokens follow from.
    fn key(&self, request: &Request, sources: &[&Source]) -> Result<String> {
        let mut hash = blake3::Hasher::new();
        let mut put = |part: &[u8]| {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        put(program()?.as_bytes());
        put(request.renderer.fingerprint()?.as_bytes());
        put(request.settings().as_bytes());
        for source in sources {
            for file in Reader::files(source)? {
                put((self.hash)(&file)?.as_bytes());
            }
        }
        Ok(hash.finalize().to_string())
    }
}

/// When each file was last written: one that was written to and back again while it was read has the content of its hash.
fn times(sources: &[&Source]) -> Result<Vec<SystemTime>> {
    let mut times = Vec::new();
    for source in sources {
        for file in Reader::files(source)? {
            times.push(fs::metadata(&file).and_then(|m| m.modified()).map_err(Error::io("read", &file))?);
        }
    }
    Ok(times)
}

/// Hash of the program: rows may become other tokens under another one.
pub(crate) fn program() -> Result<String> {
    static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash.clone());
    }
    // The first is there even if another build has replaced the program since it was started.
    let (running, mut path) = (Path::new("/proc/self/exe"), PathBuf::new());
    let file = File::open(running).or_else(|_| {
        path = std::env::current_exe()?;
        File::open(&path)
    });
    let (file, mut hash) = (file.map_err(Error::io("read", running))?, blake3::Hasher::new());
    hash.update_reader(file).map_err(Error::io("read", running))?;
    Ok(HASH.get_or_init(|| hash.finalize().to_string()).clone())
}

/// The folder for this process alone, until the lock is dropped.
fn lock(folder: &Path, cache: &Cache) -> std::io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => (cache.say)("another run makes the same tokens: waiting for it"),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    file.lock()?;
    Ok(file)
}

/// Removes everything in the folder but the lock, what a killed process left half-written included.
fn clear(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))?.flatten() {
        if entry.path().is_dir() {
            fs::remove_dir_all(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Removes what killed processes left half-written in the other folders of the cache, as far as it can be removed.
fn clear_others(cache: &Path) {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for folder in entries(cache) {
        let Ok(lock) = File::open(folder.join("lock")) else { continue };
        if lock.try_lock().is_ok() {
            let half = entries(&folder).filter(|path| path.extension().is_some_and(|e| e == "tmp"));
            half.for_each(|path| _ = fs::remove_dir_all(path));
        }
    }
}

/// Completes a folder in which columns lie as they were filled.
fn save(columns: Columns, folder: &Path) -> Result<()> {
    for (name, rows) in [("train", &columns.train), ("heldout", &columns.heldout)] {
        let path = folder.join(format!("{name}.bin"));
        let written = File::create(&path).and_then(|mut file| file.write_all(bytemuck::cast_slice(rows)));
        written.map_err(Error::io("write", &path))?;
    }
    let report = columns.report;
    let mut sums = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        sums.insert(name.clone(), sum(&name, &path)?);
    }
    let path = folder.join("manifest.json");
    let text = serde_json::to_vec(&Manifest { columns: sums, report });
    fs::write(&path, text.map_err(|e| Error::data(&path, None, e.to_string(), "report this as a bug"))?)
        .map_err(Error::io("write", &path))
}

/// Bytes of a column's file, and their hash: of all, or of samples where there are many tokens.
fn sum(name: &str, path: &Path) -> Result<(u64, String)> {
    let column = Column::<u8>::open(path)?;
    let (bytes, mut hash) = (&*column, blake3::Hasher::new());
    if bytes.len() <= WHOLE || !matches!(name, "ids" | "trained") {
        hash.update(bytes);
    } else {
        let last = bytes.len() - SAMPLE;
        for i in 0..SAMPLES {
            let start = (last as u128 * i as u128 / (SAMPLES as u128 - 1)) as usize;
            hash.update(&bytes[start..start + SAMPLE]);
        }
    }
    Ok((bytes.len() as u64, hash.finalize().to_string()))
}

/// What lies in a folder; `None` when there is none.
fn open(folder: &Path) -> Result<Option<Columns>> {
    if !folder.exists() {
        return Ok(None);
    }
    let path = folder.join("manifest.json");
    let damaged = |path: &Path, why: String| Error::data(path, None, why, "remove the folder");
    let manifest: Manifest = serde_json::from_str(&files::read_text(&path)?).map_err(|e| damaged(&path, e.to_string()))?;
    for (name, known) in &manifest.columns {
        let path = folder.join(format!("{name}.bin"));
        if sum(name, &path)? != *known {
            return Err(damaged(&path, "not as it was written".into()));
        }
    }
    let at = |name: &str| folder.join(format!("{name}.bin"));
    let rows = RowColumns {
        ids: lists(folder, "ids")?,
        trained: Column::open(&at("trained"))?,
        sources: Column::open(&at("sources"))?,
        lines: Column::open(&at("lines"))?,
        folder: None,
    };
    let prompts = PromptColumns {
        ids: lists(folder, "prompt-ids")?,
        texts: lists(folder, "prompt-texts")?,
        ends: Column::open(&at("prompt-ends"))?,
        sources: Column::open(&at("prompt-sources"))?,
        lines: Column::open(&at("prompt-lines"))?,
        folder: None,
    };
    let (train, heldout) = (Column::open(&at("train"))?, Column::open(&at("heldout"))?);
    Ok(Some(Columns { rows, train, heldout, prompts, report: manifest.report }))
}

fn lists<T: bytemuck::Pod>(folder: &Path, name: &str) -> Result<Lists<T>> {
    let open = |name: String| folder.join(name);
    Ok(Lists { values: Column::open(&open(format!("{name}.bin")))?, ends: Column::open(&open(format!("{name}-ends.bin")))? })
}
