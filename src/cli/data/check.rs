//! `lorakit data check`: what is wrong with rows, before anything is trained on them.

use std::path::{Path, PathBuf};

use clap::Args;

use super::page;
use crate::cli::progress::{Progress, Unit};
use crate::cli::stop;
use crate::curate::{self, Flaw, Low, Place, Scan, Settings, Summary};
use crate::error::{Error, Result};
use crate::files;
use crate::hub::Dataset;
use crate::piped;
use crate::recipe::{Malformed, Source, in_folder, is_pattern, matching};

/// Find copies, leaks of held-out rows, refusals, garbage, personal data; languages, lengths, spread, quality.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) rows: RowsArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the report as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

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
    /// What is wrong with the recipe.
    pub(super) fn settings(&self) -> Result<Settings> {
        let (mut settings, against) = (Settings { ngram: self.ngram.into(), ..Settings::default() }, &self.against);
        match self.what.as_slice() {
            [one] if is_recipe(one) => {
                let recipe = crate::cli::base::recipe(one, &[])?;
                (settings.sources, settings.heldout) = (recipe.data.train, recipe.data.heldout);
            }
            named => {
                let malformed = if self.skip_malformed { Malformed::Drop } else { Malformed::Error };
                let source = |path: PathBuf| Source { path, columns: self.columns.clone(), malformed, ..Source::default() };
                settings.sources = files_of(named)?.into_iter().map(source).collect();
            }
        }
        settings.against = files_of(against)?;
        Ok(settings)
    }

    /// Looks at all rows once, with progress.
    ///
    /// # Errors
    /// What is wrong with a file; the user asked to stop.
    pub(super) fn scan(&self, settings: &Settings) -> Result<Scan> {
        stop::listen();
        // The words of the rows are in a temporary file, which has to go.
        stop::save_first();
        let mut progress = Progress::new("rows", 0, Unit::Items);
        curate::scan(settings, &mut |rows| {
            progress.set(rows as u64, "");
            stop::go_on()
        })
    }
}

/// The files named, those in the folders named, those that patterns match, those of the hub's data sets, and standard input.
fn files_of(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in named {
        let given = path.to_string_lossy();
        let found = match () {
            () if Dataset::is_meant(&given) => Ok(crate::cli::base::dataset(&given)?),
            () if given == piped::PATH => Ok(vec![piped::file()?]),
            () if path.is_dir() => in_folder(path),
            () if is_pattern(path) => matching(path),
            () => Ok(vec![path.clone()]),
        };
        let found = found.map_err(|why| Error::usage(&*given, why, "name files instead"))?;
        if found.is_empty() {
            return Err(Error::usage(given, "no file of rows is there", "name another, or files"));
        }
        all.extend(found);
    }
    Ok(all)
}

/// A TOML file with a `[data]` or `[base]` section; one without is a task of shape `flan`.
fn is_recipe(path: &Path) -> bool {
    let toml = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    toml && match files::read_text(path) {
        Ok(text) => text.lines().any(|l| matches!(l.trim(), "[data]" | "[base]")),
        Err(_) => true,
    }
}

/// Progress of the search for copies.
pub(super) fn searching() -> impl FnMut(usize, usize) -> Result<()> {
    let mut progress: Option<Progress> = None;
    move |done, total| {
        let progress = progress.get_or_insert_with(|| Progress::new("looking for copies", total as u64, Unit::Items));
        progress.set(done as u64, "");
        stop::go_on()
    }
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the arguments, the recipe or the rows; writing failed.
pub(super) fn run(args: &CheckArgs) -> Result<()> {
    let settings = args.rows.settings()?;
    let scan = args.rows.scan(&settings)?;
    let summary = curate::summary(&scan, args.rows.near, &mut searching())?;
    if let Some(path) = &args.html {
        files::write_atomic(path, page::page(&summary).as_bytes())?;
    }
    if args.json {
        let json =
            serde_json::to_string_pretty(&summary).map_err(|e| Error::usage("the report", e.to_string(), "report this"))?;
        return crate::cli::print(&format!("{json}\n"));
    }
    crate::cli::print(&text(&summary))
}

/// A place as `file:line`.
pub(super) fn place(files: &[PathBuf], place: Place) -> String {
    let path = files.get(place.source as usize).map(|p| p.display().to_string()).unwrap_or_default();
    format!("{path}:{}", place.line)
}

/// Rows named of each kind.
const NAMED: usize = 5;
/// Files named.
const FILES: usize = 12;

/// The report for the terminal.
pub(super) fn text(s: &Summary) -> String {
    let files: Vec<PathBuf> = s.files.iter().map(|f| f.path.clone()).collect();
    let at = |p: &Place| place(&files, *p);
    let mut out = String::new();
    for file in s.files.iter().take(FILES) {
        out += &format!("{}: {} rows, shape {}\n", file.path.display(), file.rows, format!("{:?}", file.shape).to_lowercase());
    }
    if s.files.len() > FILES {
        out += &format!("… and {} files more\n", s.files.len() - FILES);
    }
    out += &format!("\n{} rows, {} usable", s.rows, s.usable);
    out += &s.unusable.iter().map(|(reason, n)| format!(", {n} {reason}")).collect::<String>();
    let c = &s.copies;
    out += &format!(
        "\n\ncopies      {} exact, {} near (similarity ≥ {}), of {} rows; {} across files\n",
        c.exact, c.near, c.threshold, c.originals, c.across_sources
    );
    for copy in c.rows.iter().filter(|c| !c.exact).take(NAMED) {
        out += &format!("              {:.2}  {}  of  {}\n", copy.similarity, at(&copy.row), at(&copy.of));
    }
    match s.leaks.held_rows {
        0 => out += "leaks       no held-out rows to look for; name them with --against FILE\n",
        held => {
            out += &format!(
                "leaks       {} rows have one of {held} held-out rows or {} words of it\n",
                s.leaks.rows.len(),
                s.leaks.ngram
            );
            for leak in s.leaks.rows.iter().take(NAMED) {
                let how = if leak.whole { "whole".to_string() } else { format!("{:.0} %", 100.0 * leak.overlap) };
                out += &format!("              {how:>5}  {}  of  {}\n", at(&leak.row), place(&s.held_files, leak.of));
            }
        }
    }
    let mut languages: Vec<_> = s.languages.iter().collect();
    languages.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let list: Vec<_> = languages.iter().take(12).map(|(l, n)| format!("{l} {n}")).collect();
    out += &format!("languages   {}\n", list.join(", "));
    for (what, d) in [("questions", &s.prompt_words), ("answers", &s.answer_words)] {
        out += &format!("{what:<12}words: median {}, 5 to 95 % {} to {}, longest {}\n", d.median, d.p5, d.p95, d.most);
    }
    out += &findings("flaws", s.flaws.iter().map(|f| (f.kind.name(), f.rows, f.places.as_slice())), &at);
    out += &findings("personal", s.pii.iter().map(|f| (f.kind.name(), f.rows, f.places.as_slice())), &at);
    out + &spread(s)
}

fn findings<'a>(
    title: &str,
    found: impl Iterator<Item = (&'static str, usize, &'a [Place])>,
    at: &dyn Fn(&Place) -> String,
) -> String {
    let mut out = String::new();
    for (name, rows, places) in found.filter(|(_, rows, _)| *rows > 0) {
        let named: Vec<String> = places.iter().take(NAMED).map(at).collect();
        let more = if rows > NAMED { ", …" } else { "" };
        let title = if out.is_empty() { title } else { "" };
        out += &format!("{title:<12}{name} {rows}: {}{more}\n", named.join(", "));
    }
    if out.is_empty() { format!("{title:<12}none found\n") } else { out }
}

fn spread(s: &Summary) -> String {
    let d = &s.spread;
    let mut out = format!(
        "asked for   {} orders, {} questions, {} neither; {} pairs of verb and object, spread as {:.0} equal ones\n",
        d.orders, d.questions, d.neither, d.pairs, d.effective_pairs
    );
    for verb in d.verbs.iter().take(8) {
        let objects: Vec<_> = verb.objects.iter().take(4).map(|(o, n)| format!("{o} {n}")).collect();
        out += &format!("              {:<12}{:>6}  {}\n", verb.verb, verb.rows, objects.join(", "));
    }
    out + &format!("quality     mean {:.2} of 1; the lowest:\n", s.quality.mean) + &lowest(s)
}

fn lowest(s: &Summary) -> String {
    let files: Vec<PathBuf> = s.files.iter().map(|f| f.path.clone()).collect();
    let line = |low: &Low| {
        let reasons: Vec<_> =
            low.quality.reasons.iter().map(|(reason, x)| format!("{} {x:+.2}", reason.replace('_', " "))).collect();
        format!("              {:.2}  {}  {}\n", low.quality.score, place(&files, low.row), reasons.join(", "))
    };
    s.quality.lowest.iter().take(NAMED).map(line).collect()
}

/// A flaw by its name.
pub(super) fn flaw(text: &str) -> std::result::Result<Flaw, String> {
    Flaw::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| {
        let names: Vec<_> = Flaw::ALL.iter().map(|f| f.name()).collect();
        format!("flaws are {}", names.join(", "))
    })
}
