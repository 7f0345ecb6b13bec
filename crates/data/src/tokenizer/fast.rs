//! The library's result, sooner: for tokenizers whose parts are all understood.
//!
//! Byte-level tokenizers split a text into added tokens and words and ask the model about each word by itself. Here the
//! splitting is done without copies and alignments, and the library's model is asked once a word and remembered. What a
//! tokenizer is made of decides; anything not recognised exactly stays with the library, and so does a tokenizer of
//! which a probe comes out differently.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::{AddedToken, Model, ModelWrapper};
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

use super::classes::classes;
use super::memo::{Memo, Memos, TokenSpan};
use super::words::{SplitPattern, WordSplit};
use super::{Tokens, by_library};

type Refused = tokenizers::Error;

/// A tokenizer whose parts are understood.
pub(crate) struct Fast {
    words: WordSplit,
    /// The text is normalised to NFC: only texts that already are so are read here.
    nfc: bool,
    /// Added tokens that are looked for before and after normalisation.
    added: [Option<Added>; 2],
    memos: Memos,
    /// The character that stands for each byte in the model's vocabulary.
    alphabet: [char; 256],
}

struct Added {
    find: AhoCorasick,
    ids: Vec<u32>,
}

/// Everything that has gone wrong elsewhere, in a few lines; how a tokenizer reads it is compared once.
const PROBE: &str = "I'll say it's 1234 TIMES: DON'T!  \t\r\n\n  Über-größe naïve façade 'S 'ſ ½²٣ ①\u{a0}\u{85}x \u{2028} \
    日本語の文章。한국어 Привет мир 👩‍👩‍👧‍👦🏽 e\u{301} नमस्ते \u{200b}\u{feff}_snake_case camelCase 3.14e-10 <|im_start|>user\n<s> \
    </s> <|endoftext|>   https://a.b/c?d=e&f#g {\"k\": [1, 2]}\n\n\n    return x**2  # ok\u{0}\u{10ffff}   ";

impl Fast {
    /// The parts of `inner`, when all are understood and a probe comes out as the library's.
    pub(crate) fn of(inner: &tokenizers::Tokenizer) -> Option<Fast> {
        let (pattern, digits_apart) = pattern(&json(inner.get_pre_tokenizer())?)?;
        let normalizer = json(inner.get_normalizer())?;
        let nfc = normalizer == serde_json::json!({"type": "NFC"});
        let plain_model = matches!(inner.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none_or(|p| p == 0.0));
        if !(nfc || normalizer.is_null())
            || !plain_model
            || !keeps_tokens(&json(inner.get_post_processor())?)
            || inner.get_encode_special_tokens()
        {
            return None;
        }
        let words = WordSplit { pattern, digits_apart, classes: classes()? };
        let fast = Fast { words, nfc, added: added(inner, nfc)?, memos: Memos::default(), alphabet: alphabet() };
        let agrees = fast.tokens(inner, PROBE).ok()?.is_none_or(|ours| by_library(inner, PROBE).is_ok_and(|t| t == ours));
        agrees.then_some(fast)
    }

    /// The tokens of `text`; `None` when the library must read it.
    pub(crate) fn tokens(&self, inner: &tokenizers::Tokenizer, text: &str) -> Result<Option<Tokens>, Refused> {
        if self.nfc && !text.is_ascii() && !matches!(is_nfc_quick(text.chars()), IsNormalized::Yes) {
            return Ok(None);
        }
        let room = text.len() / 3;
        let mut out = Tokens { ids: Vec::with_capacity(room), offsets: Vec::with_capacity(room) };
        self.memos.with(|memo| self.split(0, inner, memo, text, 0, &mut out))?;
        Ok(Some(out))
    }

    /// Cuts the added tokens of this stage out of `text`, which begins at `base`.
    fn split(
        &self,
        stage: usize,
        inner: &tokenizers::Tokenizer,
        memo: &mut Memo,
        text: &str,
        base: usize,
        out: &mut Tokens,
    ) -> Result<(), Refused> {
        let Some(added) = self.added.get(stage) else { return self.read(inner, memo, text, base, out) };
        let mut from = 0;
        for found in added.iter().flat_map(|a| a.find.find_iter(text).map(|m| (m.range(), a.ids[m.pattern().as_usize()]))) {
            let (place, id) = found;
            self.split(stage + 1, inner, memo, &text[from..place.start], base + from, out)?;
            out.ids.push(id);
            out.offsets.push(base + place.start..base + place.end);
            from = place.end;
        }
        self.split(stage + 1, inner, memo, &text[from..], base + from, out)
    }

    /// The tokens of a text without added tokens.
    fn read(
        &self,
        inner: &tokenizers::Tokenizer,
        memo: &mut Memo,
        text: &str,
        base: usize,
        out: &mut Tokens,
    ) -> Result<(), Refused> {
        for place in self.words.of(text) {
            let (word, at) = (&text[place.clone()], base + place.start);
            let mut push = |piece: &TokenSpan| {
                out.ids.push(piece.id);
                out.offsets.push(at + piece.start as usize..at + piece.end as usize);
            };
            if let Some(pieces) = memo.get(word) {
                pieces.iter().for_each(push);
                continue;
            }
            let pieces = self.ask(inner, word)?;
            pieces.iter().for_each(&mut push);
            memo.put(word, &pieces);
        }
        Ok(())
    }

    /// What the library's model makes of a word.
    fn ask(&self, inner: &tokenizers::Tokenizer, word: &str) -> Result<Vec<TokenSpan>, Refused> {
        let mut spelled = String::with_capacity(2 * word.len());
        // The byte of the word behind each byte of its spelling.
        let mut behind = Vec::with_capacity(2 * word.len());
        for (i, b) in word.bytes().enumerate() {
            let c = self.alphabet[usize::from(b)];
            spelled.push(c);
            behind.extend(std::iter::repeat_n(i, c.len_utf8()));
        }
        let piece = |token: tokenizers::Token| {
            let (mut start, mut end) = (behind[token.offsets.0], behind[token.offsets.1.max(1) - 1] + 1);
            while !word.is_char_boundary(start) {
                start -= 1;
            }
            while !word.is_char_boundary(end) {
                end += 1;
            }
            TokenSpan { id: token.id, start: start as u32, end: end as u32 }
        };
        Ok(inner.get_model().tokenize(&spelled)?.into_iter().map(piece).collect())
    }
}

fn json(part: Option<&impl serde::Serialize>) -> Option<Value> {
    part.map_or(Some(Value::Null), |p| serde_json::to_value(p).ok())
}

/// The pattern of a pre-tokenizer and whether digits are cut out first.
fn pattern(pre: &Value) -> Option<(SplitPattern, bool)> {
    let byte_level = |v: &Value, regex: bool| {
        v["type"] == "ByteLevel" && v["add_prefix_space"] == false && v["use_regex"].as_bool().unwrap_or(true) == regex
    };
    if byte_level(pre, true) {
        return Some((SplitPattern::Gpt2, false));
    }
    let parts = pre["pretokenizers"].as_array().filter(|_| pre["type"] == "Sequence")?;
    match parts.as_slice() {
        [only] if byte_level(only, true) => Some((SplitPattern::Gpt2, false)),
        [digits, bytes] if digits["type"] == "Digits" && digits["individual_digits"] == true && byte_level(bytes, true) => {
            Some((SplitPattern::Gpt2, true))
        }
        [split, bytes] if split["type"] == "Split" && byte_level(bytes, false) => {
            let isolated = split["behavior"] == "Isolated" && split["invert"] == false;
            // As every character belongs to a match, removing what lies between matches removes nothing.
            let inverted = split["behavior"] == "Removed" && split["invert"] == true;
            let known = written(split["pattern"]["Regex"].as_str()?)?;
            (isolated || inverted).then_some((known, false))
        }
        _ => None,
    }
}

/// The patterns of tokenizer files in use, as they are written there.
fn written(regex: &str) -> Option<SplitPattern> {
    let tails = [
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|N| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"|[^\r\n\p{L}\p{N}]?+\p{L}+|N| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ];
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    if regex == gpt2 {
        return Some(SplitPattern::Gpt2);
    }
    let tail = [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"'(?i:[sdmt]|ll|ve|re)"].iter().find_map(|h| regex.strip_prefix(h))?;
    let numbers = [(r"\p{N}", 1), (r"\p{N}{1,3}", 3)];
    let same = |numbers: &str| tails.iter().any(|t| t.replacen("|N|", &format!("|{numbers}|"), 1) == tail);
    numbers.iter().find(|(n, _)| same(n)).map(|(_, digits)| SplitPattern::Cl100k { digits: *digits })
}

/// Whether a post-processor leaves ids and offsets of a text alone when no special tokens are wanted.
fn keeps_tokens(post: &Value) -> bool {
    match post["type"].as_str() {
        None => post.is_null(),
        Some("ByteLevel") => post["trim_offsets"] == false,
        Some("TemplateProcessing") => {
            let single = post["single"].as_array().map(Vec::as_slice).unwrap_or_default();
            single.iter().filter(|p| p.get("Sequence").is_some_and(|s| s["id"] == "A")).count() == 1
                && single.iter().all(|p| p.get("SpecialToken").is_some() || p["Sequence"]["id"] == "A")
        }
        Some("Sequence") => post["processors"].as_array().is_some_and(|all| all.iter().all(keeps_tokens)),
        Some(_) => false,
    }
}

/// The added tokens of both stages; `None` when one of them does more than stand for its text.
fn added(inner: &tokenizers::Tokenizer, nfc: bool) -> Option<[Option<Added>; 2]> {
    let mut all: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
    all.sort_unstable_by_key(|(id, _)| *id);
    let moved = |t: &AddedToken| nfc && t.normalized && !matches!(is_nfc_quick(t.content.chars()), IsNormalized::Yes);
    if all.iter().any(|(_, t)| t.single_word || t.lstrip || t.rstrip || t.content.is_empty() || moved(t)) {
        return None;
    }
    let (after, before): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, t)| t.normalized);
    let build = |tokens: Vec<(u32, AddedToken)>| {
        let mut builder = AhoCorasick::builder();
        let find = builder.match_kind(MatchKind::LeftmostLongest).build(tokens.iter().map(|(_, t)| &t.content)).ok()?;
        Some((!tokens.is_empty()).then(|| Added { find, ids: tokens.iter().map(|(id, _)| *id).collect() }))
    };
    Some([build(before)?, build(after)?])
}

/// GPT-2's characters for bytes: printable ones stand for themselves, the others for U+0100 and on, in order.
fn alphabet() -> [char; 256] {
    let mut alphabet = ['\0'; 256];
    let mut next = 0x100;
    for b in 0..=255u8 {
        let printable = matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        alphabet[usize::from(b)] = if printable { char::from(b) } else { char::from_u32(next).unwrap_or_default() };
        next += u32::from(!printable);
    }
    alphabet
}
