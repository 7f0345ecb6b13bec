//! Everything a run needs before its first step: base open, rows tokenised, adapter laid out; with the time each took.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::base::{self, Opened};
use super::prove::{self, Set};
use crate::adapter::Adapter;
use crate::data::{Loaded, Renderer};
use crate::error::{Error, Result};
use crate::recipe::Recipe;

static STARTED: OnceLock<Instant> = OnceLock::new();

/// Notes the moment from which [`since_start`] counts. Called first thing in `main`.
pub(super) fn start() {
    STARTED.get_or_init(Instant::now);
}

/// Time since the program started.
pub(super) fn since_start() -> Duration {
    STARTED.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// What a run starts from.
pub(super) struct Prepared {
    pub opened: Opened,
    pub renderer: Renderer,
    pub loaded: Loaded,
    /// The recipe's further sets to judge by.
    pub sets: Vec<Set>,
    pub adapter: Adapter,
    /// Seconds by part.
    pub parts: Vec<(&'static str, f64)>,
}

/// Opens the base of `recipe`, tokenises its rows and lays out its adapter.
///
/// # Errors
/// Whatever is wrong with base, data or targets.
pub(super) fn prepare(recipe: &Recipe, quiet: bool) -> Result<Prepared> {
    let mut parts = vec![("recipe", since_start().as_secs_f64())];
    let mut last = Instant::now();
    let mut lap = |what| {
        parts.push((what, last.elapsed().as_secs_f64()));
        last = Instant::now();
    };
    let opened = base::open(&recipe.base, quiet)?;
    lap("base");
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let loaded = super::rows::load(recipe, &renderer)?;
    opened.covers(&loaded)?;
    let sets = prove::sets(recipe, &opened, &renderer)?;
    lap("data");
    let adapter = Adapter::new(&recipe.adapter, opened.resolved.id.clone(), &opened.model, recipe.train.seed)
        .map_err(|e| in_recipe(e, &recipe.path))?;
    lap("adapter");
    Ok(Prepared { opened, renderer, loaded, sets, adapter, parts })
}

/// A complaint about targets names the recipe they stand in.
fn in_recipe(error: Error, recipe: &Path) -> Error {
    match error {
        Error::Usage { what, why, help } => Error::Recipe {
            file: recipe.to_path_buf(),
            line: None,
            key: format!("adapter.{}", what.trim_matches('`')),
            why,
            help,
        },
        other => other,
    }
}
