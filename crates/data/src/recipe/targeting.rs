//! `[adapter]` checked: what is adapted and how.
//!
//! The rules are PEFT's (`tuners/lora/config.py`, `tuners/tuners_utils.py`). Refuses to know: the names of any model's
//! modules but those of the token embedding, which no target may be; whether a pattern matches something is found out when
//! it meets the model.

use super::locate::{Written, join};
use super::raw::{RawAdapter, RawNames};
use super::{Adapter, TargetModules};
use crate::error::{Result, nearest};

const KEY: &str = "adapter.targets";
/// What the families of models call their token embedding: low-rank matrices on it are not implemented.
pub const EMBEDDINGS: [&str; 4] = ["embed_tokens", "embed_in", "shared", "wte"];
/// PEFT's word for every linear layer, in any case.
const ALL: &str = "all-linear";

/// Fills in PEFT's defaults.
///
/// # Errors
/// [`crate::Error::Recipe`] for a pattern that is no regular expression, and for keys that exclude each other.
pub(super) fn check(written: &Written, raw: RawAdapter) -> Result<Adapter> {
    let rank = raw.rank.unwrap_or(8);
    let target_parameters = raw.target_parameters.unwrap_or_default();
    let targets = targets(written, raw.targets, !target_parameters.is_empty())?;
    layers(written, &targets, raw.layers.is_some(), raw.layers_pattern.is_some())?;
    let rank_pattern: Vec<(String, usize)> =
        raw.rank_pattern.unwrap_or_default().0.into_iter().map(|(k, r)| (k, r.get())).collect();
    let alpha_pattern = raw.alpha_pattern.unwrap_or_default().0;
    patterns(written, "adapter.rank_pattern", rank_pattern.iter().map(|(key, _)| key))?;
    patterns(written, "adapter.alpha_pattern", alpha_pattern.iter().map(|(key, _)| key))?;
    let layers_pattern = match raw.layers_pattern {
        None => Vec::new(),
        Some(RawNames::Text(name)) => vec![name],
        Some(RawNames::List(names)) => names,
    };
    layers_pattern.iter().try_for_each(|pattern| regex(written, "adapter.layers_pattern", pattern))?;
    if raw.dora == Some(true) && raw.dropout.is_some_and(|p| p > 0.0) {
        let why = "is above 0 beside `adapter.dora`, which is trained without";
        return Err(written.complain("adapter.dropout", why, "leave one of the two out"));
    }
    Ok(Adapter {
        method: raw.method.unwrap_or_default(),
        dora: raw.dora.unwrap_or_default(),
        rank,
        alpha: raw.alpha.unwrap_or(2.0 * rank as f64),
        dropout: raw.dropout.unwrap_or(0.0),
        init: raw.init.unwrap_or_default(),
        targets,
        exclude: exclude(written, raw.exclude)?,
        target_parameters,
        rank_pattern,
        alpha_pattern,
        layers: raw.layers,
        layers_pattern,
        modules_to_save: raw.modules_to_save.unwrap_or_default(),
    })
}

/// Where `parameters` are named, there is no default.
fn targets(written: &Written, raw: Option<RawNames>, parameters: bool) -> Result<TargetModules> {
    match raw {
        None if parameters => Ok(TargetModules::Names(Vec::new())),
        None => Ok(TargetModules::Attention),
        Some(RawNames::List(names)) => {
            if names.iter().any(|name| name == ALL) {
                return Err(written.complain(KEY, "has \"all-linear\" in a list of names", "write `targets = \"all-linear\"`"));
            }
            if let Some(name) = names.iter().find(|n| EMBEDDINGS.contains(&n.rsplit('.').next().unwrap_or(n))) {
                let why = format!("\"{name}\" is the token embedding, which cannot be adapted by low-rank matrices here");
                let help = "leave the embedding out of `targets`; `modules_to_save` can train the whole of it";
                return Err(written.complain(KEY, why, help));
            }
            Ok(TargetModules::Names(names))
        }
        Some(RawNames::Text(text)) if text.eq_ignore_ascii_case(ALL) => Ok(TargetModules::AllLinear),
        Some(RawNames::Text(text)) => {
            let plain = text.chars().all(|c| c.is_alphanumeric() || "_- ".contains(c));
            if plain && nearest(&text.to_lowercase(), [ALL]).is_some() {
                let help = "did you mean \"all-linear\"? any other text is a regular expression for the whole path of a module";
                return Err(written.complain(KEY, format!("\"{text}\" is no module's path"), help));
            }
            regex(written, KEY, &text)?;
            Ok(TargetModules::Regex(text))
        }
    }
}

fn exclude(written: &Written, raw: Option<RawNames>) -> Result<Option<TargetModules>> {
    match raw {
        None => Ok(None),
        Some(RawNames::List(names)) => Ok(Some(TargetModules::Names(names))),
        Some(RawNames::Text(text)) if text.eq_ignore_ascii_case(ALL) => {
            let help = "write the names to leave out, e.g. `exclude = [\"lm_head\"]`";
            Err(written.complain("adapter.exclude", "\"all-linear\" would leave nothing to adapt", help))
        }
        Some(RawNames::Text(text)) => {
            regex(written, "adapter.exclude", &text)?;
            Ok(Some(TargetModules::Regex(text)))
        }
    }
}

/// PEFT refuses layers beside a text as targets, and a pattern of layers without layers.
fn layers(written: &Written, targets: &TargetModules, layers: bool, pattern: bool) -> Result<()> {
    if layers && matches!(targets, TargetModules::Regex(_) | TargetModules::AllLinear) {
        let help = "write the targets as a list, e.g. `targets = [\"q_proj\", \"v_proj\"]`, or put the layers into the regular expression";
        return Err(written.complain("adapter.layers", "works only with targets that are a list of names", help));
    }
    if pattern && !layers {
        let help = "add e.g. `layers = [0, 1]`, or leave `layers_pattern` out";
        return Err(written.complain("adapter.layers_pattern", "is given without `adapter.layers`", help));
    }
    Ok(())
}

fn patterns<'a>(written: &Written, key: &str, patterns: impl Iterator<Item = &'a String>) -> Result<()> {
    patterns.into_iter().try_for_each(|pattern| regex(written, &join(key, pattern), pattern))
}

fn regex(written: &Written, key: &str, pattern: &str) -> Result<()> {
    let Err(error) = regex::Regex::new(&format!("^(?:{pattern})$")) else { return Ok(()) };
    let message = error.to_string();
    let reason = message.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_string();
    let help = match key {
        _ if reason.contains("look-around") => "write it without look-around; what must be left out goes into `adapter.exclude`",
        KEY | "adapter.exclude" => {
            "write e.g. '.*\\.(q|v)_proj' (single quotes keep backslashes as they are), or a list of names"
        }
        "adapter.layers_pattern" => "write the name that stands before the number in a path, e.g. `layers_pattern = \"h\"`",
        _ => "write e.g. { 'layers\\.0\\..*_proj' = 4 } (single quotes keep backslashes as they are)",
    };
    Err(written.complain(key, format!("\"{pattern}\" is no regular expression: {reason}"), help))
}
