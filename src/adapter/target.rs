//! Which sites get low-rank matrices, with which rank and alpha: PEFT's rules, with every pattern held to account.
//!
//! Source of the rules: `check_target_module_exists` (`peft/tuners/tuners_utils.py`) and `get_pattern_key`
//! (`peft/utils/other.py`) of PEFT 0.20.

use regex::Regex;
use serde_json::Value;

use super::config::{ALL_LINEAR, Modules, PeftConfig};
use crate::error::{Error, Result, nearest};
use crate::model::{Site, SiteInfo, SiteKind};

/// One adapted site.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub site: Site,
    pub rank: usize,
    pub alpha: f64,
}

/// The sites a configuration adapts and replaces.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub targets: Vec<Target>,
    /// Sites trained in full (`modules_to_save`).
    pub full: Vec<Site>,
}

fn unmatched(key: &str, pattern: &str, why: &str, sites: &[SiteInfo]) -> Error {
    let mut names: Vec<&str> = sites.iter().map(|s| last(&s.path)).collect();
    names.sort_unstable();
    names.dedup();
    let hint = match nearest(pattern, names.iter().copied()) {
        // A name where a pattern of whole paths was asked for.
        Some(name) if name == pattern => format!("write `[\"{name}\"]`, or the pattern `.*\\.{name}`; "),
        Some(name) => format!("did you mean `{name}`? "),
        None => String::new(),
    };
    Error::usage(format!("`{key}`"), format!("`{pattern}` {why}"), format!("{hint}the model's modules are: {}", names.join(", ")))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn regex(key: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| {
        Error::usage(
            format!("`{key}`"),
            format!("`{pattern}` is not a regular expression: {e}"),
            "write a valid regular expression",
        )
    })
}

/// Whether `path` is `name` or ends in `.name`.
fn ends_in(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|head| head.ends_with('.'))
}

fn matches(modules: &Modules, key: &str, path: &str) -> Result<bool> {
    match modules {
        Modules::Names(names) => Ok(names.iter().any(|n| ends_in(path, n))),
        Modules::Pattern(p) => Ok(regex(key, &format!("^(?:{p})$"))?.is_match(path)),
    }
}

impl Plan {
    /// Applies `config` to the sites of a model.
    ///
    /// # Errors
    /// [`Error::Usage`] for every name, pattern, layer or module that matches nothing.
    pub fn new(config: &PeftConfig, sites: &[SiteInfo]) -> Result<Plan> {
        let full = full_sites(config, sites)?;
        let chosen = chosen_sites(config, sites, &full)?;
        let ranks = patterns("rank_pattern", &config.rank_pattern, sites, &chosen)?;
        let alphas = patterns("alpha_pattern", &config.alpha_pattern, sites, &chosen)?;
        let targets = chosen
            .into_iter()
            .map(|site| {
                let path = &sites[site.0].path;
                let first = |p: &[(Regex, f64)]| p.iter().find(|(r, _)| r.is_match(path)).map(|(_, v)| *v);
                Target {
                    site,
                    rank: first(&ranks).map_or(config.r, |r| r as usize),
                    alpha: first(&alphas).unwrap_or(config.lora_alpha),
                }
            })
            .collect();
        Ok(Plan { targets, full })
    }
}

/// Sites of `modules_to_save`: only the head and the embedding can be trained in full.
fn full_sites(config: &PeftConfig, sites: &[SiteInfo]) -> Result<Vec<Site>> {
    let mut full = Vec::new();
    for name in config.modules_to_save.iter().flatten() {
        let found: Vec<_> = sites.iter().enumerate().filter(|(_, s)| ends_in(&s.path, name)).collect();
        match found.as_slice() {
            [] => return Err(unmatched("modules_to_save", name, "matches no module", sites)),
            [(i, s)] if matches!(s.kind, SiteKind::Head | SiteKind::Embedding) => full.push(Site(*i)),
            _ => {
                return Err(Error::usage(
                    "`modules_to_save`",
                    format!("`{name}` is not the output head or the embedding"),
                    "name `lm_head` or the embedding here, and put other modules into `targets`",
                ));
            }
        }
    }
    Ok(full)
}

fn chosen_sites(config: &PeftConfig, sites: &[SiteInfo], full: &[Site]) -> Result<Vec<Site>> {
    let Some(targets) = &config.target_modules else {
        return Err(Error::usage("`targets`", "missing", "name the modules to adapt, or `all-linear`"));
    };
    let linear = |s: &SiteInfo| s.kind != SiteKind::Embedding;
    let wanted = |s: &SiteInfo| -> Result<bool> {
        match targets {
            Modules::Pattern(p) if p == ALL_LINEAR => Ok(linear(s) && s.kind != SiteKind::Head),
            other => Ok(matches(other, "targets", &s.path)? && linear(s)),
        }
    };
    let mut chosen = Vec::new();
    for (i, s) in sites.iter().enumerate() {
        let excluded = match &config.exclude_modules {
            Some(e) => matches(e, "exclude", &s.path)?,
            None => false,
        };
        if wanted(s)? && !excluded && !full.contains(&Site(i)) && in_layers(config, targets, s)? {
            chosen.push(Site(i));
        }
    }
    accountable(config, targets, sites)?;
    if chosen.is_empty() {
        return Err(Error::usage(
            "`targets`",
            "every module that matches is excluded again, or lies outside `layers`",
            "loosen `exclude` or `layers`",
        ));
    }
    Ok(chosen)
}

/// Every single name, pattern and layer must match something; one wrong name among right ones is not ignored.
fn accountable(config: &PeftConfig, targets: &Modules, sites: &[SiteInfo]) -> Result<()> {
    let each = |key: &str, modules: &Modules| -> Result<()> {
        match modules {
            Modules::Names(names) if names.is_empty() => {
                Err(Error::usage(format!("`{key}`"), "the list is empty", "name at least one module, or leave the key out"))
            }
            Modules::Names(names) => match names.iter().find(|n| !sites.iter().any(|s| ends_in(&s.path, n))) {
                Some(name) => Err(unmatched(key, name, "matches no module", sites)),
                None => Ok(()),
            },
            Modules::Pattern(p) if p == ALL_LINEAR => Ok(()),
            Modules::Pattern(p) => {
                let r = regex(key, &format!("^(?:{p})$"))?;
                let hit = sites.iter().any(|s| r.is_match(&s.path));
                if hit { Ok(()) } else { Err(unmatched(key, p, "matches no module (it must match a whole path)", sites)) }
            }
        }
    };
    each("targets", targets)?;
    if let Some(e) = &config.exclude_modules {
        each("exclude", e)?;
    }
    for layer in config.layers_to_transform.iter().flat_map(|l| l.to_vec()) {
        if !sites.iter().any(|s| s.layer == Some(layer)) {
            let last = sites.iter().filter_map(|s| s.layer).max().unwrap_or(0);
            return Err(Error::usage(
                "`layers`",
                format!("the model has no layer {layer}"),
                format!("its layers are 0 to {last}"),
            ));
        }
    }
    Ok(())
}

/// `layers_to_transform` restricts lists of names, not regular expressions (as in PEFT).
fn in_layers(config: &PeftConfig, targets: &Modules, site: &SiteInfo) -> Result<bool> {
    let Some(layers) = config.layers_to_transform.as_ref().map(super::config::OneOrMany::to_vec).filter(|l| !l.is_empty()) else {
        return Ok(true);
    };
    if matches!(targets, Modules::Pattern(p) if p != ALL_LINEAR) {
        return Err(Error::usage(
            "`layers`",
            "layers cannot be combined with a regular expression in `targets`",
            "write the layer numbers into the expression",
        ));
    }
    let prefixes = config.layers_pattern.as_ref().map(super::config::OneOrMany::to_vec).unwrap_or_default();
    let prefixes = if prefixes.is_empty() { vec!["[^.]*".to_string()] } else { prefixes };
    for prefix in &prefixes {
        let r = regex("layers_pattern", &format!(r"^.*?\.{prefix}\.(\d+)\."))?;
        if let Some(index) = r.captures(&site.path).and_then(|c| c[1].parse::<usize>().ok()) {
            return Ok(layers.contains(&index));
        }
    }
    if site.layer.is_some() && config.layers_pattern.is_some() {
        return Err(Error::usage(
            "`layers_pattern`",
            format!("`{}` does not lead to a layer number in `{}`", prefixes.join("`, `"), site.path),
            "name the part of the path before the number, e.g. `layers` (or `h` for gpt2)",
        ));
    }
    Ok(false)
}

/// A key of `rank_pattern` or `alpha_pattern`: a path's end, from a dot on.
pub(super) fn pattern_regex(key: &str, pattern: &str) -> Result<Regex> {
    regex(key, &format!(r"^(?:.*\.)?(?:{pattern})$"))
}

/// `rank_pattern` / `alpha_pattern` as compiled expressions; each must match an adapted site.
fn patterns(key: &str, map: &serde_json::Map<String, Value>, sites: &[SiteInfo], chosen: &[Site]) -> Result<Vec<(Regex, f64)>> {
    map.iter()
        .map(|(pattern, value)| {
            let r = pattern_regex(key, pattern)?;
            if !chosen.iter().any(|s| r.is_match(&sites[s.0].path)) {
                return Err(unmatched(key, pattern, "matches no adapted module", sites));
            }
            Ok((r, value.as_f64().unwrap_or(0.0)))
        })
        .collect()
}
