//! The bytes of every token, and the tokenizer as `llguidance` asks for it.

use tokenizers::AddedToken;
use toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::super::token_bytes::{SPACE, byte_token, bytes_of};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Longest token that is offered, in bytes; the trie holds 1024 levels.
const LONGEST: usize = 1000;
/// Greatest vocabulary; the trie holds 24 bits of an id.
const WIDEST: usize = (1 << 24) - 2;
/// Texts of which a tokenizer must give back the very bytes to be trusted with forced text.
const PROBES: [&str; 4] = ["{\"name\": \"value\"}", "a", " b", "[1, 2]\n"];

/// How the tokens of a vocabulary are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// Each byte as a character of GPT-2's alphabet.
    ByteLevel,
    /// UTF-8 with `▁` for a space and `<0xAB>` for a byte.
    SentencePiece,
}

/// The tokenizer with a trie of its tokens' bytes.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
    canonical: bool,
}

impl Vocabulary {
    /// The first `width` ids; ids that the tokenizer lacks are empty, special tokens never match text.
    ///
    /// # Errors
    /// As [`eos`]; [`Error::Usage`] when the bytes of its tokens are not known.
    pub(super) fn new(tokenizer: &Tokenizer, width: usize) -> Result<Vocabulary> {
        let (eos, words) = (eos(tokenizer, width)?, words(tokenizer, width)?);
        let info = TokRxInfo::new(width as u32, eos[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&eos);
        let mut vocabulary = Vocabulary { tokenizer: tokenizer.clone(), trie, canonical: false };
        vocabulary.canonical = PROBES.iter().all(|text| vocabulary.exact(text).is_some());
        Ok(vocabulary)
    }

    /// The tokenizer's own tokens of `text`, if they are written with its very bytes.
    fn exact(&self, text: &str) -> Option<Vec<TokenId>> {
        let ids = self.tokenizer.encode_text(text).ok()?;
        let whole = ids.iter().all(|id| (*id as usize) < self.trie.vocab_size());
        (whole && self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let whole = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
        let text = std::str::from_utf8(&bytes[..whole]).unwrap_or_default();
        let mut ids = self.exact(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        ids.extend(self.trie.greedy_tokenize(&bytes[whole..]));
        ids
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

/// The ids below `width` that end a text: at least one.
///
/// # Errors
/// [`Error::Usage`] when there is none, or `width` is more than the trie holds.
pub(super) fn eos(tokenizer: &Tokenizer, width: usize) -> Result<Vec<u32>> {
    if width > WIDEST {
        return Err(unusable(format!("{width} tokens are more than {WIDEST}")));
    }
    let eos: Vec<u32> = tokenizer.eos_ids().iter().copied().filter(|id| (*id as usize) < width).collect();
    if eos.is_empty() { Err(unusable("no token ends a text")) } else { Ok(eos) }
}

/// A special token whose text stands in `text`.
pub(super) fn special(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let added = tokenizer.inner().get_added_tokens_decoder();
    let special = |(id, token): (&u32, &AddedToken)| tokenizer.is_control(*id) && text.contains(&token.content);
    added.iter().find(|entry| special(*entry)).map(|(_, token)| token.content.clone())
}

/// The bytes of the ids below `width`; special tokens begin with the marker of the trie.
fn words(tokenizer: &Tokenizer, width: usize) -> Result<Vec<Vec<u8>>> {
    let inner = tokenizer.inner();
    let (writing, added) = (writing(inner)?, inner.get_added_tokens_decoder());
    let word = |id: u32| {
        let text = inner.id_to_token(id)?;
        let word = if tokenizer.is_control(id) || tokenizer.eos_ids().contains(&id) {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat()
        } else if added.contains_key(&id) {
            text.into_bytes()
        } else {
            match writing {
                Writing::ByteLevel => bytes_of(&text),
                Writing::SentencePiece => match byte_token(&text) {
                    Some(byte) => vec![byte],
                    None => text.replace(SPACE, " ").into_bytes(),
                },
            }
        };
        (word.len() <= LONGEST).then_some(word)
    };
    Ok((0..width as u32).map(|id| word(id).unwrap_or_default()).collect())
}

/// What the tokenizer's decoder undoes tells how its tokens are written.
fn writing(inner: &tokenizers::Tokenizer) -> Result<Writing> {
    let parts = serde_json::json!([inner.get_decoder(), inner.get_pre_tokenizer()]).to_string();
    if parts.contains("\"ByteLevel\"") {
        Ok(Writing::ByteLevel)
    } else if parts.contains("\"ByteFallback\"") || parts.contains("\"Metaspace\"") || parts.contains(SPACE) {
        Ok(Writing::SentencePiece)
    } else {
        Err(unusable("its tokens are written neither in GPT-2's alphabet of bytes nor as SentencePiece writes them"))
    }
}

fn unusable(why: impl Into<String>) -> Error {
    Error::usage("constrained answer: tokenizer", why, "ask this model for unconstrained answers")
}
