//! `lorakit data curate`: the rows that are worth training on, as new files, and an account of the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::check::{RowsArgs, flaw, searching};
use super::kept::{Kept, one_shape};
use crate::curate::{self, Choice, Flaw, Place, Removed, Scan, Settings, Wishes};
use crate::error::{Error, Result};
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Leaking {
    Report,
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Personal {
    Report,
    Drop,
    /// Write [EMAIL], [PHONE] … in its place
    Mask,
}

fn score(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("must be a number from 0 to 1, e.g. 0.5".into()),
    }
}

impl CurateArgs {
    fn wishes(&self) -> Result<Wishes> {
        let known = curate::languages();
        if let Some(wrong) = self.language.iter().find(|l| !known.contains(&l.as_str())) {
            let why = format!("`{wrong}` is no language that can be told");
            return Err(Error::usage("--language", why, format!("codes are {}", known.join(", "))));
        }
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

    /// Whether a folder is to be written.
    fn folder(&self) -> bool {
        self.out.extension().is_none()
    }

    fn sidecar(&self) -> PathBuf {
        let mut name = self.out.file_name().unwrap_or_default().to_os_string();
        name.push(".curation.json");
        self.out.with_file_name(name)
    }

    /// Refuses to write over rows, whoever's they are.
    fn refuse(&self, settings: &Settings) -> Result<()> {
        let what = self.out.display().to_string();
        let same = |a: &Path| a.canonicalize().ok().is_some_and(|a| self.out.canonicalize().ok() == Some(a));
        let read = settings.sources.iter().chain(&settings.heldout).map(|s| s.path.as_path());
        if read.chain(settings.against.iter().map(PathBuf::as_path)).any(same) {
            return Err(Error::usage(what, "the file is read from", "name another file with --out"));
        }
        if !self.folder() && !self.out.extension().is_some_and(|e| e == "jsonl" || e == "ndjson") {
            return Err(Error::usage(
                what,
                "rows are written as JSON Lines",
                "let the name end in .jsonl, or in nothing for a folder",
            ));
        }
        if !self.force && (self.out.exists() || self.sidecar().exists()) {
            return Err(Error::usage(what, "there is such a file (or its account)", "name another with --out, or add --force"));
        }
        // A folder is replaced whole: only one that was made here may be.
        if self.out.is_dir() && !self.sidecar().exists() {
            return Err(Error::usage(what, "this folder was not written by data curate", "name another with --out"));
        }
        if self.out.exists() && self.out.is_dir() != self.folder() {
            return Err(Error::usage(what, "a folder is named like a file, or a file like a folder", "name another with --out"));
        }
        Ok(())
    }
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the arguments, the recipe or the rows; writing failed, and nothing is left.
pub(super) fn run(args: &CurateArgs) -> Result<()> {
    let (wishes, settings) = (args.wishes()?, args.rows.settings()?);
    args.refuse(&settings)?;
    let scan = args.rows.scan(&settings)?;
    if !args.folder() {
        one_shape(&args.out, &scan.files, &settings)?;
    }
    let choice = curate::choose(&scan, &wishes, &mut searching())?;
    if choice.rows_kept() == 0 {
        let counts: Vec<_> = choice.by_reason().into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let why = format!("no row would be left: {}", counts.join(", "));
        return Err(Error::usage(args.out.display().to_string(), why, "ask for less to be dropped"));
    }
    let kept = Kept { settings: &settings, choice: &choice, mask: args.pii == Personal::Mask };
    let masked = kept.write(&args.out, args.folder())?;
    let account = account(&scan, &choice, &wishes, masked);
    files::write_atomic(&args.sidecar(), account.as_bytes())?;
    if args.json { crate::cli::print(&account) } else { crate::cli::print(&told(args, &scan, &choice, masked)) }
}

/// What is said on the terminal.
fn told(args: &CurateArgs, scan: &Scan, choice: &Choice, masked: usize) -> String {
    let rows: usize = scan.files.iter().map(|f| f.rows).sum();
    let mut text = format!("{rows} rows read = {} kept + {} dropped\n", choice.rows_kept(), choice.removed.len());
    for (reason, n) in choice.by_reason() {
        text += &format!("  {n:>8} dropped: {}\n", reason.replace('_', " "));
    }
    if let Some(k) = args.best.filter(|k| *k > choice.rows_kept() as u64) {
        text += &format!("  there were not {k} rows to choose from\n");
    }
    if masked > 0 {
        text += &format!("  {masked:>8} places masked\n");
    }
    text + &format!("kept rows: {}\nevery dropped row and its reason: {}\n", args.out.display(), args.sidecar().display())
}

/// The account as JSON; a dropped row is a line, so that it can be searched by line.
fn account(scan: &Scan, choice: &Choice, wishes: &Wishes, masked: usize) -> String {
    let at = |place: Place, held: bool| {
        let of = |i: u32| if held { scan.held_files.get(i as usize) } else { scan.files.get(i as usize).map(|f| &f.path) };
        json!({ "file": of(place.source), "line": place.line })
    };
    let mut by_file: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new(); scan.files.len()];
    choice.removed.iter().for_each(|r| *by_file[r.row.source as usize].entry(r.why.name()).or_default() += 1);
    let file = |(i, file): (usize, &curate::File)| {
        let kept = choice.kept[i].iter().filter(|k| **k).count();
        json!({ "file": file.path, "shape": file.shape, "read": file.rows, "kept": kept, "dropped_by_reason": by_file[i] })
    };
    let dropped = |removed: &Removed| {
        let mut row = at(removed.row, false);
        let Ok(Value::Object(why)) = serde_json::to_value(&removed.why) else { return row };
        for (key, value) in why {
            row[&key] = match key.as_str() {
                "reason" => removed.why.name().into(),
                "of" => removed.why.of().map(|of| at(of, removed.why.is_leak())).into(),
                _ => value,
            };
        }
        row
    };
    let head = json!({
        "read": scan.files.iter().map(|f| f.rows).sum::<usize>(),
        "kept": choice.rows_kept(),
        "dropped_by_reason": choice.by_reason(),
        "masked_places": masked,
        "wishes": wishes,
        "ngram": scan.ngram,
        "held_files": scan.held_files,
        "files": scan.files.iter().enumerate().map(file).collect::<Vec<_>>(),
    });
    let head = format!("{head:#}");
    let rows: Vec<String> = choice.removed.iter().map(|r| format!("    {}", dropped(r))).collect();
    format!("{},\n  \"dropped\": [\n{}\n  ]\n}}\n", head.trim_end_matches(['\n', '}']), rows.join(",\n"))
}
