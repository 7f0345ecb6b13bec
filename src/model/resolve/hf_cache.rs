//! The cache that Hugging Face's tools share: `models--OWNER--NAME/{refs,snapshots,blobs}`.
//!
//! Refuses to know: the network, what is inside the files.

use std::path::{Path, PathBuf};

use super::Attempt;
use crate::hub::is_plain;

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The complete snapshot of `revision`.
pub(super) fn find(hub: Option<&Path>, id: &str, revision: &str) -> Attempt<PathBuf> {
    let repo = hub.ok_or("no home directory; set HF_HOME")?.join(folder(id));
    if !repo.is_dir() {
        return Err("the model is not in it".into());
    }
    let commit = match std::fs::read_to_string(repo.join("refs").join(revision)) {
        Ok(commit) => commit.trim().to_string(),
        Err(_) => revision.to_string(),
    };
    let snapshot = repo.join("snapshots").join(&commit);
    if !is_plain(&commit) || !snapshot.is_dir() {
        return Err(format!("it has the model, but not revision `{revision}`"));
    }
    complete(&snapshot)?;
    Ok(snapshot)
}

/// `models--OWNER--NAME`.
fn folder(id: &str) -> String {
    format!("models--{}", id.replace('/', "--"))
}

/// The id of a snapshot by its place in a cache.
pub(super) fn id_of(path: &Path) -> Option<String> {
    let snapshots = path.ancestors().find(|p| p.ends_with("snapshots"))?;
    let repo = snapshots.parent()?.file_name()?.to_str()?;
    Some(repo.strip_prefix("models--")?.replace("--", "/"))
}

/// Config, tokenizer and all weights are there.
fn complete(snapshot: &Path) -> Attempt<()> {
    let missing = |name: &str| !snapshot.join(name).exists();
    let mut lacking: Vec<String> = [CONFIG, TOKENIZER].into_iter().filter(|n| missing(n)).map(String::from).collect();
    if missing(SINGLE) {
        match missing(INDEX) {
            true => lacking.push(format!("{SINGLE} (or {INDEX})")),
            false => lacking.extend(shards(&snapshot.join(INDEX))?.into_iter().filter(|n| missing(n))),
        }
    }
    if lacking.is_empty() { Ok(()) } else { Err(format!("the model is there only in part: {} missing", lacking.join(", "))) }
}

/// The files that an index names.
pub(super) fn shards(index: &Path) -> Attempt<Vec<String>> {
    let text = std::fs::read_to_string(index).map_err(|e| format!("{}: {e}", index.display()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", index.display()))?;
    let table = json.get("weight_map").and_then(|m| m.as_object());
    let table = table.ok_or_else(|| format!("{} has no weight_map", index.display()))?;
    let mut names: Vec<String> = table.values().filter_map(|v| v.as_str()).map(String::from).collect();
    names.sort();
    names.dedup();
    match names.iter().find(|n| !(is_plain(n) && n.ends_with(".safetensors"))) {
        None => Ok(names),
        Some(bad) => Err(format!("{} names `{bad}`, which is no safetensors file beside it", index.display())),
    }
}
