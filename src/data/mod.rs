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
mod order;
mod column;
mod examples;
mod spool;
pub mod mixture;
pub mod pack;
mod source;
mod row;
mod loss;
mod tasks;
mod shape;
mod template;
mod spans;
mod choice;
mod foreign;
mod context;
mod encode;
mod spoken;
mod renderer;
mod report;
mod parts;
mod work;
mod aside;
mod tally;
mod job;
mod load;
mod turns;
mod cache;
pub mod curate;
#[cfg(test)]
mod pitfalls;
#[cfg(test)]
mod load_tests;
#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
pub(crate) mod tiny;

pub use cache::{Cache, Options, load_with};
pub use context::{Rendered, render_context};
pub use examples::{ExampleRef, Examples, Mask, Prompts};
pub use job::{Loaded, Progress};
pub use load::{load, load_set};
pub use renderer::Renderer;
pub use report::{Counts, Dropped, Injected, Long, Reason, Report, SourceReport, Split, SplitRow};
pub use row::{Conversation, Loss, Message, Preference, Row, RowKind};
pub use template::{Clock, Jinja};
pub use tokenizer::{Special, Tokenizer, Tokens};
pub use turns::{Piece, Shown, turns, turns_of};

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
    /// As [`Row::task`].
    pub task: Option<String>,
    /// As [`Row::cluster`].
    pub cluster: Option<String>,
    pub source: usize,
    pub line: usize,
}
