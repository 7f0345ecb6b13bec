//! `lorakit data show`: what a recipe's rows become, before anything is trained.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{paint, show_page};
use crate::cli::base;
use crate::data::{self, Counts, ExampleRef, Loaded, Long, Piece, Reason, Renderer, Report, Tokenizer};
use crate::error::{Error, Result};
use crate::files;
use crate::job::packing;
use crate::recipe::{self, Recipe};

/// Print rendered examples with their trained tokens marked, and what became of every row.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    recipe: PathBuf,
    /// Examples to print
    #[arg(short, default_value_t = 5)]
    n: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the first rows of each file as a page too: roles in colours, what is learnt marked, both sides of preferences
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace a value, e.g. --set train.max_length=512
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the verb; `open` finds the tokenizer of a recipe's base model.
///
/// # Errors
/// What is wrong with the recipe, the tokenizer or the data; writing to standard output failed.
pub(super) fn run(args: &ShowArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<()> {
    let ShowArgs { recipe, n, json, html, set } = args;
    let recipe = base::recipe(recipe, set)?;
    let tokenizer = open(&recipe)?;
    let renderer = Renderer::new(tokenizer.clone(), &recipe.template)?;
    let loaded = base::rows(&recipe, &renderer)?;
    if let Some(path) = html {
        let turns = data::turns(&recipe.data, &renderer, recipe.train.seed, *n)?;
        files::write_atomic(path, show_page::page(&turns, &account(&loaded.report)).as_bytes())?;
    }
    let mut out = std::io::stdout().lock();
    let fill = packing(&recipe.train, &loaded);
    if *json {
        let mut line = as_json(&loaded, &tokenizer, *n)?;
        line["packing"] = json!(fill);
        line["mixture"] = json!(loaded.mixture.planned());
        return write(&mut out, &format!("{line:#}\n"));
    }
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let said = match colour {
        true => Some(data::turns_of(&loaded.train, *n, &recipe.data, &renderer, recipe.train.max_length, recipe.train.seed)?),
        false => None,
    };
    show(&loaded, &tokenizer, *n, &mut out, said.as_deref())?;
    write(&mut out, &super::planned(&loaded.mixture))?;
    fill.map_or(Ok(()), |fill| write(&mut out, &format!("packed: {fill}\n")))
}

/// Prints the first `n` examples with what is trained between ⟦ and ⟧, then the account of all rows. With `said`, who speaks in the
/// examples, in colours, what is trained underlined.
///
/// # Errors
/// [`Error::Io`] when writing fails, [`Error::Usage`] when ids cannot be decoded.
pub fn show(
    loaded: &Loaded,
    tokenizer: &Tokenizer,
    n: usize,
    out: &mut dyn Write,
    said: Option<&[Option<Vec<Piece>>]>,
) -> Result<()> {
    let mut text = said.map(|_| paint::legend()).unwrap_or_default();
    for (i, example) in loaded.train.iter().take(n).enumerate() {
        let trained = example.trained.count();
        text += &format!(
            "── {}: {} tokens, {trained} trained\n",
            place(&loaded.report, example.source, example.line, example.part),
            example.ids.len()
        );
        let found = said.and_then(|said| said.get(i)).and_then(Option::as_ref);
        let bare = || {
            let piece = |(text, trained)| Piece { role: None, trained, text };
            Ok::<Vec<_>, Error>(pieces(&example, tokenizer)?.into_iter().map(piece).collect())
        };
        let pieces = found.map_or_else(bare, |pieces| Ok(pieces.clone()))?;
        pieces.iter().for_each(|piece| text += &paint::painted(piece, said.is_some()));
        text += if text.ends_with('\n') { "\n" } else { "\n\n" };
    }
    write(out, &text)?;
    write(out, &account(&loaded.report))
}

/// The text of an example, cut where training begins and ends.
fn pieces(example: &ExampleRef, tokenizer: &Tokenizer) -> Result<Vec<(String, bool)>> {
    let trained = |i: usize| example.trained.get(i);
    let runs = tokenizer.runs(example.ids, |a, b| trained(a) == trained(b))?;
    Ok(runs.into_iter().map(|(start, text)| (text, trained(start))).collect())
}

/// A line, or a part of what stands in it.
fn numbered(line: usize, part: usize) -> String {
    if part == 0 { line.to_string() } else { format!("{line} part {part}") }
}

fn place(report: &Report, source: usize, line: usize, part: usize) -> String {
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
            out += &format!(", not used: {}", source.ignored.join(", "));
        }
        out.push('\n');
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
        format!("dropped, {reason}: {} rows of {}: lines {}\n", lines.len(), path(report, source), lines.join(", "))
    };
    let mut out: String = groups.into_iter().map(line).collect();
    out += &rows("cut at the longest length", report, &report.truncated);
    let split: Vec<_> = report
        .split
        .iter()
        .map(|r| format!("{} ({} tokens, {} parts)", place(report, r.source, r.line, 0), r.tokens, r.parts))
        .collect();
    if !split.is_empty() {
        out += &format!("split at turns: {} rows: {}\n", split.len(), split.join(", "));
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
    format!("{what}: {} rows: {}\n", rows.len(), places.join(", "))
}

fn warnings(report: &Report) -> String {
    let mut out = String::new();
    for i in &report.injected {
        out +=
            &format!("kept as text: special token {} written {}× at {}\n", i.token, i.times, place(report, i.source, i.line, 0));
    }
    if report.open_answers > 0 {
        out += &format!(
            "{} answers are ended by no special token: trained on such alone, a model does not stop\n",
            report.open_answers
        );
    }
    out + &rows("held-out rows that are also training rows", report, &report.repeated)
}

fn as_json(loaded: &Loaded, tokenizer: &Tokenizer, n: usize) -> Result<Value> {
    let example = |e: ExampleRef| {
        let pieces: Vec<_> =
            pieces(&e, tokenizer)?.into_iter().map(|(text, trained)| json!({"text": text, "trained": trained})).collect();
        Ok(json!({"source": e.source, "line": e.line, "part": e.part, "tokens": e.ids.len(), "pieces": pieces}))
    };
    let examples: Vec<Value> = loaded.train.iter().take(n).map(example).collect::<Result<_>>()?;
    Ok(
        json!({"rows": loaded.report.rows_read(), "used": loaded.report.rows_used(), "report": loaded.report, "examples": examples}),
    )
}

fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|source| Error::Io { action: "write", path: "standard output".into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tiny::{chatml, with_file};
    use crate::recipe::{Data, OverLong, Source, Template};

    const ROWS: &str =
        "{\"prompt\": \"a\", \"completion\": \"yes <|im_end|>\", \"id\": 1}\n{\"prompt\": \"b\", \"completion\": \" \"}\n";

    fn loaded(tokenizer: &Tokenizer) -> Loaded {
        let long = format!("{ROWS}{{\"prompt\": \"c\", \"completion\": \"{}\"}}\n", "x".repeat(200));
        with_file("rows.jsonl", &long, |path| {
            let source = Source { path: path.to_path_buf(), ..Source::default() };
            let data = Data::of(vec![source]);
            let template = Template::default();
            data::load(&data, &Renderer::new(tokenizer.clone(), &template).unwrap(), 100, 0).unwrap()
        })
    }

    #[test]
    fn show_marks_what_is_trained_and_accounts_for_every_row() {
        let tokenizer = chatml();
        let loaded = loaded(&tokenizer);
        let mut out = Vec::new();
        show(&loaded, &tokenizer, 5, &mut out, None).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = [
            "rows.jsonl:1: 36 tokens, 15 trained\n",
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦yes <|im_end|><|im_end|>⟧\n",
            "rows.jsonl (train): shape completion, 3 rows, not used: id\n",
            "1 of 3 rows are used\n",
            "train: 1 examples, 36 tokens (assistant 15, template 20, user 1), 15 trained = 41.7 %\n",
            "dropped, empty answer: 1 rows of ",
            "rows.jsonl: lines 2\n",
            "lines 3 (222 tokens)\n",
            "kept as text: special token <|im_end|> written 1× at ",
            "longest rows\n      36 tokens  ",
        ];
        for piece in expected {
            assert!(out.contains(piece), "{piece:?} is not in\n{out}");
        }
        let mut out = Vec::new();
        let piece =
            |role: Option<&str>, text: &str| Piece { role: role.map(str::to_string), trained: role.is_some(), text: text.into() };
        let said = [Some(vec![piece(None, "assistant\n"), piece(Some("assistant"), "yes")])];
        show(&loaded, &tokenizer, 5, &mut out, Some(&said)).unwrap();
        assert!(String::from_utf8(out).unwrap().contains(" trained\n\x1b[2massistant\n\x1b[0m\x1b[32;1;4myes\x1b[0m\n\n"));
    }

    #[test]
    fn split_rows_and_their_parts_are_accounted_for() {
        let turn = |role: &str, n: usize| json!({"role": role, "content": "x".repeat(n)});
        let pairs: Vec<Value> = [30, 20, 120].iter().flat_map(|n| [turn("user", *n), turn("assistant", 9)]).collect();
        let text = format!("{}\n{}\n", json!({"messages": pairs}), json!({"messages": pairs[..2]}));
        let loaded = with_file("rows.jsonl", &text, |path| {
            let source = Source { path: path.to_path_buf(), ..Source::default() };
            let data = Data { over_long: OverLong::Split, ..Data::of(vec![source]) };
            data::load(&data, &Renderer::new(chatml(), &Template::default()).unwrap(), 100, 0).unwrap()
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

    #[test]
    fn json_holds_the_same() {
        let tokenizer = chatml();
        let value = as_json(&loaded(&tokenizer), &tokenizer, 1).unwrap();
        assert_eq!((value["rows"].as_u64(), value["used"].as_u64()), (Some(3), Some(1)));
        assert_eq!(value["examples"][0]["pieces"][1], json!({"text": "yes <|im_end|><|im_end|>", "trained": true}));
        assert_eq!(value["report"]["dropped"][1]["reason"]["over_long"]["tokens"], 222);
    }
}
