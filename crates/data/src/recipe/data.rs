//! `[data]`, checked: where rows come from and how they are read.

use std::path::PathBuf;

/// `[data]`: rows to train on and rows to judge by.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    pub train: Vec<Source>,
    pub heldout: Vec<Source>,
    /// Without `heldout`: the share of the training rows that is set aside.
    pub heldout_fraction: f64,
    pub over_long: OverLong,
    /// Tasks or clusters of `train` that are held out as a whole; `*` stands for any part of a name.
    pub heldout_tasks: Vec<String>,
    pub mixture: Mixture,
    pub replay: Option<Replay>,
    pub cache: Keep,
}

impl Data {
    /// Every row of `train` once an epoch, none held out, over-long ones dropped.
    pub fn of(train: Vec<Source>) -> Data {
        Data {
            train,
            heldout: Vec::new(),
            heldout_fraction: 0.0,
            over_long: OverLong::Drop,
            heldout_tasks: Vec::new(),
            mixture: Mixture::default(),
            replay: None,
            cache: Keep::Default,
        }
    }

    /// Sources to replay.
    pub fn replayed(&self) -> &[Source] {
        self.replay.as_ref().map_or(&[], |replay| &replay.sources)
    }
}

/// `[data.mixture]`: how many rows of each source an epoch has.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    pub strategy: Strategy,
    /// Of `proportional`: rows of a source beyond this many do not raise its share.
    pub cap: Option<usize>,
    /// Of `proportional`: shares are raised to 1/temperature.
    pub temperature: f64,
    /// Rows of an epoch; `None`: as many as the sources have (up to `cap` of each).
    pub rows: Option<usize>,
    pub unit: MixtureUnit,
}

impl Default for Mixture {
    fn default() -> Mixture {
        Mixture { strategy: Strategy::All, cap: None, temperature: 1.0, rows: None, unit: MixtureUnit::Rows }
    }
}

/// What the shares of sources in a mixture follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Every row of every source, each source `epochs` times or `rows` of it.
    All,
    /// Examples-proportional with a cap (FLAN: Wei et al. 2021, §2.2), softened by a temperature (T5: Raffel et al. 2020, §3.5.2).
    Proportional,
    /// The weights of the sources.
    Weights,
}

/// What the shares of a mixture are shares of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MixtureUnit {
    Rows,
    Tokens,
}

/// `[data.replay]`: general text or instructions trained along, so that they are not forgotten.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub sources: Vec<Source>,
    /// Share of all tokens of an epoch, 0 to 1.
    pub fraction: f64,
}

/// Where the tokens of rows are kept between runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Keep {
    /// Those of large files, in the user's cache.
    #[default]
    Default,
    Off,
    In(PathBuf),
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
    pub malformed: Malformed,
    /// Name in the mixture; sources of one name are one part of it.
    pub name: Option<String>,
    /// Share in the mixture; `None`: 1 where shares are weights.
    pub weight: Option<f64>,
    /// Rows of it in an epoch.
    pub rows: Option<usize>,
    /// Times that it is seen in an epoch.
    pub epochs: Option<f64>,
    /// Which answer of preference rows is learnt.
    pub take: Option<Take>,
    /// Which pairs ranked replies give; `None`: the best against the worst.
    pub pairs: Option<Pairs>,
    pub clean: Option<Clean>,
    pub ghost_attention: bool,
    /// Of `superni`: positive examples in a prompt; `None`: 2.
    pub positive_examples: Option<usize>,
    /// Of `superni`: negative examples in a prompt; `None`: 0.
    pub negative_examples: Option<usize>,
    /// Of `flan`: the phrasings that a row gets; `None`: one.
    pub templates: Option<Templates>,
}

/// What becomes of a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Malformed {
    /// Stop.
    #[default]
    Error,
    /// Leave it out, count it and name its line.
    Drop,
}

/// Which answer of rows that have two, or a label, supervised training learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    Chosen,
    Rejected,
    /// Of labelled rows, those whose label is true.
    Desirable,
}

/// Which pairs are made of ranked replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    BestWorst,
    All,
}

/// Which phrasings of its task a row gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Templates {
    /// One, drawn by the seed.
    One,
    All,
}

/// How conversations are cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Clean {
    /// As Vicuna's data were: HTML to Markdown, roles alternating, remnants of the web page removed.
    Vicuna,
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
    /// `chosen` and `rejected` (with `prompt`, `messages` or `conversations`, or whole conversations that begin alike),
    /// or `replies` with ranks.
    Preference,
    /// Conversations, or `prompt` and `completion`, with a boolean `label`.
    Labelled,
    /// A task file of Super-NaturalInstructions: a row an instance.
    SuperNi,
    /// A task in several phrasings, as FLAN's: a TOML file that names its rows.
    Flan,
}

/// What to do with a row of more than `train.max_length` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverLong {
    /// Leave it out, count it and name its line.
    #[default]
    Drop,
    /// Make of a conversation several, cut between an answer and the user's next turn, each with the system message and as long as
    /// fits. An exchange that does not fit alone is dropped, and so is any other row: it has no turns.
    Split,
    /// Cut it at `max_length`; a row left without trained tokens is dropped.
    Truncate,
    /// Stop.
    Error,
}
