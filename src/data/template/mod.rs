//! How a conversation becomes text, and where in that text each message lies.
//!
//! Refuses to know tokens.

mod chat;
mod clock;
mod fixed;
mod jinja;
mod methods;
mod builtins;
mod python;

use std::ops::Range;

pub(super) use chat::{Chat, ChatMessage, Said, texts, with_texts};
pub use clock::Clock;
pub(super) use fixed::{Fixed, Style, join};
pub(super) use jinja::GENERATION;
pub use jinja::Jinja;
pub(super) use python::from_json;

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Rendering {
    pub(super) text: String,
    pub(super) turns: Vec<Turn>,
    /// Places outside contents that someone wrote (reasoning, the arguments of a tool call): special tokens there are
    /// text, too.
    pub(super) foreign: Vec<Range<usize>>,
    /// The template says itself what an answer is, its end included or not.
    pub(super) enclosed: bool,
    /// The template rewrites contents, so that the places of some are not certain.
    pub(super) guessed: bool,
    /// Messages whose calls of tools the template does not write.
    pub(super) unwritten: Vec<usize>,
}

/// A message in the text of a [`Rendering`]; all places are byte ranges of that text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Turn {
    pub(super) role: String,
    /// Every place where the content stands: special tokens written there are text.
    pub(super) content: Vec<Range<usize>>,
    /// For an assistant's turn: what the model itself must write, from the end of the generation prompt on, several
    /// pieces where the template says so itself.
    pub(super) answer: Vec<Range<usize>>,
    /// The text that ends the turn, right after the answer (of other turns: right after the content).
    pub(super) end: Option<Range<usize>>,
    /// What carries loss.
    pub(super) trained: Vec<Range<usize>>,
    /// The turn has no end of its own: an end of turn right after it (the next speaker's token, in some models) carries
    /// loss too.
    pub(super) seeks_end: bool,
}
