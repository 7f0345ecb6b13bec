//! Who answers: a model on this machine, or one behind an address.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::prompts::Request;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::files;
use crate::model::resolve::{self, Places};

/// An answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Without the stop that ended it.
    pub text: String,
    /// Ended by itself, not by the limit of its length.
    pub whole: bool,
}

/// How a request is put to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptStyle {
    /// As a message, in the model's chat template.
    Chat,
    /// As a text to be continued.
    Completion,
}

impl PromptStyle {
    /// A message where the model has a chat template.
    pub fn own(tokenizer: &Tokenizer) -> PromptStyle {
        if tokenizer.chat_template().is_some() { PromptStyle::Chat } else { PromptStyle::Completion }
    }
}

/// Who answered, for the provenance of every row. Holds no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name or hub id.
    pub model: String,
    /// SHA-256 of the model's weights, of a local one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_sha256: Option<String>,
    /// Address, of one that is asked over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub style: PromptStyle,
}

impl Identity {
    /// Of a model on this machine: its name, the file or folder of its weights, and the folder of an adapter on it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when weights cannot be read.
    pub fn of_files(model: String, weights: &Path, adapter: Option<&Path>, style: PromptStyle) -> Result<Identity> {
        // One file, or the index that names the shards.
        let places = [weights.to_path_buf(), weights.join("model.safetensors"), weights.join("model.safetensors.index.json")];
        let weights = places.into_iter().find(|path| path.is_file());
        let base_sha256 = weights.map(|path| resolve::sha256(&Places::from_env(), &path)).transpose()?;
        let adapter = adapter.map(|dir| files::sha256_file(&dir.join("adapter_model.safetensors")));
        Ok(Identity { model, base_sha256, adapter_sha256: adapter.transpose()?, url: None, style })
    }
}

/// Whether to go on; its error ends the work.
pub type GoOn<'a> = &'a dyn Fn() -> Result<()>;

/// Answers requests.
pub trait Generator {
    fn identity(&self) -> &Identity;

    /// Whether an answer depends on what else is asked with it, in the last bits of a sum at least: then a batch of which some
    /// answers are known is asked again whole, and gives the same ones.
    fn in_company(&self) -> bool;

    /// Answers `requests`, all of one stage; `answered` gets the number of each with its reply, in any order, as soon as it is
    /// there.
    ///
    /// # Errors
    /// What keeps an answer from coming, and the errors of `answered` and `go_on`.
    fn answer(&mut self, requests: &[Request], go_on: GoOn, answered: &mut dyn FnMut(usize, Reply) -> Result<()>) -> Result<()>;
}

/// `text` up to the first of `stops`; whether there was one.
pub(super) fn until_stop<'a>(text: &'a str, stops: &[String]) -> (&'a str, bool) {
    match stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        Some(end) => (&text[..end], true),
        None => (text, false),
    }
}
