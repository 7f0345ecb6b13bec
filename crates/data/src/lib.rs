//! From a recipe and files of rows to tokens with a loss mask.
//!
//! ```text
//! recipe ─► data::read ─► data::render ───────────────► data::set
//!  TOML     files → rows  rows → text → tokens and mask  in memory and on disk
//! ```
//! Refuses to know models and adapters. Modules in reading order; a module uses only modules with a smaller number.
//!
//! | # | module | knows |
//! |---|---|---|
//! | 1 | [`json`], [`recipe`] | JSON whose numbers keep their text; the TOML file, checked |
//! | 2 | [`tokenizer`] | text to tokens, special tokens apart |
//! | 3 | [`data`] | sources, shapes, templates, tokens and loss mask |
//! | 4 | [`curate`] | what rows are worth, and which of them to keep |

use lorakit_base::{device, error, files, hub, piped, random};

pub mod json;
pub mod recipe;
pub mod tokenizer;
pub mod data;
pub mod curate;
