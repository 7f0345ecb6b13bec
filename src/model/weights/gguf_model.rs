//! A GGUF model in Hugging Face's terms: a config made from the metadata, and Hugging Face's tensor names.
//!
//! Architectures `llama` and `qwen2`. Names and keys follow llama.cpp's converter (`gguf-py/gguf/constants.py`,
//! `convert_hf_to_gguf.py`). Refuses to know: bytes of the container, tokenizers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::Stored;
use super::gguf::{Gguf, MetadataValue, Tensor};
use super::rope_scaling::{Factors, explain};
use crate::error::{Error, Result};
use crate::kernels::weight::{RowOrder, decode};

/// Frequency divisors of Llama 3's rope scaling; not a weight.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The config and the tensors of a GGUF file.
///
/// # Errors
/// [`Error::Model`] naming the key or tensor that is missing, wrong or not supported.
pub(super) fn open(path: &Path) -> Result<(Json, BTreeMap<String, Stored>)> {
    let gguf = Gguf::open(path)?;
    let meta = Metadata::new(&gguf)?;
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
        if !["llama", "qwen2"].contains(&arch) {
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

    /// A size: at least one, and small enough for any arithmetic on it.
    fn size(&self, key: &str) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.fail(key, "it is not there"))?;
        let size = value.count().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..1 << 31).contains(n));
        size.ok_or_else(|| self.fail(key, "it is not a possible size"))
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match self.get(key) {
            None => default.ok_or_else(|| self.fail(key, "it is not there")),
            Some(v) => {
                v.number().filter(|x| x.is_finite() && *x > 0.0).ok_or_else(|| self.fail(key, "it is not a positive number"))
            }
        }
    }

    fn heads(&self) -> Result<usize> {
        self.size("attention.head_count")
    }

    fn kv_heads(&self) -> Result<usize> {
        let key = "attention.head_count_kv";
        if self.get(key).is_some() { self.size(key) } else { self.heads() }
    }

    fn head_dim(&self) -> Result<usize> {
        let key = "attention.key_length";
        if self.get(key).is_some() {
            return self.size(key);
        }
        let (hidden, heads) = (self.size("embedding_length")?, self.heads()?);
        if !hidden.is_multiple_of(heads) {
            return Err(self.fail("attention.head_count", format!("{hidden} dimensions cannot be divided among {heads} heads")));
        }
        Ok(hidden / heads)
    }

    fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        self.gguf.tensors.iter().find(|t| t.name == name)
    }

    /// The config but for rope and special tokens.
    fn config(&self) -> Result<Map<String, Json>> {
        if self.get("expert_count").and_then(MetadataValue::count).is_some_and(|n| n > 0) {
            return Err(Error::model(
                &self.gguf.path,
                format!("key `{}.expert_count`", self.arch),
                "mixtures of experts are not supported",
                "use a dense model",
            ));
        }
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
        let config = json!({
            "architectures": [class],
            "model_type": self.arch,
            "hidden_size": self.size("embedding_length")?,
            "intermediate_size": self.size("feed_forward_length")?,
            "num_hidden_layers": self.size("block_count")?,
            "num_attention_heads": self.heads()?,
            "num_key_value_heads": self.kv_heads()?,
            "head_dim": self.head_dim()?,
            "vocab_size": embedding.shape[0],
            "max_position_embeddings": self.size("context_length")?,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon", None)?,
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

    fn token_id(&self, key: &str) -> Option<u64> {
        self.gguf
            .metadata
            .get(&format!("tokenizer.ggml.{key}"))
            .and_then(MetadataValue::count)
            .filter(|n| *n < u64::from(u32::MAX))
    }

    /// `rope_theta` and `rope_scaling`.
    fn add_rope(&self, config: &mut Map<String, Json>) -> Result<()> {
        let theta = self.number("rope.freq_base", Some(10_000.0))?;
        let (key, head_dim) = ("rope.dimension_count", self.head_dim()?);
        if self.get(key).is_some() && self.size(key)? != head_dim {
            return Err(self.fail(key, format!("rotating {} of {head_dim} dimensions is not supported", self.size(key)?)));
        }
        config.insert("rope_theta".into(), json!(theta));
        let scaling = match self.tensor(ROPE_FACTORS) {
            Some(factors) => self.llama3_scaling(factors, theta)?,
            None => self.named_scaling()?,
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

    /// The scaling that the metadata names, passed on in Hugging Face's spelling.
    fn named_scaling(&self) -> Result<Json> {
        let kind = self.get("rope.scaling.type").and_then(MetadataValue::text).unwrap_or("none");
        if kind == "none" {
            return Ok(Json::Null);
        }
        let mut scaling = json!({ "rope_type": kind, "factor": self.number("rope.scaling.factor", Some(1.0))? });
        if self.get("rope.scaling.original_context_length").is_some() {
            scaling["original_max_position_embeddings"] = json!(self.size("rope.scaling.original_context_length")?);
        }
        Ok(scaling)
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
