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
    match &args.verb {
        Verb::Ls { dir, json } => ls(dir, *json),
        Verb::Show { recipe, set, json } => {
            let recipe = Recipe::load(recipe, set)?;
            if *json { print(&pretty(&recipe.to_json())) } else { print(&recipe.to_toml()) }
        }
        Verb::Check { recipes, set } => recipes.iter().try_for_each(|path| print(&verdict(&Recipe::load(path, set)?))),
        Verb::Schema => print(&pretty(&recipe::schema())),
        Verb::Keys => print(&recipe::keys().iter().map(key_line).collect::<String>()),
    }
}

fn ls(dir: &Path, as_json: bool) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        Error::usage(
            dir.display().to_string(),
            format!("recipes cannot be listed: {e}"),
            "name a folder of recipes: `lorakit recipe ls DIR`",
        )
    })?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let recipes = paths.into_iter().map(|path| Ok((first_comment(&read_text(&path)?), path))).collect::<Result<Vec<_>>>()?;
    if as_json {
        let list: Vec<_> = recipes.iter().map(|(about, path)| json!({"recipe": path, "about": about})).collect();
        return print(&pretty(&list.into()));
    }
    if recipes.is_empty() {
        return print(&format!("no .toml file in {}\n", dir.display()));
    }
    let width = recipes.iter().map(|(_, path)| path.display().to_string().len()).max().unwrap_or(0);
    print(&recipes.iter().map(|(about, path)| format!("{:width$}  {about}\n", path.display().to_string())).collect::<String>())
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

/// A reader that has seen enough (`| head`) is not an error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Error::io("write", Path::new("standard output"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RecipeArgs,
    }

    fn run_line(words: &[&str]) -> Result<()> {
        use clap::Parser;
        run(&Line::try_parse_from([&["recipe"], words].concat()).unwrap().args)
    }

    #[test]
    fn first_comment_skips_the_editor_line() {
        assert_eq!(first_comment("#:schema ../docs/x.json\n\n# Sorts tickets.\n# More.\n[base]\n"), "Sorts tickets.");
        assert_eq!(first_comment("[base]\nmodel = 'a#b'\n"), "");
    }

    #[test]
    fn every_verb_runs_on_a_good_recipe_and_stops_at_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good.toml"), dir.path().join("bad.toml"));
        std::fs::write(dir.path().join("t.jsonl"), "{}\n").unwrap();
        std::fs::write(&good, "# Good.\n[base]\nmodel = 'a/b'\n[data]\ntrain = 't.jsonl'\n").unwrap();
        std::fs::write(&bad, "# Bad.\n[base]\n").unwrap();
        let (folder, good, bad) = (dir.path().to_str().unwrap(), good.to_str().unwrap(), bad.to_str().unwrap());
        for words in
            [&["ls", folder][..], &["ls", folder, "--json"], &["show", good], &["show", good, "--json"], &["check", good]]
        {
            run_line(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        }
        run_line(&["schema"]).unwrap();
        run_line(&["keys"]).unwrap();
        let error = run_line(&["check", good, bad]).unwrap_err();
        assert!(error.to_string().contains("bad.toml:2: `base.model`"), "{error}");
        let error = run_line(&["show", good, "--set", "train.lr=0"]).unwrap_err();
        assert!(error.to_string().starts_with("--set train.lr=0: `train.lr`"), "{error}");
        assert_eq!(run_line(&["ls", &format!("{folder}/none")]).unwrap_err().exit_code(), 2);
        let recipe = Recipe::load(Path::new(good), &[]).unwrap();
        assert_eq!(verdict(&recipe), format!("OK {good}: LoRA of rank 8 on a/b, 1 epoch over 1 file(s), adapter to runs/good\n"));
    }
}
