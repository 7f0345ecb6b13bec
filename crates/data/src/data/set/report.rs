//! What became of every row: used, dropped (with reason and line), cut, and what the tokens are.
//!
//! Refuses to know how it is shown (`cli::data`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::data::read::Split;
use crate::data::read::reason::Reason;
use serde::{Deserialize, Serialize};

/// Account of a [`super::load::load`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Training files first, then held-out ones; `source` of rows and examples counts here.
    pub sources: Vec<SourceReport>,
    pub train: Counts,
    pub heldout: Counts,
    /// The sources that have a row in use.
    #[serde(default)]
    pub used_sources: BTreeSet<usize>,
    /// Rows that are not used, in file order.
    pub dropped: Vec<Dropped>,
    /// Rows cut at the longest length; `tokens` as they were.
    pub truncated: Vec<Long>,
    /// Rows split at turns, in file order.
    pub split: Vec<SplitRow>,
    /// Special tokens written inside messages; they were kept as text.
    pub injected: Vec<Injected>,
    /// The longest rows in use, longest first.
    pub longest: Vec<Long>,
    /// Answers that no special token ends: a model trained on these alone does not learn to stop.
    pub open_answers: usize,
    /// Held-out rows whose tokens are those of a training row.
    pub repeated: Vec<Long>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    pub path: PathBuf,
    pub split: Split,
    pub shape: crate::recipe::Shape,
    /// Rows in the file.
    pub rows: usize,
    /// Rows left out by `limit`.
    pub beyond_limit: usize,
    /// Columns (and `message.KEY`) that are not used, with the rows in which they say something.
    pub ignored: BTreeMap<String, usize>,
    /// What else is to be told of it: another separator than its name says; how its columns become instructions.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Numbers of a split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub examples: usize,
    pub tokens: usize,
    /// Tokens that carry loss.
    pub trained: usize,
    /// Role → tokens; `template` is what belongs to no message.
    pub roles: BTreeMap<String, usize>,
}

/// A row that is not used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub source: usize,
    pub line: usize,
    /// Which part of a split row it is, from 1; 0: the row.
    #[serde(default, skip_serializing_if = "is_whole")]
    pub part: usize,
    pub reason: Reason,
}

/// A row and its length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Long {
    pub source: usize,
    pub line: usize,
    /// As [`Dropped::part`].
    #[serde(default, skip_serializing_if = "is_whole")]
    pub part: usize,
    pub tokens: usize,
}

fn is_whole(part: &usize) -> bool {
    *part == 0
}

/// A row that was too long and became several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitRow {
    pub source: usize,
    pub line: usize,
    /// Tokens as it was.
    pub tokens: usize,
    /// What it became, used or dropped.
    pub parts: usize,
}

/// A special token written inside a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    pub source: usize,
    pub line: usize,
    pub token: String,
    pub times: usize,
}

impl Counts {
    /// Share of tokens that carry loss, 0 to 1.
    pub fn share_trained(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.trained as f64 / self.tokens as f64 }
    }
}

impl Report {
    /// Rows in all files.
    pub fn rows_read(&self) -> usize {
        self.sources.iter().map(|s| s.rows).sum()
    }

    /// Rows beyond those read, that splitting made: rows read and these = used + dropped + beyond limits.
    pub fn rows_added(&self) -> usize {
        self.split.iter().map(|row| row.parts - 1).sum()
    }

    /// Examples: rows in use, a part of a split row counting as one.
    pub fn rows_used(&self) -> usize {
        self.train.examples + self.heldout.examples
    }
}
