//! How a conversation becomes text, and where in that text each message lies.
//!
//! Refuses to know tokens.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `by_tools`, `clock`, `fixed`, `methods`, `written` | which of several templates is used; the date a template is told; templates of our own; methods of Python; numbers with their text |
//! | 1 | `python` | how Python prints |
//! | 2 | `builtins`, `chat`, `spelled` | functions of Jinja; a conversation as a template sees it; templates of our own in Jinja |
//! | 3 | `jinja` | a model's own template |

mod by_tools;
mod chat;
mod clock;
mod fixed;
mod jinja;
mod methods;
mod builtins;
mod written;
mod python;
pub(crate) mod spelled;

use std::ops::Range;

pub use by_tools::ByTools;
pub(crate) use chat::{Chat, ChatMessage, Said, texts, with_texts};
pub use clock::Clock;
pub(crate) use fixed::{Fixed, Style, join};
pub(crate) use jinja::GENERATION;
pub use jinja::Jinja;
pub(crate) use python::from_json;

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rendering {
    pub(crate) text: String,
    pub(crate) turns: Vec<RenderedTurn>,
    /// Places outside contents that someone wrote (reasoning, the arguments of a tool call): special tokens there are
    /// text, too.
    pub(crate) foreign: Vec<Range<usize>>,
    /// The template says itself what an answer is, its end included or not.
    pub(crate) enclosed: bool,
    /// The template rewrites contents, so that the places of some are not certain.
    pub(crate) guessed: bool,
    /// Messages whose calls of tools the template does not write.
    pub(crate) unwritten: Vec<usize>,
}

/// A message in the text of a [`Rendering`]; all places are byte ranges of that text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct RenderedTurn {
    pub(crate) role: String,
    /// Every place where the content stands: special tokens written there are text.
    pub(crate) content: Vec<Range<usize>>,
    /// For an assistant's turn: what the model itself must write, from the end of the generation prompt on, several
    /// pieces where the template says so itself.
    pub(crate) answer: Vec<Range<usize>>,
    /// The text that ends the turn, right after the answer (of other turns: right after the content).
    pub(crate) end: Option<Range<usize>>,
    /// What carries loss.
    pub(crate) trained: Vec<Range<usize>>,
    /// The turn has no end of its own: an end of turn right after it (the next speaker's token, in some models) carries
    /// loss too.
    pub(crate) seeks_end: bool,
}
