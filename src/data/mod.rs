//! From files of rows to tokens with a loss mask.
//!
//! ```text
//! source ─► shape ─► renderer (template ─► spans ─► encode) ─► load
//! lines     rows     text      where each   tokens + mask      dropped, counted, split
//!                              message lies
//! ```
//! and, for training, [`pack`]: several examples in a row.
//!
//! The loss falls on the tokens of every assistant turn, the token that ends the turn included; where these lie is
//! found from the rendering itself. Special tokens come from templates only: written in a message they stay text.
//! Refuses to know models and adapters.

mod tokenizer;
mod special;
mod order;
pub mod pack;
mod source;
mod shape;
mod template;
mod spans;
mod encode;
mod renderer;
mod report;
mod load;
#[cfg(test)]
mod pitfalls;
#[cfg(test)]
mod shape_tests;
#[cfg(test)]
mod load_tests;
#[cfg(test)]
pub(crate) mod tiny;

pub use load::{Loaded, load};
pub use renderer::Renderer;
pub use report::{Counts, Dropped, Injected, Long, Reason, Report, SourceReport, Split};
pub use template::{Clock, Jinja};
pub use tokenizer::{Special, Tokenizer};

/// A turn of a conversation; roles are `system`, `user`, `assistant` and `tool`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKind {
    /// `messages` or ShareGPT `conversations`; ends with an assistant's turn.
    Chat(Vec<Message>),
    /// Kept apart from a conversation because Alpaca's prompts differ with and without input. Other templates get
    /// the instruction and, on the next line, the input as the user's message.
    Alpaca { instruction: String, input: String, output: String, system: Option<String> },
    /// One turn of user and assistant under every template; joined as they are when the model has no template.
    Completion { prompt: String, completion: String },
    /// Trained from its first to its last token, whatever the template; EOS is put after it.
    Text(String),
}

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Index into [`Report::sources`].
    pub source: usize,
    /// Line of the file, from 1.
    pub line: usize,
    pub kind: RowKind,
}

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
    pub source: usize,
    pub line: usize,
}
