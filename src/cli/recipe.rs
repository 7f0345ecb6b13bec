//! `lorakit recipe ls | show | check | schema | keys`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::{Error, Result};
use crate::files::read_text;
use crate::recipe::{self, Method, Recipe};

/// Look at recipes: list, show, check; print their JSON Schema.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the recipes of a folder with the first comment of each
    Ls {
        #[arg(default_value = "recipes")]
        dir: PathBuf,
        /// Print one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Print the checked recipe with every default filled in
    Show {
        recipe: PathBuf,
        /// Replace a value, e.g. --set train.lr=1e-4
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
    /// Check recipes without training: one line each, or the first thing wrong
    Check {
        #[arg(required = true)]
        recipes: Vec<PathBuf>,
        /// Replace a value, e.g. --set train.lr=1e-4
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Print the JSON Schema of a recipe, for editors
    Schema,
    /// Print every key with what may be written, its default and its meaning
    Keys,
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the recipe or the folder named.
pub fn run(args: &RecipeArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text(args)?.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is not an error.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Error::io("write", Path::new("standard output"))),
    }
}

/// What the verb prints.
fn text(args: &RecipeArgs) -> Result<String> {
    match &args.verb {
        Verb::Ls { dir, json } => ls(dir, *json),
        Verb::Show { recipe, set, json } => {
            let recipe = Recipe::load(recipe, set)?;
            Ok(if *json { pretty(&recipe.to_json()) } else { recipe.to_toml() })
        }
        Verb::Check { recipes, set } => recipes.iter().map(|path| Ok(verdict(&Recipe::load(path, set)?))).collect(),
        Verb::Schema => Ok(pretty(&recipe::schema())),
        Verb::Keys => Ok(recipe::keys().iter().map(key_line).collect()),
    }
}

fn ls(dir: &Path, as_json: bool) -> Result<String> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        let why = format!("recipes cannot be listed: {e}");
        Error::usage(dir.display().to_string(), why, "name a folder of recipes: `lorakit recipe ls DIR`")
    })?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let recipes = paths.into_iter().map(|path| Ok((first_comment(&read_text(&path)?), path))).collect::<Result<Vec<_>>>()?;
    if as_json {
        let list: Vec<_> = recipes.iter().map(|(about, path)| json!({"recipe": path, "about": about})).collect();
        return Ok(pretty(&list.into()));
    }
    if recipes.is_empty() {
        return Ok(format!("no .toml file in {}\n", dir.display()));
    }
    let width = recipes.iter().map(|(_, path)| path.display().to_string().len()).max().unwrap_or(0);
    let line = |(about, path): &(String, PathBuf)| {
        format!("{:width$}  {about}", path.display().to_string()).trim_end().to_string() + "\n"
    };
    Ok(recipes.iter().map(line).collect())
}

fn first_comment(text: &str) -> String {
    // `#:schema PATH` is for editors.
    let mut comments = text.lines().filter_map(|line| line.trim().strip_prefix('#')).filter(|line| !line.starts_with(':'));
    comments.next().unwrap_or_default().trim_start_matches('#').trim().to_string()
}

fn verdict(recipe: &Recipe) -> String {
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

fn key_line(key: &recipe::KeyDoc) -> String {
    let default = key.default.as_ref().map(|default| format!(" [default: {default}]")).unwrap_or_default();
    format!("{}: {}{default}\n    {}\n", key.key, key.expects, key.doc)
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RecipeArgs,
    }

    fn said(words: &[&str]) -> Result<String> {
        use clap::Parser;
        text(&Line::try_parse_from([&["recipe"], words].concat()).unwrap().args)
    }

    /// A folder with a good and a bad recipe, and the paths of the three.
    fn folder() -> (tempfile::TempDir, [String; 3]) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.jsonl"), "{}\n").unwrap();
        let good = "#:schema ../docs/x.json\n\n# Sorts tickets.\n# More.\n[base]\nmodel = 'a/b'\n[data]\ntrain = 't.jsonl'\n";
        std::fs::write(dir.path().join("good.toml"), good).unwrap();
        std::fs::write(dir.path().join("bad.toml"), "[base]\nrevision = 'a#b'\n").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let paths = [dir.path().display().to_string(), path("good.toml"), path("bad.toml")];
        (dir, paths)
    }

    #[test]
    fn ls_gives_each_recipe_with_its_first_comment() {
        let (_dir, [folder, good, bad]) = folder();
        assert_eq!(said(&["ls", &folder]).unwrap(), format!("{bad}\n{good}  Sorts tickets.\n"));
        let list: serde_json::Value = serde_json::from_str(&said(&["ls", &folder, "--json"]).unwrap()).unwrap();
        assert_eq!(list[1], json!({"recipe": good, "about": "Sorts tickets."}));
        let error = said(&["ls", &format!("{folder}/none")]).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("recipe ls DIR"), "{error}");
    }

    #[test]
    fn show_and_check_load_the_recipe() {
        let (_dir, [_, good, bad]) = folder();
        assert!(said(&["show", &good, "--set", "train.lr=1e-5"]).unwrap().contains("\nlr = 1e-5\n"));
        let shown: serde_json::Value = serde_json::from_str(&said(&["show", &good, "--json"]).unwrap()).unwrap();
        assert_eq!(shown["adapter"]["rank"], 8);
        let line = format!("OK {good}: LoRA of rank 8 on a/b, 1 epoch over 1 file(s), adapter to runs/good\n");
        assert_eq!(said(&["check", &good, &good]).unwrap(), line.repeat(2));
        let error = said(&["check", &good, &bad]).unwrap_err().to_string();
        assert!(error.contains("bad.toml:1: `base.model`: is missing"), "{error}");
        let error = said(&["show", &good, "--set", "train.lr=0"]).unwrap_err().to_string();
        assert!(error.starts_with("--set train.lr=0: `train.lr`"), "{error}");
    }

    #[test]
    fn keys_are_explained() {
        let keys = said(&["keys"]).unwrap();
        assert!(keys.contains("adapter.rank: a whole number (at least 1, at most 65536) [default: 8]\n    Rank of"), "{keys}");
        assert!(said(&["schema"]).unwrap().starts_with("{\n  \""));
    }
}
