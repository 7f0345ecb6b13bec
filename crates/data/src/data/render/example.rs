//! What a row becomes: tokens to train on, or tokens to generate from.

/// A row as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub ids: Vec<u32>,
    /// `trained[i]`: token `i` carries loss as a target (predicted from the tokens before it). Never the first one.
    pub trained: Vec<bool>,
    pub source: usize,
    pub line: usize,
}

impl Example {
    /// Tokens that carry loss; the first one has nothing to be predicted from.
    pub fn targets(&self) -> usize {
        self.trained.iter().skip(1).filter(|t| **t).count()
    }
}

/// A conversation up to its last answer, to generate from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// The answer that the row gives.
    pub reference: String,
    /// Every answer that counts as right, `reference` first.
    pub references: Vec<String>,
    /// As [`Row::task`](crate::data::Row::task).
    pub task: Option<String>,
    /// As [`Row::cluster`](crate::data::Row::cluster).
    pub cluster: Option<String>,
    pub source: usize,
    pub line: usize,
}
