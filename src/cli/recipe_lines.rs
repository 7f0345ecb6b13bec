//! Recipes in lines: a folder of them, the verdict on one, and every key.
//!
//! Refuses to know how recipes are read.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;
use crate::recipe::{KeyDoc, Listed, Method, Recipe};

/// The recipes of a folder, each with what it is about.
pub(super) fn listed(dir: &Path, recipes: &[Listed]) -> String {
    if recipes.is_empty() {
        return format!("no .toml file in {}\n", dir.display());
    }
    let width = recipes.iter().map(|r| r.path.display().to_string().len()).max().unwrap_or(0);
    let line = |r: &Listed| format!("{:width$}  {}", r.path.display().to_string(), r.about).trim_end().to_string() + "\n";
    recipes.iter().map(line).collect()
}

/// The same as a JSON list.
pub(super) fn listed_json(recipes: &[Listed]) -> String {
    let list: Vec<_> = recipes.iter().map(|r| json!({"recipe": r.path, "about": r.about})).collect();
    pretty(&list.into())
}

/// A recipe that is fine, in a line.
pub(super) fn verdict_line(recipe: &Recipe) -> String {
    let method = match recipe.adapter.method {
        Method::Lora => "LoRA",
        Method::RsLora => "rsLoRA",
    };
    let length = match recipe.train.steps {
        Some(steps) => format!("{steps} steps"),
        None if recipe.train.epochs == 1.0 => "1 epoch".to_string(),
        None => format!("{} epochs", recipe.train.epochs),
    };
    format!(
        "OK {}: {method} of rank {} on {}, {length} over {} file(s), adapter to {}\n",
        recipe.path.display(),
        recipe.adapter.rank,
        recipe.base.model,
        recipe.data.train.len(),
        recipe.output.dir.display(),
    )
}

/// A key, what may be written, its default and its meaning.
pub(super) fn key_line(key: &KeyDoc) -> String {
    let default = key.default.as_ref().map(|default| format!(" [default: {default}]")).unwrap_or_default();
    format!("{}: {}{default}\n    {}\n", key.key, key.expects, key.doc)
}

/// JSON for people to read.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The verdict on each of several recipes, with what is wrong with it where it stands, and how many cannot be used.
pub(super) fn check(recipes: &[PathBuf], set: &[String]) -> (String, Option<Error>) {
    let (mut lines, mut wrong) = (String::new(), 0);
    for path in recipes {
        match Recipe::load(path, set) {
            Ok(recipe) => lines += &verdict_line(&recipe),
            Err(error) => {
                wrong += 1;
                lines += &format!("NOT OK {}: {error}\n", path.display());
            }
        }
    }
    let why = format!("{wrong} of {} recipes cannot be used", recipes.len());
    (lines, (wrong > 0).then(|| Error::usage("recipe check", why, "what is wrong with each stands above")))
}
