//! Rotary frequencies from `config.json`, as transformers (5.24, `modeling_rope_utils.py`) reads them.
//!
//! Either `rope_parameters` or the older `rope_scaling` with `rope_theta` beside it. Refuses to know: positions, tensors.

use serde_json::Value;

use super::config_reader::{ConfigReader, RESTORE};
use crate::error::Result;

/// Inverse frequencies `theta^(-2i/d)` with `linear` or `llama3` scaling, one for each pair of a head's elements.
///
/// Where both spellings are there transformers takes `rope_scaling`, and drops even the `rope_theta` of the other: such a file is
/// read if they say the same and refused if not.
///
/// # Errors
/// [`crate::Error::Model`] naming the key that is impossible or not supported.
pub(super) fn inverse_frequencies(r: &ConfigReader, head_dim: usize, max_positions: usize) -> Result<Vec<f32>> {
    let read = |table: Option<ConfigReader>| frequencies(r, table, head_dim, max_positions);
    match (table(r, "rope_scaling", "rope_scaling.")?, table(r, "rope_parameters", "rope_parameters.")?) {
        (Some(old), Some(new)) => {
            let (old, new) = (read(Some(old))?, read(Some(new))?);
            if old == new {
                return Ok(old);
            }
            Err(r.fail(
                "rope_scaling",
                "it says other rotary frequencies than `rope_parameters`",
                "remove the one of the two that is not the model's (transformers 5 writes `rope_parameters` alone)",
            ))
        }
        (old, new) => read(old.or(new)),
    }
}

/// A table of the config; an empty one says nothing.
fn table<'a>(r: &ConfigReader<'a>, key: &str, prefix: &'static str) -> Result<Option<ConfigReader<'a>>> {
    match r.json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(table)) if table.is_empty() => Ok(None),
        Some(json @ Value::Object(_)) => Ok(Some(ConfigReader { json, path: r.path, prefix })),
        Some(other) => Err(r.fail(key, format!("expected a table, found {other}"), RESTORE)),
    }
}

fn frequencies(r: &ConfigReader, table: Option<ConfigReader>, head_dim: usize, max_positions: usize) -> Result<Vec<f32>> {
    let none = Value::Null;
    let s = table.unwrap_or(ConfigReader { json: &none, path: r.path, prefix: "" });
    let holder = if s.json.get("rope_theta").is_some() { &s } else { r };
    let theta = if holder.json.get("rope_theta").is_some() { holder.positive("rope_theta")? } else { 10_000.0 };
    refuse_tables(&s)?;
    let plain = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
    match kind(&s)? {
        "default" => Ok(plain.map(|f| f as f32).collect()),
        "linear" => {
            let factor = s.positive("factor")?;
            Ok(plain.map(|f| (f / factor) as f32).collect())
        }
        "llama3" => llama3_frequencies(&s, plain, original(r, &s, max_positions)?),
        other => {
            Err(s.fail("rope_type", format!("`{other}` is not supported"), "use a model with default, linear or llama3 rope"))
        }
    }
}

/// `rope_type`, else the older `type`.
fn kind<'a>(s: &ConfigReader<'a>) -> Result<&'a str> {
    match s.json.get("rope_type").or_else(|| s.json.get("type")) {
        None => Ok("default"),
        Some(Value::String(kind)) => Ok(kind),
        Some(other) => Err(s.fail("rope_type", format!("expected a name, found {other}"), RESTORE)),
    }
}

/// Settings for each kind of layer, and a part of the head that is not turned.
fn refuse_tables(s: &ConfigReader) -> Result<()> {
    let nested = s.json.as_object().into_iter().flatten().find(|(_, v)| v.is_object());
    if let Some((key, _)) = nested {
        return Err(s.fail(key, "rotary positions that differ by layer are not supported", "use a model with one kind of them"));
    }
    match s.json.get("partial_rotary_factor") {
        None | Some(Value::Null) => Ok(()),
        Some(part) if part.as_f64() == Some(1.0) => Ok(()),
        Some(part) => Err(s.fail(
            "partial_rotary_factor",
            format!("turning only a part of each head is not supported, found {part}"),
            "use a model that turns whole heads",
        )),
    }
}

/// The length before scaling: the one beside the table wins, as in `standardize_rope_params`.
fn original(r: &ConfigReader, s: &ConfigReader, max_positions: usize) -> Result<f64> {
    let key = "original_max_position_embeddings";
    if r.json.get(key).is_some() {
        return r.positive(key);
    }
    if s.json.get(key).is_some() { s.positive(key) } else { Ok(max_positions as f64) }
}

/// `_compute_llama3_parameters`.
fn llama3_frequencies(s: &ConfigReader, plain: impl Iterator<Item = f64>, old: f64) -> Result<Vec<f32>> {
    let (factor, low, high) = (s.positive("factor")?, s.positive("low_freq_factor")?, s.positive("high_freq_factor")?);
    if high <= low {
        return Err(s.fail("high_freq_factor", format!("{high} is not above `low_freq_factor`, {low}"), RESTORE));
    }
    let scale = |f: f64| {
        let wavelength = 2.0 * std::f64::consts::PI / f;
        if wavelength > old / low {
            f / factor
        } else if wavelength < old / high {
            f
        } else {
            let smooth = (old / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        }
    };
    Ok(plain.map(|f| scale(f) as f32).collect())
}
