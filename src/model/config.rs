//! `config.json` → the numbers the decoder needs. Both spellings are read: the older flat keys (`rope_theta`,
//! `rope_scaling`, `torch_dtype`) and those of transformers 5 (`rope_parameters`, `dtype`).

use std::path::Path;

use serde_json::Value;

use super::family::{Bias, FAMILIES, Family};
use crate::error::{Error, Result, nearest};

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

/// Reads keys of one `config.json`, with errors that name the key.
struct ConfigReader<'a> {
    json: &'a Value,
    path: &'a Path,
}

impl ConfigReader<'_> {
    fn fail(&self, key: &str, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::model(self.path, format!("config `{key}`"), why, help)
    }

    fn number(&self, names: &[&str], default: Option<f64>) -> Result<f64> {
        for name in names {
            match self.json.get(*name) {
                None | Some(Value::Null) => {}
                Some(value) => {
                    return value.as_f64().filter(|v| v.is_finite()).ok_or_else(|| {
                        self.fail(name, format!("expected a number, found {value}"), "restore the config.json of the model")
                    });
                }
            }
        }
        default.ok_or_else(|| self.fail(names[0], "missing", "restore the config.json of the model"))
    }

    /// A count from 1 to 2^24.
    fn count(&self, names: &[&str], default: Option<usize>) -> Result<usize> {
        let value = self.number(names, default.map(|d| d as f64))?;
        match value {
            v if v.fract() == 0.0 && (1.0..=16_777_216.0).contains(&v) => Ok(v as usize),
            v => Err(self.fail(names[0], format!("{v} is not a possible size"), "restore the config.json of the model")),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.fail(name, format!("expected true or false, found {other}"), "restore the config.json")),
        }
    }

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
}

impl Config {
    /// Checks a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing, impossible or not supported.
    pub fn from_json(json: &Value, path: &Path) -> Result<Config> {
        let r = ConfigReader { json, path };
        let family = r.family()?;
        let width = r.count(&["hidden_size", "n_embd"], None)?;
        let heads = r.count(&["num_attention_heads", "n_head"], None)?;
        let kv_heads = r.count(&["num_key_value_heads"], Some(heads))?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(r.fail(
                "num_key_value_heads",
                format!("{heads} heads do not divide by {kv_heads}"),
                "restore the config.json",
            ));
        }
        let head_dim = r.count(&["head_dim"], Some((width / heads).max(1)))?;
        let rope = family.positions.is_none();
        if rope && !head_dim.is_multiple_of(2) {
            return Err(r.fail(
                "head_dim",
                format!("rotary positions need an even size, found {head_dim}"),
                "restore the config.json",
            ));
        }
        refuse_unsupported(&r, family)?;
        let bias = |b: Bias| match b {
            Bias::Always => Ok(true),
            Bias::Never => Ok(false),
            Bias::Config(key) => r.flag(key, false),
        };
        Ok(Config {
            family,
            vocab: r.count(&["vocab_size"], None)?,
            width,
            layers: r.count(&["num_hidden_layers", "n_layer"], None)?,
            heads,
            kv_heads,
            head_dim,
            ffn: r.count(&["intermediate_size", "n_inner"], Some(4 * width))?,
            norm_eps: r.number(&["rms_norm_eps", "layer_norm_epsilon"], Some(1e-5))?,
            max_positions: r.count(&["max_position_embeddings", "n_positions"], Some(2048))?,
            tied: r.flag("tie_word_embeddings", family.positions.is_some())?,
            inv_freq: if rope { Some(inverse_frequencies(&r, head_dim)?) } else { None },
            qkv_bias: bias(family.qkv_bias)?,
            output_bias: bias(family.output_bias)?,
            mlp_bias: bias(family.mlp_bias)?,
            json: json.clone(),
        })
    }
}

/// Settings that would change the mathematics and are not implemented: refused rather than ignored.
fn refuse_unsupported(r: &ConfigReader, family: &Family) -> Result<()> {
    if r.flag("use_sliding_window", false)? {
        return Err(r.fail("use_sliding_window", "sliding-window attention is not supported", "use a model without it"));
    }
    if r.flag("scale_attn_by_inverse_layer_idx", false)? {
        return Err(r.fail("scale_attn_by_inverse_layer_idx", "this GPT-2 variant is not supported", "use the plain one"));
    }
    let wanted = if family.positions.is_some() { ["gelu_new", "gelu_pytorch_tanh"] } else { ["silu", "swish"] };
    for key in ["hidden_act", "activation_function"] {
        if let Some(act) = r.json.get(key).and_then(Value::as_str)
            && !wanted.contains(&act)
        {
            return Err(r.fail(
                key,
                format!("activation `{act}` is not supported for {}", family.model_type),
                "use a model with the usual activation",
            ));
        }
    }
    Ok(())
}

/// Inverse frequencies `theta^(-2i/d)` with `linear` or `llama3` scaling
/// (transformers `modeling_rope_utils.py`, `_compute_llama3_parameters`).
fn inverse_frequencies(r: &ConfigReader, head_dim: usize) -> Result<Vec<f32>> {
    let nested = r.json.get("rope_parameters").filter(|v| v.is_object());
    let scaling = nested.or_else(|| r.json.get("rope_scaling").filter(|v| v.is_object()));
    let empty = Value::Null;
    let s = ConfigReader { json: scaling.unwrap_or(&empty), path: r.path };
    let theta = match nested.and_then(|v| v.get("rope_theta")) {
        Some(_) => s.number(&["rope_theta"], None)?,
        None => r.number(&["rope_theta"], Some(10_000.0))?,
    };
    if theta <= 0.0 {
        return Err(r.fail("rope_theta", format!("{theta} is not possible"), "restore the config.json of the model"));
    }
    let plain = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
    let kind = s.json.get("rope_type").or_else(|| s.json.get("type")).and_then(Value::as_str).unwrap_or("default");
    match kind {
        "default" => Ok(plain.map(|f| f as f32).collect()),
        "linear" => {
            let factor = s.number(&["factor"], None)?;
            Ok(plain.map(|f| (f / factor) as f32).collect())
        }
        "llama3" => llama3_frequencies(&s, plain),
        other => Err(r.fail(
            "rope_scaling.rope_type",
            format!("`{other}` is not supported"),
            "use a model with default, linear or llama3 rope",
        )),
    }
}

fn llama3_frequencies(s: &ConfigReader, plain: impl Iterator<Item = f64>) -> Result<Vec<f32>> {
    let factor = s.number(&["factor"], None)?;
    let low = s.number(&["low_freq_factor"], None)?;
    let high = s.number(&["high_freq_factor"], None)?;
    let old = s.number(&["original_max_position_embeddings"], None)?;
    if factor <= 0.0 || high <= low {
        return Err(s.fail(
            "rope_scaling",
            "factor must be positive and high_freq_factor above low_freq_factor",
            "restore the config.json",
        ));
    }
    Ok(plain
        .map(|f| {
            let wavelength = 2.0 * std::f64::consts::PI / f;
            let scaled = if wavelength > old / low {
                f / factor
            } else if wavelength < old / high {
                f
            } else {
                let smooth = (old / wavelength - low) / (high - low);
                (1.0 - smooth) * f / factor + smooth * f
            };
            scaled as f32
        })
        .collect())
}
