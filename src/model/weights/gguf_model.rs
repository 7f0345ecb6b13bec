//! A GGUF model in Hugging Face's terms: a config made from the metadata, and Hugging Face's tensor names.
//!
//! Names and keys follow llama.cpp's converter (`gguf-py/gguf/constants.py`, `conversion/*.py`). Refuses to know: bytes of
//! the container, tokenizers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::Stored;
use super::gguf::Gguf;
use super::gguf_metadata::Metadata;
use crate::error::Result;

/// The config and the tensors of a GGUF file.
///
/// # Errors
/// [`crate::Error::Model`] naming the key or tensor that is missing, wrong or not supported.
pub(super) fn open(path: &Path) -> Result<(Json, BTreeMap<String, Stored>)> {
    let gguf = Gguf::open(path)?;
    let metadata = Metadata::new(&gguf)?;
    let mut config = metadata.config()?;
    metadata.add_rope(&mut config)?;
    metadata.refuse_unread()?;
    let mut tensors = BTreeMap::new();
    for tensor in gguf.tensors.iter().filter(|t| !metadata.is_of_rope(&t.name)) {
        for stored in metadata.stored(tensor)? {
            tensors.insert(stored.name.clone(), stored);
        }
    }
    Ok((Json::Object(config), tensors))
}
