//! The report of `data check` as one page: plots are SVG inside it, nothing is loaded from elsewhere, nothing runs.
//!
//! Refuses to know how anything was found.

use minijinja::context;
use minijinja::value::Value;

use super::html;
use super::phrases::{paths, place, reasons, shape, share};
use super::plots::{Slice, bars, columns, rings};
use crate::curate::{CopyOf, CurationReport, Distribution, File, Leak, Low, RowPlace, VerbCount};
use crate::error::Result;

/// Rows named in a table.
const NAMED: usize = 50;
/// Places named of each hint.
const HINTED: usize = 8;
/// Verbs and objects in the rings, as many as in Self-Instruct's figure.
const VERBS: usize = 20;
const OBJECTS: usize = 4;

/// The page.
///
/// # Errors
/// As [`html::page`].
pub(super) fn page(s: &CurationReport) -> Result<String> {
    let files = paths(s);
    let at = |of: RowPlace| place(&files, of);
    let file = |f: &File| [f.path.display().to_string(), f.rows.to_string(), shape(f)];
    let context = context! {
        rows => s.rows,
        usable => s.usable,
        unusable => s.unusable.iter().map(|(reason, n)| (reason.clone(), *n)).collect::<Vec<_>>(),
        files => s.files.iter().map(file).collect::<Vec<_>>(),
        copies => copies(s, &at),
        leaks => leaks(s, &at),
        languages => languages(s),
        lengths => [lengths("Questions", &s.prompt_words), lengths("Answers", &s.answer_words)],
        hints => hints(s, &at),
        spread => spread(s),
        quality => quality(s, &at),
    };
    html::page(include_str!("report_page.html"), &context)
}

fn copies(s: &CurationReport, at: &dyn Fn(RowPlace) -> String) -> Value {
    let c = &s.copies;
    let bin = |similarity: f32| ((similarity * 20.0) as usize).min(20);
    let least = bin(c.threshold);
    let mut counts = vec![0; 21 - least];
    c.rows.iter().for_each(|r| counts[bin(r.similarity).saturating_sub(least)] += 1);
    let named = |(i, n): (usize, usize)| (format!("{:.2}", (i + least) as f32 / 20.0), n);
    let row = |c: &CopyOf| [format!("{:.2}", c.similarity), at(c.row), at(c.of)];
    context! {
        exact => c.exact,
        near => c.near,
        threshold => c.threshold.to_string(),
        originals => c.originals,
        across => c.across_sources,
        any => !c.rows.is_empty(),
        plot => html::plot(columns("copies by similarity", &counts.into_iter().enumerate().map(named).collect::<Vec<_>>())),
        rows => c.rows.iter().filter(|c| !c.exact).take(NAMED).map(row).collect::<Vec<_>>(),
        left => c.near.saturating_sub(NAMED),
    }
}

fn leaks(s: &CurationReport, at: &dyn Fn(RowPlace) -> String) -> Value {
    let l = &s.leaks;
    let row = |l: &Leak| [share(l), at(l.row), place(&s.held_files, l.of), l.text.clone()];
    context! {
        held => l.held_rows,
        found => l.rows.len(),
        ngram => l.ngram,
        rows => l.rows.iter().take(NAMED).map(row).collect::<Vec<_>>(),
        left => l.rows.len().saturating_sub(NAMED),
    }
}

fn languages(s: &CurationReport) -> Value {
    let mut list: Vec<(String, usize)> = s.languages.iter().map(|(l, n)| ((*l).to_string(), *n)).collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    list.truncate(30);
    html::plot(bars("rows by language", &list))
}

fn lengths(title: &str, d: &Distribution) -> Value {
    let range = |i: usize| if i == 0 { "0".to_string() } else { format!("{}–{}", (1u64 << i) - 1, (2u64 << i) - 2) };
    let items: Vec<(String, usize)> = d.histogram.iter().enumerate().map(|(i, n)| (range(i), *n)).collect();
    context! {
        title,
        median => d.median,
        mean => format!("{:.0}", d.mean),
        p5 => d.p5,
        p95 => d.p95,
        most => d.most,
        plot => html::plot(columns(title, &items)),
    }
}

fn hints(s: &CurationReport, at: &dyn Fn(RowPlace) -> String) -> Value {
    let flaws: Vec<(String, usize)> = s.flaws.iter().map(|f| (f.kind.name().replace('_', " "), f.rows)).collect();
    let pii: Vec<(String, usize)> = s.pii.iter().map(|f| (f.kind.name().to_string(), f.rows)).collect();
    let named = s.flaws.iter().map(|f| (f.kind.name().replace('_', " "), &f.places));
    let named = named.chain(s.pii.iter().map(|f| (f.kind.name().to_string(), &f.places)));
    let rows = named.filter(|(_, places)| !places.is_empty()).map(|(name, places)| {
        let list: Vec<String> = places.iter().take(HINTED).map(|p| at(*p)).collect();
        [name, format!("{}{}", list.join(", "), if places.len() > HINTED { ", …" } else { "" })]
    });
    context! {
        flaws => html::plot(bars("rows by flaw", &flaws)),
        pii => html::plot(bars("rows by kind of personal data", &pii)),
        rows => rows.collect::<Vec<_>>(),
    }
}

fn spread(s: &CurationReport) -> Value {
    let d = &s.spread;
    let orders = d.verbs.iter().filter(|v| !v.verb.ends_with('?')).take(VERBS);
    let slice =
        |v: &VerbCount| Slice { name: v.verb.clone(), n: v.rows, parts: v.objects.iter().take(OBJECTS).cloned().collect() };
    let slices: Vec<Slice> = orders.map(slice).collect();
    let questions: Vec<(String, usize)> =
        d.verbs.iter().filter(|v| v.verb.ends_with('?')).take(VERBS).map(|v| (v.verb.clone(), v.rows)).collect();
    context! {
        orders => d.orders,
        questions => d.questions,
        neither => d.neither,
        pairs => d.pairs,
        effective => format!("{:.0}", d.effective_pairs),
        verbs => VERBS,
        objects => OBJECTS,
        rings => (!slices.is_empty()).then(|| html::plot(rings("verbs and their objects", &slices))),
        bars => (!questions.is_empty()).then(|| html::plot(bars("questions by their first word", &questions))),
    }
}

fn quality(s: &CurationReport, at: &dyn Fn(RowPlace) -> String) -> Value {
    let named = |(i, n): (usize, &usize)| (format!("{:.2}", i as f32 / 20.0), *n);
    let items: Vec<(String, usize)> = s.quality.histogram.iter().enumerate().map(named).collect();
    let row = |l: &Low| [format!("{:.2}", l.quality.score), at(l.row), reasons(l)];
    context! {
        mean => format!("{:.2}", s.quality.mean),
        plot => html::plot(columns("rows by score", &items)),
        rows => s.quality.lowest.iter().map(row).collect::<Vec<_>>(),
    }
}
