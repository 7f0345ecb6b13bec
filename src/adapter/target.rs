//! Which sites of a model get low-rank matrices, with which rank and alpha: PEFT's rules.
//!
//! Every entry of a recipe must do something. In a file that PEFT wrote an entry may match nothing, as in PEFT: that is
//! told. Source of the rules: `check_target_module_exists` (`peft/tuners/tuners_utils.py`) and `get_pattern_key`
//! (`peft/utils/other.py`) of PEFT 0.21. Refuses to know files and tensors.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::config::{ALL_LINEAR, Modules, OneOrMany, PeftConfig};
use super::expression::Expression;
use super::parameters::{self, Named, ends_in, last};
use crate::error::{Error, Result, nearest};
use crate::model::{FusedParameter, Site, SiteInfo, SiteKind};

/// One adapted site.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub site: Site,
    pub rank: usize,
    pub alpha: f64,
}

/// A parameter of all experts that is adapted as one.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedTarget {
    pub parameter: FusedParameter,
    /// As PEFT calls the module that holds the pair: each wraps those of the parameters declared before it.
    pub module: String,
    pub rank: usize,
    pub alpha: f64,
}

/// The sites a configuration adapts and replaces.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub targets: Vec<Target>,
    pub fused: Vec<FusedTarget>,
    /// Sites trained in full (`modules_to_save`).
    pub full: Vec<Site>,
}

impl Plan {
    /// Applies the configuration of a recipe to the sites of a model and to the parameters of its experts.
    ///
    /// # Errors
    /// [`Error::Usage`] for every name, pattern, layer or module that does nothing.
    pub fn new(config: &PeftConfig, sites: &[SiteInfo], fused: &[FusedParameter]) -> Result<Plan> {
        let names = Vocabulary::of_recipes();
        let (plan, idle) = Layout { config, sites, fused, names: &names }.plan()?;
        match idle.into_iter().next() {
            Some(idle) => Err(idle.error()),
            None => Ok(plan),
        }
    }

    /// Applies the configuration of a file; also what in it does nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing is adapted, or something that cannot be.
    pub fn of_file(config: &PeftConfig, sites: &[SiteInfo], fused: &[FusedParameter]) -> Result<(Plan, Vec<String>)> {
        let names = Vocabulary::of_files();
        let (plan, idle) = Layout { config, sites, fused, names: &names }.plan()?;
        Ok((plan, idle.into_iter().map(|idle| idle.note()).collect()))
    }
}

/// What the fields are called where the configuration comes from.
struct Vocabulary {
    targets: &'static str,
    exclude: &'static str,
    layers: &'static str,
}

impl Vocabulary {
    fn of_recipes() -> Vocabulary {
        Vocabulary { targets: "targets", exclude: "exclude", layers: "layers" }
    }

    fn of_files() -> Vocabulary {
        Vocabulary { targets: "target_modules", exclude: "exclude_modules", layers: "layers_to_transform" }
    }
}

/// An entry that does nothing.
struct Idle {
    key: &'static str,
    why: String,
    help: String,
}

impl Idle {
    fn error(self) -> Error {
        Error::usage(format!("`{}`", self.key), self.why, self.help)
    }

    fn note(self) -> String {
        format!("adapter_config.json `{}`: {}", self.key, self.why)
    }
}

/// A list of names, an expression, or PEFT's shorthand, ready to be asked.
enum Matcher<'a> {
    Names(&'a [String]),
    Whole(Box<Expression>, &'a str),
    AllLinear,
}

impl<'a> Matcher<'a> {
    fn new(key: &str, modules: &'a Modules) -> Result<Matcher<'a>> {
        Ok(match modules {
            Modules::Names(names) => Matcher::Names(names),
            Modules::Pattern(p) if p.eq_ignore_ascii_case(ALL_LINEAR) => Matcher::AllLinear,
            Modules::Pattern(p) => Matcher::Whole(Box::new(Expression::whole(key, p)?), p),
        })
    }

    fn matches(&self, site: &SiteInfo) -> Result<bool> {
        if !site.module {
            return Ok(false);
        }
        match self {
            Matcher::Names(names) => Ok(names.iter().any(|n| ends_in(&site.path, n))),
            Matcher::Whole(expression, _) => expression.matches(&site.path),
            Matcher::AllLinear => Ok(site.all_linear),
        }
    }
}

/// `layers_to_transform` with `layers_pattern`.
struct Layers {
    wanted: Vec<usize>,
    before: Vec<Expression>,
}

/// A configuration meeting a model.
struct Layout<'a> {
    config: &'a PeftConfig,
    sites: &'a [SiteInfo],
    fused: &'a [FusedParameter],
    names: &'a Vocabulary,
}

impl Layout<'_> {
    fn plan(&self) -> Result<(Plan, Vec<Idle>)> {
        let mut idle = Vec::new();
        let full = self.full(&mut idle)?;
        let Named { parameters, vain } = parameters::named(self.config, self.fused, self.names.targets)?;
        idle.extend(vain.into_iter().map(|(why, help)| Idle { key: parameters::KEY, why, help }));
        let chosen = if self.only_parameters(&mut idle) { Vec::new() } else { self.chosen(&full, &mut idle)? };
        let mut paths: Vec<String> = chosen.iter().map(|site| self.sites[site.0].path.clone()).collect();
        paths.extend(parameters.iter().map(|parameter| parameter.path()));
        let ranks = self.patterns("rank_pattern", &self.config.rank_pattern, &paths, &mut idle)?;
        let alphas = self.patterns("alpha_pattern", &self.config.alpha_pattern, &paths, &mut idle)?;
        let of = |path: &str| -> Result<(usize, f64)> {
            let rank = first(&ranks, path)?.map_or(self.config.r, |r| r as usize);
            Ok((rank, first(&alphas, path)?.unwrap_or(self.config.lora_alpha)))
        };
        let mut targets = Vec::new();
        for site in chosen {
            let (rank, alpha) = of(&self.sites[site.0].path)?;
            targets.push(Target { site, rank, alpha });
        }
        let mut fused = Vec::new();
        for (i, parameter) in parameters.iter().enumerate() {
            let (rank, alpha) = of(&parameter.path())?;
            let later = parameters[i + 1..].iter().filter(|other| other.module == parameter.module).count();
            let module = format!("{}{}", parameter.module, ".base_layer".repeat(later));
            fused.push(FusedTarget { parameter: (*parameter).clone(), module, rank, alpha });
        }
        Ok((Plan { targets, fused, full }, idle))
    }

    /// Parameters are named, and no modules; fields about modules do nothing then.
    fn only_parameters(&self, idle: &mut Vec<Idle>) -> bool {
        let config = self.config;
        let only = !config.target_parameters.is_empty() && config.target_modules.as_ref().is_none_or(Modules::is_empty);
        let beside =
            [(self.names.exclude, config.exclude_modules.is_some()), (self.names.layers, config.layers_to_transform.is_some())];
        for (key, _) in beside.iter().filter(|(_, there)| only && *there) {
            let help = "name single layers in `target_parameters`, e.g. `layers.0.mlp.experts.down_proj`";
            idle.push(Idle { key, why: "it does nothing to parameters of experts".into(), help: help.into() });
        }
        only
    }

    /// Sites that are no modules where parameters of all experts are named: what these are made of is none in transformers 5.
    fn hidden(&self) -> HashSet<Site> {
        let parts = self.fused.iter().flat_map(|parameter| parameter.parts.iter().flatten().copied());
        // A router that is a linear layer in transformers 5 too stays one.
        let parts = parts.filter(|part| self.sites[part.0].kind != SiteKind::Router || !self.sites[part.0].all_linear);
        if self.config.target_parameters.is_empty() { HashSet::new() } else { parts.collect() }
    }

    /// Why `pattern` does nothing, with the nearest name that would do something.
    fn unmatched(&self, key: &'static str, pattern: &str, why: &str) -> Idle {
        let modules = self.sites.iter().filter(|s| s.module && s.kind != SiteKind::Embedding);
        let mut names: Vec<&str> = modules.map(|s| last(&s.path)).collect();
        names.sort_unstable();
        names.dedup();
        let parameter = |p: &FusedParameter| ends_in(&p.path(), pattern) || ends_in(&p.module, pattern);
        if self.fused.iter().any(parameter) {
            let help =
                format!("parameters of experts belong into `{}`; the model's modules are: {}", parameters::KEY, names.join(", "));
            return Idle { key, why: format!("`{pattern}` {why}"), help };
        }
        let near = nearest(pattern, names.iter().copied().filter(|name| *name != pattern));
        let hint = near.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        Idle { key, why: format!("`{pattern}` {why}"), help: format!("{hint}the model's modules are: {}", names.join(", ")) }
    }

    /// Sites of `modules_to_save`: only the head and the embedding can be trained in full.
    fn full(&self, idle: &mut Vec<Idle>) -> Result<Vec<Site>> {
        let mut full: Vec<Site> = Vec::new();
        for name in self.config.modules_to_save.iter().flatten() {
            let found: Vec<_> = self.sites.iter().enumerate().filter(|(_, s)| ends_in(&s.path, name)).collect();
            let inside = format!(".{name}.");
            match found.as_slice() {
                [] if !self.sites.iter().any(|s| format!(".{}", s.path).contains(&inside)) => {
                    idle.push(self.unmatched("modules_to_save", name, "matches no module"));
                }
                [(i, s)] if matches!(s.kind, SiteKind::Head | SiteKind::Embedding) => {
                    if !full.contains(&Site(*i)) {
                        full.push(Site(*i));
                    }
                }
                _ => {
                    return Err(Error::usage(
                        "`modules_to_save`",
                        format!("`{name}` is not the output head or the embedding"),
                        format!("name `lm_head` or the embedding here, and put other modules into `{}`", self.names.targets),
                    ));
                }
            }
        }
        Ok(full)
    }

    fn chosen(&self, full: &[Site], idle: &mut Vec<Idle>) -> Result<Vec<Site>> {
        let key = self.names.targets;
        let Some(modules) = &self.config.target_modules else {
            return Err(Error::usage(format!("`{key}`"), "missing", "name the modules to adapt, or `all-linear`"));
        };
        let targets = Matcher::new(key, modules)?;
        let exclude = self.config.exclude_modules.as_ref().map(|e| Matcher::new(self.names.exclude, e)).transpose()?;
        let layers = self.layers(&targets)?;
        let (hidden, mut chosen) = (self.hidden(), Vec::new());
        for (i, s) in self.sites.iter().enumerate() {
            let wanted = targets.matches(s)? && self.in_layers(&targets, layers.as_ref(), s)?;
            let excluded = exclude.as_ref().map_or(Ok(false), |e| e.matches(s))?;
            if wanted && !excluded && !full.contains(&Site(i)) && !hidden.contains(&Site(i)) {
                if s.kind == SiteKind::Router && self.config.use_dora {
                    return Err(self.router(s));
                }
                if s.kind == SiteKind::Embedding {
                    return Err(self.embedding(&targets, s));
                }
                chosen.push(Site(i));
            }
        }
        let before = idle.len();
        self.idle_targets(&targets, &chosen, idle)?;
        if chosen.is_empty() && full.is_empty() {
            let missing = || self.unmatched(key, "", "names no module");
            return Err(if before < idle.len() { idle.swap_remove(before) } else { missing() }.error());
        }
        self.idle_rest(exclude.as_ref(), layers.as_ref(), idle)?;
        Ok(chosen)
    }

    fn router(&self, site: &SiteInfo) -> Error {
        Error::usage(
            format!("`{}`", self.names.targets),
            format!("`{}` chooses the experts of a token and cannot have magnitudes (DoRA)", site.path),
            format!("leave it out of `{}`, or train without DoRA", self.names.targets),
        )
    }

    /// PEFT puts a pair of another form on the embedding (`lora_embedding_A`, `lora_embedding_B`).
    fn embedding(&self, targets: &Matcher, site: &SiteInfo) -> Error {
        let said = match targets {
            Matcher::Names(names) => names.iter().find(|n| ends_in(&site.path, n)).map_or("", String::as_str),
            Matcher::Whole(_, pattern) => pattern,
            Matcher::AllLinear => ALL_LINEAR,
        };
        let also = if said == site.path || ends_in(&site.path, said) { "is" } else { "also matches" };
        Error::usage(
            format!("`{}`", self.names.targets),
            format!("`{said}` {also} the model's token embedding, which cannot be adapted by low-rank matrices here"),
            format!("leave the embedding out of `{}`; `modules_to_save` can train the whole of it", self.names.targets),
        )
    }

    /// Targets that adapt nothing.
    fn idle_targets(&self, targets: &Matcher, chosen: &[Site], idle: &mut Vec<Idle>) -> Result<()> {
        let key = self.names.targets;
        let whole =
            if self.config.target_parameters.is_empty() { "" } else { ", or of experts, as `target_parameters` has them" };
        let taken_away = |pattern: &str| Idle {
            key,
            why: format!(
                "every module that `{pattern}` matches is excluded again, saved in full, or outside `{}`{whole}",
                self.names.layers
            ),
            help: format!("loosen `{}` or `{}`, or leave it out of `{key}`", self.names.exclude, self.names.layers),
        };
        match targets {
            Matcher::Names([]) => idle.push(Idle {
                key,
                why: "the list is empty".into(),
                help: "name at least one module, or leave the key out".into(),
            }),
            Matcher::Names(names) => {
                for name in names.iter() {
                    if !self.sites.iter().any(|s| s.module && ends_in(&s.path, name)) {
                        idle.push(self.unmatched(key, name, "matches no module"));
                    } else if !chosen.iter().any(|s| ends_in(&self.sites[s.0].path, name)) {
                        idle.push(taken_away(name));
                    }
                }
            }
            Matcher::Whole(_, pattern) if chosen.is_empty() => {
                let mut hit = false;
                for s in self.sites {
                    hit |= targets.matches(s)?;
                }
                let none = "matches no module (it must match a whole path)";
                idle.push(if hit { taken_away(pattern) } else { self.unmatched(key, pattern, none) });
            }
            Matcher::AllLinear if chosen.is_empty() => idle.push(taken_away(ALL_LINEAR)),
            Matcher::Whole(..) | Matcher::AllLinear => {}
        }
        Ok(())
    }

    /// Excludes and layers that match nothing.
    fn idle_rest(&self, exclude: Option<&Matcher>, layers: Option<&Layers>, idle: &mut Vec<Idle>) -> Result<()> {
        let key = self.names.exclude;
        match exclude {
            Some(Matcher::Names([])) => idle.push(Idle {
                key,
                why: "the list is empty".into(),
                help: "name at least one module, or leave the key out".into(),
            }),
            Some(Matcher::Names(names)) => {
                for name in names.iter().filter(|n| !self.sites.iter().any(|s| ends_in(&s.path, n))) {
                    idle.push(self.unmatched(key, name, "matches no module"));
                }
            }
            Some(Matcher::Whole(expression, pattern)) => {
                let mut hit = false;
                for s in self.sites {
                    hit |= expression.matches(&s.path)?;
                }
                if !hit {
                    idle.push(self.unmatched(key, pattern, "matches no module (it must match a whole path)"));
                }
            }
            Some(Matcher::AllLinear) | None => {}
        }
        let Some(layers) = layers else { return Ok(()) };
        for layer in layers.wanted.iter().filter(|l| !self.sites.iter().any(|s| s.layer == Some(**l))) {
            let last = self.sites.iter().filter_map(|s| s.layer).max().unwrap_or(0);
            idle.push(Idle {
                key: self.names.layers,
                why: format!("the model has no layer {layer}"),
                help: format!("its layers are 0 to {last}"),
            });
        }
        Ok(())
    }

    /// `layers_to_transform` restricts lists of names, not regular expressions (as in PEFT); here also all linear layers.
    fn layers(&self, targets: &Matcher) -> Result<Option<Layers>> {
        let Some(wanted) = self.config.layers_to_transform.as_ref().map(OneOrMany::to_vec).filter(|l| !l.is_empty()) else {
            return Ok(None);
        };
        if matches!(targets, Matcher::Whole(..)) {
            return Err(Error::usage(
                format!("`{}`", self.names.layers),
                format!("layers cannot be combined with a regular expression in `{}`", self.names.targets),
                "write the layer numbers into the expression",
            ));
        }
        let key = "layers_pattern";
        let patterns = self.config.layers_pattern.as_ref().map(OneOrMany::to_vec).unwrap_or_default();
        let before = match patterns.as_slice() {
            [] => vec![Expression::before_layer(key, None)?],
            all => all.iter().map(|p| Expression::before_layer(key, Some(p))).collect::<Result<_>>()?,
        };
        let layers = Layers { wanted, before };
        let mut found = patterns.is_empty();
        for s in self.sites.iter().filter(|s| s.layer.is_some()) {
            found |= layers.number(&s.path)?.is_some();
        }
        match found {
            true => Ok(Some(layers)),
            false => Err(Error::usage(
                format!("`{key}`"),
                format!("`{}` does not lead to a layer's number in any module's path", patterns.join("`, `")),
                "name the part of the path before the number, e.g. `layers` (or `h` for gpt2)",
            )),
        }
    }

    /// A target that is a full path is taken in any layer.
    fn in_layers(&self, targets: &Matcher, layers: Option<&Layers>, site: &SiteInfo) -> Result<bool> {
        let Some(layers) = layers else { return Ok(true) };
        if matches!(targets, Matcher::Names(names) if names.contains(&site.path)) {
            return Ok(true);
        }
        Ok(layers.number(&site.path)?.is_some_and(|number| layers.wanted.contains(&number)))
    }

    /// `rank_pattern` / `alpha_pattern` as compiled expressions, in the order of the file.
    fn patterns(
        &self,
        key: &'static str,
        map: &Map<String, Value>,
        paths: &[String],
        idle: &mut Vec<Idle>,
    ) -> Result<Vec<(Expression, f64)>> {
        let mut all = Vec::new();
        for (pattern, value) in map {
            let expression = Expression::ending(key, pattern)?;
            let mut hit = false;
            for path in paths {
                hit |= expression.matches(path)?;
            }
            if !hit {
                idle.push(self.unmatched(key, pattern, "matches no adapted module"));
            }
            all.push((expression, value.as_f64().unwrap_or(0.0)));
        }
        Ok(all)
    }
}

impl Layers {
    /// By the first pattern that leads to a number.
    fn number(&self, path: &str) -> Result<Option<usize>> {
        for expression in &self.before {
            if let Some(number) = expression.layer(path)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

/// The value of the first pattern that matches.
pub(super) fn first(patterns: &[(Expression, f64)], path: &str) -> Result<Option<f64>> {
    for (expression, value) in patterns {
        if expression.matches(path)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
