//! The metadata of a GGUF file's architecture, key by key, with errors that name the key. It remembers which keys were read.
//! Refuses to know: what a key means for a config.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use super::gguf::{Gguf, MetadataValue, Tensor};
use super::gguf_families::{ARCHITECTURES, Architecture, family};
use super::gguf_settings;
use crate::error::{Error, Result, nearest};
use crate::model::family::{Family, Shapes};

/// How many layers predict further tokens.
const AHEAD: &str = "nextn_predict_layers";

/// The metadata of one architecture.
pub(super) struct Metadata<'a> {
    pub gguf: &'a Gguf,
    pub architecture: &'static Architecture,
    pub family: &'static Family,
    tensors: HashMap<&'a str, &'a Tensor>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Metadata<'a> {
    /// The architecture and the family of a file.
    ///
    /// # Errors
    /// [`Error::Model`] when it is not known, or the file is one part of several.
    pub(super) fn new(gguf: &'a Gguf) -> Result<Self> {
        let key = "key `general.architecture`";
        let name = gguf.metadata.get("general.architecture").and_then(MetadataValue::text);
        let name = name.ok_or_else(|| Error::model(&gguf.path, key, "it is not there", "fetch the model again"))?;
        if gguf.metadata.get("split.count").and_then(MetadataValue::count).is_some_and(|n| n > 1) {
            let help = "join the parts: `llama-gguf-split --merge FIRST-PART OUT.gguf`";
            return Err(Error::model(&gguf.path, "key `split.count`", "the model is split over several files", help));
        }
        let known = ARCHITECTURES.iter().map(|row| row.name);
        let row = ARCHITECTURES.iter().find(|row| row.name == name).and_then(|row| Some((row, family(row.model_type)?)));
        let Some((architecture, family)) = row else {
            let near = nearest(name, known.clone()).map(|n| format!("; nearest: `{n}`")).unwrap_or_default();
            let known = known.collect::<Vec<_>>().join(", ");
            let help = format!("{known} are read from GGUF{near}; use the Hugging Face directory of this model");
            return Err(Error::model(&gguf.path, key, format!("`{name}` is not supported"), help));
        };
        let tensors = gguf.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut metadata = Self { gguf, architecture, family, tensors, read: RefCell::default() };
        metadata.family = metadata.other_family().unwrap_or(family);
        Ok(metadata)
    }

    /// The other family of the architecture, where a key tells it.
    fn other_family(&self) -> Option<&'static Family> {
        let (key, model_type) = self.architecture.other?;
        let told = self.get(key).and_then(MetadataValue::number).is_some_and(|n| n > 0.0);
        family(model_type).filter(|_| told)
    }

    /// The value of a key, which counts as read.
    pub(super) fn get(&self, key: &str) -> Option<&'a MetadataValue> {
        self.read.borrow_mut().insert(key.to_string());
        self.gguf.metadata.get(&self.key(key))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }

    /// The error about a key.
    pub(super) fn fail(&self, key: &str, why: impl Into<String>) -> Error {
        self.refuse(key, why, "the file is not a complete model: fetch it again")
    }

    /// The error about a key that is right and not supported.
    pub(super) fn refuse(&self, key: &str, why: impl Into<String>, help: &str) -> Error {
        Error::model(&self.gguf.path, format!("key `{}`", self.key(key)), why, help)
    }

    /// Refuses keys that nobody has read and that would change the mathematics, and keys nobody here knows.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first of them.
    pub(super) fn refuse_unread(&self) -> Result<()> {
        let read = self.read.borrow();
        for (key, value) in &self.gguf.metadata {
            let own = key.strip_prefix(self.architecture.name).and_then(|rest| rest.strip_prefix('.'));
            let Some(own) = own.filter(|own| !read.contains(*own)) else { continue };
            if let Some(why) = gguf_settings::refused(own, value) {
                let help = "use a plain model of this architecture, or the Hugging Face directory of this one";
                return Err(self.refuse(own, why, help));
            }
        }
        Ok(())
    }

    /// A size: at least one, and small enough for any arithmetic on it.
    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.fail(key, "it is not there"))
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map_or(Ok(None), |value| self.possible(key, value).map(Some))
    }

    pub(super) fn possible(&self, key: &str, value: &MetadataValue) -> Result<usize> {
        let size = value.count().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..1 << 31).contains(n));
        size.ok_or_else(|| self.fail(key, "it is not a possible size"))
    }

    /// A size that may be given layer by layer, if it is the same in each.
    pub(super) fn size_of_layers(&self, key: &str) -> Result<Option<usize>> {
        let Some(list) = self.get(key).and_then(MetadataValue::array) else { return self.optional_size(key) };
        let layers = self.size("block_count")?;
        if list.len() != layers {
            return Err(self.fail(key, format!("it has {} entries for {layers} layers", list.len())));
        }
        if let Some(at) = list.iter().position(|v| v.count() != list[0].count()) {
            let why = format!("layers of different sizes are not supported: layer 0 and layer {at} differ");
            return Err(self.refuse(key, why, "use a model whose layers are alike"));
        }
        self.possible(key, &list[0]).map(Some)
    }

    /// A number above zero; `None` where the key is not there.
    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.number().filter(|x| x.is_finite() && *x > 0.0);
        number.map(Some).ok_or_else(|| self.fail(key, "it is not a positive number"))
    }

    /// As [`Metadata::optional_number`]; 0 is none, as in llama.cpp.
    pub(super) fn set_number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key).and_then(MetadataValue::number) {
            Some(0.0) => Ok(None),
            _ => self.optional_number(key),
        }
    }

    /// A number above zero that must be there.
    pub(super) fn number(&self, key: &str) -> Result<f64> {
        self.optional_number(key)?.ok_or_else(|| self.fail(key, "it is not there"))
    }

    pub(super) fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        let flag = |value: &MetadataValue| value.flag().ok_or_else(|| self.fail(key, "it is not a truth value"));
        self.get(key).map(flag).transpose()
    }

    /// Layers of the model itself.
    pub(super) fn layers(&self) -> Result<usize> {
        let (all, ahead) = (self.size("block_count")?, self.ahead()?);
        let own = all.checked_sub(ahead).filter(|own| *own > 0);
        own.ok_or_else(|| self.fail(AHEAD, format!("{ahead} of {all} layers leave none")))
    }

    /// Layers behind the model's own, which predict further tokens.
    pub(super) fn ahead(&self) -> Result<usize> {
        if !self.architecture.ahead {
            return Ok(0);
        }
        let count = self.get(AHEAD).map_or(Some(0), MetadataValue::count).and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| self.fail(AHEAD, "it is no number of layers"))
    }

    pub(super) fn heads(&self) -> Result<usize> {
        let key = "attention.head_count";
        self.size_of_layers(key)?.ok_or_else(|| self.fail(key, "it is not there"))
    }

    pub(super) fn kv_heads(&self) -> Result<usize> {
        self.size_of_layers("attention.head_count_kv")?.map_or_else(|| self.heads(), Ok)
    }

    /// Whether kinds of layers differ in their heads.
    pub(super) fn is_by_kind(&self) -> bool {
        matches!(self.family.shapes, Shapes::ByWindow { .. })
    }

    /// Numbers of a head; where kinds of layers differ in them, in layers with a window.
    pub(super) fn head_dim(&self) -> Result<usize> {
        self.head_dim_of(if self.is_by_kind() { "_swa" } else { "" })
    }

    /// `attention.key_length`, which `attention.value_length` must equal; each is the width divided among the heads where it is left out.
    /// With `_swa` behind their names: of layers with a window.
    pub(super) fn head_dim_of(&self, ending: &str) -> Result<usize> {
        let (hidden, heads) = (self.size("embedding_length")?, self.heads()?);
        let length = |key: &str| match self.optional_size(key)? {
            Some(length) => Ok(length),
            None if !ending.is_empty() => Err(self.fail(key, "it is not there")),
            None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
            None => Err(self.fail("attention.head_count", format!("{hidden} dimensions cannot be divided among {heads} heads"))),
        };
        let [keys, values] = ["key", "value"].map(|of| format!("attention.{of}_length{ending}"));
        let (keys, found, key) = (length(&keys)?, length(&values)?, values);
        if keys != found {
            let why = format!("keys have {keys} dimensions and values {found}: different sizes are not supported");
            return Err(self.fail(&key, why));
        }
        Ok(keys)
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        self.tensors.get(name).copied()
    }

    /// Whether the first layer has a tensor; the others are checked when they are taken.
    pub(super) fn first_layer_has(&self, part: &str) -> bool {
        self.tensor(&format!("blk.0.{part}")).is_some()
    }
}

/// `blk.LAYER.` and what follows.
pub(super) fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, part))
}
