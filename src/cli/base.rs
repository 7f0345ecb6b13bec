//! From a recipe's `[base]` to an open model, each step said aloud on standard error.

use super::progress::{Progress, Unit};
use crate::data::Tokenizer;
use crate::device;
use crate::error::Result;
use crate::model::resolve::{Note, Resolved, resolve};
use crate::model::{Model, text};
use crate::recipe::Base;

/// A base model with its tokenizer, ready to use.
pub(super) struct Opened {
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub resolved: Resolved,
}

/// Finds and opens a base model. `quiet` says nothing unless something is fetched.
///
/// # Errors
/// When it is not found or its files are not usable.
pub(super) fn open(base: &Base, quiet: bool) -> Result<Opened> {
    let resolved = find(base, quiet)?;
    let tokenizer = text::tokenizer(&resolved.path)?;
    let model = Model::open(&resolved.path, base.compute, &device::best()?)?;
    Ok(Opened { model, tokenizer, resolved })
}

/// Finds a base model without opening it.
///
/// # Errors
/// When it is not found.
pub(super) fn find(base: &Base, quiet: bool) -> Result<Resolved> {
    let mut bar: Option<Progress> = None;
    resolve(base, &mut |note| match note {
        Note::Progress { done, total, what } => {
            let total = total.unwrap_or(0);
            bar.get_or_insert_with(|| Progress::new(&what, total, Unit::Bytes)).set(done, "");
        }
        Note::Trying(what) if !quiet => eprintln!("base: trying {what}"),
        Note::Found(what) if !quiet => eprintln!("base: found {what}"),
        Note::Failed(what) if !quiet => eprintln!("base: {what}"),
        _ => {}
    })
}
