//! What becomes of rows of more than `train.max_length` tokens, as the recipe's `data.over_long` says: they are dropped,
//! truncated, split between turns, or an error.
//!
//! Refuses to know how a row becomes tokens: it asks.

use std::path::Path;

use crate::data::read::row::{Conversation, Row, RowKind};
use crate::data::render::encode::Encoded;
use crate::data::render::exchanges::Exchanges;
use crate::error::{Error, Result};
use crate::recipe::OverLong;

/// What is done with the rows of a source that are too long.
#[derive(Clone, Copy)]
pub(crate) struct Truncation {
    pub(crate) over_long: OverLong,
    pub(crate) max_length: usize,
    /// Dialogues say an instruction once, at their beginning, that all of their answers follow.
    pub(crate) tells_once: bool,
}

/// Whether a row, or a part of it, may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Whole,
    /// Its end was cut off.
    Truncated,
    /// It is to be dropped.
    TooLong,
}

/// A row as tokens, and the roles of its turns.
pub(crate) struct RowTokens {
    pub(crate) encoded: Encoded,
    pub(crate) roles: Vec<String>,
}

impl Truncation {
    /// Looks at the length of a row, or of a part of it, and cuts it if long ones are truncated.
    ///
    /// # Errors
    /// [`Error::Data`] with the line, where a long row is an error.
    pub(crate) fn apply(&self, encoded: &mut Encoded, path: &Path, line: usize) -> Result<Fit> {
        let tokens = encoded.ids.len();
        if tokens <= self.max_length {
            return Ok(Fit::Whole);
        }
        match self.over_long {
            OverLong::Drop | OverLong::Split => Ok(Fit::TooLong),
            OverLong::Error => {
                let why = format!("the row has {tokens} tokens, `train.max_length` is {}", self.max_length);
                let help = "shorten it, raise `train.max_length`, or set `data.over_long = \"split\"` or `\"drop\"`";
                Err(Error::data(path, Some(line), why, help))
            }
            OverLong::Truncate => {
                encoded.ids.truncate(self.max_length);
                encoded.trained.truncate(self.max_length);
                encoded.turn.truncate(self.max_length);
                Ok(Fit::Truncated)
            }
        }
    }

    /// The exchanges of a row of so many tokens if it is to be split.
    pub(crate) fn exchanges<'r>(&self, row: &'r Row, tokens: usize) -> Option<Exchanges<'r>> {
        let RowKind::Chat(chat) = &row.kind else { return None };
        if self.over_long != OverLong::Split || tokens <= self.max_length || self.lacks_instruction(chat) {
            return None;
        }
        Some(Exchanges::of(row, chat)).filter(|exchanges| exchanges.len() > 1)
    }

    /// Whether parts after the first would lack the instruction that they follow.
    fn lacks_instruction(&self, chat: &Conversation) -> bool {
        self.tells_once && chat.messages.first().is_none_or(|m| m.role != "system")
    }

    /// The parts that a row of so many tokens is split into, each with its tokens.
    ///
    /// # Errors
    /// Those of `tokenize`.
    pub(crate) fn parts(
        &self,
        exchanges: &Exchanges,
        tokens: usize,
        tokenize: impl Fn(&Row) -> Result<RowTokens>,
    ) -> Result<Vec<(Row, RowTokens)>> {
        exchanges.cut(tokens, self.max_length, |row| {
            let tokens = tokenize(row)?;
            Ok((tokens.encoded.ids.len() <= self.max_length, tokens))
        })
    }
}
