//! `[eval]`: how base and adapter are compared. Refuses to know: what is measured, and on what.

use std::path::PathBuf;

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
    /// Multiple-choice questions that base and adapter are judged on.
    pub choices: Vec<ChoiceSet>,
}

/// `[[eval.sets]]`: rows under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalSet {
    pub name: String,
    pub rows: Vec<Source>,
    /// Judge at most this many of them.
    pub limit: Option<usize>,
}

/// `[[eval.choices]]`: multiple-choice questions under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceSet {
    pub name: String,
    pub paths: Vec<PathBuf>,
    /// Judge at most this many of them.
    pub limit: Option<usize>,
    /// What is asked: [`ChoiceSet::QUESTION`] in it stands for a row's question.
    pub prompt: String,
    /// Ask in the template, not as plain text.
    pub chat: bool,
    /// What stands between prompt and choice.
    pub delimiter: String,
}

impl ChoiceSet {
    /// Stands for the question in [`ChoiceSet::prompt`].
    pub const QUESTION: &str = "{question}";
}

impl Default for Eval {
    /// What a recipe with an empty `[eval]` says.
    fn default() -> Eval {
        Eval {
            exact_match: false,
            normalize: false,
            rouge_l: false,
            max_new_tokens: 64,
            batch_size: 16,
            limit: None,
            samples: 2,
            sets: Vec::new(),
            choices: Vec::new(),
        }
    }
}

impl Eval {
    /// Whether answers are generated.
    pub fn generates(&self) -> bool {
        self.exact_match || self.rouge_l
    }
}
