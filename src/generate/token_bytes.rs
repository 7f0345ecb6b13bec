//! The bytes that tokens stand for, however a vocabulary writes them.

use tokenizers::decoders::DecoderWrapper;

use crate::data::Tokenizer;

/// The bytes that a token stands for, which may be part of a character; of an added token those of its text. Empty for an id
/// without a token.
pub fn token_bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(token) = tokenizer.inner().id_to_token(id) else { return Vec::new() };
    let added = tokenizer.inner().get_added_vocabulary().get_added_tokens_decoder().get(&id);
    let steps = decoders(tokenizer);
    let has = |which: fn(&DecoderWrapper) -> bool| steps.iter().any(which);
    if has(|step| matches!(step, DecoderWrapper::ByteLevel(_))) {
        return added.map_or_else(|| bytes_of(&token), |added| added.content.clone().into_bytes());
    }
    if let Some(added) = added.filter(|added| added.special) {
        return added.content.clone().into_bytes();
    }
    if has(|step| matches!(step, DecoderWrapper::ByteFallback(_)))
        && let Some(byte) = byte_token(&token)
    {
        return vec![byte];
    }
    let spaced = has(|step| matches!(step, DecoderWrapper::Metaspace(_) | DecoderWrapper::Replace(_)));
    if spaced { token.replace(SPACE, " ") } else { token }.into_bytes()
}

/// SentencePiece's sign for a space.
pub(super) const SPACE: char = '\u{2581}';

/// The byte of a token such as `<0xE6>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// The steps of decoding.
pub(super) fn decoders(tokenizer: &Tokenizer) -> &[DecoderWrapper] {
    match tokenizer.inner().get_decoder() {
        None => &[],
        Some(DecoderWrapper::Sequence(steps)) => steps.get_decoders(),
        Some(step) => std::slice::from_ref(step),
    }
}

/// What the byte-level decoder makes of a token: bytes where all its characters stand for one, else its text.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character of a byte-level vocabulary stands for: itself where it can be printed, else by its place among
/// those that cannot (GPT-2's `bytes_to_unicode`).
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}
