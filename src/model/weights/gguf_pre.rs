//! How byte-level vocabularies split text before pieces are joined, by `tokenizer.ggml.pre`: a row each.
//!
//! Patterns are those of the `tokenizer.json` of the models that llama.cpp's converter gives these names
//! (`convert_hf_to_gguf_update.py`); where llama.cpp has others in their place they agree on the texts they were compared on
//! (`benches/vs_llamacpp/gguf_splits.py`). Refuses to know: vocabularies.

use serde_json::{Value as Json, json};

/// Split pattern of Llama 3 (`meta-llama/Meta-Llama-3-8B`), of GPT-4, and of GLM 4: up to three digits.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Split pattern of Qwen 2 (`Qwen/Qwen2-0.5B`): single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Split pattern of Qwen 3.5: the same with marks among the letters.
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Split pattern of Mistral's Tekken (`mistralai/Mistral-Nemo-Base-2407`): words end before a capital.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Split pattern of GPT-4o (`microsoft/Phi-4-mini-instruct`, `openai/gpt-oss-20b`): the same with endings of English and up to three digits.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// As GPT-2 does.
    Gpt2,
    /// Each digit alone, the rest as GPT-2 does.
    Digits,
    Pattern(&'static str),
}

/// A way of splitting.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizer {
    name: &'static str,
    split: Split,
    /// Text is composed first (NFC).
    nfc: bool,
    /// A part that is a piece stays whole, whatever the merges say.
    pub(super) whole_pieces: bool,
    /// Texts begin with `bos` where the file says nothing.
    pub(super) bos: bool,
}

const fn row(name: &'static str, split: Split) -> PreTokenizer {
    PreTokenizer { name, split, nfc: false, whole_pieces: false, bos: false }
}

/// Every one that is read.
pub(super) const PRE_TOKENIZERS: &[PreTokenizer] = &[
    row("default", Split::Gpt2),
    row("gpt-2", Split::Gpt2),
    PreTokenizer { nfc: true, ..row("olmo", Split::Gpt2) },
    row("smollm", Split::Digits),
    row("starcoder", Split::Digits),
    row("refact", Split::Digits),
    PreTokenizer { nfc: true, ..row("command-r", Split::Digits) },
    PreTokenizer { whole_pieces: true, bos: true, ..row("llama-bpe", Split::Pattern(LLAMA3)) },
    row("smaug-bpe", Split::Pattern(LLAMA3)),
    row("dbrx", Split::Pattern(LLAMA3)),
    row("glm4", Split::Pattern(LLAMA3)),
    row("chatglm-bpe", Split::Pattern(LLAMA3)),
    PreTokenizer { nfc: true, ..row("qwen2", Split::Pattern(QWEN2)) },
    row("stablelm2", Split::Pattern(QWEN2)),
    PreTokenizer { nfc: true, ..row("qwen35", Split::Pattern(QWEN35)) },
    PreTokenizer { whole_pieces: true, bos: true, ..row("tekken", Split::Pattern(TEKKEN)) },
    row("gpt-4o", Split::Pattern(GPT4O)),
];

impl PreTokenizer {
    /// The one of a name.
    pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
        PRE_TOKENIZERS.iter().find(|row| row.name == name)
    }

    /// All names, for a message.
    pub(super) fn names() -> String {
        PRE_TOKENIZERS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
    }

    /// Normaliser and pre-tokenizer in the form of `tokenizer.json`.
    pub(super) fn parts(&self) -> [Json; 2] {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let both = |first: Json, second: Json| json!({"type": "Sequence", "pretokenizers": [first, second]});
        let split =
            |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let pre_tokenizer = match self.split {
            Split::Gpt2 => bytes(true),
            Split::Digits => both(json!({"type": "Digits", "individual_digits": true}), bytes(true)),
            Split::Pattern(pattern) => both(split(pattern), bytes(false)),
        };
        [if self.nfc { json!({"type": "NFC"}) } else { Json::Null }, pre_tokenizer]
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper};

    use super::*;

    fn parts(name: &str, text: &str) -> Vec<String> {
        let [_, json] = PreTokenizer::find(name).unwrap().parts();
        let splitter: PreTokenizerWrapper = serde_json::from_value(json).unwrap();
        let mut string = PreTokenizedString::from(text);
        splitter.pre_tokenize(&mut string).unwrap();
        let splits = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_string()).collect()
    }

    #[test]
    fn each_splits_digits_capitals_and_endings_in_its_way() {
        let text = "It'S myWord 2345!\n";
        let gpt2 = ["It", "'", "S", " myWord", " 2345", "!", "\n"];
        let digits = ["It", "'", "S", " myWord", " ", "2", "3", "4", "5", "!", "\n"];
        let llama3 = ["It", "'S", " myWord", " ", "234", "5", "!\n"];
        let qwen2 = ["It", "'S", " myWord", " ", "2", "3", "4", "5", "!\n"];
        let tekken = ["It", "'S", " my", "Word", " ", "2", "3", "4", "5", "!\n"];
        let gpt4o = ["It'S", " my", "Word", " ", "234", "5", "!\n"];
        for row in PRE_TOKENIZERS {
            let expected: &[&str] = match row.name {
                "default" | "gpt-2" | "olmo" => &gpt2,
                "smollm" | "starcoder" | "refact" | "command-r" => &digits,
                "qwen2" | "stablelm2" | "qwen35" => &qwen2,
                "tekken" => &tekken,
                "gpt-4o" => &gpt4o,
                _ => &llama3,
            };
            assert_eq!(parts(row.name, text), expected, "{}", row.name);
        }
    }

    #[test]
    fn marks_are_letters_for_qwen35_alone() {
        let text = "क्या? e\u{301}t";
        assert_eq!(parts("qwen35", text), ["क्या", "?", " e\u{301}t"]);
        assert_eq!(parts("qwen2", text), ["क", "\u{94d}य", "\u{93e}?", " e", "\u{301}t"]);
    }
}
