//! How a conversation becomes text, and where in that text each message lies.
//!
//! Refuses to know tokens.

mod clock;
mod fixed;
mod jinja;
mod python;

use std::ops::Range;

pub use clock::Clock;
pub(super) use fixed::{Fixed, Style, join};
pub use jinja::Jinja;

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Rendering {
    pub(super) text: String,
    pub(super) turns: Vec<Turn>,
    /// The template rewrites contents, so that the places of some are not certain.
    pub(super) guessed: bool,
}

/// A message in the text of a [`Rendering`]; all places are byte ranges of that text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub(super) role: String,
    /// Every place where the content stands: special tokens written there are text.
    pub(super) content: Vec<Range<usize>>,
    /// For an assistant's turn: what the model itself must write.
    pub(super) answer: Option<Answer>,
}

/// What a model writes in a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// From the end of the generation prompt to the end of the content.
    pub(super) span: Range<usize>,
    /// The first special token from `span.end` up to here ends the turn, and is trained with it.
    pub(super) until: usize,
}
