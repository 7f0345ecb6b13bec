//! Everything a run needs before its first step: base open, rows tokenised, adapter laid out; with the time each took.

use std::path::Path;
use std::time::Instant;

use super::evaluate;
use super::events::{JobEvent, Listener, tell};
use super::feasible::{self, NamedQuestions, NamedSet};
use super::open::{self, OpenedBase};
use super::rows::PlannedRows;
use crate::adapter::Adapter;
use crate::data::{Examples, Loaded, Renderer};
use crate::error::{Error, Result};
use crate::recipe::{Recipe, Train};
use crate::train::TrainSetup;
use crate::train::mixture::Mixture;

/// What a run starts from.
pub struct Prepared {
    pub opened: OpenedBase,
    pub renderer: Renderer,
    pub loaded: Loaded,
    /// How often an epoch has which training rows.
    pub mixture: Mixture,
    /// The held-out rows that are judged: as many as `eval.limit` says, spread over all.
    pub judged: Examples,
    /// The recipe's further sets to judge by.
    pub sets: Vec<NamedSet>,
    /// The recipe's multiple-choice questions.
    pub questions: Vec<NamedQuestions>,
    pub adapter: Adapter,
    /// Seconds by part.
    pub parts: Vec<(&'static str, f64)>,
}

impl Prepared {
    /// What the training loop gets.
    pub fn setup<'a>(&'a self, settings: &'a Train) -> TrainSetup<'a> {
        TrainSetup {
            model: &self.opened.model,
            adapter: &self.adapter,
            examples: &self.loaded.train,
            mixture: &self.mixture,
            heldout: &self.judged,
            settings,
        }
    }
}

/// Opens the base of `recipe`, tokenises its rows and lays out its adapter. The recipe's own part is the time since `began`.
///
/// # Errors
/// Whatever is wrong with base, data or targets; when the listener ends the job.
pub fn prepare(recipe: &Recipe, began: Instant, listener: &mut Listener<'_>) -> Result<Prepared> {
    let mut parts = vec![("recipe", began.elapsed().as_secs_f64())];
    let mut last = Instant::now();
    let mut lap = |what| {
        parts.push((what, last.elapsed().as_secs_f64()));
        last = Instant::now();
    };
    let opened = open::open(&recipe.base, listener)?;
    lap("base");
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let PlannedRows { loaded, mixture } = super::rows(recipe, &renderer, listener)?;
    opened.covers(&loaded)?;
    let sets = evaluate::sets(recipe, &opened, &renderer)?;
    let questions = evaluate::questions(recipe, &opened, &renderer)?;
    feasible::rows_fit(recipe, &opened.model, &loaded, &sets)?;
    feasible::run_learns(recipe, &loaded, &mixture, listener)?;
    feasible::rows_told(&loaded, &sets, listener)?;
    let judged = loaded.heldout.spread(recipe.eval.limit.unwrap_or(usize::MAX));
    lap("data");
    let adapter = Adapter::new(&recipe.adapter, opened.resolved.id.clone(), &opened.model, recipe.train.seed)
        .map_err(|e| in_recipe(e, &recipe.path))?;
    adapter.told(&opened.model).map_or(Ok(()), |told| tell(listener, JobEvent::Remark(format!("adapter: {told}"))))?;
    lap("adapter");
    Ok(Prepared { opened, renderer, loaded, mixture, judged, sets, questions, adapter, parts })
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
