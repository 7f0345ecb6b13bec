//! Checkpoints that see or hear as well: their text model, and what is carried along.
//!
//! Such a `config.json` has the text model's in `text_config`, and its tensors stand under `model.language_model.` (transformers 5)
//! or `language_model.model.` (4). Everything else is another part's: it is accounted for, and a merge writes it as it was.
//! Refuses to know: what these parts compute.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::Stored;
use crate::error::{Error, Result};

/// What stands before the text model's own names in place of `model.`.
pub const PREFIX: &str = "model.language_model.";
const PLAIN: &str = "model.";
const OLDER: &str = "language_model.model.";
const OLDER_HEAD: &str = "language_model.lm_head.";

/// First parts of names, behind an optional `model.`, that belong to other parts of a checkpoint: Gemma 3 and 4, Mistral 3, Qwen 3.5.
const OTHERS: &[&str] = &[
    "vision_tower.",
    "vision_model.",
    "vision_embedder.",
    "embed_vision.",
    "visual.",
    "audio_tower.",
    "embed_audio.",
    "multi_modal_projector.",
];

/// Heads that predict several tokens at once, which no class of transformers reads (Qwen 3.5).
const AHEAD: &str = "mtp.";

/// A checkpoint's text model, in the names of transformers 5, and the rest.
pub(super) struct Split {
    /// The text model's config.
    pub config: Value,
    /// The whole config, where there is more than the text model.
    pub whole: Option<Value>,
    pub tensors: BTreeMap<String, Stored>,
    pub carried: Vec<Stored>,
}

/// Separates the text model from the rest of a checkpoint.
///
/// # Errors
/// [`Error::Model`] when a tensor is there in two spellings.
pub(super) fn split(path: &Path, config: Value, tensors: BTreeMap<String, Stored>) -> Result<Split> {
    let text = config.get("text_config").filter(|text| text.is_object()).cloned();
    let (nested, borrowing) = (text.is_some(), borrowing(text.as_ref().unwrap_or(&config)));
    let mut split = Split { config: Value::Null, whole: None, tensors: BTreeMap::new(), carried: Vec::new() };
    for (name, mut stored) in tensors {
        let own = name.strip_prefix("model.").unwrap_or(&name);
        let unread = name.starts_with(AHEAD) || keys_of_layer(own).is_some_and(|layer| borrowing.contains(&layer));
        if unread || nested && OTHERS.iter().any(|other| own.starts_with(other)) {
            split.carried.push(stored);
            continue;
        }
        let name = if nested && !name.starts_with(PLAIN) { respelled(&name, true) } else { name };
        stored.name.clone_from(&name);
        if let Some(twin) = split.tensors.insert(name, stored) {
            let why = "it is there twice, in the spellings of transformers 4 and 5";
            return Err(Error::model(path, format!("tensor `{}`", twin.written), why, "fetch the model again"));
        }
    }
    let Some(mut text) = text else { return Ok(Split { config, ..split }) };
    if let Some(own) = text.as_object_mut() {
        // Said of the whole where the text model's does not say it.
        for key in ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(value) = config.get(key).filter(|_| !own.contains_key(key)) {
                own.insert(key.into(), value.clone());
            }
        }
    }
    Ok(Split { config: text, whole: Some(config), ..split })
}

/// Layers that read the keys and values of earlier ones (Gemma 4): published files hold projections for them that no class reads.
fn borrowing(config: &Value) -> Range<u64> {
    let number = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0);
    let (layers, sharing) = (number("num_hidden_layers"), number("num_kv_shared_layers"));
    layers.saturating_sub(sharing)..layers
}

/// The layer whose keys or values a tensor of this name makes.
fn keys_of_layer(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("language_model.").unwrap_or(name);
    let (layer, part) = rest.strip_prefix("model.").unwrap_or(rest).strip_prefix("layers.")?.split_once('.')?;
    let part = part.strip_prefix("self_attn.")?;
    let keys = ["k_proj.", "v_proj.", "k_norm.", "v_norm."].iter().any(|own| part.starts_with(own));
    layer.parse().ok().filter(|_| keys)
}

/// A text model's name in any of the spellings, as it stands in a checkpoint that is only that or more (`nested`).
pub fn respelled(name: &str, nested: bool) -> String {
    if let Some(rest) = name.strip_prefix(OLDER_HEAD) {
        return format!("lm_head.{rest}");
    }
    let own = [PREFIX, OLDER, PLAIN].iter().find_map(|prefix| name.strip_prefix(prefix));
    own.map_or_else(|| name.to_string(), |rest| format!("{}{rest}", if nested { PREFIX } else { PLAIN }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_of_layers_that_read_others_are_told_by_name() {
        let config = serde_json::json!({"num_hidden_layers": 5, "num_kv_shared_layers": 2});
        assert_eq!(borrowing(&config), 3..5);
        assert!(borrowing(&serde_json::json!({"num_hidden_layers": 5})).is_empty());
        for name in ["layers.4.self_attn.k_proj.weight", "language_model.layers.4.self_attn.v_norm.weight"] {
            assert_eq!(keys_of_layer(name), Some(4), "{name}");
        }
        assert_eq!(keys_of_layer("language_model.model.layers.4.self_attn.k_norm.weight"), Some(4));
        assert_eq!(keys_of_layer("layers.4.self_attn.q_proj.weight"), None);
    }

    #[test]
    fn names_are_one_in_all_spellings() {
        for name in ["model.norm.weight", "model.language_model.norm.weight", "language_model.model.norm.weight"] {
            assert_eq!(respelled(name, true), "model.language_model.norm.weight");
            assert_eq!(respelled(name, false), "model.norm.weight");
        }
        assert_eq!(respelled("language_model.lm_head.weight", true), "lm_head.weight");
        assert_eq!(respelled("transformer.h.0.ln_1.weight", false), "transformer.h.0.ln_1.weight");
    }
}
