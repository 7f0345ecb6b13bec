//! Text as its tokens come: a token may be part of a character, and how it reads may depend on the one before it.

use crate::data::Tokenizer;
use crate::error::Result;

/// Tokens before the new ones that are decoded with them, so that these read as they do in the middle of a text.
const CONTEXT: usize = 8;

/// Turns tokens into text piece by piece; the pieces together are the decoded answer.
#[derive(Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    ids: Vec<u32>,
    /// Where decoding begins, and up to which token the text was given out.
    from: usize,
    given: usize,
}

impl TextStream {
    /// `before`: the tokens that the answer continues (empty when it begins a text of its own, as after a chat template).
    pub fn new(tokenizer: Tokenizer, before: &[u32]) -> TextStream {
        let ids = before[before.len().saturating_sub(CONTEXT)..].to_vec();
        TextStream { tokenizer, from: 0, given: ids.len(), ids }
    }

    /// The text that `id` completes: empty while the last character is not whole. Special tokens have no text.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.since()?;
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        // The last piece stays as context for the next one.
        self.from = self.given;
        self.given = self.ids.len();
        Ok(text)
    }

    /// What is left at the end, a broken character included.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.since()?;
        (self.from, self.given) = (self.ids.len(), self.ids.len());
        Ok(text)
    }

    /// The text of the tokens not given out.
    fn since(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[self.from..self.given], true)?;
        let all = self.tokenizer.decode(&self.ids[self.from..], true)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_string())
    }
}

#[cfg(test)]
mod tests {
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
}
