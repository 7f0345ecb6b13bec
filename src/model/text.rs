//! The tokenizer and chat template that belong to a base model, from either format.

use std::path::Path;

use serde_json::{Value, json};

use super::weights::{Format, GgufText};
use crate::data::{ChatTemplates, Special, Tokenizer};
use crate::error::{Error, Result};
use crate::files;

/// Files of a Hugging Face directory that belong to its text side, to generation, or to what a model sees and hears.
const TEXT_FILES: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "generation_config.json",
    "tekken.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
];

/// The tokenizer of a Hugging Face directory or `.gguf` file.
///
/// # Errors
/// When the files are missing or malformed.
pub fn tokenizer(base: &Path) -> Result<Tokenizer> {
    Ok(tokenizer_and_notes(base)?.0)
}

/// The tokenizer, and what of it was read other than the file has it: a sentence each, for a person.
///
/// # Errors
/// As [`tokenizer`].
pub fn tokenizer_and_notes(base: &Path) -> Result<(Tokenizer, Vec<String>)> {
    if Format::of(base)? == Format::HfDirectory {
        return Ok((Tokenizer::from_dir(base)?, Vec::new()));
    }
    let text = GgufText::open(base)?;
    let special = Special {
        bos: text.bos,
        eos: text.eos,
        pad: text.pad,
        unk: text.unk,
        add_bos: text.add_bos,
        add_eos: text.add_eos,
        eos_ids: text.ends,
        ..Special::default()
    };
    let tokenizer = Tokenizer::new(text.tokenizer, special, None)?.with_chat_templates(text.chat_templates);
    Ok((tokenizer, text.notes))
}

/// Writes the text side of `base` into `dir`: copied from a directory, made from the metadata of a GGUF file.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy(base: &Path, dir: &Path) -> Result<()> {
    if base.is_dir() {
        for name in TEXT_FILES {
            let from = base.join(name);
            if from.is_file() {
                files::write_atomic(&dir.join(name), &std::fs::read(&from).map_err(Error::io("read", &from))?)?;
            }
        }
        let templates = ChatTemplates::in_dir(base)?;
        return if templates.is_empty() { Ok(()) } else { templates.write(dir) };
    }
    let text = GgufText::open(base)?;
    let id = |token: &Option<String>| token.as_deref().and_then(|t| text.tokenizer.token_to_id(t));
    let tokenizer = text
        .tokenizer
        .to_string(true)
        .map_err(|e| Error::model(base, "tokenizer", format!("cannot be written as JSON: {e}"), "report this as a bug"))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": text.add_bos,
        "add_eos_token": text.add_eos,
        "bos_token": text.bos, "eos_token": text.eos, "pad_token": text.pad, "unk_token": text.unk,
        "chat_template": text.chat_templates.to_config(), "clean_up_tokenization_spaces": false,
    });
    let mut ends: Vec<u32> = id(&text.eos).into_iter().collect();
    ends.extend(text.ends.iter().filter(|end| Some(**end) != id(&text.eos)));
    let eos = if ends.len() > 1 { json!(ends) } else { json!(ends.first()) };
    let generation = json!({"bos_token_id": id(&text.bos), "eos_token_id": eos, "pad_token_id": id(&text.pad)});
    files::write_atomic(&dir.join("tokenizer.json"), tokenizer.as_bytes())?;
    files::write_atomic(&dir.join("tokenizer_config.json"), pretty(&config).as_bytes())?;
    files::write_atomic(&dir.join("generation_config.json"), pretty(&generation).as_bytes())
}

/// Indented JSON without null members.
fn pretty(value: &Value) -> String {
    let kept: serde_json::Map<_, _> =
        value.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    format!("{:#}\n", Value::Object(kept))
}
