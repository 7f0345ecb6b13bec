//! Real tokenizers over every text there is: ids and places as the library gives them.

use std::path::{Path, PathBuf};

use lorakit::data::Tokenizer;
use lorakit::model::text;
use serde_json::{Value, json};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{PostProcessorWrapper, PreTokenizerWrapper};

use crate::shared::{find, smollm2};

/// Bytes of a file that are read.
const MOST: usize = 300_000;

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut inner: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        inner.sort();
        inner.iter().for_each(|p| files(p, found));
    } else if path.extension().is_some_and(|e| ["json", "jsonl", "txt", "inp", "md"].iter().any(|t| e == *t)) {
        found.push(path.to_path_buf());
    }
}

/// Every string of a JSON value.
fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|v| strings(v, found)),
        Value::Object(all) => all.values().for_each(|v| strings(v, found)),
        _ => {}
    }
}

/// The beginning of every file under `root`, line by line as it is and the strings in it, and files as a whole.
fn texts(root: &Path) -> Vec<String> {
    let (mut paths, mut found) = (Vec::new(), Vec::new());
    files(root, &mut paths);
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let whole = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).into_owned();
        for line in whole.lines() {
            found.push(line.to_string());
            if let Ok(value) = serde_json::from_str(line) {
                strings(&value, &mut found);
            }
        }
        found.push(whole.chars().take(20_000).collect());
    }
    found
}

/// The vocabulary of `tokenizer` with another way of splitting.
fn resplit(tokenizer: &Tokenizer, pattern: &str, nfc: bool) -> Tokenizer {
    let mut inner = tokenizer.inner().clone();
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let pre = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    inner.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(pre).unwrap()));
    inner.with_post_processor(Some(serde_json::from_value::<PostProcessorWrapper>(bytes).unwrap()));
    if nfc {
        inner.with_normalizer(Some(NFC)).unwrap();
    }
    Tokenizer::new(inner, tokenizer.special().clone(), None).unwrap()
}

fn all_equal(name: &str, tokenizer: &Tokenizer, texts: &[String]) {
    assert!(tokenizer.is_fast(), "{name}");
    for text in texts {
        let (ours, theirs) = (tokenizer.tokens(text).unwrap(), tokenizer.inner().encode(text.as_str(), false).unwrap());
        assert_eq!(ours.ids, theirs.get_ids(), "{name}: {text:?}");
        let places: Vec<_> = theirs.get_offsets().iter().map(|(a, b)| *a..*b).collect();
        assert_eq!(ours.offsets, places, "{name}: {text:?}");
    }
    println!("{name}: {} of {} texts equal in ids and places", texts.len(), texts.len());
}

#[test]
fn real_tokenizers_give_what_the_library_gives() {
    const LLAMA3: &str =
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let Some(root) = find("data") else { return };
    let (Some(smollm2), Some(gpt2)) = (smollm2(), find("data/tokenizers/ggml-vocab-gpt-2.gguf")) else { return };
    let texts = texts(&root);
    assert!(texts.len() > 10_000);
    all_equal("SmolLM2", &text::tokenizer(&smollm2).unwrap(), &texts);
    let gpt2 = text::tokenizer(&gpt2).unwrap();
    all_equal("GPT-2", &gpt2, &texts);
    all_equal("GPT-2's vocabulary, split as Llama 3", &resplit(&gpt2, LLAMA3, false), &texts);
    let qwen2 = LLAMA3.replace("{1,3}", "");
    all_equal("GPT-2's vocabulary, split as Qwen 2", &resplit(&gpt2, &qwen2, true), &texts);
}
