//! Text as its tokens come: a token may be part of a character, and how it reads may depend on the one before it.

use tokenizers::decoders::DecoderWrapper;

use super::token_bytes::{bytes_of, decoders};
use crate::data::Tokenizer;
use crate::error::Result;

/// Tokens before the new ones that are decoded with them, so that these read as they do in the middle of a text.
const CONTEXT: usize = 8;

/// Bytes of a character at most (UTF-8), and so tokens.
const CHARACTER: usize = 4;

/// Turns tokens into text piece by piece; the pieces together are the decoded answer. Work and memory of a token do not grow
/// with the text.
#[derive(Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    pending: Pending,
    /// Control tokens have their text.
    control: bool,
}

/// What was not given out.
#[derive(Clone)]
enum Pending {
    /// Where text is the tokens' bytes one after another: the beginning of a character.
    Bytes(Vec<u8>),
    /// Elsewhere: tokens, of which the first `given` are there to decode the others with.
    Tokens { ids: Vec<u32>, given: usize },
}

impl TextStream {
    /// `before`: the tokens that the answer continues (empty when it begins a text of its own, as after a chat template).
    pub fn new(tokenizer: Tokenizer, before: &[u32]) -> TextStream {
        let before = &before[before.len().saturating_sub(CONTEXT)..];
        let pending = if let [DecoderWrapper::ByteLevel(_)] = decoders(&tokenizer) {
            let before =
                before.iter().filter(|id| !tokenizer.is_control(**id)).filter_map(|id| tokenizer.inner().id_to_token(*id));
            let mut bytes = before.flat_map(|token| bytes_of(&token)).collect();
            take_whole(&mut bytes);
            Pending::Bytes(bytes)
        } else {
            Pending::Tokens { ids: before.to_vec(), given: before.len() }
        };
        TextStream { tokenizer, pending, control: false }
    }

    /// As it is, but control tokens read as their text where `control` is set: markers of calls of tools may be such.
    pub fn with_control(self, control: bool) -> TextStream {
        TextStream { control, ..self }
    }

    /// The text that `id` completes: empty while the last character is not whole. Special tokens have no text, and bytes that
    /// can no longer become a character read U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.control && self.tokenizer.is_control(id) {
            let own = self.tokenizer.inner().id_to_token(id).unwrap_or_default();
            return Ok(self.finish()? + &own);
        }
        let TextStream { tokenizer, pending, .. } = self;
        let Some(token) = tokenizer.inner().id_to_token(id).filter(|_| !tokenizer.is_control(id)) else {
            return Ok(String::new());
        };
        match pending {
            Pending::Bytes(bytes) => {
                bytes.extend(bytes_of(&token));
                Ok(take_whole(bytes))
            }
            Pending::Tokens { ids, given } => {
                ids.push(id);
                let text = since(tokenizer, ids, *given)?;
                let open = text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER);
                if open && ids.len() - *given < CHARACTER {
                    return Ok(String::new());
                }
                if text.is_empty() {
                    ids.truncate(*given);
                } else {
                    // The last piece stays as context for the next one.
                    ids.drain(..*given);
                    *given = ids.len();
                }
                Ok(text)
            }
        }
    }

    /// What is left at the end, a broken character included.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn finish(&mut self) -> Result<String> {
        match &mut self.pending {
            Pending::Bytes(bytes) => Ok(String::from_utf8_lossy(&std::mem::take(bytes)).into_owned()),
            Pending::Tokens { ids, given } => {
                let text = since(&self.tokenizer, ids, *given)?;
                *given = ids.len();
                Ok(text)
            }
        }
    }
}

/// Takes the text of `bytes` up to where a character may still become whole, as `String::from_utf8_lossy` reads it.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let (mut text, mut read) = (String::new(), 0);
    for chunk in bytes.utf8_chunks() {
        let broken = chunk.invalid();
        text += chunk.valid();
        read += chunk.valid().len();
        if std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none()) && read + broken.len() == bytes.len() {
            break;
        }
        text.extend((!broken.is_empty()).then_some(char::REPLACEMENT_CHARACTER));
        read += broken.len();
    }
    bytes.drain(..read);
    text
}

/// The text of the tokens behind the first `given`.
fn since(tokenizer: &Tokenizer, ids: &[u32], given: usize) -> Result<String> {
    let before = tokenizer.decode(&ids[..given], true)?;
    let all = tokenizer.decode(ids, true)?;
    // Bytes that follow may break a character that was whole.
    all.strip_prefix(&before).map_or_else(|| tokenizer.decode(&ids[given..], true), |text| Ok(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::token_bytes::token_bytes;
    use super::*;
    use crate::data::Special;

    /// One token a byte, and one for " the".
    fn bytes() -> Tokenizer {
        let vocab: tokenizers::models::bpe::Vocab = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .map(String::from)
            .chain(["Ġt".to_string(), "Ġth".to_string(), "Ġthe".to_string()])
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .zip(0..)
            .collect();
        let merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")].map(|(a, b)| (a.to_string(), b.to_string())).to_vec();
        let bpe = tokenizers::models::bpe::BPE::builder().vocab_and_merges(vocab, merges).build().unwrap();
        let mut inner = tokenizers::Tokenizer::new(bpe);
        let level = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, true);
        inner.with_pre_tokenizer(Some(level)).with_decoder(Some(level));
        Tokenizer::new(inner, Special::default(), None).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, before: &[u32], ids: &[u32]) -> Vec<String> {
        let mut stream = TextStream::new(tokenizer.clone(), before);
        let mut all: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        all.push(stream.finish().unwrap());
        all
    }

    #[test]
    fn only_whole_characters_come_out_and_nothing_is_lost() {
        let tokenizer = bytes();
        for text in ["in the park", "naïve — 日本 🎈!", " the the"] {
            let ids = tokenizer.encode(text).unwrap();
            let pieces = pieces(&tokenizer, &[], &ids);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|p| !p.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        }
    }

    #[test]
    fn a_character_cut_off_at_the_end_is_shown_broken() {
        let tokenizer = bytes();
        let ids = tokenizer.encode("a日").unwrap();
        assert_eq!(pieces(&tokenizer, &[], &ids[..3]).concat(), "a\u{FFFD}");
    }

    #[test]
    fn text_before_the_answer_is_not_repeated() {
        let tokenizer = bytes();
        let ids = tokenizer.encode("naïve 日本 in the park").unwrap();
        for cut in 9..ids.len() {
            let whole = tokenizer.decode(&ids[..cut], true).unwrap();
            if !whole.ends_with(char::REPLACEMENT_CHARACTER) {
                let answer = pieces(&tokenizer, &ids[..cut], &ids[cut..]).concat();
                assert_eq!(format!("{whole}{answer}"), "naïve 日本 in the park");
            }
        }
    }

    /// As SentencePiece's vocabularies are: a token for each byte, some words, a special token.
    fn sentence_piece() -> Tokenizer {
        use tokenizers::decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence, strip::Strip};
        let tokens = (0..256).map(|byte| format!("<0x{byte:02X}>")).chain(["▁", "▁in", "park", "▁▁"].map(String::from));
        let vocab: tokenizers::models::bpe::Vocab = tokens.zip(0..).collect();
        let bpe =
            tokenizers::models::bpe::BPE::builder().vocab_and_merges(vocab, Vec::new()).byte_fallback(true).build().unwrap();
        let mut inner = tokenizers::Tokenizer::new(bpe);
        let space = tokenizers::normalizers::Replace::new("▁", " ").unwrap();
        let steps: [DecoderWrapper; 4] =
            [space.into(), ByteFallback::new().into(), Fuse::new().into(), Strip::new(' ', 1, 0).into()];
        inner.with_decoder(Some(Sequence::new(steps.to_vec())));
        inner.add_tokens([tokenizers::AddedToken::from("▁▁", false)]).unwrap();
        inner.add_special_tokens([tokenizers::AddedToken::from("<s>▁", true)]).unwrap();
        Tokenizer::new(inner, Special::default(), None).unwrap()
    }

    /// How many bytes of a text of `ids` are given out after each token, beside the text as a whole.
    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> (Vec<usize>, String) {
        let (mut stream, mut text) = (TextStream::new(tokenizer.clone(), &[]), String::new());
        let mut lengths = Vec::new();
        for id in ids {
            text += &stream.push(*id).unwrap();
            lengths.push(text.len());
        }
        (lengths, text + &stream.finish().unwrap())
    }

    #[test]
    fn bytes_that_cannot_become_a_character_are_given_out_soon() {
        let bytes = bytes();
        let byte = |c: char| bytes.inner().token_to_id(&c.to_string()).unwrap();
        // 0xE6 begins a character of three bytes, 0x97 goes on with one, 0xFF is in none.
        let [begin, on, never] = ['æ', 'Ĺ', 'ÿ'].map(byte);
        let pieces = sentence_piece();
        for (tokenizer, [begin, on, never], late) in [(&bytes, [begin, on, never], 1), (&pieces, [0xE6, 0x97, 0xFF], 3)] {
            for cycle in [&[begin][..], &[on], &[never], &[begin, on], &[begin, on, begin], &[never, begin, on]] {
                let ids: Vec<u32> = cycle.iter().copied().cycle().take(300).collect();
                let (lengths, text) = streamed(tokenizer, &ids);
                assert_eq!(text, tokenizer.decode(&ids, true).unwrap());
                for (n, given) in lengths.iter().enumerate() {
                    let settled = tokenizer.decode(&ids[..(n + 1).saturating_sub(late + 1)], true).unwrap();
                    assert!(*given >= settled.len(), "{given} bytes after {n} tokens of {cycle:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_kept_of_what_has_no_text_or_was_given_out() {
        let (chat, pieces) = (crate::tokenizer::byte_level::chatml(), sentence_piece());
        let control = [chat.eos_ids()[0], pieces.inner().token_to_id("<s>▁").unwrap()];
        for (tokenizer, control) in [(chat, control[0]), (pieces, control[1])] {
            let kept = |stream: &TextStream| match &stream.pending {
                Pending::Bytes(bytes) => bytes.len(),
                Pending::Tokens { ids, .. } => ids.len(),
            };
            let word = tokenizer.inner().token_to_id("park").unwrap_or(70);
            for cycle in [&[control][..], &[99_999], &[word], &[word, control], &[200, 201]] {
                let mut stream = TextStream::new(tokenizer.clone(), &[]);
                for id in cycle.iter().cycle().take(100) {
                    stream.push(*id).unwrap();
                    assert!(kept(&stream) <= 2 * CHARACTER, "{} after {cycle:?}", kept(&stream));
                }
            }
        }
    }

    #[test]
    fn a_character_may_be_cut_by_what_has_no_text() {
        let tokenizer = sentence_piece();
        let control = tokenizer.inner().token_to_id("<s>▁").unwrap();
        let ids = [257, 0xE6, control, control, 99_999, control, 0x97, 0xA5, 258, 257];
        assert_eq!(streamed(&tokenizer, &ids), (vec![2, 2, 2, 2, 2, 2, 2, 5, 9, 12], "in日park in".to_string()));
        // A byte that breaks what was whole.
        assert_eq!(streamed(&tokenizer, &[0xC3, 0xA9, 0xFF, 258]).1, "é\u{FFFD}park");
    }

    #[test]
    fn a_token_stands_for_its_bytes() {
        let of = |tokenizer: &Tokenizer, token: &str| token_bytes(tokenizer, tokenizer.inner().token_to_id(token).unwrap());
        let level = crate::tokenizer::byte_level::chatml();
        for byte in 0..=255u8 {
            let found = (0..level.vocab_size() as u32).filter(|id| token_bytes(&level, *id) == [byte]).count();
            assert_eq!(found, 1, "{byte}");
        }
        let ids = level.encode("naïve — 日本 🎈 the\n\u{AD}\u{A0}").unwrap();
        assert_eq!(
            ids.iter().flat_map(|id| token_bytes(&level, *id)).collect::<Vec<_>>(),
            "naïve — 日本 🎈 the\n\u{AD}\u{A0}".as_bytes()
        );
        assert_eq!(of(&level, ".Ċ"), b".\n");
        assert_eq!(of(&level, "<|im_start|>"), b"<|im_start|>");
        let mut inner = level.inner().clone();
        inner.add_tokens([tokenizers::AddedToken::from("né", false)]).unwrap();
        assert_eq!(of(&Tokenizer::new(inner, Special::default(), None).unwrap(), "né"), "né".as_bytes());
        let pieces = sentence_piece();
        for (token, bytes) in
            [("<0xAB>", &b"\xAB"[..]), ("▁in", b" in"), ("park", b"park"), ("▁▁", b"  "), ("<s>▁", "<s>▁".as_bytes())]
        {
            assert_eq!(of(&pieces, token), bytes, "{token}");
        }
        assert!(token_bytes(&pieces, 99_999).is_empty());
    }
}
