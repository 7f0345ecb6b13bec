//! Splits a text into words as the patterns of byte-level tokenizers do, without a regular expression.
//!
//! Two patterns cover most of them; in both every character belongs to exactly one word:
//! - GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//! - cl100k (Llama 3, Qwen 2): `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|`
//!   ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, with at most one or three digits a word.
//!
//! Refuses to know tokens.

use std::ops::Range;

use super::classes::{CLASS, LETTER, NUMBER, NUMERIC, OTHER, SPACE};

/// The end of the text, or of the piece of it that the pattern sees.
const END: u8 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SplitPattern {
    Gpt2,
    /// With at most this many digits a word.
    Cl100k {
        digits: usize,
    },
}

/// How a text is split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordSplit {
    pub(crate) pattern: SplitPattern,
    /// Every numeric character is cut out first, a word by itself (`Digits` with `individual_digits`).
    pub(crate) digits_apart: bool,
    /// [`super::classes::classes`].
    pub(crate) classes: &'static [u8],
}

impl WordSplit {
    /// The words of `text`, in order and without gaps.
    pub(crate) fn of<'t>(&self, text: &'t str) -> impl Iterator<Item = Range<usize>> + use<'t> {
        let cut = if self.digits_apart { NUMERIC } else { 0 };
        let (scan, pattern) = (Splitter { text, bytes: text.as_bytes(), classes: self.classes, cut }, self.pattern);
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at;
            at = scan.word(start, pattern)?;
            Some(start..at)
        })
    }
}

struct Splitter<'t> {
    text: &'t str,
    bytes: &'t [u8],
    classes: &'static [u8],
    /// Bits of a class that end the piece.
    cut: u8,
}

impl Splitter<'_> {
    /// The end of the word that begins at `i`; `None` at the end of the text.
    fn word(&self, i: usize, pattern: SplitPattern) -> Option<usize> {
        let first = *self.bytes.get(i)?;
        let (class, len) = self.class(i);
        if class == END {
            return Some(i + len);
        }
        Some(match pattern {
            SplitPattern::Gpt2 => self.gpt2(i, first),
            SplitPattern::Cl100k { digits } => self.cl100k(i, first, class, len, digits),
        })
    }

    /// Class and length of the character at `i`.
    #[inline]
    fn class(&self, i: usize) -> (u8, usize) {
        let (class, len) = match self.bytes.get(i) {
            None => return (END, 0),
            Some(b) if *b < 0x80 => (self.classes[usize::from(*b)], 1),
            Some(_) => self.text[i..].chars().next().map_or((END, 0), |c| (self.classes[c as usize], c.len_utf8())),
        };
        if class & self.cut != 0 { (END, len) } else { (class & CLASS, len) }
    }

    /// The end of the characters of `class` from `i` on.
    #[inline]
    fn run(&self, mut i: usize, class: u8) -> usize {
        loop {
            match self.class(i) {
                (c, len) if c == class => i += len,
                _ => return i,
            }
        }
    }

    fn gpt2(&self, i: usize, first: u8) -> usize {
        if first == b'\''
            && let Some(end) = self.contraction(i, |b| b)
        {
            return end;
        }
        let at = i + usize::from(first == b' ');
        match self.class(at) {
            (SPACE | END, _) => self.spaces(i, self.run(i, SPACE)),
            (class, len) => self.run(at + len, class),
        }
    }

    fn cl100k(&self, i: usize, first: u8, class: u8, len: usize, digits: usize) -> usize {
        if first == b'\'' {
            if self.bytes[i + 1..].starts_with("ſ".as_bytes()) {
                return i + 1 + "ſ".len(); // folds to `s`
            }
            if let Some(end) = self.contraction(i, |b| b | 0x20) {
                return end;
            }
        }
        let newline = |b: &u8| matches!(b, b'\r' | b'\n');
        match class {
            LETTER => return self.run(i + len, LETTER),
            NUMBER => return self.number(i, digits),
            _ if !newline(&first) && self.class(i + len).0 == LETTER => return self.run(i + len, LETTER),
            _ => {}
        }
        let at = i + usize::from(first == b' ');
        if self.class(at).0 == OTHER {
            let end = self.run(at, OTHER);
            return end + self.bytes[end..].iter().take_while(|b| newline(b)).count();
        }
        let end = self.run(i, SPACE);
        match self.bytes[i..end].iter().rposition(newline) {
            Some(last) => i + last + 1,
            None => self.spaces(i, end),
        }
    }

    /// The end of at most `digits` numbers.
    fn number(&self, mut i: usize, digits: usize) -> usize {
        for _ in 0..digits {
            match self.class(i) {
                (NUMBER, len) => i += len,
                _ => break,
            }
        }
        i
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d` at the apostrophe `i`.
    fn contraction(&self, i: usize, fold: impl Fn(u8) -> u8) -> Option<usize> {
        let at = |n: usize| self.bytes.get(i + n).map(|b| fold(*b));
        match (at(1)?, at(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(i + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(i + 3),
            _ => None,
        }
    }

    /// `\s+(?!\S)|\s+` over the white space from `i` to `end`: the last character goes to the word after it.
    fn spaces(&self, i: usize, end: usize) -> usize {
        if self.class(end).0 == END {
            return end;
        }
        match self.text[i..end].char_indices().next_back() {
            Some((last, _)) if last > 0 => i + last,
            _ => end,
        }
    }
}
