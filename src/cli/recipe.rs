//! `lorakit recipe new | ls | show | check | schema | keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::recipe_lines::{check, key_line, listed, listed_json, pretty, verdict_line};
use crate::error::Result;
use crate::recipe::{self, Recipe};

/// Write a recipe for your rows; look at recipes: list, show, check; print their JSON Schema.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look at rows and write a short commented recipe that trains on them as it is
    New(new::NewArgs),
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
    if let Verb::Check { recipes, set } = &args.verb
        && recipes.len() > 1
    {
        let (lines, wrong) = check(recipes, set);
        super::print(&lines)?;
        return wrong.map_or(Ok(()), Err);
    }
    super::print(&text(args)?)
}

/// What the verb prints.
fn text(args: &RecipeArgs) -> Result<String> {
    match &args.verb {
        Verb::New(args) => new::run(args),
        Verb::Ls { dir, json } => {
            let recipes = recipe::list(dir)?;
            Ok(if *json { listed_json(&recipes) } else { listed(dir, &recipes) })
        }
        Verb::Show { recipe, set, json } => {
            let recipe = Recipe::load(recipe, set)?;
            Ok(if *json { pretty(&recipe.to_json()) } else { recipe.to_toml() })
        }
        Verb::Check { recipes, set } => recipes.iter().map(|path| Ok(verdict_line(&Recipe::load(path, set)?))).collect(),
        Verb::Schema => Ok(pretty(&recipe::schema())),
        Verb::Keys => Ok(recipe::keys().iter().map(key_line).collect()),
    }
}

mod new;
#[cfg(test)]
mod tests;
