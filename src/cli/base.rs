//! From a recipe's `[base]` to an open model, each step said aloud on standard error.

use std::path::{Path, PathBuf};

use super::progress::{Progress, Unit};
use crate::data::{ExampleRef, Loaded, Tokenizer};
use crate::device;
use crate::error::{Error, Result};
use crate::hub::Dataset;
use crate::model::resolve::{Note, Places, Resolved, fetch_dataset, resolve};
use crate::model::{Model, text};
use crate::recipe::{Base, Recipe};

/// A base model with its tokenizer, ready to use.
pub(super) struct Opened {
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub resolved: Resolved,
}

impl Opened {
    /// Checks that the model knows every token of the rows, which it does not when the tokenizer is another model's.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first row with a token outside the model's vocabulary.
    pub(super) fn covers(&self, loaded: &Loaded) -> Result<()> {
        let vocab = self.model.config.vocab;
        let pad = self.tokenizer.pad_id();
        let foreign = |e: &ExampleRef| e.ids.iter().copied().chain([pad]).find(|id| *id as usize >= vocab);
        let rows = loaded.train.iter().chain(loaded.heldout.iter());
        let Some((row, id)) = rows.into_iter().find_map(|e| Some((e, foreign(&e)?))) else { return Ok(()) };
        let file = loaded.report.sources.get(row.source).map_or(&self.resolved.path, |s| &s.path);
        let text = self.tokenizer.decode(&[id], false)?;
        Err(Error::data(
            file,
            Some(row.line),
            format!("`{text}` is token {id} of the tokenizer, but the model's vocabulary has {vocab} entries"),
            format!("put the tokenizer that belongs to this model into {}", self.resolved.path.display()),
        ))
    }
}

/// Finds and opens a base model. `quiet` says nothing unless something is fetched.
///
/// # Errors
/// When it is not found or its files are not usable.
pub(super) fn open(base: &Base, quiet: bool) -> Result<Opened> {
    let resolved = find(base, quiet)?;
    let device = device::best()?;
    let open = || Model::open(&resolved.path, base.compute, &device);
    let (model, tokenizer) = rayon::join(open, || text::tokenizer(&resolved.path));
    Ok(Opened { model: model?, tokenizer: tokenizer?, resolved })
}

/// Reads a recipe after fetching what it names of the hub's data sets.
///
/// # Errors
/// As [`Recipe::load`]; when a data set is not to be had.
pub(super) fn recipe(path: &Path, set: &[String]) -> Result<Recipe> {
    for dataset in Recipe::datasets(path, set)? {
        fetch_dataset(&Places::from_env(), &dataset, &mut heard("data", false))?;
    }
    Recipe::load(path, set)
}

/// The files of a data set of the hub, fetched where they are not there yet.
///
/// # Errors
/// When the address is none; when the data set is not to be had.
pub(super) fn dataset(address: &str) -> Result<Vec<PathBuf>> {
    let dataset = Dataset::parse(address).map_err(|why| Error::usage(address, why, Dataset::FORM))?;
    let places = Places::from_env();
    fetch_dataset(&places, &dataset, &mut heard("data", false))?;
    Ok(places.hub_cache.map(|cache| dataset.kept(&cache)).unwrap_or_default())
}

/// Finds a base model without opening it.
///
/// # Errors
/// When it is not found.
pub(super) fn find(base: &Base, quiet: bool) -> Result<Resolved> {
    resolve(base, &mut heard("base", quiet))
}

/// Says on standard error what is looked for.
fn heard(what: &'static str, quiet: bool) -> impl FnMut(Note) {
    let mut bar: Option<Progress> = None;
    let name = what;
    move |note| match note {
        Note::Progress { done, total, what } => {
            let total = total.unwrap_or(0);
            bar.get_or_insert_with(|| Progress::new(&what, total, Unit::Bytes)).set(done, "");
        }
        Note::Trying(what) if !quiet => eprintln!("{name}: trying {what}"),
        Note::Found(what) if !quiet => eprintln!("{name}: found {what}"),
        Note::Failed(what) if !quiet => eprintln!("{name}: {what}"),
        _ => {}
    }
}
