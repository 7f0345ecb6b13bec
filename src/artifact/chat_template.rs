//! The chat template that an adapter was trained with, kept beside it and in a merged model as transformers keeps a
//! tokenizer's: `chat_template.jinja`, `additional_chat_templates/NAME.jinja`, and `tokenizer_config.json`.
//!
//! Refuses to know how a template is chosen and what it renders.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::{ChatTemplates, Renderer};
use crate::error::{Error, Result};
use crate::files;

/// Where the template for conversations without tools is kept.
pub const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";

/// Keeps what renders conversations as `renderer` does beside an adapter in `dir`.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written.
pub fn keep(renderer: &Renderer, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    renderer.chat_templates().write(dir)
}

/// What is kept beside the adapter in `dir`; none beside one that was trained without, or by an earlier version.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read.
pub fn kept(dir: &Path) -> Result<ChatTemplates> {
    ChatTemplates::in_dir(dir)
}

/// Puts the template of `renderer` into a model's directory, in place of its own; the ids that end its answers, too, where
/// `generation_config.json` lacks some.
///
/// # Errors
/// When a file cannot be read or written, or is no JSON object.
pub fn put(renderer: &Renderer, dir: &Path) -> Result<()> {
    let templates = renderer.chat_templates();
    templates.write(dir)?;
    edit(&dir.join(CONFIG), |config| templates.put_into(config))?;
    let stop = renderer.stop_ids();
    edit(&dir.join(GENERATION), |config| {
        let said: Vec<u64> = match config.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).collect(),
            other => other.and_then(Value::as_u64).into_iter().collect(),
        };
        if stop.iter().any(|id| !said.contains(&u64::from(*id))) {
            config.insert("eos_token_id".into(), json!(stop));
        }
    })
}

/// Changes a JSON object in a file; a file that is not there begins as an empty one, and stays away when nothing is put in.
fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let wrong = |why: String| {
        let (dir, name) = (path.parent().unwrap_or(path), path.file_name().map(|n| n.to_string_lossy().into_owned()));
        Error::model(dir, name.unwrap_or_default(), why, "fetch the base's file again")
    };
    let old = if path.is_file() { files::read_text(path)? } else { "{}".to_string() };
    let mut config: Map<String, Value> = serde_json::from_str(&old).map_err(|e| wrong(e.to_string()))?;
    let before = config.clone();
    change(&mut config);
    if config == before {
        return Ok(());
    }
    files::write_atomic(path, format!("{:#}\n", Value::Object(config)).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Template;
    use crate::tokenizer::byte_level;

    fn read(dir: &Path, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(dir.join(name)).unwrap()).unwrap()
    }

    #[test]
    fn a_models_own_templates_give_way_and_its_other_keys_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let old = ChatTemplates::named([("tool_use".to_string(), "T".to_string())]);
        old.write(dir).unwrap();
        std::fs::write(dir.join(CONFIG), r#"{"eos_token":"</s>","chat_template":"D"}"#).unwrap();
        std::fs::write(dir.join(GENERATION), r#"{"eos_token_id":2,"do_sample":true}"#).unwrap();
        let renderer = Renderer::new(byte_level::chatml(), &Template::default()).unwrap();
        put(&renderer, dir).unwrap();
        assert_eq!(kept(dir).unwrap(), *renderer.chat_templates());
        assert_eq!(read(dir, CONFIG), json!({"eos_token": "</s>", "chat_template": byte_level::CHATML}));
        assert_eq!(read(dir, GENERATION), json!({"eos_token_id": renderer.stop_ids(), "do_sample": true}));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), "[]").unwrap();
        let renderer = Renderer::new(byte_level::chatml(), &Template::default()).unwrap();
        let error = put(&renderer, dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(CONFIG), "{error}");
    }
}
