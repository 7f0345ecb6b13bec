//! A small byte-level tokenizer for tests: one token a byte, a few merges, ChatML's special tokens.

#![allow(clippy::unwrap_used, reason = "for tests alone")]

use std::path::Path;

use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{Special, Tokenizer};

pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

pub const SPECIAL: [&str; 5] = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<pad>"];

/// The bare tokenizer: 256 bytes, the merges `h e`, `l l`, `. Ċ`, and [`SPECIAL`].
pub fn bpe() -> tokenizers::Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let merges = [("h", "e"), ("l", "l"), (".", "Ċ")];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: Vocab = tokens.into_iter().enumerate().map(|(i, t)| (t, i as u32)).collect();
    let merges = merges.map(|(a, b)| (a.to_string(), b.to_string())).to_vec();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build().unwrap();
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, false)));
    inner.with_decoder(Some(ByteLevel::default()));
    inner.add_special_tokens(SPECIAL.map(|t| AddedToken::from(t, true))).unwrap();
    inner
}

/// ChatML with `eos = pad = <|im_end|>`, as SmolLM2 has it.
pub fn chatml() -> Tokenizer {
    let token = |t: &str| Some(t.to_string());
    let special = Special { bos: token("<s>"), eos: token("<|im_end|>"), pad: token("<|im_end|>"), ..Special::default() };
    Tokenizer::new(bpe(), special, Some(CHATML.into())).unwrap()
}

/// `<s>` and `</s>`, BOS wanted before plain text, with the given template.
pub fn llama(template: Option<&str>) -> Tokenizer {
    let token = |t: &str| Some(t.to_string());
    let special = Special { bos: token("<s>"), eos: token("</s>"), pad: token("<pad>"), add_bos: true, ..Special::default() };
    Tokenizer::new(bpe(), special, template.map(str::to_string)).unwrap()
}

/// Writes `text` to a file of this name in a fresh directory and calls `f` with its path.
pub fn with_file<T>(name: &str, text: &str, f: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    f(&path)
}
