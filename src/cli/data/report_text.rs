//! The report on rows for the terminal: counts, the first places of each kind, the lowest rows.
//!
//! Refuses to know how anything was found.

use super::phrases::{paths, place, reasons, shape, share};
use crate::curate::{CurationReport, Low, RowPlace};

/// Rows named of each kind.
const NAMED: usize = 5;
/// Files named.
const FILES: usize = 12;

/// The report for the terminal.
pub(super) fn text(s: &CurationReport) -> String {
    let files = paths(s);
    let at = |p: &RowPlace| place(&files, *p);
    let mut out = String::new();
    for file in s.files.iter().take(FILES) {
        out += &format!("{}: {} rows, shape {}\n", file.path.display(), file.rows, shape(file));
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
    out += &leaks(s, &at);
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

fn leaks(s: &CurationReport, at: &dyn Fn(&RowPlace) -> String) -> String {
    let (found, ngram) = (&s.leaks.rows, s.leaks.ngram);
    let held = match s.leaks.held_rows {
        0 => return "leaks       no held-out rows to look for; name them with --against FILE\n".to_string(),
        held => held,
    };
    let mut out = format!(
        "leaks       {} rows have one of {held} held-out rows: whole, a question of its own, or most of its words in runs of {ngram}\n",
        found.len()
    );
    for leak in found.iter().take(NAMED) {
        out += &format!("              {:>5}  {}  of  {}\n", share(leak), at(&leak.row), place(&s.held_files, leak.of));
        out += &format!("                     \"{}\"\n", leak.text);
    }
    out
}

fn findings<'a>(
    title: &str,
    found: impl Iterator<Item = (&'static str, usize, &'a [RowPlace])>,
    at: &dyn Fn(&RowPlace) -> String,
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

fn spread(s: &CurationReport) -> String {
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

fn lowest(s: &CurationReport) -> String {
    let files = paths(s);
    let line = |low: &Low| format!("              {:.2}  {}  {}\n", low.quality.score, place(&files, low.row), reasons(low));
    s.quality.lowest.iter().take(NAMED).map(line).collect()
}
