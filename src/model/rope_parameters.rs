//! Rotary frequencies from `config.json`, as transformers (5.24, `modeling_rope_utils.py`) reads them.
//!
//! Either `rope_parameters` or the older `rope_scaling` with `rope_theta` beside it. Refuses to know: positions, tensors.

use serde_json::Value;

use super::config_reader::{ConfigReader, RESTORE};
use super::family::{Family, Rotation, WindowedRotation};
use super::settings::{self, Ignored};
use crate::error::Result;
use crate::kernels::rope::{QueryScale, Rotary};

/// The rotations of a model: one, or that of layers that see everything and that of layers with a window.
pub(super) struct Rotations {
    pub kinds: Vec<Rotary>,
    /// Tokens that a text may have.
    pub positions: usize,
}

/// Keys of a table that some kind of scaling has; transformers leaves those of another kind out of account.
const KEYS: &[&str] = &[
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
    "finetuned",
];

/// What a table is read with.
struct Reading<'a> {
    r: &'a ConfigReader<'a>,
    family: &'static Family,
    /// Numbers of a head in layers that see everything, and in those with a window.
    head_dims: [usize; 2],
    positions: usize,
    ignored: &'a Ignored<'a>,
}

/// The rotations of a family; none for learned positions.
///
/// Where both spellings are there transformers takes `rope_scaling`, and drops even the `rope_theta` of the other: such a file is
/// read if they say the same and refused if not.
///
/// # Errors
/// [`crate::Error::Model`] naming the key that is impossible or not supported.
pub(super) fn rotations(
    r: &ConfigReader,
    family: &'static Family,
    head_dims: [usize; 2],
    positions: usize,
    ignored: &Ignored,
) -> Result<Rotations> {
    if family.positions.is_some() || family.encoder.is_some() {
        return Ok(Rotations { kinds: Vec::new(), positions });
    }
    let reading = Reading { r, family, head_dims, positions, ignored };
    let (kinds, positions) = match family.rotation.windowed {
        None => reading.one()?,
        Some(windowed) => reading.two(windowed)?,
    };
    Ok(Rotations { kinds, positions })
}

impl Reading<'_> {
    fn rotation(&self) -> &'static Rotation {
        &self.family.rotation
    }

    /// One rotation for all layers.
    fn one(&self) -> Result<(Vec<Rotary>, usize)> {
        let theta = || Ok(self.beside(self.rotation().theta_key)?.unwrap_or(self.rotation().theta));
        let read = |table: Option<&ConfigReader>| self.rotary(table, self.head_dims[0], &theta);
        let (old, new) = (self.r.table("rope_scaling")?, self.r.table("rope_parameters")?);
        let (found, positions) = match (&old, &new) {
            (Some(old), Some(new)) => {
                let (old, new) = (read(Some(old))?, read(Some(new))?);
                if old != new {
                    return Err(self.r.fail(
                        "rope_scaling",
                        "it says other rotary frequencies than `rope_parameters`",
                        "remove the one of the two that is not the model's (transformers 5 writes `rope_parameters` alone)",
                    ));
                }
                old
            }
            (None, None) => match self.rotation().table {
                None => read(None)?,
                Some(text) => read(Some(&ConfigReader::new(&self.usual(text)?, self.r.path, "rope_parameters.")))?,
            },
            (old, new) => read(old.as_ref().or(new.as_ref()))?,
        };
        // Read by both spellings or by none of them.
        self.r.get(self.rotation().theta_key);
        Ok((vec![found], positions))
    }

    /// The table of a row.
    fn usual(&self, text: &str) -> Result<Value> {
        serde_json::from_str(text).map_err(|e| self.r.fail("rope_parameters", e.to_string(), RESTORE))
    }

    /// One for layers that see everything, one for those with a window (`Gemma3TextConfig.convert_rope_params_to_dict`).
    fn two(&self, windowed: WindowedRotation) -> Result<(Vec<Rotary>, usize)> {
        let json = self.rotation().table.map(|text| self.usual(text)).transpose()?;
        let usual = json.as_ref().map(|json| ConfigReader::new(json, self.r.path, "rope_parameters."));
        let table = self.r.table("rope_parameters")?.or(usual);
        let part = |key: &str| table.as_ref().map_or(Ok(None), |table| table.table(key));
        let (full, sliding) = (part("full_attention")?, part("sliding_attention")?);
        if let Some(table) = &table {
            settings::refuse_unread(table, self.family, self.ignored)?;
        }
        let scaling = if windowed.newer_only { None } else { self.r.table("rope_scaling")? };
        let older = scaling.as_ref().filter(|table| table.get("rope_type").is_none());
        let kind = older.and_then(|table| Some((table, table.get("type")?)));
        if let Some((table, _)) = kind.filter(|(_, kind)| kind.as_str() != Some("default")) {
            let why = "for this family transformers 5 does not read it, and transformers 4 does";
            return Err(table.fail("type", why, "call it `rope_type`, or take the table out if nothing is scaled"));
        }
        if scaling.is_some() && full.is_some() {
            return Err(self.r.fail(
                "rope_scaling",
                "it is there beside `rope_parameters`, which says the same in the newer spelling",
                "remove the one of the two that is not the model's (transformers 5 writes `rope_parameters` alone)",
            ));
        }
        let theta = || Ok(self.beside(self.rotation().theta_key)?.unwrap_or(self.rotation().theta));
        let (first, positions) = self.rotary(full.as_ref().or(scaling.as_ref()), self.head_dims[0], &theta)?;
        self.r.get(self.rotation().theta_key);
        let beside = if sliding.is_none() { self.beside(self.rotation().theta_key)? } else { None };
        if let (None, Some(theta)) = (windowed.theta_key, beside.filter(|theta| *theta != windowed.theta)) {
            let why =
                format!("{theta} turns layers with a window in transformers 4, and {} does in transformers 5", windowed.theta);
            return Err(self.r.fail(
                self.rotation().theta_key,
                why,
                "say both in `rope_parameters` (`full_attention`, `sliding_attention`)",
            ));
        }
        let local = || Ok(windowed.theta_key.map_or(Ok(None), |key| self.beside(key))?.unwrap_or(windowed.theta));
        let (second, shorter) = self.rotary(sliding.as_ref(), self.head_dims[1], &local)?;
        windowed.theta_key.and_then(|key| self.r.get(key));
        Ok((vec![first, second], positions.min(shorter)))
    }

    /// A number above zero beside the table.
    fn beside(&self, key: &str) -> Result<Option<f64>> {
        if self.r.get(key).is_some() { self.r.positive(key).map(Some) } else { Ok(None) }
    }

    /// The rotation that a table says, and the tokens that a text may have with it.
    fn rotary(&self, table: Option<&ConfigReader>, head_dim: usize, theta: &dyn Fn() -> Result<f64>) -> Result<(Rotary, usize)> {
        let none = Value::Null;
        let empty = ConfigReader::new(&none, self.r.path, "");
        let s = table.unwrap_or(&empty);
        let theta = if s.get("rope_theta").is_some() { s.positive("rope_theta")? } else { theta()? };
        let kind = self.kind(s)?;
        let dim = if kind == "proportional" { head_dim } else { self.turning(s, head_dim)? };
        let plain: Vec<f64> = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect();
        let mut positions = self.positions;
        let (frequencies, scaling) = match kind {
            // `dynamic` differs only beyond the positions there are.
            "default" | "dynamic" => (plain, 1.0),
            "linear" => {
                let factor = s.positive("factor")?;
                (plain.iter().map(|f| f / factor).collect(), 1.0)
            }
            "proportional" => (proportional(s, &plain)?, 1.0),
            "llama3" => (llama3(s, &plain, self.original(s)?)?, 1.0),
            "yarn" => self.yarn(s, &plain, theta)?,
            "longrope" => {
                let original = self.original(s)?;
                positions = positions.min(original as usize);
                self.longrope(s, &plain, original)?
            }
            other => {
                let help = "use a model with default, linear, dynamic, proportional, llama3, yarn or longrope rope";
                return Err(s.fail("rope_type", format!("`{other}` is not supported"), help));
            }
        };
        KEYS.iter().for_each(|key| _ = s.get(key));
        self.r.get("original_max_position_embeddings");
        let rotary = Rotary {
            inverse_frequencies: frequencies.into_iter().map(|f| f as f32).collect(),
            scaling: scaling as f32,
            interleaved: self.rotation().interleaved,
            query_scale: self.query_scale(s)?,
        };
        settings::refuse_unread(s, self.family, self.ignored)?;
        Ok((rotary, positions))
    }

    /// `rope_type`, else the older `type`.
    fn kind<'a>(&self, s: &ConfigReader<'a>) -> Result<&'a str> {
        let kind = match s.get("rope_type").or_else(|| s.get("type")) {
            None => "default",
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(s.fail("rope_type", format!("expected a name, found {other}"), RESTORE)),
        };
        match self.rotation().longrope {
            None => Ok(kind),
            Some(_) if ["su", "yarn", "longrope"].contains(&kind) => Ok("longrope"),
            Some(_) if kind == "default" => Ok(kind),
            Some(_) => Err(s.fail(
                "rope_type",
                format!("`{kind}` is not supported for {}", self.family.model_type),
                "use a model with default or longrope rope",
            )),
        }
    }

    /// Elements of a head that turn.
    fn turning(&self, s: &ConfigReader, head_dim: usize) -> Result<usize> {
        let key = self.rotation().part_key;
        let (holder, name) = match s.get("partial_rotary_factor").is_some() {
            true => (s, "partial_rotary_factor"),
            false => (self.r, key),
        };
        let said = holder.get(name);
        if said.is_some_and(Value::is_null) && self.family.delta.is_some() {
            let why = format!("null is not the {} of {}", self.rotation().part.unwrap_or(1.0), self.family.model_type);
            return Err(holder.fail(name, why, "take the key out, or say a number"));
        }
        let part = if said.is_some_and(|v| !v.is_null()) { Some(holder.positive(name)?) } else { None };
        let part = match (part, self.rotation().part) {
            (None, usual) => usual.unwrap_or(1.0),
            (Some(part), None) if part != 1.0 => {
                let why =
                    format!("turning only a part of each head is not supported for {}, found {part}", self.family.model_type);
                return Err(holder.fail(name, why, "use a model that turns whole heads"));
            }
            (Some(part), _) => part,
        };
        let dim = (head_dim as f64 * part) as usize;
        match part <= 1.0 && dim >= 2 && dim.is_multiple_of(2) {
            true => Ok(dim),
            false => {
                Err(holder.fail(name, format!("{dim} of {} elements of a head (`head_dim`) cannot turn", head_dim), RESTORE))
            }
        }
    }

    /// The length before scaling: the one beside the table wins, as in `standardize_rope_params`.
    fn original(&self, s: &ConfigReader) -> Result<f64> {
        let key = "original_max_position_embeddings";
        let usual = || -> Result<usize> {
            match self.rotation().longrope {
                Some(usual) => Ok(usual),
                None => Ok(s.whole_or(key, None)?.unwrap_or(self.positions)),
            }
        };
        let found = self.r.whole_or(key, None)?.map_or_else(usual, Ok)?;
        // Its logarithm is divided by.
        if found < 2 { Err(s.fail(key, format!("{found} is not a possible length"), RESTORE)) } else { Ok(found as f64) }
    }

    /// `_compute_yarn_parameters` (Peng et al. 2023, eq. 17 to 22): frequencies, and what cosines and sines are multiplied with.
    fn yarn(&self, s: &ConfigReader, plain: &[f64], theta: f64) -> Result<(Vec<f64>, f64)> {
        let original = self.original(s)?;
        let factor = match s.get("factor").filter(|v| !v.is_null()) {
            Some(_) => s.positive("factor")?,
            None => self.positions as f64 / original,
        };
        let optional = |key: &str| if s.get(key).is_some_and(|v| !v.is_null()) { s.number(key) } else { Ok(None) };
        let strength = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let set = |v: Option<f64>| v.filter(|v| *v != 0.0);
        let (mscale, all) = (set(optional("mscale")?), set(optional("mscale_all_dim")?));
        let attention = match (optional("attention_factor")?, mscale.zip(all)) {
            (Some(attention), _) => attention,
            (None, Some((mscale, all))) => strength(mscale) / strength(all),
            (None, None) => strength(1.0),
        };
        for key in ["beta_fast", "beta_slow"] {
            if optional(key)?.is_some_and(|beta| beta < 0.0) {
                return Err(s.fail(key, "it is below zero", RESTORE));
            }
        }
        let (fast, slow) = (set(optional("beta_fast")?).unwrap_or(32.0), set(optional("beta_slow")?).unwrap_or(1.0));
        // Of tables for each kind of layer transformers reads this key beside them, where it never is.
        let truncate = self.rotation().windowed.is_some() || s.flag("truncate", true)?;
        let dim = 2.0 * plain.len() as f64;
        let at = |turns: f64| dim * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
        let (low, high) = (at(fast), at(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        let high = if low == high { high + 0.001 } else { high };
        let blend = |(i, f): (usize, &f64)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * ramp + f * (1.0 - ramp)
        };
        Ok((plain.iter().enumerate().map(blend).collect(), attention))
    }

    /// `_compute_longrope_parameters` (Ding et al. 2024) up to the length before scaling, beyond which other factors begin.
    fn longrope(&self, s: &ConfigReader, plain: &[f64], original: f64) -> Result<(Vec<f64>, f64)> {
        let short = s.positives("short_factor")?;
        let long = s.positives("long_factor")?;
        for (key, list) in [("short_factor", &short), ("long_factor", &long)] {
            if list.len() != plain.len() {
                return Err(s.fail(key, format!("{} numbers for {} pairs of elements", list.len(), plain.len()), RESTORE));
            }
        }
        let given = |key: &str| s.get(key).is_some_and(|v| !v.is_null());
        let factor = if given("factor") { s.positive("factor")? } else { self.positions as f64 / original };
        let attention = match given("attention_factor") {
            true => s.positive("attention_factor")?,
            false if factor <= 1.0 => 1.0,
            false => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        Ok((plain.iter().zip(&short).map(|(f, by)| f / by).collect(), attention))
    }

    fn query_scale(&self, s: &ConfigReader) -> Result<Option<QueryScale>> {
        if !self.rotation().query_scale {
            return Ok(None);
        }
        let key = "original_max_position_embeddings";
        let length = s.whole_or(key, None)?.ok_or_else(|| s.fail(key, "missing", RESTORE))?;
        Ok(Some(QueryScale { beta: s.positive("llama_4_scaling_beta")?, length }))
    }
}

/// `_compute_proportional_rope_parameters`: the first part of the pairs turns, with frequencies of whole heads.
fn proportional(s: &ConfigReader, plain: &[f64]) -> Result<Vec<f64>> {
    let key = "partial_rotary_factor";
    let (part, factor) = (s.factor_or(key, 1.0)?, s.factor_or("factor", 1.0)?);
    let turning = (part * (2 * plain.len()) as f64 / 2.0) as usize;
    if turning > plain.len() {
        return Err(s.fail(key, format!("{part} is more than whole heads"), RESTORE));
    }
    Ok(plain.iter().enumerate().map(|(i, f)| if i < turning { f / factor } else { 0.0 }).collect())
}

/// `_compute_llama3_parameters`.
fn llama3(s: &ConfigReader, plain: &[f64], old: f64) -> Result<Vec<f64>> {
    let (factor, low, high) = (s.positive("factor")?, s.positive("low_freq_factor")?, s.positive("high_freq_factor")?);
    if high <= low {
        return Err(s.fail("high_freq_factor", format!("{high} is not above `low_freq_factor`, {low}"), RESTORE));
    }
    let scale = |f: &f64| {
        let wavelength = 2.0 * std::f64::consts::PI / f;
        if wavelength > old / low {
            f / factor
        } else if wavelength < old / high {
            *f
        } else {
            let smooth = (old / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        }
    };
    Ok(plain.iter().map(scale).collect())
}
