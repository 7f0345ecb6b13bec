//! What kinds of layers of one GGUF model differ in: heads, shared keys, widths, inputs of their own and how they turn; Gemma 4's.
//!
//! Keys without an ending are those of layers that see everything, keys ending in `_swa` of those with a window. Refuses to know:
//! which layers have a window (`gguf_config`).

use serde_json::{Map, Value as Json, json};

use super::gguf::MetadataValue;
use super::gguf_experts::decoded;
use super::gguf_metadata::Metadata;
use crate::error::{Error, Result};
use crate::kernels::weight::WeightType;
use crate::model::family::{KeySharing, LayerInputNames, Shapes};

/// Frequency divisors of layers that see everything.
const DIVISORS: &str = "rope_freqs.weight";
/// What pairs that do not turn are divided by, at least; the converter writes 1e30.
const STANDS_STILL: f32 = 1e20;

/// What layers with a window and those that see everything have, where a list says it layer by layer.
struct OfKinds {
    windowed: Option<usize>,
    full: Option<usize>,
}

impl Metadata<'_> {
    /// All that kinds of layers differ in; `slide`: which have a window.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key or tensor that is missing, impossible or not supported.
    pub(super) fn put_kinds(&self, config: &mut Map<String, Json>, slide: &[bool]) -> Result<()> {
        let Shapes::ByWindow { head_dim: (name, _), kv_heads } = &self.family.shapes else { return Ok(()) };
        config.insert((*name).into(), json!(self.head_dim_of("")?));
        let Some(sharing) = &self.family.sharing else { return Ok(()) };
        let as_values = self.put_sharing(config, sharing, slide)?;
        let heads = self.kv_heads_of_kinds(slide)?;
        let usual = heads.windowed.or(heads.full).map_or_else(|| self.heads(), Ok)?;
        if let Some(count) = &self.family.keys.kv_heads {
            config.insert(count.written().into(), json!(usual));
        }
        match heads.full.filter(|full| *full != usual) {
            Some(full) if as_values => _ = config.insert(kv_heads.written().into(), json!(full)),
            Some(full) => {
                let why =
                    format!("{full} heads of keys in layers that see everything, {usual} in the others, and values of their own");
                return Err(self.refuse(
                    "attention.head_count_kv",
                    why + " are not supported",
                    "use a published model of this architecture",
                ));
            }
            None => {}
        }
        if let Some(names) = &self.family.layer_inputs {
            self.put_layer_inputs(config, names)?;
        }
        Ok(())
    }

    /// Heads of keys of each kind of layer.
    fn kv_heads_of_kinds(&self, slide: &[bool]) -> Result<OfKinds> {
        let key = "attention.head_count_kv";
        let Some(list) = self.get(key).and_then(MetadataValue::array) else {
            let all = self.optional_size(key)?;
            return Ok(OfKinds { windowed: all, full: all });
        };
        let sizes = self.sizes(key, list, slide.len())?;
        let of = |kind: bool| {
            let mut own = sizes.iter().zip(slide).filter(|(_, slides)| **slides == kind).map(|(size, _)| *size);
            let first = own.next();
            match own.find(|size| Some(*size) != first) {
                None => Ok(first),
                Some(_) => Err(self.refuse(key, "layers of one kind differ in it, which is not supported", "use another model")),
            }
        };
        Ok(OfKinds { windowed: of(true)?, full: of(false)? })
    }

    fn sizes(&self, key: &str, list: &[MetadataValue], layers: usize) -> Result<Vec<usize>> {
        if list.len() != layers {
            return Err(self.fail(key, format!("it has {} entries for {layers} layers", list.len())));
        }
        list.iter().map(|value| self.possible(key, value)).collect()
    }

    /// Shared keys, and whether values are made of what keys are.
    fn put_sharing(&self, config: &mut Map<String, Json>, sharing: &KeySharing, slide: &[bool]) -> Result<bool> {
        let shared = self.shared_layers(slide.len())?;
        config.insert(sharing.layers.into(), json!(shared));
        let own = slide.len() - shared;
        let missing = |layer: usize| self.tensor(&format!("blk.{layer}.attn_v.weight")).is_none();
        let as_values = slide[..own].iter().enumerate().any(|(layer, slides)| !slides && missing(layer));
        config.insert(sharing.keys_as_values.into(), json!(as_values));
        config.insert(sharing.wide.into(), json!(self.feed_forward()?.1));
        Ok(as_values)
    }

    /// How many of the last layers read keys of others.
    fn shared_layers(&self, layers: usize) -> Result<usize> {
        let key = "attention.shared_kv_layers";
        let count = self.get(key).map_or(Some(0), MetadataValue::count).and_then(|n| usize::try_from(n).ok());
        count.filter(|n| *n < layers).ok_or_else(|| self.fail(key, format!("it is no number of the {layers} layers")))
    }

    /// Whether a layer's tensor is of no use, since it reads the keys and values of another.
    pub(super) fn is_idle(&self, layer: usize, part: &str) -> Result<bool> {
        if self.family.sharing.is_none() || !["attn_k", "attn_v", "attn_k_norm"].contains(&part) {
            return Ok(false);
        }
        let layers = self.size("block_count")?;
        Ok(layer < layers && layer >= layers - self.shared_layers(layers)?)
    }

    /// The width of feed-forwards, and whether those of layers that read keys of others are twice as wide.
    pub(super) fn feed_forward(&self) -> Result<(usize, bool)> {
        let key = "feed_forward_length";
        let list = self.get(key).and_then(MetadataValue::array).filter(|_| self.family.sharing.is_some());
        let Some(list) = list else {
            let width = self.size_of_layers(key)?.ok_or_else(|| self.fail(key, "it is not there"))?;
            return Ok((width, false));
        };
        let layers = self.size("block_count")?;
        let widths = self.sizes(key, list, layers)?;
        let (own, sharing) = widths.split_at(layers - self.shared_layers(layers)?);
        let (width, wide) = (own[0], sharing.first().is_some_and(|width| *width != own[0]));
        let expected = if wide { 2 * width } else { width };
        if own.iter().any(|w| *w != width) || sharing.iter().any(|w| *w != expected) {
            let why = "widths that differ otherwise than by the double in layers that read the keys of others are not supported";
            return Err(self.refuse(key, why, "use a published model of this architecture"));
        }
        Ok((width, wide))
    }

    fn put_layer_inputs(&self, config: &mut Map<String, Json>, names: &LayerInputNames) -> Result<()> {
        let key = "embedding_length_per_layer_input";
        let none = self.get(key).is_some_and(|value| value.count() == Some(0));
        config.insert(names.width.0.into(), json!(if none { 0 } else { self.size(key)? }));
        if let Some(embedding) = self.tensor("per_layer_token_embd.weight") {
            config.insert(names.vocab.written().into(), json!(embedding.shape[0]));
        }
        Ok(())
    }

    /// The table of layers that see everything and turn the first pairs of their heads, at the pace of whole heads: which pairs turn is said by divisors, of one and of more than any angle.
    ///
    /// # Errors
    /// [`Error::Model`] when it is no such table, or a part of the heads with a window does not turn.
    pub(super) fn proportional(&self) -> Result<Map<String, Json>> {
        for ending in ["", "_swa"] {
            let (key, size) = (format!("rope.dimension_count{ending}"), self.head_dim_of(ending)?);
            if self.optional_size(&key)?.is_some_and(|turning| turning != size) {
                return Err(self.fail(&key, format!("it is not the size of these heads, {size}")));
            }
        }
        let pairs = self.head_dim_of("")? / 2;
        let tensor = self.tensor(DIVISORS).ok_or_else(|| {
            let why = "it is not there, and says which part of a head turns";
            Error::model(&self.gguf.path, format!("tensor `{DIVISORS}`"), why, "convert the model again with a current llama.cpp")
        })?;
        if tensor.shape != [pairs] || tensor.dtype != WeightType::F32 {
            return Err(self.wrong_shape(tensor, &format!("{pairs} numbers were expected")));
        }
        let divisors = decoded(tensor);
        let turning = divisors.iter().take_while(|by| **by == 1.0).count();
        if divisors[turning..].iter().any(|by| by.is_nan() || *by < STANDS_STILL) {
            return Err(self.wrong_shape(tensor, "only ones, and behind them what nothing turns by, are supported"));
        }
        let part = turning as f64 / pairs as f64;
        // Whoever reads it multiplies and cuts the fraction off.
        let part = if (part * pairs as f64) as usize == turning { part } else { part.next_up() };
        let mut table = Map::new();
        table.insert("rope_type".into(), json!("proportional"));
        table.insert("partial_rotary_factor".into(), json!(part));
        Ok(table)
    }
}
