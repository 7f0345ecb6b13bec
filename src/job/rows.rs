//! A recipe's rows as every job reads them: from the kept tokens where there are some, told of where there are not.

use std::path::{Path, PathBuf};

use super::events::{Deferred, JobEvent, Listener};
use crate::data::{self, Cache, Examples, LoadOptions, Loaded, Renderer};
use crate::error::Result;
use crate::model::resolve::{self, Places};
use crate::recipe::{Keep, Recipe, Train};
use crate::train::mixture::Mixture;
use crate::train::pack::Fill;

/// Files of fewer bytes altogether are read anew each time, unless the recipe names a folder.
const WORTH: u64 = 8 << 20;

/// The rows of a recipe, and its plan for them.
pub struct PlannedRows {
    pub loaded: Loaded,
    /// How often an epoch has which training rows.
    pub mixture: Mixture,
}

/// The rows of `recipe`.
///
/// # Errors
/// As [`data::load`] and [`Mixture::plan`]; when the listener ends the job.
pub fn rows(recipe: &Recipe, renderer: &Renderer, listener: &mut Listener<'_>) -> Result<PlannedRows> {
    let places = Places::from_env();
    let told = Deferred::new(listener);
    let hash = |path: &Path| resolve::sha256(&places, path);
    let say = |text: &str| told.tell(JobEvent::KeptTokens(text));
    let (folder, least) = place(recipe, &places);
    let cache = folder.map(|folder| Cache { folder, least, hash: &hash, say: &say });
    let options = LoadOptions { cache, hear: &|at| told.tell(JobEvent::Reading(at)) };
    let loaded = data::load_with(&recipe.data, renderer, recipe.train.max_length, recipe.train.seed, &options)?;
    let mixture = Mixture::plan(&recipe.data, &loaded.train)?;
    told.tell(JobEvent::RowsRead);
    told.finish()?;
    Ok(PlannedRows { loaded, mixture })
}

/// The folder that tokens are kept in, and the fewest bytes of rows that are worth it.
fn place(recipe: &Recipe, places: &Places) -> (Option<PathBuf>, u64) {
    match &recipe.data.cache {
        Keep::Off => (None, 0),
        Keep::In(folder) => (Some(folder.clone()), 0),
        Keep::Default => (places.cache.as_ref().map(|cache| cache.join("tokens")), WORTH),
    }
}

/// How full the packed rows of a run are; `None` when the recipe does not pack.
/// Of a mixture, those of the first epoch.
pub fn packing(train: &Train, examples: &Examples, mixture: &Mixture) -> Option<Fill> {
    train.packing.then(|| {
        let lengths = examples.lengths();
        let drawn = match mixture.is_plain() {
            true => lengths,
            false => mixture.draws(train.seed, 0).into_iter().map(|example| lengths[example]).collect(),
        };
        Fill::of(&drawn, train.max_length)
    })
}
