//! What layers of one model differ in: windows and rotations, from `config.json`. Refuses to know: frequencies.

use serde_json::Value;

use super::config_reader::{ConfigReader, RESTORE};
use super::family::{Count, DeltaNames, Family, Missing, ScoreScale, Unturned, Windows};
use crate::error::Result;
use crate::kernels::attention::Scores;

const SLIDING: &str = "sliding_attention";
const LINEAR: &str = "linear_attention";
const FULL: &str = "full_attention";

/// Each layer of a model.
pub(super) struct Layers(Vec<Layer>);

struct Layer {
    /// Newest keys that a query sees; all without.
    window: Option<usize>,
    turns: bool,
    /// A delta rule in place of attention.
    delta: bool,
}

impl Layers {
    /// Windows (`layer_types`, else the family's rule) and what turns.
    ///
    /// # Errors
    /// [`crate::Error::Model`] naming the key that is impossible or not supported.
    pub(super) fn read(r: &ConfigReader, family: &Family, layers: usize) -> Result<Layers> {
        if let Some(names) = &family.delta {
            let delta = delta(r, names, layers)?;
            return Ok(Layers(delta.into_iter().map(|delta| Layer { window: None, turns: !delta, delta }).collect()));
        }
        let turning = turning(r, family, layers)?;
        let windows = windows(r, family, layers, &turning)?;
        let layer = |(i, window): (usize, Option<usize>)| {
            let turns = match family.rotation.unturned {
                Unturned::None => true,
                Unturned::Listed => turning[i],
                Unturned::Full => window.is_some(),
            };
            Layer { window, turns, delta: false }
        };
        Ok(Layers(windows.into_iter().enumerate().map(layer).collect()))
    }

    /// The scores of each layer: transformers' `GPT2Attention.scaling`, `Gemma2Attention`, `GraniteAttention`.
    pub(super) fn scores(&self, r: &ConfigReader, family: &Family, head_dim: usize) -> Result<Vec<Scores>> {
        let plain = 1.0 / (head_dim as f64).sqrt();
        let (scale, by_layer) = match family.scales.scores {
            ScoreScale::HeadDim => (plain, false),
            ScoreScale::One => (1.0, false),
            ScoreScale::OverRoot(key, default) => (1.0 / r.factor_or(key, default)?.sqrt(), false),
            ScoreScale::Times(key, default) => (r.factor_or(key, default)?, false),
            ScoreScale::Gpt2 => {
                let scale = if r.flag("scale_attn_weights", true)? { plain } else { 1.0 };
                (scale, r.flag("scale_attn_by_inverse_layer_idx", false)?)
            }
        };
        let cap = match family.keys.caps {
            // Gemma 3 has the key and does not use it.
            Some([Some(usual), _]) => r.cap("attn_logit_softcapping", Some(usual))?,
            _ => None,
        };
        let scale = |i: usize| if by_layer { scale / (i + 1) as f64 } else { scale };
        Ok(self.0.iter().enumerate().map(|(i, layer)| Scores { scale: scale(i), cap, window: layer.window }).collect())
    }

    /// Whether each layer has a delta rule in place of attention.
    pub(super) fn delta(&self) -> Vec<bool> {
        self.0.iter().map(|layer| layer.delta).collect()
    }

    /// Whether each layer looks through a window.
    pub(super) fn windowed(&self) -> Vec<bool> {
        self.0.iter().map(|layer| layer.window.is_some()).collect()
    }

    /// Which of `kinds` rotations each layer has: the second, where there is one, is that of layers with a window.
    pub(super) fn rotations(&self, kinds: usize) -> Vec<Option<usize>> {
        let of = |layer: &Layer| match kinds {
            0 => None,
            _ if !layer.turns => None,
            1 => Some(0),
            _ => Some(usize::from(layer.window.is_some())),
        };
        self.0.iter().map(of).collect()
    }
}

impl ConfigReader<'_> {
    /// A soft cap; `null` is none.
    pub(super) fn cap(&self, key: &str, usual: Option<f64>) -> Result<Option<f64>> {
        match (self.get(key), usual) {
            (None, usual) => Ok(usual),
            (Some(Value::Null), _) => Ok(None),
            _ => self.positive(key).map(Some),
        }
    }
}

/// Whether each layer is listed as one that turns.
fn turning(r: &ConfigReader, family: &Family, layers: usize) -> Result<Vec<bool>> {
    if family.rotation.unturned != Unturned::Listed {
        return Ok(vec![true; layers]);
    }
    let every = r.count_or("no_rope_layer_interval", 4)?;
    let Some(list) = r.get("no_rope_layers").filter(|v| !v.is_null()) else {
        return Ok((1..=layers).map(|i| !i.is_multiple_of(every)).collect());
    };
    let flag = |v: &Value| v.as_bool().or(v.as_f64().map(|v| v != 0.0));
    let flags: Option<Vec<bool>> = list.as_array().and_then(|list| list.iter().map(flag).collect());
    let flags = flags.filter(|flags| flags.len() == layers);
    flags.ok_or_else(|| r.fail("no_rope_layers", format!("expected a list of {layers} numbers, one a layer"), RESTORE))
}

/// Whether each layer has a delta rule, by `layer_types` or by the family's rule.
fn delta(r: &ConfigReader, names: &DeltaNames, layers: usize) -> Result<Vec<bool>> {
    let (key, usual) = names.all_but;
    let every = r.count_or(key, usual)?;
    let rule = || (1..=layers).map(|i| !i.is_multiple_of(every)).collect();
    Ok(kinds(r, layers, &[(LINEAR, true), (FULL, false), ("attention", false)])?.unwrap_or_else(rule))
}

/// The window of each layer.
fn windows(r: &ConfigReader, family: &Family, layers: usize, turning: &[bool]) -> Result<Vec<Option<usize>>> {
    let size = |default: Option<usize>| match (r.get("sliding_window"), default) {
        (None, default) => Ok(default),
        (Some(Value::Null), _) => Ok(None),
        _ => r.count(&Count(&["sliding_window"], Missing::Derived)),
    };
    match family.windows {
        Windows::Never => types(r, layers)?.map_or(Ok(vec![None; layers]), |slide| of_types(r, &slide, None)),
        // The classes of Mistral know no layer types: all layers are alike.
        Windows::All(default) => {
            let window = size(default)?;
            match types(r, layers)? {
                Some(slide) if slide.iter().any(|s| *s != window.is_some()) => Err(r.fail(
                    "layer_types",
                    "layers that differ in it are not supported for this family",
                    "use a model whose layers are alike",
                )),
                _ => Ok(vec![window; layers]),
            }
        }
        Windows::AllIf(default) => {
            let on = r.flag("use_sliding_window", false)?;
            Ok(vec![size(Some(default))?.filter(|_| on); layers])
        }
        Windows::From(default, from) => {
            let on = r.flag("use_sliding_window", false)?;
            let (window, from) = (size(Some(default))?.filter(|_| on), r.number_or("max_window_layers", from as f64)?);
            by_types(r, layers, window, |i| window.is_some() && i as f64 >= from)
        }
        Windows::AllBut(every, default, key) => {
            let every = key.map_or(Ok(every), |key| r.count_or(key, every))?;
            by_types(r, layers, size(Some(default))?, |i| !(i + 1).is_multiple_of(every))
        }
        Windows::AllButAndLast(every, default) => {
            let size = size(Some(default))?;
            let slide = types(r, layers)?.unwrap_or_else(|| (1..=layers).map(|i| !i.is_multiple_of(every)).collect());
            let last = |(i, slide): (usize, bool)| slide && i + 1 < layers;
            of_types(r, &slide.into_iter().enumerate().map(last).collect::<Vec<_>>(), size)
        }
        Windows::Unturned => {
            let on = r.flag("use_sliding_window", false)?;
            let window = size(None)?.filter(|_| on);
            by_types(r, layers, window, |i| window.is_some() && !turning[i])
        }
    }
}

/// The windows of layers that slide by `layer_types`, or by the family's rule where the file has none.
fn by_types(r: &ConfigReader, layers: usize, window: Option<usize>, rule: impl Fn(usize) -> bool) -> Result<Vec<Option<usize>>> {
    let slide = types(r, layers)?.unwrap_or_else(|| (0..layers).map(rule).collect());
    of_types(r, &slide, window)
}

/// The windows of layers that slide.
fn of_types(r: &ConfigReader, slide: &[bool], window: Option<usize>) -> Result<Vec<Option<usize>>> {
    if slide.iter().any(|s| *s) && window.is_none() {
        let why = "layers look through a window, but there is none (`layer_types`, `use_sliding_window`)";
        return Err(r.fail("sliding_window", why, RESTORE));
    }
    Ok(slide.iter().map(|s| window.filter(|_| *s)).collect())
}

/// Whether each layer slides by `layer_types`; `None` where the file has none.
fn types(r: &ConfigReader, layers: usize) -> Result<Option<Vec<bool>>> {
    kinds(r, layers, &[(SLIDING, true), (FULL, false), ("attention", false)])
}

/// What `layer_types` says of each layer, in one of the `known` names; `None` where the file has none.
fn kinds(r: &ConfigReader, layers: usize, known: &[(&str, bool)]) -> Result<Option<Vec<bool>>> {
    let Some(types) = r.get("layer_types").filter(|v| !v.is_null()) else { return Ok(None) };
    let Some(types) = types.as_array().filter(|types| types.len() == layers) else {
        return Err(r.fail("layer_types", format!("expected a list of {layers}, one for each of the {layers} layers"), RESTORE));
    };
    let each = types.iter().map(|kind| {
        let found = known.iter().find(|(name, _)| kind.as_str() == Some(name));
        found.map(|(_, kind)| *kind).ok_or_else(|| r.fail("layer_types", format!("attention {kind} is not supported"), RESTORE))
    });
    each.collect::<Result<Vec<bool>>>().map(Some)
}
