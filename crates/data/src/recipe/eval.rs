//! `[eval]`: how base and adapter are compared. Refuses to know: what is measured, and on what.

use super::Source;

/// `[eval]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Eval {
    /// Generate answers and compare them with the references.
    pub exact_match: bool,
    /// Compare them without regard to case, punctuation and white space.
    pub normalize: bool,
    /// Generate answers and score them with ROUGE-L.
    pub rouge_l: bool,
    pub max_new_tokens: usize,
    pub batch_size: usize,
    /// Judge at most this many held-out rows.
    pub limit: Option<usize>,
    /// Before/after answers to print.
    pub samples: usize,
    /// Further sets that base and adapter are judged on.
    pub sets: Vec<EvalSet>,
}

/// `[[eval.sets]]`: rows under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalSet {
    pub name: String,
    pub rows: Vec<Source>,
    /// Judge at most this many of them.
    pub limit: Option<usize>,
}

impl Eval {
    /// Whether answers are generated.
    pub fn generates(&self) -> bool {
        self.exact_match || self.rouge_l
    }
}
