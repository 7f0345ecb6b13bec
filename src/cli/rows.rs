//! A recipe's rows as every verb reads them: from the kept tokens where there are some, with progress where there are not.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::progress::{Progress, Unit};
use crate::data::{self, Cache, Loaded, Options, Renderer};
use crate::error::Result;
use crate::model::resolve::{self, Places};
use crate::recipe::{Keep, Recipe};

/// Files of fewer bytes altogether are read anew each time, unless the recipe names a folder.
const WORTH: u64 = 8 << 20;

/// The rows of `recipe`.
///
/// # Errors
/// As [`data::load`].
pub(super) fn load(recipe: &Recipe, renderer: &Renderer) -> Result<Loaded> {
    let places = Places::from_env();
    let hash = |path: &Path| resolve::sha256(&places, path);
    let say = |text: &str| eprintln!("data: {text}");
    let (folder, least) = place(recipe, &places);
    let cache = folder.map(|folder| Cache { folder, least, hash: &hash, say: &say });
    let bar: RefCell<Option<Progress>> = RefCell::default();
    let hear = |at: data::Progress| {
        let mut bar = bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| Progress::new("data", at.total, Unit::Bytes));
        bar.set(at.bytes, &format!("{} rows, {} tokens, {:.0} rows/s", at.rows, at.tokens, at.rows as f64 / bar.seconds()));
    };
    data::load_with(&recipe.data, renderer, recipe.train.max_length, recipe.train.seed, &Options { cache, hear: &hear })
}

/// The folder that tokens are kept in, and the fewest bytes of rows that are worth it.
fn place(recipe: &Recipe, places: &Places) -> (Option<PathBuf>, u64) {
    match &recipe.data.cache {
        Keep::Off => (None, 0),
        Keep::In(folder) => (Some(folder.clone()), 0),
        Keep::Default => (places.cache.as_ref().map(|cache| cache.join("tokens")), WORTH),
    }
}
