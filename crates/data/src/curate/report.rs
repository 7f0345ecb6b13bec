//! What was found in all rows, as numbers and places, to be shown or read by a program.

use std::collections::BTreeMap;

use serde::Serialize;

use super::choose::found;
use super::leaks::Leak;
use super::quality;
use super::quality::Quality;
use super::scan::{File, Scan};
use super::{Flaw, Pii, RowPlace};
use crate::error::Result;

/// Rows named among the lowest in quality.
const LOWEST: usize = 20;

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct CurationReport {
    pub files: Vec<File>,
    /// Files of rows to be judged by.
    pub held_files: Vec<std::path::PathBuf>,
    pub rows: usize,
    /// Rows that say something.
    pub usable: usize,
    /// The others, by reason.
    pub unusable: BTreeMap<String, usize>,
    pub copies: Copies,
    pub leaks: Leaks,
    /// Code → rows; `unknown` is what could not be told.
    pub languages: BTreeMap<&'static str, usize>,
    /// Words of a row's questions.
    pub prompt_words: Distribution,
    /// Words of a row's answers (of plain text, all of them).
    pub answer_words: Distribution,
    pub flaws: Vec<Findings<Flaw>>,
    pub pii: Vec<Findings<Pii>>,
    pub spread: Spread,
    pub quality: Scores,
}

/// Copies of earlier rows.
#[derive(Debug, Clone, Serialize)]
pub struct Copies {
    /// Similarity from which a row is a near copy.
    pub threshold: f32,
    pub exact: usize,
    pub near: usize,
    /// Rows that have copies.
    pub originals: usize,
    /// Copies of a row of another source.
    pub across_sources: usize,
    pub rows: Vec<CopyOf>,
}

/// A copy.
#[derive(Debug, Clone, Serialize)]
pub struct CopyOf {
    pub row: RowPlace,
    pub of: RowPlace,
    pub similarity: f32,
    pub exact: bool,
}

/// Training rows that have (part of) a row to be judged by.
#[derive(Debug, Clone, Serialize)]
pub struct Leaks {
    /// Rows to be judged by.
    pub held_rows: usize,
    pub ngram: usize,
    pub rows: Vec<Leak>,
}

/// How long something is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Distribution {
    pub mean: f64,
    pub least: u32,
    pub p5: u32,
    pub median: u32,
    pub p95: u32,
    pub most: u32,
    /// Rows with a length in `[2^i − 1, 2^(i+1) − 1)`, for each i.
    pub histogram: Vec<usize>,
}

/// Rows with something in them.
#[derive(Debug, Clone, Serialize)]
pub struct Findings<T> {
    pub kind: T,
    pub rows: usize,
    pub places: Vec<RowPlace>,
}

/// What the rows ask for (English only).
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    pub orders: usize,
    pub questions: usize,
    pub neither: usize,
    /// Distinct pairs of verb and object.
    pub pairs: usize,
    /// e to the entropy of the pairs: as many equally common pairs would be spread as much.
    pub effective_pairs: f64,
    /// The commonest verbs first.
    pub verbs: Vec<VerbCount>,
}

/// A verb and its objects, the commonest first.
#[derive(Debug, Clone, Serialize)]
pub struct VerbCount {
    pub verb: String,
    pub rows: usize,
    pub objects: Vec<(String, usize)>,
}

/// Scores of rows.
#[derive(Debug, Clone, Serialize)]
pub struct Scores {
    pub mean: f64,
    /// Rows by score, in twentieths.
    pub histogram: Vec<usize>,
    pub lowest: Vec<Low>,
}

/// A row of low quality.
#[derive(Debug, Clone, Serialize)]
pub struct Low {
    pub row: RowPlace,
    #[serde(flatten)]
    pub quality: Quality,
}

/// The report of a scan; near copies are those from `threshold` on.
///
/// # Errors
/// What `tick` returns.
pub fn summary(scan: &Scan, threshold: f32, tick: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<CurationReport> {
    let mut unusable = BTreeMap::new();
    scan.unusable.iter().for_each(|(_, reason)| *unusable.entry(reason.to_string()).or_default() += 1);
    let mut languages = BTreeMap::new();
    scan.facts.iter().for_each(|f| *languages.entry(f.language.unwrap_or("unknown")).or_default() += 1);
    let with = |has: &dyn Fn(usize) -> bool| -> Vec<RowPlace> {
        scan.facts.iter().enumerate().filter(|(i, _)| has(*i)).map(|(_, f)| f.place).collect()
    };
    let flaws = Flaw::ALL.map(|kind| (kind, with(&|i| scan.facts[i].flaws & kind.bit() != 0)));
    let pii = Pii::ALL.map(|kind| (kind, with(&|i| scan.facts[i].pii().contains(&kind))));
    Ok(CurationReport {
        files: scan.files.clone(),
        held_files: scan.held_files.clone(),
        rows: scan.files.iter().map(|f| f.rows).sum(),
        usable: scan.facts.len(),
        unusable,
        copies: copies(scan, threshold, tick)?,
        leaks: Leaks { held_rows: scan.held_rows, ngram: scan.ngram, rows: scan.leaks.clone() },
        languages,
        prompt_words: distribution(scan.facts.iter().map(|f| f.prompt_words).collect()),
        answer_words: distribution(scan.facts.iter().map(|f| f.answer_words).collect()),
        flaws: flaws.into_iter().map(|(kind, places)| Findings { kind, rows: places.len(), places }).collect(),
        pii: pii.into_iter().map(|(kind, places)| Findings { kind, rows: places.len(), places }).collect(),
        spread: spread(scan),
        quality: scores(scan),
    })
}

fn copies(scan: &Scan, threshold: f32, tick: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<Copies> {
    let found = found(scan, &vec![true; scan.facts.len()], Some(threshold), tick)?;
    let place = |i: u32| scan.facts[i as usize].place;
    let rows: Vec<CopyOf> =
        found.iter().map(|c| CopyOf { row: place(c.row), of: place(c.of), similarity: c.similarity, exact: c.exact }).collect();
    let originals: std::collections::BTreeSet<RowPlace> = rows.iter().map(|c| c.of).collect();
    let exact = rows.iter().filter(|c| c.exact).count();
    Ok(Copies {
        threshold,
        exact,
        near: rows.len() - exact,
        originals: originals.len(),
        across_sources: rows.iter().filter(|c| c.row.source != c.of.source).count(),
        rows,
    })
}

fn distribution(mut lengths: Vec<u32>) -> Distribution {
    lengths.sort_unstable();
    let (Some(least), Some(most)) = (lengths.first().copied(), lengths.last().copied()) else { return Distribution::default() };
    let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share).round() as usize];
    let bin = |n: u32| (u64::from(n) + 1).ilog2() as usize;
    let mut histogram = vec![0; bin(most) + 1];
    lengths.iter().for_each(|n| histogram[bin(*n)] += 1);
    let mean = lengths.iter().map(|n| f64::from(*n)).sum::<f64>() / lengths.len() as f64;
    Distribution { mean, least, p5: at(0.05), median: at(0.5), p95: at(0.95), most, histogram }
}

fn spread(scan: &Scan) -> Spread {
    let mut pairs: BTreeMap<(u32, Option<u32>), usize> = BTreeMap::new();
    let (mut orders, mut questions) = (0, 0);
    for facts in &scan.facts {
        let Some(verb) = facts.verb else { continue };
        *if scan.names[verb as usize].ends_with('?') { &mut questions } else { &mut orders } += 1;
        *pairs.entry((verb, facts.object)).or_default() += 1;
    }
    let all = (orders + questions) as f64;
    let entropy: f64 = pairs.values().map(|n| *n as f64 / all).map(|p| -p * p.ln()).sum();
    let mut verbs: BTreeMap<u32, (usize, Vec<(String, usize)>)> = BTreeMap::new();
    for ((verb, object), n) in &pairs {
        let entry = verbs.entry(*verb).or_default();
        entry.0 += n;
        entry.1.extend(object.map(|o| (scan.names[o as usize].clone(), *n)));
    }
    let count = |(verb, (rows, mut objects)): (u32, (usize, Vec<(String, usize)>))| {
        objects.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        VerbCount { verb: scan.names[verb as usize].clone(), rows, objects }
    };
    let mut verbs: Vec<VerbCount> = verbs.into_iter().map(count).collect();
    verbs.sort_by(|a, b| b.rows.cmp(&a.rows).then(a.verb.cmp(&b.verb)));
    let effective_pairs = if all > 0.0 { entropy.exp() } else { 0.0 };
    Spread { orders, questions, neither: scan.facts.len() - orders - questions, pairs: pairs.len(), effective_pairs, verbs }
}

fn scores(scan: &Scan) -> Scores {
    let mut histogram = vec![0; 20];
    scan.facts.iter().for_each(|f| histogram[((f.score * 20.0) as usize).min(19)] += 1);
    let mean = scan.facts.iter().map(|f| f64::from(f.score)).sum::<f64>() / scan.facts.len().max(1) as f64;
    let mut order: Vec<usize> = (0..scan.facts.len()).collect();
    order.sort_by(|a, b| scan.facts[*a].score.total_cmp(&scan.facts[*b].score).then(a.cmp(b)));
    let low = |i: usize| {
        let f = &scan.facts[i];
        Low { row: f.place, quality: quality::of(&f.flaws(), f.prompt_words, f.answer_words) }
    };
    Scores { mean, histogram, lowest: order.into_iter().take(LOWEST).map(low).collect() }
}
