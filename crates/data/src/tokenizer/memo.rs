//! What the library's model made of words, kept: most words of a text have come before.
//!
//! Bounded: when it is full it starts anew. Each thread takes one for a text and puts it back, so nobody waits.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use foldhash::fast::FixedState;

/// A token of a word: its id and the bytes of the word that it covers, whole characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenSpan {
    pub(crate) id: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// Words that a memo holds, at most.
const WORDS: usize = 1 << 17;
/// Pieces of all words of a memo, at most (12 bytes each).
const PIECES: usize = 1 << 20;
/// Longer words hardly come back.
const LONGEST: usize = 64;

#[derive(Default)]
pub(crate) struct Memo {
    words: HashMap<Box<str>, Range<u32>, FixedState>,
    pieces: Vec<TokenSpan>,
}

impl Memo {
    /// The tokens of `word`.
    pub(crate) fn get(&self, word: &str) -> Option<&[TokenSpan]> {
        let at = self.words.get(word)?;
        Some(&self.pieces[at.start as usize..at.end as usize])
    }

    pub(crate) fn put(&mut self, word: &str, pieces: &[TokenSpan]) {
        if word.len() > LONGEST {
            return;
        }
        if self.words.len() >= WORDS || self.pieces.len() + pieces.len() > PIECES {
            self.words.clear();
            self.pieces.clear();
        }
        let start = self.pieces.len() as u32;
        self.pieces.extend_from_slice(pieces);
        self.words.insert(word.into(), start..self.pieces.len() as u32);
    }
}

/// The memos of a tokenizer: as many as threads have used it at once.
#[derive(Default)]
pub(crate) struct Memos {
    idle: Mutex<Vec<Memo>>,
}

impl Memos {
    /// Calls `f` with a memo that nobody else uses.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Memo) -> T) -> T {
        let mut memo = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let out = f(&mut memo);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(memo);
        out
    }
}
