//! The arguments that name rows: a recipe, or files, and how they are looked at.

use std::path::PathBuf;

use clap::Args;

use crate::cli::base;
use crate::curate::{ScanSettings, files_of, is_recipe};
use crate::error::{Error, Result};
use crate::recipe::{Malformed, Source};

/// Which rows, and how they are looked at.
#[derive(Debug, Args)]
pub(super) struct RowsArgs {
    /// A recipe, or files of rows: paths, folders, patterns, data sets of the hub (hf://datasets/…), - for standard input
    #[arg(required = true, value_name = "RECIPE|FILE")]
    what: Vec<PathBuf>,
    /// Rows of this similarity or more are near copies (0 to 1: the weight of the words that both have)
    #[arg(long, value_name = "S", default_value_t = 0.7, value_parser = share)]
    pub(super) near: f32,
    /// Files of rows to be judged by (any shape), besides the recipe's held-out ones
    #[arg(long, value_name = "FILE", num_args = 1)]
    against: Vec<PathBuf>,
    /// Words of a run that makes a row a leak
    #[arg(long, value_name = "N", default_value_t = 13, value_parser = clap::value_parser!(u16).range(3..=100))]
    ngram: u16,
    /// Leave out rows that cannot be read, and count them, in place of ending with the first (a recipe says it with `malformed`)
    #[arg(long)]
    skip_malformed: bool,
    /// The file's name of a column, e.g. --column instruction=question
    #[arg(long = "column", value_name = "OURS=THEIRS", value_parser = column)]
    columns: Vec<(String, String)>,
}

/// What a remedy says to a recipe, and to these arguments.
const FLAGS: [(&str, &str); 5] = [
    (
        "Map other names in the recipe, e.g. columns = { instruction = \"question\", output = \"answer\" }",
        "Map other names with e.g. --column instruction=question --column output=answer",
    ),
    (
        "list both in the recipe, or map its columns to one shape",
        "look at each by itself, or map columns with --column OURS=THEIRS",
    ),
    ("remove it from the recipe", "leave it out"),
    ("remove the key from the recipe's source, or name the shape that is meant", "name the columns with --column OURS=THEIRS"),
    ("columns = {", "--column OURS=THEIRS for {"),
];

fn share(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x > 0.0 && x <= 1.0 => Ok(x),
        _ => Err("must be a number above 0 and at most 1, e.g. 0.7".into()),
    }
}

fn column(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((ours, theirs)) if !ours.is_empty() && !theirs.is_empty() => Ok((ours.into(), theirs.into())),
        _ => Err("write our field, =, the file's column, e.g. instruction=question".into()),
    }
}

impl RowsArgs {
    /// What the arguments name.
    ///
    /// # Errors
    /// What is wrong with the recipe; no rows are where they were named.
    pub(super) fn settings(&self) -> Result<ScanSettings> {
        let (mut settings, against) = (ScanSettings { ngram: self.ngram.into(), ..ScanSettings::default() }, &self.against);
        match self.what.as_slice() {
            [one] if is_recipe(one) => {
                let recipe = base::recipe(one, &[])?;
                (settings.sources, settings.heldout) = (recipe.data.train, recipe.data.heldout);
            }
            named => {
                let malformed = if self.skip_malformed { Malformed::Drop } else { Malformed::Error };
                let source = |path: PathBuf| Source { path, columns: self.columns.clone(), malformed, ..Source::default() };
                settings.sources = files_of(named, base::dataset)?.into_iter().map(source).collect();
            }
        }
        settings.against = files_of(against, base::dataset)?;
        Ok(settings)
    }

    /// What is wrong with rows, with the remedy in the words of what they were named by: of files, these arguments in place of
    /// the keys of a recipe.
    pub(super) fn in_own_words(&self, error: Error) -> Error {
        match error {
            Error::Data { file, line, why, help } if !matches!(self.what.as_slice(), [one] if is_recipe(one)) => {
                let mut help = FLAGS.iter().fold(help, |help, (key, flag)| help.replace(key, flag));
                if line.is_some() && !self.skip_malformed {
                    help += "; --skip-malformed leaves rows that cannot be read out";
                }
                Error::Data { file, line, why, help }
            }
            other => other,
        }
    }
}
