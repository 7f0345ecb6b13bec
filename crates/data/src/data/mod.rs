//! From files of rows to tokens with a loss mask.
//!
//! ```text
//! read ─────────────► render ──────────────────────────────► set
//! source ─► shape      template ─► spans ─► encode             load: dropped, counted, split,
//! files     rows       text        where    tokens + mask      in memory and on disk
//!                                  messages lie
//! ```
//! Refuses to know models and adapters.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 1 | [`read`] | files → rows |
//! | 2 | [`render`] | rows → tokens and mask |
//! | 3 | [`set`] | all rows of a recipe as tokens, in memory and on disk |
//! | 4 | [`preview`], [`questions`] | the first rows, for a person to look at; multiple-choice questions |

pub(crate) mod read;
pub(crate) mod render;
pub(crate) mod set;
mod preview;
mod questions;
#[cfg(test)]
mod tests;

pub use preview::{Piece, PreviewRow, preview, preview_examples};
pub use questions::{Choice, Question, load_questions};
pub use read::Split;
pub use read::reason::Reason;
pub use read::row::{Conversation, Loss, Message, Preference, Row, RowKind};
pub use render::context::{Rendered, render_context};
pub use render::example::{Example, Prompt};
pub use render::renderer::Renderer;
pub use render::template::{ByTools, Clock, Jinja};
pub use set::account::DroppedRows;
pub use set::cache::Cache;
pub use set::examples::{ExampleRef, Examples, Mask, Prompts};
pub use set::load::{LoadOptions, load, load_set, load_with};
pub use set::loaded::Loaded;
pub use set::report::{Counts, Dropped, Injected, Long, Report, SourceReport, SplitRow};
pub use set::request::LoadProgress;

pub use crate::tokenizer::{ChatTemplates, Special, Tokenizer, Tokens};
