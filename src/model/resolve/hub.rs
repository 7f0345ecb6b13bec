//! Fetching models and data from the hub into the Hugging Face cache.
//!
//! `hf-hub` does the transfers (it resumes and shares the cache with Python); here are the choice of files, a limit on
//! waiting for the first answer, and a check of every file against the hash that names it.
//! Refuses to know: what is inside the files but for the index of shards.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::hf_cache::{CONFIG, INDEX, SINGLE, TOKENIZER, shards};
use super::{Attempt, Note, Places, git_hash};
use crate::hub::is_plain;

/// Files that are taken when they are there.
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "special_tokens_map.json",
];

/// Downloads what is missing of `revision` and returns its snapshot in the cache.
pub(super) fn fetch(places: &Places, id: &str, revision: &str, say: &mut dyn FnMut(Note)) -> Attempt<PathBuf> {
    let (mut download, files) = Download::of(places, id, RepoType::Model, revision, say)?;
    let snapshot = download.snapshot.clone();
    for name in chosen(&files)? {
        download.file(&name)?;
    }
    if !files.iter().any(|f| f == SINGLE) {
        for shard in shards(&snapshot.join(INDEX))? {
            download.file(&shard)?;
        }
    }
    Ok(snapshot)
}

/// Downloads what is missing of the files that `chosen` takes among those of `revision`; its commit, and how many these are.
pub(super) fn files(
    places: &Places,
    id: &str,
    kind: RepoType,
    revision: &str,
    chosen: &dyn Fn(&[String]) -> Attempt<Vec<String>>,
    say: &mut dyn FnMut(Note),
) -> Attempt<(String, usize)> {
    let (mut download, files) = Download::of(places, id, kind, revision, say)?;
    let chosen = chosen(&files)?;
    chosen.iter().try_for_each(|name| download.file(name))?;
    let commit = download.snapshot.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((commit, chosen.len()))
}

fn connect(places: &Places, cache: Cache) -> Attempt<Api> {
    let mut builder = ApiBuilder::from_cache(cache).with_progress(false).with_token(places.token.clone());
    if let Some(endpoint) = &places.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    builder.with_retries(3).build().map_err(explain)
}

/// Commit and file names of the revision. Asked for in a thread of its own, since the client has no limit on connecting.
fn listing(api: &Api, repo: &Repo, patience: Duration) -> Attempt<(String, Vec<String>)> {
    let (answer, wait) = std::sync::mpsc::channel();
    let repo = api.repo(repo.clone());
    std::thread::spawn(move || answer.send(repo.info()));
    let info = wait.recv_timeout(patience).map_err(|_| format!("no answer within {patience:?}"))?;
    let info = info.map_err(explain)?;
    if !is_plain(&info.sha) {
        return Err(format!("its answer names a commit `{}`", info.sha));
    }
    Ok((info.sha, info.siblings.into_iter().map(|s| s.rfilename).collect()))
}

/// The files to take, small ones first.
fn chosen(files: &[String]) -> Attempt<Vec<String>> {
    let has = |name: &str| files.iter().any(|f| f == name);
    let lacking: Vec<&str> = [CONFIG, TOKENIZER].into_iter().filter(|n| !has(n)).collect();
    if !lacking.is_empty() {
        return Err(format!("the repository has no {}", lacking.join(" and no ")));
    }
    let weights = [SINGLE, INDEX].into_iter().find(|n| has(n));
    let weights = weights.ok_or(
        "the repository has no safetensors weights (pickles are never read; look for a revision or a copy that has them)",
    )?;
    let names = [CONFIG, TOKENIZER].into_iter().chain(OPTIONAL.into_iter().filter(|n| has(n))).chain([weights]);
    Ok(names.map(String::from).collect())
}

/// Files of one snapshot on their way into the cache.
struct Download<'a> {
    repo: ApiRepo,
    snapshot: PathBuf,
    blobs: PathBuf,
    say: &'a mut dyn FnMut(Note),
}

impl<'a> Download<'a> {
    /// Asks what `revision` is and which files it has.
    fn of(
        places: &Places,
        id: &str,
        kind: RepoType,
        revision: &str,
        say: &'a mut dyn FnMut(Note),
    ) -> Attempt<(Download<'a>, Vec<String>)> {
        if places.offline {
            return Err("HF_HUB_OFFLINE is set, the hub was not asked".into());
        }
        let cache = Cache::new(places.hub_cache.clone().ok_or("no home directory to keep it in; set HF_HOME")?);
        let repo = Repo::with_revision(id.to_string(), kind, revision.to_string());
        let api = connect(places, cache.clone())?;
        let (commit, files) = listing(&api, &repo, places.patience)?;
        let snapshot = cache.repo(repo.clone()).pointer_path(&commit);
        let blobs = snapshot.join("../../blobs");
        Ok((Download { repo: api.repo(repo), snapshot, blobs, say }, files))
    }

    fn file(&mut self, name: &str) -> Attempt<()> {
        let place = self.snapshot.join(name);
        if place.exists() {
            return Ok(());
        }
        let path = match self.transfer(name) {
            // A part that is already whole cannot be resumed: begin anew.
            Err(why) if why.contains("416") || why.contains("resume") => {
                self.remove_parts();
                self.transfer(name)
            }
            other => other,
        };
        let path = path.map_err(|why| format!("{name}: {why}"))?;
        verify(&path).map_err(|why| format!("{name}: {why}"))?;
        if path == place { Ok(()) } else { Err(format!("{name}: the model changed on the hub meanwhile; run again")) }
    }

    fn transfer(&mut self, name: &str) -> Attempt<PathBuf> {
        let bar = Bar { say: self.say, what: name.to_string(), done: 0, told: 0, total: 0 };
        self.repo.download_with_progress(name, bar).map_err(explain)
    }

    fn remove_parts(&self) {
        for entry in std::fs::read_dir(&self.blobs).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "part") {
                // A part that stays makes the next transfer fail, and that says why.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Compares a file with the hash that is its name in the cache: SHA-256 for large files, git's for small ones.
fn verify(pointer: &Path) -> Attempt<()> {
    let text = |e: std::io::Error| e.to_string();
    let blob = pointer.canonicalize().map_err(text)?;
    let name = blob.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
    let hex = name.chars().all(|c| c.is_ascii_hexdigit());
    let found = match name.len() {
        64 if hex => crate::files::sha256_file(&blob).map_err(|e| e.to_string())?,
        40 if hex => git_hash::blob(&std::fs::read(&blob).map_err(text)?),
        _ => {
            remove(pointer, &blob);
            return Err(format!("the server names it `{name}`, which is no hash to check it by"));
        }
    };
    if found == name {
        return Ok(());
    }
    remove(pointer, &blob);
    Err(format!("the download is damaged (hash {found} instead of {name}); it was removed, run again"))
}

fn remove(pointer: &Path, blob: &Path) {
    // Best effort: the error about the damage is on its way already.
    let _ = std::fs::remove_file(pointer);
    let _ = std::fs::remove_file(blob);
}

/// The client's message, with what it means for the usual answers.
fn explain(error: ApiError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    let hint = match &text {
        t if t.contains("401") || t.contains("403") => " (no such model, or it is gated: accept its terms and set HF_TOKEN)",
        t if t.contains("404") => " (no such model or revision)",
        _ => "",
    };
    format!("{text}{hint}")
}

/// Progress of one file, said at most once a MiB.
struct Bar<'a> {
    say: &'a mut dyn FnMut(Note),
    what: String,
    done: u64,
    told: u64,
    total: u64,
}

impl Bar<'_> {
    fn tell(&mut self) {
        self.told = self.done;
        (self.say)(Note::Progress { done: self.done, total: Some(self.total), what: self.what.clone() });
    }
}

impl Progress for Bar<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if self.done - self.told.min(self.done) >= 1 << 20 {
            self.tell();
        }
    }

    fn finish(&mut self) {
        self.tell();
    }
}
