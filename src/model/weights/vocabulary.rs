//! The vocabulary of a GGUF file, checked: pieces, their kinds, scores or merges, and the special ids.
//!
//! Keys follow ggml's `docs/gguf.md`, section "Tokenizer". Refuses to know: how text is split.

use std::collections::HashMap;

use super::gguf::{Gguf, MetadataValue};
use crate::error::{Error, Result};

const REFETCH: &str = "the tokenizer in the file is damaged: fetch the model again";

/// llama.cpp's `llama_token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// Pieces in the order of their ids, with their kinds.
pub(super) struct Vocabulary<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) pieces: Vec<&'a str>,
    pub(super) kinds: Vec<Kind>,
    /// Piece → id.
    pub(super) ids: HashMap<&'a str, usize>,
    /// Ids whose text is empty in the file.
    pub(super) empty: Vec<usize>,
}

/// Gives tokens without a text the name that llama.cpp gives them, `[EMPTY_id]`; their ids.
pub(super) fn name_empty_tokens(gguf: &mut Gguf) -> Vec<usize> {
    let mut empty = Vec::new();
    if let Some(MetadataValue::Array(tokens)) = gguf.metadata.get_mut("tokenizer.ggml.tokens") {
        for (id, token) in tokens.iter_mut().enumerate().filter(|(_, token)| token.text() == Some("")) {
            *token = MetadataValue::Text(format!("[EMPTY_{id}]"));
            empty.push(id);
        }
    }
    empty
}

impl<'a> Vocabulary<'a> {
    /// `empty` are the ids that [`name_empty_tokens`] named: no text becomes one of them.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing or wrong.
    pub(super) fn read(gguf: &'a Gguf, empty: Vec<usize>) -> Result<Self> {
        let mut vocabulary = Self { gguf, pieces: Vec::new(), kinds: Vec::new(), ids: HashMap::new(), empty };
        vocabulary.pieces = vocabulary.texts("tokens")?;
        for (id, piece) in vocabulary.pieces.iter().enumerate() {
            if let Some(first) = vocabulary.ids.insert(piece, id) {
                return Err(vocabulary.wrong("tokens", format!("tokens {first} and {id} are both {piece:?}")));
            }
        }
        vocabulary.kinds = vocabulary.read_kinds()?;
        for id in &vocabulary.empty {
            vocabulary.kinds[*id] = Kind::Unused;
        }
        Ok(vocabulary)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a MetadataValue> {
        self.gguf.metadata.get(&format!("tokenizer.ggml.{key}"))
    }

    pub(super) fn wrong(&self, key: &str, why: impl Into<String>) -> Error {
        Error::model(&self.gguf.path, format!("key `tokenizer.ggml.{key}`"), why, REFETCH)
    }

    /// The piece of a special id such as `bos_token_id`, if the file names one.
    pub(super) fn special(&self, key: &str) -> Result<Option<String>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = value.count().and_then(|n| usize::try_from(n).ok());
        let piece = id.and_then(|id| self.pieces.get(id));
        piece
            .map(|p| Some((*p).to_string()))
            .ok_or_else(|| self.wrong(key, format!("it is no id of the {} tokens", self.pieces.len())))
    }

    /// Pairs of pieces in the order in which they are merged.
    pub(super) fn merges(&self) -> Result<Vec<(&'a str, &'a str)>> {
        let lines = self.texts("merges")?;
        let pairs = lines.into_iter().map(|line| {
            // A piece may begin with a space, never contain one further on: the separator is the first space after a character.
            let at = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let (left, right) = at
                .map(|at| (&line[..at], &line[at + 1..]))
                .ok_or_else(|| self.wrong("merges", format!("{line:?} is not a pair")))?;
            let joined = [left, right].concat();
            match [left, right, &joined].into_iter().find(|p| !self.ids.contains_key(p)) {
                None => Ok((left, right)),
                Some(piece) => Err(self.wrong("merges", format!("{line:?} needs {piece:?}, which is not a token"))),
            }
        });
        pairs.collect()
    }

    /// Whether the file has scores.
    pub(super) fn scored(&self) -> bool {
        self.get("scores").is_some()
    }

    /// One score for each piece. SentencePiece numbers the pieces of a BPE in the order in which it made them, so that the
    /// ids stand for scores that are not there (as in transformers' `generate_merges`).
    pub(super) fn scores(&self) -> Result<Vec<f64>> {
        if !self.scored() {
            return Ok((0..self.pieces.len()).map(|id| -(id as f64)).collect());
        }
        let scores = self.list("scores")?.iter().map(|v| v.number().filter(|x| !x.is_nan()));
        let scores: Vec<f64> =
            scores.collect::<Option<_>>().ok_or_else(|| self.wrong("scores", "it holds something that is not a number"))?;
        self.one_each("scores", scores)
    }

    fn read_kinds(&self) -> Result<Vec<Kind>> {
        if self.get("token_type").is_none() {
            return Ok(vec![Kind::Normal; self.pieces.len()]);
        }
        let kinds = self.list("token_type")?.iter().map(|v| {
            Some(match v.count()? {
                1 => Kind::Normal,
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                5 => Kind::Unused,
                6 => Kind::Byte,
                _ => return None,
            })
        });
        let kinds: Vec<Kind> =
            kinds.collect::<Option<_>>().ok_or_else(|| self.wrong("token_type", "it holds a kind that is not known"))?;
        self.one_each("token_type", kinds)
    }

    fn one_each<T>(&self, key: &str, list: Vec<T>) -> Result<Vec<T>> {
        let (n, tokens) = (list.len(), self.pieces.len());
        if n == tokens { Ok(list) } else { Err(self.wrong(key, format!("it has {n} entries for {tokens} tokens"))) }
    }

    fn list(&self, key: &str) -> Result<&'a [MetadataValue]> {
        self.get(key).and_then(MetadataValue::array).ok_or_else(|| self.wrong(key, "it is not there, or not a list"))
    }

    fn texts(&self, key: &str) -> Result<Vec<&'a str>> {
        let texts: Option<Vec<&str>> = self.list(key)?.iter().map(MetadataValue::text).collect();
        texts.ok_or_else(|| self.wrong(key, "it holds something that is not text"))
    }
}
