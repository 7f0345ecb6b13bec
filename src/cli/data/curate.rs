//! `lorakit data curate`: the rows that are worth training on, as new files, and an account of the others.

use std::path::PathBuf;

use clap::Args;

use super::curate_values::{Leaking, Personal, flaw, known, score};
use super::curated::Curated;
use super::rows_args::RowsArgs;
use super::scan_progress::{scan, searching, writing};
use crate::cli::print;
use crate::curate::{self, CurateOut, Flaw, KeptRows, Wishes};
use crate::error::Result;
use crate::files;

/// Write the rows worth keeping to a new file: without copies, and without what else the options say.
#[derive(Debug, Args)]
pub(super) struct CurateArgs {
    #[command(flatten)]
    rows: RowsArgs,
    /// Where the kept rows go: a .jsonl file, or a folder (a name without an ending) that gets a file a source; PATH.curation.json
    /// tells what became of every other row
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// Keep copies
    #[arg(long)]
    keep_copies: bool,
    /// What becomes of rows that have (part of) a held-out row; `report` keeps them: data check names them
    #[arg(long, value_enum, default_value_t = Leaking::Drop)]
    leaks: Leaking,
    /// Keep rows in these languages alone, e.g. en,fr; rows whose language cannot be told stay
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    language: Vec<String>,
    /// Drop rows with these flaws too, e.g. refusal,garbled (rows without an answer go always)
    #[arg(long, value_name = "FLAWS", value_delimiter = ',', value_parser = flaw)]
    drop: Vec<Flaw>,
    /// Drop rows of a lower score (0 to 1)
    #[arg(long, value_name = "SCORE", value_parser = score)]
    min_quality: Option<f32>,
    /// Keep so many rows, chosen for quality and spread
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    best: Option<u64>,
    /// Rows with personal data
    #[arg(long, value_enum, default_value_t = Personal::Report)]
    pii: Personal,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
}

impl CurateArgs {
    fn wishes(&self) -> Result<Wishes> {
        known(&self.language)?;
        Ok(Wishes {
            copies: !self.keep_copies,
            near: Some(self.rows.near),
            leaks: self.leaks == Leaking::Drop,
            languages: self.language.clone(),
            flaws: self.drop.clone(),
            pii: self.pii == Personal::Drop,
            min_quality: self.min_quality,
            best: self.best.map(|k| k as usize),
        })
    }
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the arguments, the recipe or the rows; writing failed, and nothing is left.
pub(super) fn run(args: &CurateArgs) -> Result<()> {
    let (wishes, settings) = (args.wishes()?, args.rows.settings()?);
    let out = CurateOut { path: args.out.clone(), force: args.force };
    out.refuse(&settings)?;
    let scan = scan(&settings).map_err(|e| args.rows.in_own_words(e))?;
    out.holds(&scan.files, &settings)?;
    let choice = curate::choose(&scan, &wishes, &mut searching())?;
    let kept = KeptRows { settings: &settings, choice: &choice, mask: args.pii == Personal::Mask };
    let masked = kept.write(&out, &mut writing(choice.rows_kept()))?;
    let account = curate::account(&scan, &choice, &wishes, masked);
    files::write_atomic(&out.sidecar(), account.as_bytes())?;
    let curated = Curated { scan: &scan, choice: &choice, wishes: &wishes, out: &out, masked };
    print(&if args.json { account } else { curated.told() })
}
