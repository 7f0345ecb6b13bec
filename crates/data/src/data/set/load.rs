//! Every row of a recipe's files as examples, split into training and held-out ones, with an account of each row.
//!
//! From kept tokens where there are some; else rows are gathered, parted and counted. What is drawn (limit, held-out rows)
//! is a function of the seed. Refuses to know shapes and templates.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::cache::{Cache, Unkept};
use super::counts::reasons;
use super::filling::remove_scratch;
use super::finish::finish;
use super::gather::{Gathered, Stop, gather};
use super::loaded::{Columns, Loaded};
use super::request::{LoadProgress, Request};
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::data::render::renderer::Renderer;
use crate::error::{Error, Result};
use crate::recipe::{Data, Source};

/// What a load may use besides the recipe.
pub struct LoadOptions<'a> {
    /// Where the tokens are kept for the next time.
    pub cache: Option<Cache<'a>>,
    pub hear: &'a dyn Fn(LoadProgress),
}

/// Reads, renders and tokenises all rows. Without held-out files, `heldout_fraction` of the rows are set aside.
///
/// # Errors
/// [`Error::Data`] with file and line for a row or file that cannot be used (see [`super`]), for a row that is too
/// long when the recipe says `error`, and when nothing is left to train on.
pub fn load(data: &Data, renderer: &Renderer, max_length: usize, seed: u64) -> Result<Loaded> {
    load_with(data, renderer, max_length, seed, &LoadOptions { cache: None, hear: &|_| {} })
}

/// As [`load`], from kept tokens where there are some. A cache that cannot be used costs time only.
///
/// # Errors
/// As [`load`].
pub fn load_with(data: &Data, renderer: &Renderer, max_length: usize, seed: u64, options: &LoadOptions) -> Result<Loaded> {
    let request = Request { data, renderer, max_length, seed, judge: false, hear: options.hear };
    let Some(cache) = options.cache.as_ref().filter(|cache| cache.is_worth(&request)) else { return in_memory(&request) };
    match cache.open_or_make(&request, |folder| kept_columns(&request, folder)) {
        Ok((columns, folder)) => Ok(Loaded { kept: folder, ..columns.loaded() }),
        Err(Unkept::Rows(e)) => Err(e),
        Err(Unkept::Cache(why)) => {
            let loaded = in_memory(&request)?;
            (cache.say)(&format!("tokens are not kept: {why}"));
            Ok(loaded)
        }
    }
}

/// Rows of a further set to judge by, as held-out rows; `data` says what becomes of long ones.
///
/// # Errors
/// As [`load`]; also when none of the rows can be judged.
pub fn load_set(rows: &[Source], data: &Data, renderer: &Renderer, max_length: usize, seed: u64) -> Result<Loaded> {
    let data = &Data { train: Vec::new(), heldout: rows.to_vec(), heldout_tasks: Vec::new(), replay: None, ..data.clone() };
    in_memory(&Request { data, renderer, max_length, seed, judge: true, hear: &|_| {} })
}

/// With what does not fit into memory in a folder that goes with the last of the rows.
fn in_memory(request: &Request) -> Result<Loaded> {
    let folder = Arc::new(tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?);
    let mut columns = columns(request, folder.path(), false)?;
    columns.rows.folder = Some(Arc::clone(&folder));
    columns.prompts.folder = Some(folder);
    Ok(columns.loaded())
}

/// With all columns as files in `folder`, and nothing else there.
fn kept_columns(request: &Request, folder: &Path) -> Result<Columns> {
    let columns = columns(request, folder, true)?;
    remove_scratch(folder)?;
    Ok(columns)
}

/// Loads into `folder`; with `keep` all columns lie there in files.
fn columns(request: &Request, folder: &Path, keep: bool) -> Result<Columns> {
    let mut shapes = BTreeMap::new();
    loop {
        match gather(request, folder, &shapes) {
            Ok(gathered) => {
                some_left(request, &gathered)?;
                return finish(request, gathered, keep);
            }
            Err(Stop::Error(error)) => return Err(*error),
            Err(Stop::Shape { source, shape }) => _ = shapes.insert(source, shape),
        }
    }
}

/// That there is a row to train on, and one to judge by where rows are named for it.
fn some_left(request: &Request, gathered: &Gathered) -> Result<()> {
    let Gathered { numbers, report, .. } = gathered;
    let data = request.data;
    if request.judge && numbers.heldout.is_empty() {
        let path = data.heldout.first().map_or(Path::new("[eval] sets"), |s| &s.path);
        let why = format!("no row is left to judge by; {}", reasons(&report.dropped));
        return Err(Error::data(path, None, why, "raise `train.max_length`, or name other rows"));
    }
    if !request.judge && numbers.train.is_empty() {
        let path = data.train.first().map_or(Path::new("[data] train"), |s| &s.path);
        let why = format!("no row is left to train on; {}", reasons(&report.dropped));
        let help = match report.dropped.iter().any(|d| d.reason == Reason::Malformed) {
            true => "set the source's `malformed = \"error\"` to see what is wrong with its rows",
            false => "raise `train.max_length`, or look at the rows with `lorakit data show`",
        };
        return Err(Error::data(path, None, why, help));
    }
    let named = !data.heldout.is_empty() || !data.heldout_tasks.is_empty();
    if named && numbers.heldout.is_empty() {
        let path = data.heldout.first().map_or(Path::new("[data] heldout_tasks"), |s| &s.path);
        let held = report.dropped.iter().filter(|d| report.sources[d.source].split == Split::Heldout).cloned();
        let why = format!("no held-out row is left to judge by; {}", reasons(&held.collect::<Vec<_>>()));
        let help = "raise `train.max_length`, name other rows, or leave the key out: `data.heldout_fraction` then sets training rows aside";
        return Err(Error::data(path, None, why, help));
    }
    Ok(())
}
