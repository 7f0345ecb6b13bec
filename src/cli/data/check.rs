//! `lorakit data check`: what is wrong with rows, before anything is trained on them.

use std::path::PathBuf;

use clap::Args;

use super::page;
use super::report_text::text;
use super::rows_args::RowsArgs;
use super::scan_progress::{scan, searching};
use crate::curate;
use crate::error::{Error, Result};
use crate::files;

/// Find copies, leaks of held-out rows, refusals, garbage, personal data; languages, lengths, spread, quality.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    rows: RowsArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the report as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the arguments, the recipe or the rows; writing failed.
pub(super) fn run(args: &CheckArgs) -> Result<()> {
    let settings = args.rows.settings()?;
    let scan = scan(&settings).map_err(|e| args.rows.in_own_words(e))?;
    let summary = curate::summary(&scan, args.rows.near, &mut searching())?;
    if let Some(path) = &args.html {
        files::write_atomic(path, page::page(&summary)?.as_bytes())?;
    }
    if args.json {
        let json =
            serde_json::to_string_pretty(&summary).map_err(|e| Error::usage("the report", e.to_string(), "report this"))?;
        return crate::cli::print(&format!("{json}\n"));
    }
    crate::cli::print(&text(&summary))
}
