//! What is split here comes out as the library splits it, over texts made to be hard.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::utils::SysRegex;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::byte_level;
use super::classes::classes;
use super::fast::Fast;
use super::words::{SplitPattern, WordSplit};
use super::{Tokens, by_library};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const PHI4: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

fn patterns() -> [(SysRegex, SplitPattern); 4] {
    [
        (GPT2, SplitPattern::Gpt2),
        (LLAMA3, SplitPattern::Cl100k { digits: 3 }),
        (QWEN2, SplitPattern::Cl100k { digits: 1 }),
        (PHI4, SplitPattern::Cl100k { digits: 3 }),
    ]
    .map(|(regex, pattern)| (SysRegex::new(regex).unwrap(), pattern))
}

/// The words of `text` by the regular expression and by the scanner are the same.
fn same_words(regex: &SysRegex, pattern: SplitPattern, text: &str) {
    let words = WordSplit { pattern, digits_apart: false, classes: classes().unwrap() };
    let expected: Vec<_> = regex.find_iter(text).map(|(a, b)| a..b).collect();
    assert_eq!(words.of(text).collect::<Vec<_>>(), expected, "{pattern:?} {text:?}");
}

/// Pieces that texts go wrong at.
const HARD: [&str; 40] = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\u{b}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{3000}",
    "\u{200b}",
    "'",
    "'s",
    "'S",
    "'ſ",
    "'ll",
    "'LL",
    "'vE",
    "'re",
    "’s",
    "a",
    "Z",
    "é",
    "e\u{301}",
    "ß",
    "日本",
    "ﬁ",
    "0",
    "12345",
    "٣",
    "½",
    "Ⅷ",
    "!",
    "--",
    "_",
    "👩‍👩‍👧🏽",
    "\u{0}",
    "\u{10ffff}",
];

fn hard() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(HARD.to_vec()).prop_map(str::to_string),
        2 => "[a-z]{1,8}",
        1 => any::<char>().prop_map(String::from),
        1 => prop::sample::select(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad", "<<s>>", "hello", "[X]", "[X]Y"].to_vec())
            .prop_map(str::to_string),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn part<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(regex: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert})
}

fn sequence(parts: [Value; 2]) -> Value {
    json!({"type": "Sequence", "pretokenizers": parts})
}

/// The tiny tokenizer with another pre-tokenizer.
fn with(pre: Value) -> tokenizers::Tokenizer {
    let mut inner = byte_level::bpe();
    inner.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(pre)));
    inner
}

/// A tokenizer of every kind that is read here.
fn kinds() -> Vec<(tokenizers::Tokenizer, Fast)> {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let mut all = vec![
        with(byte_level(true)),
        with(sequence([digits, byte_level(true)])),
        with(sequence([split(LLAMA3, "Isolated", false), byte_level(false)])),
        with(sequence([split(PHI4, "Removed", true), byte_level(false)])),
    ];
    let mut qwen2 = with(sequence([split(QWEN2, "Isolated", false), byte_level(false)]));
    qwen2.with_normalizer(Some(NFC)).unwrap();
    // Tokens of both stages, some the beginnings of others.
    let words = ["[X]", "[X]Y", "hello", "'s"].map(|t| AddedToken::from(t, false));
    qwen2.add_tokens(words).unwrap();
    all.push(qwen2);
    all.into_iter().map(|inner| (Fast::of(&inner), inner)).map(|(fast, inner)| (inner, fast.unwrap())).collect()
}

fn same_tokens(kinds: &[(tokenizers::Tokenizer, Fast)], text: &str) {
    for (inner, fast) in kinds {
        let expected = by_library(inner, text).unwrap();
        // Twice: by the model, and from memory.
        for _ in 0..2 {
            if let Some(tokens) = fast.tokens(inner, text).unwrap() {
                assert_eq!(tokens, expected, "{text:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn words_are_those_of_the_regular_expression(texts in prop::collection::vec(hard(), 20)) {
        for (regex, pattern) in patterns() {
            texts.iter().for_each(|text| same_words(&regex, pattern, text));
        }
    }

    #[test]
    fn tokens_and_offsets_are_those_of_the_library(texts in prop::collection::vec(hard(), 8)) {
        let kinds = kinds();
        texts.iter().for_each(|text| same_tokens(&kinds, text));
    }
}

#[test]
fn every_character_is_split_as_the_regular_expression_does() {
    for (regex, pattern) in patterns() {
        let all: Vec<char> = (0..0x11_0000).filter_map(char::from_u32).collect();
        for block in all.chunks(4096) {
            // After an apostrophe, beside a letter, after white space, and several in a row.
            let text: String = block.iter().flat_map(|c| ['\'', *c, 'a', *c, '7', *c, *c, ' ', *c, '!', *c, '\n', *c]).collect();
            same_words(&regex, pattern, &text);
        }
    }
}

#[test]
fn every_character_has_the_offsets_of_the_library() {
    let kinds = kinds();
    let all: String = (0..0x3_1000).step_by(7).filter_map(char::from_u32).flat_map(|c| [c, 'x', c]).collect();
    same_tokens(&kinds, &all);
    same_tokens(&kinds, &"long".repeat(20_000));
    same_tokens(&kinds, "");
}

#[test]
fn a_text_that_is_not_normalised_is_left_to_the_library() {
    let (inner, fast) = kinds().pop().unwrap();
    assert!(fast.tokens(&inner, "e\u{301}").unwrap().is_none());
    assert!(fast.tokens(&inner, "é 日本").unwrap().is_some());
    let tokenizer = super::Tokenizer::new(inner.clone(), super::Special::default(), None).unwrap();
    assert!(tokenizer.is_fast());
    assert_eq!(tokenizer.tokens("e\u{301}").unwrap(), by_library(&inner, "e\u{301}").unwrap());
}

#[test]
fn what_is_not_understood_is_left_to_the_library() {
    let post = |inner: &mut tokenizers::Tokenizer, value: Value| {
        inner.with_post_processor(Some(part::<PostProcessorWrapper>(value)));
    };
    let refused = |what: &str, change: &dyn Fn(&mut tokenizers::Tokenizer)| {
        let mut inner = with(byte_level(true));
        assert!(Fast::of(&inner).is_some());
        change(&mut inner);
        assert!(Fast::of(&inner).is_none(), "{what}");
    };
    let pre = |value: Value| {
        move |t: &mut tokenizers::Tokenizer| {
            t.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(value.clone())));
        }
    };
    refused(
        "a space before the text",
        &pre(json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})),
    );
    refused("no splitting", &pre(byte_level(false)));
    refused("another pattern", &pre(sequence([split(r"\w+|\W", "Isolated", false), byte_level(false)])));
    refused("another behaviour", &pre(sequence([split(QWEN2, "MergedWithNext", false), byte_level(false)])));
    refused("numbers in one piece", &pre(sequence([json!({"type": "Digits", "individual_digits": false}), byte_level(true)])));
    refused("no pre-tokenizer", &|t| _ = t.with_pre_tokenizer(None::<PreTokenizerWrapper>));
    refused("trimmed offsets", &|t| post(t, byte_level(true)));
    for token in [
        AddedToken::from("w", false).single_word(true),
        AddedToken::from("w", true).lstrip(true),
        AddedToken::from("w", true).rstrip(true),
    ] {
        refused("a token that looks around", &|t| _ = t.add_tokens([token.clone()]).unwrap());
    }
    refused("special tokens as text", &|t| t.set_encode_special_tokens(true));
    refused("dropout", &|t| {
        let ModelWrapper::BPE(model) = t.get_model() else { panic!() };
        let mut model = model.clone();
        model.dropout = Some(0.1);
        t.with_model(model);
    });
}

#[test]
fn a_memo_that_is_full_starts_anew() {
    let (inner, fast) = kinds().swap_remove(0);
    for n in 0..150_000u32 {
        let word = format!("w{n:x}");
        let tokens = fast.tokens(&inner, &word).unwrap().unwrap();
        if n % 997 == 0 {
            assert_eq!(tokens, by_library(&inner, &word).unwrap());
        }
    }
    assert_eq!(fast.tokens(&inner, "").unwrap().unwrap(), Tokens::default());
}
