//! A GGUF model in Hugging Face's terms: a config made from the metadata, and Hugging Face's tensor names.
//!
//! Architectures `llama` and `qwen2`. Names and keys follow llama.cpp's converter (`gguf-py/gguf/constants.py`,
//! `convert_hf_to_gguf.py`). Refuses to know: bytes of the container, tokenizers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::Stored;
use super::gguf::{Gguf, MetadataValue, Tensor};
use super::gguf_settings;
use super::rope_scaling::{Factors, explain};
use crate::error::{Error, Result};
use crate::kernels::weight::{RowOrder, decode};

/// Frequency divisors of Llama 3's rope scaling; not a weight.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Whether models of a `model_type` are read from GGUF.
pub fn reads(model_type: &str) -> bool {
    ["llama", "qwen2"].contains(&model_type)
}

/// The config and the tensors of a GGUF file.
///
/// # Errors
/// [`Error::Model`] naming the key or tensor that is missing, wrong or not supported.
pub(super) fn open(path: &Path) -> Result<(Json, BTreeMap<String, Stored>)> {
    let gguf = Gguf::open(path)?;
    let meta = Metadata::new(&gguf)?;
    meta.refuse_settings()?;
    let mut config = meta.config()?;
    meta.add_rope(&mut config)?;
    let (heads, kv_heads) = (meta.heads()?, meta.kv_heads()?);
    let mut tensors = BTreeMap::new();
    for tensor in gguf.tensors.iter().filter(|t| t.name != ROPE_FACTORS) {
        let name = meta.full_name(&tensor.name)?;
        let order = match name.rsplit('.').nth(1) {
            // The converter permutes q and k of this architecture alone.
            Some("q_proj") if meta.arch == "llama" => RowOrder::Interleaved { heads },
            Some("k_proj") if meta.arch == "llama" => RowOrder::Interleaved { heads: kv_heads },
            _ => RowOrder::Plain,
        };
        let Tensor { data, dtype, shape, .. } = tensor;
        let stored = Stored {
            name: name.clone(),
            written: name.clone(),
            file: path.to_path_buf(),
            data: data.clone(),
            dtype: *dtype,
            shape: shape.clone(),
            order,
        };
        tensors.insert(name, stored);
    }
    Ok((Json::Object(config), tensors))
}

/// The metadata of one architecture.
struct Metadata<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl<'a> Metadata<'a> {
    fn new(gguf: &'a Gguf) -> Result<Self> {
        let arch = gguf.metadata.get("general.architecture").and_then(MetadataValue::text);
        let arch = arch
            .ok_or_else(|| Error::model(&gguf.path, "key `general.architecture`", "it is not there", "fetch the model again"))?;
        if gguf.metadata.get("split.count").and_then(MetadataValue::count).is_some_and(|n| n > 1) {
            let help = "join the parts: `llama-gguf-split --merge FIRST-PART OUT.gguf`";
            return Err(Error::model(&gguf.path, "key `split.count`", "the model is split over several files", help));
        }
        if !reads(arch) {
            let help = "llama and qwen2 are read from GGUF; use the Hugging Face directory of this model";
            return Err(Error::model(&gguf.path, "key `general.architecture`", format!("`{arch}` is not supported"), help));
        }
        Ok(Self { gguf, arch })
    }

    fn get(&self, key: &str) -> Option<&'a MetadataValue> {
        self.gguf.metadata.get(&format!("{}.{key}", self.arch))
    }

    fn fail(&self, key: &str, why: impl Into<String>) -> Error {
        Error::model(
            &self.gguf.path,
            format!("key `{}.{key}`", self.arch),
            why,
            "the file is not a complete model: fetch it again",
        )
    }

    /// Keys that would change the mathematics and are not carried out, and keys nobody here knows.
    fn refuse_settings(&self) -> Result<()> {
        for (key, value) in &self.gguf.metadata {
            let own = key.strip_prefix(self.arch).and_then(|rest| rest.strip_prefix('.'));
            if let Some(why) = own.and_then(|own| gguf_settings::refused(own, value)) {
                let help = "use a plain model of this architecture, or the Hugging Face directory of this one";
                return Err(Error::model(&self.gguf.path, format!("key `{key}`"), why, help));
            }
        }
        Ok(())
    }

    /// A size: at least one, and small enough for any arithmetic on it.
    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.fail(key, "it is not there"))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.count().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..1 << 31).contains(n));
        size.map(Some).ok_or_else(|| self.fail(key, "it is not a possible size"))
    }

    /// A size that may be given layer by layer, if it is the same in each.
    fn size_of_layers(&self, key: &str) -> Result<Option<usize>> {
        let Some(list) = self.get(key).and_then(MetadataValue::array) else { return self.optional_size(key) };
        let layers = self.size("block_count")?;
        if list.len() != layers {
            return Err(self.fail(key, format!("it has {} entries for {layers} layers", list.len())));
        }
        if let Some(at) = list.iter().position(|v| v.count() != list[0].count()) {
            let why = format!("layers of different sizes are not supported: layer 0 and layer {at} differ");
            let help = "use a model whose layers are alike";
            return Err(Error::model(&self.gguf.path, format!("key `{}.{key}`", self.arch), why, help));
        }
        let size = list[0].count().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..1 << 31).contains(n));
        size.map(Some).ok_or_else(|| self.fail(key, "it is not a possible size"))
    }

    /// A number above zero; `None` where the key is not there.
    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.number().filter(|x| x.is_finite() && *x > 0.0);
        number.map(Some).ok_or_else(|| self.fail(key, "it is not a positive number"))
    }

    fn heads(&self) -> Result<usize> {
        let key = "attention.head_count";
        self.size_of_layers(key)?.ok_or_else(|| self.fail(key, "it is not there"))
    }

    fn kv_heads(&self) -> Result<usize> {
        self.size_of_layers("attention.head_count_kv")?.map_or_else(|| self.heads(), Ok)
    }

    /// `attention.key_length`, which `attention.value_length` must equal; each is the width divided among the heads where it is left out.
    fn head_dim(&self) -> Result<usize> {
        let (hidden, heads) = (self.size("embedding_length")?, self.heads()?);
        let length = |key: &str| match self.optional_size(key)? {
            Some(length) => Ok(length),
            None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
            None => Err(self.fail("attention.head_count", format!("{hidden} dimensions cannot be divided among {heads} heads"))),
        };
        let (keys, values) = (length("attention.key_length")?, length("attention.value_length")?);
        if keys != values {
            let why = format!("keys have {keys} dimensions and values {values}: different sizes are not supported");
            return Err(self.fail("attention.value_length", why));
        }
        Ok(keys)
    }

    fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        self.gguf.tensors.iter().find(|t| t.name == name)
    }

    /// The config but for rope.
    fn config(&self) -> Result<Map<String, Json>> {
        let embedding = self.tensor("token_embd.weight");
        let embedding = embedding.ok_or_else(|| {
            Error::model(
                &self.gguf.path,
                "tensor `token_embd.weight`",
                "it is not there",
                "the file holds no model (a vocabulary only?); fetch the model itself",
            )
        })?;
        let class = if self.arch == "llama" { "LlamaForCausalLM" } else { "Qwen2ForCausalLM" };
        let ffn = "feed_forward_length";
        let epsilon = "attention.layer_norm_rms_epsilon";
        let positions = self.size("context_length")?;
        self.refuse_window(positions)?;
        let config = json!({
            "architectures": [class],
            "model_type": self.arch,
            "hidden_size": self.size("embedding_length")?,
            "intermediate_size": self.size_of_layers(ffn)?.ok_or_else(|| self.fail(ffn, "it is not there"))?,
            "num_hidden_layers": self.size("block_count")?,
            "num_attention_heads": self.heads()?,
            "num_key_value_heads": self.kv_heads()?,
            "head_dim": self.head_dim()?,
            "vocab_size": embedding.shape[0],
            "max_position_embeddings": positions,
            "rms_norm_eps": self.optional_number(epsilon)?.ok_or_else(|| self.fail(epsilon, "it is not there"))?,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tensor("output.weight").is_none(),
            "attention_bias": self.tensor("blk.0.attn_q.bias").is_some(),
            "mlp_bias": self.tensor("blk.0.ffn_up.bias").is_some(),
        });
        let Json::Object(mut config) = config else { return Ok(Map::new()) };
        for (id, key) in
            [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")]
        {
            config.insert(id.into(), self.token_id(key).map_or(Json::Null, Json::from));
        }
        Ok(config)
    }

    /// A window as long as the context, or of no positions, is none.
    fn refuse_window(&self, positions: usize) -> Result<()> {
        let key = "attention.sliding_window";
        match self.get(key).map(MetadataValue::count) {
            None | Some(Some(0)) => Ok(()),
            Some(Some(window)) if window >= positions as u64 => Ok(()),
            _ => Err(self.fail(key, format!("attention over a window of the {positions} positions is not supported"))),
        }
    }

    fn token_id(&self, key: &str) -> Option<u64> {
        self.gguf
            .metadata
            .get(&format!("tokenizer.ggml.{key}"))
            .and_then(MetadataValue::count)
            .filter(|n| *n < u64::from(u32::MAX))
    }

    /// `rope_theta` and `rope_scaling`.
    fn add_rope(&self, config: &mut Map<String, Json>) -> Result<()> {
        let theta = self.optional_number("rope.freq_base")?.unwrap_or(10_000.0);
        let (key, head_dim) = ("rope.dimension_count", self.head_dim()?);
        if self.get(key).is_some() && self.size(key)? != head_dim {
            return Err(self.fail(key, format!("rotating {} of {head_dim} dimensions is not supported", self.size(key)?)));
        }
        config.insert("rope_theta".into(), json!(theta));
        let named = self.named_scaling()?;
        let scaling = match self.tensor(ROPE_FACTORS) {
            None => named,
            Some(_) if named != Json::Null => {
                return Err(self.fail("rope.scaling.factor", format!("scaling beside tensor `{ROPE_FACTORS}` is not supported")));
            }
            Some(factors) => self.llama3_scaling(factors, theta)?,
        };
        config.insert("rope_scaling".into(), scaling);
        Ok(())
    }

    fn llama3_scaling(&self, tensor: &Tensor, theta: f64) -> Result<Json> {
        let fail = |why: &str| {
            Error::model(&self.gguf.path, format!("tensor `{ROPE_FACTORS}`"), why, "use the Hugging Face directory of this model")
        };
        let pairs = self.head_dim()? / 2;
        if tensor.shape != [pairs] || tensor.dtype.block() != 1 {
            return Err(fail(&format!("it must hold {pairs} plain numbers")));
        }
        let mut divisors = vec![0f32; pairs];
        decode(tensor.dtype, tensor.data.bytes(), &mut divisors);
        match explain(&divisors, theta) {
            Factors::Plain => Ok(Json::Null),
            Factors::Llama3(rule) => Ok(json!({
                "rope_type": "llama3",
                "factor": rule.factor,
                "low_freq_factor": rule.low,
                "high_freq_factor": rule.high,
                "original_max_position_embeddings": rule.original as u64,
            })),
            Factors::Other => Err(fail("these frequency factors are not Llama 3's rope scaling; no other is supported")),
        }
    }

    /// The scaling that the metadata names, in Hugging Face's spelling. As in llama.cpp the type is `linear` where none is named,
    /// the factor may have its older name, and a factor of 0 is none.
    fn named_scaling(&self) -> Result<Json> {
        let kind = self
            .get("rope.scaling.type")
            .map_or(Ok("linear"), |v| v.text().ok_or_else(|| self.fail("rope.scaling.type", "it is not text")))?;
        let key = ["rope.scaling.factor", "rope.scale_linear"].into_iter().find(|key| self.get(key).is_some());
        let zero = |key: &&str| self.get(key).and_then(MetadataValue::number) == Some(0.0);
        let factor = key.filter(|key| !zero(key)).map_or(Ok(Some(1.0)), |key| self.optional_number(key))?.unwrap_or(1.0);
        match kind {
            "none" => Ok(Json::Null),
            "linear" if factor == 1.0 => Ok(Json::Null),
            "linear" => Ok(json!({ "rope_type": "linear", "factor": factor })),
            other => {
                let help = "none and linear are supported, and Llama 3's; use another model";
                let key = format!("key `{}.rope.scaling.type`", self.arch);
                Err(Error::model(&self.gguf.path, key, format!("`{other}` is not supported"), help))
            }
        }
    }

    /// Hugging Face's name of a tensor.
    fn full_name(&self, name: &str) -> Result<String> {
        let known = match name {
            "token_embd.weight" => Some("model.embed_tokens.weight".into()),
            "output_norm.weight" => Some("model.norm.weight".into()),
            "output.weight" => Some("lm_head.weight".into()),
            _ => self.layer_name(name),
        };
        known.ok_or_else(|| {
            let why = format!("no part of `{}` has this name", self.arch);
            Error::model(&self.gguf.path, format!("tensor `{name}`"), why, "use the Hugging Face directory of this model")
        })
    }

    /// `blk.N.PART.weight` (or `.bias`).
    fn layer_name(&self, name: &str) -> Option<String> {
        let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer: usize = number.parse().ok()?;
        let (part, kind) = part.rsplit_once('.')?;
        let part = match part {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        (layer.to_string() == number && ["weight", "bias"].contains(&kind)).then(|| format!("model.layers.{layer}.{part}.{kind}"))
    }
}
