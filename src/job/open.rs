//! From a recipe's `[base]` to an open model, each step told.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::events::{Deferred, JobEvent, Listener, Sought, tell};
use crate::adapter::Adapter;
use crate::data::{ExampleRef, Loaded, Tokenizer};
use crate::device;
use crate::error::{Error, Result};
use crate::hub::Dataset;
use crate::model::resolve::{Places, Resolved, fetch_dataset, resolve};
use crate::model::{Model, text};
use crate::recipe::{Base, Recipe};

/// A base model with its tokenizer, ready to use.
pub struct OpenedBase {
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub resolved: Resolved,
}

impl OpenedBase {
    /// Checks that the model knows every token of the rows, which it does not when the tokenizer is another model's.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first row with a token outside the model's vocabulary.
    pub fn covers(&self, loaded: &Loaded) -> Result<()> {
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

/// Finds and opens a base model; which keys of its configuration are left out of account is told.
///
/// # Errors
/// When it is not found or its files are not usable; when the listener ends the job.
pub fn open(base: &Base, listener: &mut Listener<'_>) -> Result<OpenedBase> {
    let resolved = find(base, listener)?;
    let device = device(listener)?;
    let open = || Model::open_ignoring(&resolved.path, base.compute, &device, &base.ignore_config);
    let (model, tokenizer) = rayon::join(open, || text::tokenizer_and_notes(&resolved.path));
    let (model, (tokenizer, notes)) = (model?, tokenizer?);
    for note in notes {
        tell(listener, JobEvent::Warning(note))?;
    }
    told_of(&model, &resolved.path, listener)?;
    Ok(OpenedBase { model, tokenizer, resolved })
}

/// Tells which keys of a model's configuration are left out of account.
pub(super) fn told_of(model: &Model, path: &Path, listener: &mut Listener<'_>) -> Result<()> {
    model.config.notes.iter().try_for_each(|note| tell(listener, JobEvent::Remark(format!("{}: {note}", path.display()))))
}

/// What models are to run on; told where it is not what was asked for.
pub(super) fn device(listener: &mut Listener<'_>) -> Result<Device> {
    let (device, missed) = device::chosen()?;
    if let Some(why) = missed {
        tell(listener, JobEvent::Warning(format!("no accelerator answers, so the CPU is used: {why}")))?;
    }
    Ok(device)
}

/// Reads an adapter of the base; what its files ask for in vain is told, and which of the `ignored` fields it had.
///
/// # Errors
/// As [`Adapter::load`]; when the listener ends the job.
pub fn adapter(dir: &Path, ignored: &[String], opened: &OpenedBase, listener: &mut Listener<'_>) -> Result<Adapter> {
    let adapter = Adapter::load_ignoring(dir, &opened.model, ignored)?;
    for note in &adapter.notes {
        tell(listener, JobEvent::Remark(format!("{}: {note}", dir.display())))?;
    }
    Ok(adapter)
}

/// Reads a recipe after fetching what it names of the hub's data sets.
///
/// # Errors
/// As [`Recipe::load`]; when a data set is not to be had; when the listener ends the job.
pub fn recipe(path: &Path, set: &[String], listener: &mut Listener<'_>) -> Result<Recipe> {
    for dataset in Recipe::datasets(path, set)? {
        fetch(&Places::from_env(), &dataset, listener)?;
    }
    Recipe::load(path, set)
}

/// The files of a data set of the hub, fetched where they are not there yet.
///
/// # Errors
/// When the address is none; when the data set is not to be had; when the listener ends the job.
pub fn dataset(address: &str, listener: &mut Listener<'_>) -> Result<Vec<PathBuf>> {
    let dataset = Dataset::parse(address).map_err(|why| Error::usage(address, why, Dataset::FORM))?;
    let places = Places::from_env();
    fetch(&places, &dataset, listener)?;
    Ok(places.hub_cache.map(|cache| dataset.kept(&cache)).unwrap_or_default())
}

fn fetch(places: &Places, dataset: &Dataset, listener: &mut Listener<'_>) -> Result<()> {
    let told = Deferred::new(listener);
    fetch_dataset(places, dataset, &mut |note| told.tell(JobEvent::Looking { sought: Sought::Data, note }))?;
    told.finish()
}

/// Finds a base model without opening it.
///
/// # Errors
/// When it is not found; when the listener ends the job.
pub fn find(base: &Base, listener: &mut Listener<'_>) -> Result<Resolved> {
    let told = Deferred::new(listener);
    let resolved = resolve(base, &mut |note| told.tell(JobEvent::Looking { sought: Sought::Base, note }))?;
    told.finish()?;
    Ok(resolved)
}
