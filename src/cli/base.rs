//! What jobs begin with, told on the terminal, for the verbs that are no jobs of their own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use crate::adapter::Adapter;
use crate::data::Renderer;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::job::{self, OpenedBase, PlannedRows, Prepared};
use crate::model::resolve::Resolved;
use crate::recipe::{Base, Recipe};

static STARTED: OnceLock<Instant> = OnceLock::new();

/// When the program started, which is when this is first called.
pub(super) fn started() -> Instant {
    *STARTED.get_or_init(Instant::now)
}

/// As [`job::open`]. `quiet` says nothing unless something is fetched.
///
/// # Errors
/// As [`job::open`].
pub(super) fn open(base: &Base, quiet: bool) -> Result<OpenedBase> {
    job::open(base, &mut EventPrinter::new(quiet).listener())
}

/// As [`job::adapter`].
///
/// # Errors
/// As [`job::adapter`].
pub(super) fn adapter(dir: &Path, opened: &OpenedBase) -> Result<Adapter> {
    job::adapter(dir, &[], opened, &mut EventPrinter::new(true).listener())
}

/// As [`job::recipe`].
///
/// # Errors
/// As [`job::recipe`].
pub(super) fn recipe(path: &Path, set: &[String]) -> Result<Recipe> {
    job::recipe(path, set, &mut EventPrinter::new(false).listener())
}

/// Refuses the directory of an adapter that is none, before anything is opened for it.
///
/// # Errors
/// [`Error::Usage`] naming the folder.
pub(super) fn adapter_folder(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let why = if dir.exists() { "this is a file, not the folder of an adapter" } else { "there is no such folder" };
    let help = "give the folder that holds adapter_config.json and adapter_model.safetensors; `lorakit adapter ls DIR` lists the adapters in a folder";
    Err(Error::usage(dir.display().to_string(), why, help))
}

/// As [`job::dataset`].
///
/// # Errors
/// As [`job::dataset`].
pub(super) fn dataset(address: &str) -> Result<Vec<PathBuf>> {
    job::dataset(address, &mut EventPrinter::new(false).listener())
}

/// As [`job::find`]. `quiet` says nothing unless something is fetched.
///
/// # Errors
/// As [`job::find`].
pub(super) fn find(base: &Base, quiet: bool) -> Result<Resolved> {
    job::find(base, &mut EventPrinter::new(quiet).listener())
}

/// As [`job::rows`].
///
/// # Errors
/// As [`job::rows`].
pub(super) fn rows(recipe: &Recipe, renderer: &Renderer) -> Result<PlannedRows> {
    job::rows(recipe, renderer, &mut EventPrinter::new(false).listener())
}

/// As [`job::prepare`]. `quiet` says nothing unless something is fetched.
///
/// # Errors
/// As [`job::prepare`].
pub(super) fn prepare(recipe: &Recipe, quiet: bool) -> Result<Prepared> {
    job::prepare(recipe, started(), &mut EventPrinter::new(quiet).listener())
}

/// The base that was asked for; what is not said is taken from the recipe beside an adapter, whose keys to ignore stay so.
///
/// # Errors
/// [`Error::Usage`] when neither names one.
pub(super) fn named(model: Option<&str>, fallback: Option<&str>, ignored: &IgnoreArg, recipe: Option<&Recipe>) -> Result<Base> {
    let Some(model) = model.or_else(|| Some(&recipe?.base.model)) else {
        return Err(Error::usage(
            "--model",
            "no base model is named, and no recipe.toml beside an adapter names one",
            "give a hub id, a directory or a .gguf file: --model BASE",
        ));
    };
    let saved = recipe.map(|r| &r.base).filter(|base| base.model == model);
    let fallback = fallback.map(str::to_string).or_else(|| saved?.fallback.clone());
    let ignore_config = saved.map(|base| base.ignore_config.clone()).unwrap_or_default();
    let mut base = Base { model: model.to_string(), fallback, revision: "main".into(), compute: Compute::Auto, ignore_config };
    ignored.add_to(&mut base);
    Ok(base)
}
