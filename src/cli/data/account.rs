//! What became of every row, in words.
//!
//! Refuses to know how rows are read.

use std::collections::BTreeMap;

use crate::data::{Counts, Long, Reason, Report};

/// How many rows a list names.
const NAMED: usize = 20;

/// The first of them, and how many more there are.
fn named(mut places: Vec<String>) -> String {
    let more = places.len().saturating_sub(NAMED);
    places.truncate(NAMED);
    match more {
        0 => places.join(", "),
        more => format!("{}, … and {more} more", places.join(", ")),
    }
}

/// A line, or a part of what stands in it.
fn numbered(line: usize, part: usize) -> String {
    if part == 0 { line.to_string() } else { format!("{line} part {part}") }
}

/// Where a row stands, as `file:line`.
pub(super) fn place(report: &Report, source: usize, line: usize, part: usize) -> String {
    let line = numbered(line, part);
    report.sources.get(source).map_or_else(|| format!("line {line}"), |s| format!("{}:{line}", s.path.display()))
}

/// What became of every row.
pub(super) fn account(report: &Report) -> String {
    let mut out = String::new();
    for source in &report.sources {
        let split = format!("{:?}", source.split).to_lowercase();
        out += &format!(
            "{} ({split}): shape {}, {} rows",
            source.path.display(),
            format!("{:?}", source.shape).to_lowercase(),
            source.rows
        );
        if source.beyond_limit > 0 {
            out += &format!(", {} beyond the limit", source.beyond_limit);
        }
        if !source.ignored.is_empty() {
            let fields: Vec<_> = source.ignored.iter().map(|(field, rows)| format!("{field} ({rows} rows)")).collect();
            out += &format!(", not used: {}", fields.join(", "));
        }
        out.push('\n');
        out += &source.notes.iter().map(|note| format!("  note: {note}\n")).collect::<String>();
    }
    out += &used(report);
    out += &counts("train", &report.train);
    out += &counts("held out", &report.heldout);
    out += &dropped(report);
    out += &warnings(report);
    let longest: Vec<_> = report
        .longest
        .iter()
        .map(|l| format!("  {:>6} tokens  {}\n", l.tokens, place(report, l.source, l.line, l.part)))
        .collect();
    out + "longest rows\n" + &longest.concat()
}

fn used(report: &Report) -> String {
    let (used, read) = (report.rows_used(), report.rows_read());
    if report.split.is_empty() {
        return format!("{used} of {read} rows are used\n");
    }
    let (split, added) = (report.split.len(), report.rows_added());
    format!("{split} of {read} rows are split into {} parts: {used} of {} examples are used\n", split + added, read + added)
}

fn counts(name: &str, counts: &Counts) -> String {
    if counts.examples == 0 {
        return String::new();
    }
    let roles: Vec<_> = counts.roles.iter().map(|(role, n)| format!("{role} {n}")).collect();
    format!(
        "{name}: {} examples, {} tokens ({}), {} trained = {:.1} %\n",
        counts.examples,
        counts.tokens,
        roles.join(", "),
        counts.trained,
        100.0 * counts.share_trained()
    )
}

/// Dropped and cut rows, by reason and file, with their lines.
fn dropped(report: &Report) -> String {
    let mut groups: BTreeMap<(String, usize), Vec<String>> = BTreeMap::new();
    for d in &report.dropped {
        let place = numbered(d.line, d.part);
        let (reason, line) = match d.reason {
            Reason::OverLong { tokens } => ("over-long".to_string(), format!("{place} ({tokens} tokens)")),
            other => (other.to_string(), place),
        };
        groups.entry((reason, d.source)).or_default().push(line);
    }
    let line = |((reason, source), lines): ((String, usize), Vec<String>)| {
        format!("dropped, {reason}: {} rows of {}: lines {}\n", lines.len(), path(report, source), named(lines))
    };
    let mut out: String = groups.into_iter().map(line).collect();
    out += &rows("cut at the longest length", report, &report.truncated);
    let split: Vec<_> = report
        .split
        .iter()
        .map(|r| format!("{} ({} tokens, {} parts)", place(report, r.source, r.line, 0), r.tokens, r.parts))
        .collect();
    if !split.is_empty() {
        out += &format!("split at turns: {} rows: {}\n", split.len(), named(split));
    }
    out
}

fn path(report: &Report, source: usize) -> String {
    report.sources.get(source).map(|s| s.path.display().to_string()).unwrap_or_default()
}

fn rows(what: &str, report: &Report, rows: &[Long]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let places: Vec<_> =
        rows.iter().map(|r| format!("{} ({} tokens)", place(report, r.source, r.line, r.part), r.tokens)).collect();
    format!("{what}: {} rows: {}\n", rows.len(), named(places))
}

fn warnings(report: &Report) -> String {
    let mut out = String::new();
    for i in report.injected.iter().take(NAMED) {
        out +=
            &format!("kept as text: special token {} written {}× at {}\n", i.token, i.times, place(report, i.source, i.line, 0));
    }
    if report.injected.len() > NAMED {
        out += &format!("… and {} more\n", report.injected.len() - NAMED);
    }
    if report.open_answers > 0 {
        out += &format!(
            "{} answers are ended by no special token: trained on such alone, a model does not stop\n",
            report.open_answers
        );
    }
    out + &rows("held-out rows that are also training rows", report, &report.repeated)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::data::{Dropped, Renderer, load};
    use crate::recipe::{Data, OverLong, Source, Template};
    use crate::tokenizer::byte_level::{chatml, with_file};

    #[test]
    fn a_list_of_rows_ends_after_twenty_and_says_how_many_more() {
        let numbers = |n: usize| named((1..=n).map(|i| i.to_string()).collect());
        assert_eq!(numbers(2), "1, 2");
        assert!(numbers(20).ends_with("19, 20"));
        assert!(numbers(64).ends_with("19, 20, … and 44 more"), "{}", numbers(64));
        let dropped = |line| Dropped { source: 0, line, part: 0, reason: Reason::Empty };
        let report = Report { dropped: (1..=50).map(dropped).collect(), ..Report::default() };
        let out = account(&report);
        assert!(
            out.contains("dropped, empty answer: 50 rows of : lines 1, 2, ") && out.contains(", 20, … and 30 more\n"),
            "{out}"
        );
    }

    #[test]
    fn split_rows_and_their_parts_are_accounted_for() {
        let turn = |role: &str, n: usize| json!({"role": role, "content": "x".repeat(n)});
        let pairs: Vec<Value> = [30, 20, 120].iter().flat_map(|n| [turn("user", *n), turn("assistant", 9)]).collect();
        let text = format!("{}\n{}\n", json!({"messages": pairs}), json!({"messages": pairs[..2]}));
        let loaded = with_file("rows.jsonl", &text, |path| {
            let source = Source { path: path.to_path_buf(), ..Source::default() };
            let data = Data { over_long: OverLong::Split, ..Data::of(vec![source]) };
            load(&data, &Renderer::new(chatml(), &Template::default()).unwrap(), 100, 0).unwrap()
        });
        let out = account(&loaded.report);
        for piece in [
            "1 of 2 rows are split into 3 parts: 3 of 4 examples are used\n",
            "rows.jsonl: lines 1 part 3 (",
            "split at turns: 1 rows: ",
            "rows.jsonl:1 (",
            " tokens, 3 parts)\n",
            "rows.jsonl:1 part 2\n",
        ] {
            assert!(out.contains(piece), "{piece:?} is not in\n{out}");
        }
    }
}
