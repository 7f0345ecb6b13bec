//! `config.json` → the numbers a model needs, as transformers' config classes read it: the same names, the same defaults.
//!
//! [`settings`] says of every key what becomes of it. Both spellings are read: the older flat keys (`rope_theta`,
//! `rope_scaling`) and those of transformers 5 (`rope_parameters`). Refuses to know: tensors.

use std::path::Path;

use serde_json::Value;

use super::config_reader::{ConfigReader, RESTORE};
use super::family::{Bias, Capped, Count, FAMILIES, Family, Missing, MlpNames};
use super::rope_parameters;
use super::settings;
use crate::error::{Error, Result, nearest};
use crate::kernels::activation::Activation;
use crate::kernels::attention::Scores;

/// A checked model configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub family: &'static Family,
    pub vocab: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub norm_eps: f64,
    pub activation: Activation,
    /// Of each block.
    pub scores: Vec<Scores>,
    /// Soft cap of logits.
    pub final_cap: Option<f64>,
    pub max_positions: usize,
    /// The head shares the embedding's matrix.
    pub tied: bool,
    /// Inverse frequencies of rotary positions (`head_dim / 2`), scaling applied; `None` for learned positions.
    pub inv_freq: Option<Vec<f32>>,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// The JSON it was read from.
    pub json: Value,
}

/// Names in transformers (`activations.py`) of what there are kernels for; a gated feed-forward takes the first two, a plain one all
/// but the first.
const ACTIVATIONS: &[(Activation, &[&str])] = &[
    (Activation::Silu, &["silu", "swish"]),
    (Activation::GeluTanh, &["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"]),
    (Activation::Gelu, &["gelu", "gelu_python"]),
    (Activation::Relu, &["relu"]),
];

/// Keys that several fields follow from.
impl ConfigReader<'_> {
    fn family(&self) -> Result<&'static Family> {
        let found = self.json.get("model_type").and_then(Value::as_str).unwrap_or("");
        FAMILIES.iter().find(|f| f.model_type == found).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|f| f.model_type).collect();
            let hint = nearest(found, known.iter().copied()).map(|n| format!("; nearest: `{n}`")).unwrap_or_default();
            Error::unsupported(
                self.path,
                "config `model_type`",
                format!("`{found}` is not a family this version knows"),
                format!("use a model of one of: {}{hint}", known.join(", ")),
            )
        })
    }

    /// Settings that would change the mathematics and are not carried out.
    fn refuse_settings(&self, family: &Family) -> Result<()> {
        match settings::refused(family.model_type, self.json) {
            None => Ok(()),
            Some((key, value, values)) => Err(self.fail(
                key,
                format!("{value} would change what the model computes and is not supported for {}", family.model_type),
                format!("use a model where it is one of: {}", values.join(", ")),
            )),
        }
    }

    fn activation(&self, family: &Family) -> Result<Activation> {
        let (key, default) = family.keys.activation;
        let name = match self.json.get(key) {
            None => default,
            Some(value) => value.as_str().ok_or_else(|| self.fail(key, format!("expected a name, found {value}"), RESTORE))?,
        };
        let gated = matches!(family.mlp, MlpNames::Gated { .. });
        let known = || if gated { ACTIVATIONS[..2].iter() } else { ACTIVATIONS[1..].iter() };
        known().find(|(_, names)| names.contains(&name)).map(|(activation, _)| *activation).ok_or_else(|| {
            let names: Vec<&str> = known().flat_map(|(_, names)| names.iter().copied()).collect();
            let why = format!("activation `{name}` is not supported for {}", family.model_type);
            self.fail(key, why, format!("use a model with one of: {}", names.join(", ")))
        })
    }

    /// The size of a head. gpt2's is always the width divided among the heads.
    fn head_dim(&self, family: &Family, width: usize, heads: usize) -> Result<usize> {
        let rope = family.positions.is_none();
        let stated = if rope { self.count(&Count(&["head_dim"], family.keys.head_dim))? } else { None };
        match stated {
            None if !width.is_multiple_of(heads) => {
                let names = family.keys.heads.0;
                let key = names.iter().find(|k| self.json.get(**k).is_some()).or(names.last()).unwrap_or(&"num_attention_heads");
                Err(self.fail(key, format!("{width} dimensions cannot be divided among {heads} heads"), RESTORE))
            }
            None if rope && !(width / heads).is_multiple_of(2) => {
                Err(self.fail("head_dim", format!("rotary positions need an even size, found {}", width / heads), RESTORE))
            }
            Some(odd) if !odd.is_multiple_of(2) => {
                Err(self.fail("head_dim", format!("rotary positions need an even size, found {odd}"), RESTORE))
            }
            Some(stated) => Ok(stated),
            None => Ok(width / heads),
        }
    }

    fn kv_heads(&self, family: &Family, heads: usize) -> Result<usize> {
        let Some(count) = &family.keys.kv_heads else { return Ok(heads) };
        match self.count(count)?.unwrap_or(heads) {
            shared if heads.is_multiple_of(shared) => Ok(shared),
            shared => Err(self.fail(count.0[0], format!("{heads} heads do not divide by {shared}"), RESTORE)),
        }
    }

    /// The scores of each block: transformers' `GPT2Attention.scaling`, `Gemma2Attention`.
    fn scores(&self, family: &Family, layers: usize, positions: usize, head_dim: usize) -> Result<Vec<Scores>> {
        if let Some(capped) = &family.keys.capped {
            return self.capped_scores(capped, layers);
        }
        self.refuse_windows(family, layers, positions)?;
        // Settings of families with learned positions, which are gpt2 alone.
        let learned = |name: &str, usual: bool| if family.positions.is_none() { Ok(usual) } else { self.flag(name, usual) };
        let scale = if learned("scale_attn_weights", true)? { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
        let by_layer = learned("scale_attn_by_inverse_layer_idx", false)?;
        Ok((1..=layers).map(|i| Scores::scaled(if by_layer { scale / i as f64 } else { scale })).collect())
    }

    fn capped_scores(&self, usual: &Capped, layers: usize) -> Result<Vec<Scores>> {
        let scalar = self.positive_or("query_pre_attn_scalar", usual.query_scalar)?;
        let scalar = scalar.ok_or_else(|| self.fail("query_pre_attn_scalar", "null is not a number", RESTORE))?;
        let cap = self.positive_or("attn_logit_softcapping", usual.score_cap)?;
        let window = self.size(&Count(&["sliding_window"], Missing::Is(usual.window)))?;
        let types = self.json.get("layer_types").filter(|v| !v.is_null());
        if types.is_some_and(|types| types.as_array().map(Vec::len) != Some(layers)) {
            return Err(self.fail("layer_types", format!("expected a list of {layers}, one a layer"), RESTORE));
        }
        let kind =
            |i: usize| types.map_or(["sliding_attention", "full_attention"][i % 2], |types| types[i].as_str().unwrap_or(""));
        let scores = |window| Scores { scale: 1.0 / scalar.sqrt(), cap, window };
        let each = (0..layers).map(|i| match kind(i) {
            "sliding_attention" => Ok(scores(Some(window))),
            "full_attention" => Ok(scores(None)),
            other => Err(self.fail("layer_types", format!("attention `{other}` is not supported"), RESTORE)),
        });
        each.collect()
    }

    /// Refuses attention that sees only a window of the positions there can be (`layer_types`, else `use_sliding_window`,
    /// `sliding_window` and `max_window_layers` as in `configuration_qwen2.py`).
    fn refuse_windows(&self, family: &Family, layers: usize, positions: usize) -> Result<()> {
        if let Some(types) = self.json.get("layer_types").filter(|v| !v.is_null()) {
            let full = |kind: &Value| matches!(kind.as_str(), Some("full_attention" | "attention"));
            return match types.as_array() {
                Some(list) if list.len() == layers && list.iter().all(full) => Ok(()),
                _ => Err(self.fail(
                    "layer_types",
                    format!("only full attention in each of the {layers} layers is supported, found {types}"),
                    "use a model with full attention",
                )),
            };
        }
        let on = family.model_type != "qwen2" || self.flag("use_sliding_window", false)?;
        let default = if family.model_type == "qwen2" { Some(4096.0) } else { None };
        let window = match self.json.get("sliding_window") {
            Some(Value::Null) => None,
            _ => self.number("sliding_window")?.or(default),
        };
        let from = if family.model_type == "qwen2" { self.number("max_window_layers")?.unwrap_or(28.0) } else { 0.0 };
        match window {
            Some(window) if on && from < layers as f64 && window < positions as f64 => Err(self.fail(
                "sliding_window",
                format!("attention over the last {window} of {positions} positions is not supported"),
                "use a model without sliding-window attention (`use_sliding_window`, `sliding_window`)",
            )),
            _ => Ok(()),
        }
    }
}

impl Config {
    /// Checks a `config.json`; `path` is for messages. Missing keys are what transformers' config class of the family says.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing, impossible or not supported.
    pub fn from_json(json: &Value, path: &Path) -> Result<Config> {
        let r = ConfigReader { json, path, prefix: "" };
        let family = r.family()?;
        let keys = &family.keys;
        r.refuse_settings(family)?;
        let (width, heads, layers) = (r.size(&keys.width)?, r.size(&keys.heads)?, r.size(&keys.layers)?);
        let max_positions = r.size(&keys.positions)?;
        let head_dim = r.head_dim(family, width, heads)?;
        let bias = |b: Bias| match b {
            Bias::Always => Ok(true),
            Bias::Never => Ok(false),
            Bias::Config(key) => r.flag(key, false),
        };
        let (epsilon, usual) = keys.epsilon;
        let norm_eps = r.number(epsilon)?.unwrap_or(usual);
        if norm_eps < 0.0 {
            return Err(r.fail(epsilon, format!("{norm_eps} is below zero"), RESTORE));
        }
        let rope = family.positions.is_none();
        Ok(Config {
            family,
            vocab: r.size(&keys.vocab)?,
            width,
            layers,
            heads,
            kv_heads: r.kv_heads(family, heads)?,
            head_dim,
            ffn: r.count(&keys.ffn)?.unwrap_or(4 * width),
            norm_eps,
            activation: r.activation(family)?,
            scores: r.scores(family, layers, max_positions, head_dim)?,
            final_cap: match &keys.capped {
                Some(usual) => r.positive_or("final_logit_softcapping", usual.final_cap)?,
                None => None,
            },
            max_positions,
            tied: r.flag("tie_word_embeddings", keys.tied)?,
            inv_freq: if rope { Some(rope_parameters::inverse_frequencies(&r, head_dim, max_positions)?) } else { None },
            qkv_bias: bias(family.qkv_bias)?,
            output_bias: bias(family.output_bias)?,
            mlp_bias: bias(family.mlp_bias)?,
            json: json.clone(),
        })
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
