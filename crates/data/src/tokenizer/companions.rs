//! The files beside `tokenizer.json`: names of the special tokens, ends of a turn, the chat template.
//!
//! Refuses to know how text becomes tokens.

use std::path::Path;

use serde_json::Value;

use super::chat_templates::ChatTemplates;
use crate::error::{Error, Result};
use crate::files;

/// The special tokens of a model and when they are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Special {
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub pad: Option<String>,
    pub unk: Option<String>,
    /// Plain text begins with `bos`.
    pub add_bos: bool,
    /// Plain text ends with `eos`.
    pub add_eos: bool,
    /// An encoder reads prompts by themselves, and these end with `eos` as all its texts do.
    pub ends_prompts: bool,
    /// Further ends of a turn (`eos_token_id` of `generation_config.json` and `config.json`).
    pub eos_ids: Vec<u32>,
}

/// The parts of a [`super::Tokenizer`] as a model directory holds them.
pub(crate) fn read_dir(dir: &Path) -> Result<(tokenizers::Tokenizer, Special, ChatTemplates)> {
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        let help = "fetch the model's `tokenizer.json`; a model that has only `tokenizer.model` must be converted (transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…))";
        return Err(Error::model(dir, "tokenizer.json", "the file is missing", help));
    }
    let inner = tokenizers::Tokenizer::from_file(&path).map_err(|e| {
        Error::model(dir, "tokenizer.json", e.to_string(), "fetch the file again; it must be a `tokenizers` file")
    })?;
    let config = read_json(dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
    let map = read_json(dir, "special_tokens_map.json")?.unwrap_or(Value::Null);
    let generation = read_json(dir, "generation_config.json")?.unwrap_or(Value::Null);
    let named = |key: &str| token(&config[key]).or_else(|| token(&map[key]));
    let model = read_json(dir, "config.json")?.unwrap_or(Value::Null);
    let (adds_bos, adds_eos) = post_processor_adds(&inner, named("bos_token"), named("eos_token"));
    let special = Special {
        bos: named("bos_token"),
        eos: named("eos_token"),
        pad: named("pad_token").filter(|t| inner.token_to_id(t).is_some()),
        unk: named("unk_token"),
        add_bos: config["add_bos_token"].as_bool().unwrap_or(adds_bos),
        add_eos: config["add_eos_token"].as_bool().unwrap_or(adds_eos),
        ends_prompts: adds_eos && model["is_encoder_decoder"] == true,
        eos_ids: ends(&inner, &generation, &model),
    };
    let in_files = ChatTemplates::in_dir(dir)?;
    let templates = if in_files.is_empty() {
        let help = "correct it, or put the template into chat_template.jinja beside it";
        ChatTemplates::of_config(&config["chat_template"])
            .map_err(|why| Error::model(dir, "tokenizer_config.json: `chat_template`", why, help))?
    } else {
        in_files.called(None)
    };
    Ok((inner, special, templates))
}

fn read_json(dir: &Path, name: &str) -> Result<Option<Value>> {
    let path = dir.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(&path)?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| Error::model(dir, name, e.to_string(), "fetch the file again; it must be JSON"))
}

/// A token written as a string or as `{"content": …}`.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).filter(|t| !t.is_empty()).map(str::to_string)
}

/// Ends of a turn: those of `generation_config.json`, then those of `config.json`. Where the former has any, transformers does not
/// look at the latter; of it then only special tokens count, since many files keep the class's default there, an ordinary piece.
fn ends(inner: &tokenizers::Tokenizer, generation: &Value, config: &Value) -> Vec<u32> {
    let mut ends = ids(&generation["eos_token_id"]);
    let added = inner.get_added_tokens_decoder();
    let alone = ends.is_empty();
    let counts = |id: &u32| if alone { inner.id_to_token(*id).is_some() } else { added.get(id).is_some_and(|t| t.special) };
    ends.extend(ids(&config["eos_token_id"]).into_iter().filter(counts));
    ends
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

/// Whether the post-processor puts BOS before and EOS after a text, found by encoding one both ways.
fn post_processor_adds(inner: &tokenizers::Tokenizer, bos: Option<String>, eos: Option<String>) -> (bool, bool) {
    let id = |t: Option<String>| t.and_then(|t| inner.token_to_id(&t));
    let (Ok(with), Ok(without)) = (inner.encode("a", true), inner.encode("a", false)) else { return (false, false) };
    let longer = with.len() > without.len();
    let is = |found: Option<&u32>, token: Option<u32>| longer && token.is_some() && found.copied() == token;
    (is(with.get_ids().first(), id(bos)), is(with.get_ids().last(), id(eos)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Tokenizer, byte_level};
    use super::*;

    /// `</s>` and `<pad>` of [`byte_level::bpe`].
    const END: u32 = 262;
    const PAD: u32 = 263;

    fn eos_ids(files: &[(&str, Value)]) -> Vec<u32> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), byte_level::bpe().to_string(false).unwrap()).unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        Tokenizer::from_dir(dir.path()).unwrap().eos_ids().to_vec()
    }

    #[test]
    fn ends_are_those_of_both_configs() {
        let named = ("tokenizer_config.json", json!({"eos_token": "<|im_end|>"}));
        assert_eq!(eos_ids(std::slice::from_ref(&named)), [260]);
        assert_eq!(eos_ids(&[named.clone(), ("config.json", json!({"eos_token_id": [260, END]}))]), [260, END]);
        assert_eq!(eos_ids(&[("config.json", json!({"eos_token_id": END}))]), [END]);
        let generation = ("generation_config.json", json!({"eos_token_id": PAD}));
        assert_eq!(eos_ids(&[generation.clone(), ("config.json", json!({"eos_token_id": [END]}))]), [PAD, END]);
        // Beside generation_config.json's an ordinary piece in config.json is the class's default; an id of no token never counts.
        assert_eq!(eos_ids(&[generation, ("config.json", json!({"eos_token_id": 2}))]), [PAD]);
        assert_eq!(eos_ids(&[("config.json", json!({"eos_token_id": [2, 9999]}))]), [2]);
    }
}
