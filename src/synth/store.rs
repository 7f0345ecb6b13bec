//! The folder of a run: what was asked for, every reply, every candidate with its fate, and the rows.
//!
//! ```text
//! run.json          what the run depends on; another one is refused
//! replies.jsonl     every reply as it came, appended and synced: the state
//! candidates.jsonl  every candidate, accepted or why not        ┐ follow from the replies,
//! rows.jsonl        the accepted ones, for `lorakit train`      ┘ rewritten when a run goes on
//! ```
//! A process that is killed loses the replies that were under way, nothing else. Refuses to know what the lines say.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::generator::Reply;
use super::prompts::Request;
use crate::error::{Error, Result};
use crate::files;

const RUN: &str = "run.json";
const REPLIES: &str = "replies.jsonl";
const CANDIDATES: &str = "candidates.jsonl";
const ROWS: &str = "rows.jsonl";

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Instructions,
    Classification,
    Instances,
    /// Alpaca's whole tasks.
    Tasks,
}

impl Stage {
    /// What its seeds are drawn for.
    pub(super) fn purpose(self) -> &'static str {
        match self {
            Stage::Instructions => "synth-instructions",
            Stage::Classification => "synth-classification",
            Stage::Instances => "synth-instances",
            Stage::Tasks => "synth-tasks",
        }
    }
}

/// Which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub round: u64,
    pub stage: Stage,
    pub request: usize,
}

/// A reply as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptReply {
    #[serde(flatten)]
    pub key: Key,
    /// The beginning of the SHA-256 of the request.
    asked: String,
    #[serde(flatten)]
    pub reply: Reply,
    /// When it came, in seconds since 1970.
    pub time: u64,
}

/// The open folder; one process at a time.
pub struct Store {
    dir: PathBuf,
    replies: HashMap<Key, KeptReply>,
    /// Locked; the system lets go of it however the process ends.
    journal: File,
    /// Lines of candidates and of rows that are not in their files yet.
    waiting: [Vec<u8>; 2],
    /// The files, once everything that followed from old replies is in them.
    live: Option<[File; 2]>,
}

impl Store {
    /// Opens or creates the folder of a run of `plan`.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is a run of something else or another process works on it; [`Error::Data`] for a reply that
    /// cannot be read; [`Error::Io`].
    pub fn open(dir: &Path, plan: &Value) -> Result<Store> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let (run, path) = (dir.join(RUN), dir.join(REPLIES));
        if !run.exists() && [REPLIES, CANDIDATES, ROWS].iter().any(|name| dir.join(name).exists()) {
            let why = "it holds rows, but no run.json that says what made them";
            return Err(Error::usage(dir.display().to_string(), why, "name another folder with --out"));
        }
        if run.exists() {
            same(&run, plan)?
        } else {
            files::write_atomic(&run, format!("{plan:#}\n").as_bytes())?
        }
        let open = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let journal = open.map_err(Error::io("open", &path))?;
        if let Err(TryLockError::WouldBlock) = journal.try_lock() {
            let why = "another process is writing there";
            return Err(Error::usage(dir.display().to_string(), why, "wait for it, or name another folder with --out"));
        }
        files::sweep(dir)?;
        let replies = read(&path, &journal)?;
        Ok(Store { dir: dir.to_path_buf(), replies, journal, waiting: Default::default(), live: None })
    }

    /// The file of accepted rows.
    pub fn rows(&self) -> PathBuf {
        self.dir.join(ROWS)
    }

    /// Replies kept by earlier runs and this one.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// The reply to a request, if there is one.
    ///
    /// # Errors
    /// [`Error::Usage`] when the reply was to another request: another version of this program asked it.
    pub(super) fn get(&self, key: Key, request: &Request) -> Result<Option<&KeptReply>> {
        match self.replies.get(&key) {
            Some(kept) if kept.asked != mark(request) => Err(Error::usage(
                self.dir.join(REPLIES).display().to_string(),
                format!("the reply to request {} of round {} was to another text", key.request, key.round),
                "another version of lorakit made this folder: go on with that one, or name another folder with --out",
            )),
            kept => Ok(kept),
        }
    }

    /// Keeps a reply, on the disk before this returns; one that is there already stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn keep(&mut self, key: Key, request: &Request, reply: Reply) -> Result<()> {
        if self.replies.contains_key(&key) {
            return Ok(());
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let kept = KeptReply { key, asked: mark(request), reply, time: now };
        let path = self.dir.join(REPLIES);
        append(&mut self.journal, &line(&serde_json::json!(kept))).map_err(Error::io("write", &path))?;
        self.replies.insert(key, kept);
        Ok(())
    }

    /// A candidate's line, and its row if it was accepted; they reach the files with [`Store::commit`].
    pub(super) fn say(&mut self, candidate: &Value, row: Option<&Value>) {
        self.waiting[0].extend(line(candidate));
        self.waiting[1].extend(row.map(line).unwrap_or_default());
    }

    /// Whether the files follow the run, so that lines are appended.
    pub(super) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Brings the lines so far into the files: at first by replacing these, afterwards by appending.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn commit(&mut self) -> Result<()> {
        let paths = [CANDIDATES, ROWS].map(|name| self.dir.join(name));
        match &mut self.live {
            Some(files) => {
                for ((file, lines), path) in files.iter_mut().zip(&self.waiting).zip(&paths) {
                    append(file, lines).map_err(Error::io("write", path))?;
                }
            }
            None => {
                for (lines, path) in self.waiting.iter().zip(&paths) {
                    files::write_atomic(path, lines)?;
                }
                let open = |path: &PathBuf| OpenOptions::new().append(true).open(path).map_err(Error::io("open", path));
                self.live = Some([open(&paths[0])?, open(&paths[1])?]);
            }
        }
        self.waiting = Default::default();
        Ok(())
    }
}

/// Refuses a folder that another plan made.
fn same(run: &Path, plan: &Value) -> Result<()> {
    let old: Value = serde_json::from_str(&files::read_text(run)?).unwrap_or_default();
    let (mut was, mut is) = (Vec::new(), Vec::new());
    flatten("", &old, &mut was);
    flatten("", plan, &mut is);
    let find = |all: &[(String, String)], key: &str| {
        all.iter().find(|(k, _)| k == key).map_or_else(|| "not set".to_string(), |(_, v)| v.clone())
    };
    let mut keys: Vec<&String> = was.iter().chain(&is).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let differ = |key: &&String| find(&was, key) != find(&is, key);
    let differing = keys.into_iter().filter(differ).map(|key| format!("{key}: {} → {}", find(&was, key), find(&is, key)));
    let differing: Vec<String> = differing.collect();
    if differing.is_empty() {
        return Ok(());
    }
    let why = format!("this run would not be the one that began here: {}", differing.join("; "));
    Err(Error::usage(run.display().to_string(), why, "give the same settings and files again, or another folder with --out"))
}

fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&if name.is_empty() { key.clone() } else { format!("{name}.{key}") }, value, into);
            }
        }
        other => into.push((name.to_string(), other.to_string())),
    }
}

/// The replies of a journal; half a line at its end, which a killed process left, is cut off.
fn read(path: &Path, journal: &File) -> Result<HashMap<Key, KeptReply>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if end < bytes.len() {
        journal.set_len(end as u64).map_err(Error::io("write", path))?;
    }
    let mut replies = HashMap::new();
    for (i, line) in bytes[..end].split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty()) {
        let kept: KeptReply = serde_json::from_slice(line).map_err(|e| {
            let why = format!("not a reply: {}", e.to_string().split(" at line ").next().unwrap_or_default());
            Error::data(path, Some(i + 1), why, "remove the line (it is asked again), or name another folder with --out")
        })?;
        replies.insert(kept.key, kept);
    }
    Ok(replies)
}

/// Tells one request from another.
fn mark(request: &Request) -> String {
    let what = format!("{}\n{}\n{:?}\n{:?}\n{}", request.text(), request.message(), request.stop, request.choice, request.seed);
    files::sha256(what.as_bytes())[..16].to_string()
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

fn append(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}
