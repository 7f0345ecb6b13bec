//! The report of `data check` as one page: plots are SVG inside it, nothing is loaded from elsewhere, nothing runs.
//!
//! Refuses to know how anything was found.

use std::fmt::Write;
use std::path::PathBuf;

use super::check::place;
use super::plots::{Slice, bars, columns, rings};
use crate::artifact::svg::escape;
use crate::data::curate::{Distribution, Place, Summary};

/// Rows named in a table.
const NAMED: usize = 50;
/// Verbs and objects in the rings, as many as in Self-Instruct's figure.
const VERBS: usize = 20;
const OBJECTS: usize = 4;

const STYLE: &str = "<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #8884}table{border-collapse:collapse}\
    td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}\
    svg{max-width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:currentColor}svg text.small{font-size:10.5px}\
    svg rect{fill:#4a7fb5}.rings text{fill:#111}.rings path{stroke:#fff;stroke-width:.7}code{font-size:.92em}.flex{display:flex;gap:2rem;flex-wrap:wrap}</style>";

/// The page.
pub(super) fn page(s: &Summary) -> String {
    let mut out =
        String::from("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Rows of training data</title>");
    out += STYLE;
    out += "</head><body>\n<h1>Rows of training data</h1>\n";
    out += &files(s);
    out += &copies(s);
    out += &leaks(s);
    out += &languages(s);
    out += &lengths(s);
    out += &hints(s);
    out += &spread(s);
    out += &quality(s);
    out + "</body></html>\n"
}

fn heading(title: &str) -> String {
    format!("<h2>{title}</h2>\n")
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = String::from("<table><tr>");
    head.iter().for_each(|h| out += &format!("<th>{}</th>", escape(h)));
    out += "</tr>\n";
    for row in rows {
        out += "<tr>";
        for cell in row {
            let number = !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'%' | b' ' | b'-'));
            let class = if number { " class=\"n\"" } else { "" };
            let _ = write!(out, "<td{class}>{}</td>", escape(&cell));
        }
        out += "</tr>\n";
    }
    out + "</table>\n"
}

fn more(all: usize) -> String {
    if all > NAMED { format!("<p>… and {} more; <code>--json</code> has them all.</p>\n", all - NAMED) } else { String::new() }
}

fn at(s: &Summary, of: Place) -> String {
    let files: Vec<PathBuf> = s.files.iter().map(|f| f.path.clone()).collect();
    place(&files, of)
}

fn files(s: &Summary) -> String {
    let mut out = format!("<p>{} rows, {} usable", s.rows, s.usable);
    s.unusable.iter().for_each(|(reason, n)| out += &format!(", {n} {}", escape(reason)));
    out += ".</p>\n";
    let row = |f: &crate::data::curate::File| {
        vec![f.path.display().to_string(), f.rows.to_string(), format!("{:?}", f.shape).to_lowercase()]
    };
    out + &table(&["file", "rows", "shape"], s.files.iter().map(row))
}

fn copies(s: &Summary) -> String {
    let c = &s.copies;
    let mut out = heading("Copies")
        + &format!(
            "<p>{} exact and {} near copies (similarity ≥ {}) of {} rows; {} of them in another file than their original.</p>\n",
            c.exact, c.near, c.threshold, c.originals, c.across_sources
        );
    if c.rows.is_empty() {
        return out;
    }
    let bin = |similarity: f32| ((similarity * 20.0) as usize).min(20);
    let least = bin(c.threshold);
    let mut counts = vec![0; 21 - least];
    c.rows.iter().for_each(|r| counts[bin(r.similarity).saturating_sub(least)] += 1);
    let named = |(i, n): (usize, usize)| (format!("{:.2}", (i + least) as f32 / 20.0), n);
    out += &columns("copies by similarity", &counts.into_iter().enumerate().map(named).collect::<Vec<_>>());
    let row = |c: &crate::data::curate::CopyOf| vec![format!("{:.2}", c.similarity), at(s, c.row), at(s, c.of)];
    out += &table(&["similarity", "row", "copy of"], c.rows.iter().filter(|c| !c.exact).take(NAMED).map(row));
    out + &more(c.near)
}

fn leaks(s: &Summary) -> String {
    let l = &s.leaks;
    let mut out = heading("Held-out rows among them");
    if l.held_rows == 0 {
        return out + "<p>No held-out rows were named.</p>\n";
    }
    out += &format!(
        "<p>{} rows have one of {} held-out rows, or {} words in a row of it.</p>\n",
        l.rows.len(),
        l.held_rows,
        l.ngram
    );
    if l.rows.is_empty() {
        return out;
    }
    let row = |l: &crate::data::curate::Leak| {
        let share = if l.whole { "whole".to_string() } else { format!("{:.0} %", 100.0 * l.overlap) };
        vec![share, at(s, l.row), place(&s.held_files, l.of)]
    };
    out += &table(&["share", "row", "held-out row"], l.rows.iter().take(NAMED).map(row));
    out + &more(l.rows.len())
}

fn languages(s: &Summary) -> String {
    let mut list: Vec<(String, usize)> = s.languages.iter().map(|(l, n)| ((*l).to_string(), *n)).collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    list.truncate(30);
    heading("Languages") + &bars("rows by language", &list)
}

fn lengths(s: &Summary) -> String {
    let one = |title: &str, d: &Distribution| {
        let range = |i: usize| if i == 0 { "0".to_string() } else { format!("{}–{}", (1u64 << i) - 1, (2u64 << i) - 2) };
        let items: Vec<(String, usize)> = d.histogram.iter().enumerate().map(|(i, n)| (range(i), *n)).collect();
        format!(
            "<p>{title}: median {} words, mean {:.0}, 5 to 95 % {} to {}, longest {}.</p>\n{}\n",
            d.median,
            d.mean,
            d.p5,
            d.p95,
            d.most,
            columns(title, &items)
        )
    };
    heading("Lengths in words") + &one("Questions", &s.prompt_words) + &one("Answers", &s.answer_words)
}

fn hints(s: &Summary) -> String {
    let flaws: Vec<(String, usize)> = s.flaws.iter().map(|f| (f.kind.name().replace('_', " "), f.rows)).collect();
    let pii: Vec<(String, usize)> = s.pii.iter().map(|f| (f.kind.name().to_string(), f.rows)).collect();
    let named = s.flaws.iter().map(|f| (f.kind.name().replace('_', " "), &f.places));
    let named = named.chain(s.pii.iter().map(|f| (f.kind.name().to_string(), &f.places)));
    let rows = named.filter(|(_, places)| !places.is_empty()).map(|(name, places)| {
        let list: Vec<String> = places.iter().take(8).map(|p| at(s, *p)).collect();
        vec![name, format!("{}{}", list.join(", "), if places.len() > 8 { ", …" } else { "" })]
    });
    let mut out = heading("Flaws (hints, not proofs)") + &bars("rows by flaw", &flaws);
    out += &(heading("Personal data (hints)") + &bars("rows by kind of personal data", &pii));
    out + &table(&["hint", "rows"], rows)
}

fn spread(s: &Summary) -> String {
    let d = &s.spread;
    let mut out = heading("What is asked for (English)")
        + &format!(
            "<p>{} orders, {} questions, {} neither; {} pairs of verb and object, spread as {:.0} equally common ones. Inside: the {VERBS} \
         commonest verbs; outside: their {OBJECTS} commonest objects.</p>\n",
            d.orders, d.questions, d.neither, d.pairs, d.effective_pairs
        );
    let orders = d.verbs.iter().filter(|v| !v.verb.ends_with('?')).take(VERBS);
    let slice = |v: &crate::data::curate::VerbCount| Slice {
        name: v.verb.clone(),
        n: v.rows,
        parts: v.objects.iter().take(OBJECTS).cloned().collect(),
    };
    let slices: Vec<Slice> = orders.map(slice).collect();
    out += "<div class=\"flex\">";
    if !slices.is_empty() {
        out += &rings("verbs and their objects", &slices);
    }
    let questions: Vec<(String, usize)> =
        d.verbs.iter().filter(|v| v.verb.ends_with('?')).take(VERBS).map(|v| (v.verb.clone(), v.rows)).collect();
    if !questions.is_empty() {
        out += &bars("questions by their first word", &questions);
    }
    out + "</div>\n"
}

fn quality(s: &Summary) -> String {
    let named = |(i, n): (usize, &usize)| (format!("{:.2}", i as f32 / 20.0), *n);
    let items: Vec<(String, usize)> = s.quality.histogram.iter().enumerate().map(named).collect();
    let mut out = heading("Quality")
        + &format!("<p>Mean {:.2} of 1. The lowest, with what was added to and taken from 0.7:</p>\n", s.quality.mean);
    out += &columns("rows by score", &items);
    let row = |l: &crate::data::curate::Low| {
        let reasons: Vec<String> = l.quality.reasons.iter().map(|(r, x)| format!("{} {x:+.2}", r.replace('_', " "))).collect();
        vec![format!("{:.2}", l.quality.score), at(s, l.row), reasons.join(", ")]
    };
    out + &table(&["score", "row", "reasons"], s.quality.lowest.iter().map(row))
}
