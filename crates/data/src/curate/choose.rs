//! Which rows are kept, and why each of the others is not.
//!
//! Rows that say nothing (no answer, for instance) go always, others only when that was asked for. What a row says of itself is
//! looked at first, copies among what is left, the best last: a row is therefore never removed as a copy of one that is removed for another reason, but for not being among the best.

use std::collections::BTreeMap;

use super::copies;
use super::copies::{CopyPair, Corpus};
use super::leaks::Leak;
use super::scan::Scan;
use super::{Flaw, RowPlace, best};
use crate::data::read::reason::Reason;
use crate::error::Result;

/// What is to be removed.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Wishes {
    /// Byte for byte and word for word.
    pub copies: bool,
    /// Similarity from which rows are near copies.
    pub near: Option<f32>,
    pub leaks: bool,
    /// Languages to keep; empty: all. Rows whose language cannot be told are kept.
    pub languages: Vec<String>,
    pub flaws: Vec<Flaw>,
    pub pii: bool,
    pub min_quality: Option<f32>,
    pub best: Option<usize>,
}

/// Why a row is removed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Why {
    Exact {
        of: RowPlace,
    },
    Near {
        of: RowPlace,
        similarity: f32,
    },
    Leak {
        of: RowPlace,
        overlap: f32,
    },
    Language {
        language: &'static str,
    },
    Flaw {
        flaw: Flaw,
    },
    /// Nothing can be learnt from it, as `train` would say too.
    Unusable {
        because: Reason,
    },
    Pii,
    Quality {
        score: f32,
    },
    NotAmongTheBest,
}

impl Why {
    /// The reason's name, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Why::Exact { .. } => "exact",
            Why::Near { .. } => "near",
            Why::Leak { .. } => "leak",
            Why::Language { .. } => "language",
            Why::Flaw { flaw } => flaw.name(),
            Why::Unusable { because: Reason::Empty } => "empty",
            Why::Unusable { because: Reason::Malformed } => "malformed",
            Why::Unusable { .. } => "unusable",
            Why::Pii => "pii",
            Why::Quality { .. } => "quality",
            Why::NotAmongTheBest => "not_among_the_best",
        }
    }

    /// The row that it is, or has part of; of a leak, among the held-out ones.
    pub fn of(&self) -> Option<RowPlace> {
        match self {
            Why::Exact { of } | Why::Near { of, .. } | Why::Leak { of, .. } => Some(*of),
            _ => None,
        }
    }

    /// Whether it is for a held-out row.
    pub fn is_leak(&self) -> bool {
        matches!(self, Why::Leak { .. })
    }
}

/// A row that is removed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Removed {
    pub row: RowPlace,
    #[serde(flatten)]
    pub why: Why,
}

/// What was decided about every row.
#[derive(Debug, Clone)]
pub struct KeepChoice {
    /// By source and number of the row in it.
    pub kept: Vec<Vec<bool>>,
    /// In reading order.
    pub removed: Vec<Removed>,
}

impl KeepChoice {
    /// Rows kept.
    pub fn rows_kept(&self) -> usize {
        self.kept.iter().flatten().filter(|k| **k).count()
    }

    /// Rows removed by reason.
    pub fn by_reason(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.removed.iter().for_each(|r| *counts.entry(r.why.name()).or_default() += 1);
        counts
    }
}

/// Decides about every row. `tick` hears how far the search for copies is.
///
/// # Errors
/// What `tick` returns.
pub fn choose(scan: &Scan, wishes: &Wishes, tick: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<KeepChoice> {
    let leaks: std::collections::HashMap<RowPlace, &Leak> =
        scan.leaks.iter().filter(|_| wishes.leaks).map(|l| (l.row, l)).collect();
    let mut why: Vec<Option<Why>> = (0..scan.facts.len()).map(|i| alone(scan, i, wishes, &leaks)).collect();
    let place = |row: u32| scan.facts[row as usize].place;
    if wishes.copies {
        let alive: Vec<bool> = why.iter().map(Option::is_none).collect();
        for CopyPair { row, of, similarity, exact } in found(scan, &alive, wishes.near, tick)? {
            let of = place(of);
            why[row as usize] = Some(if exact { Why::Exact { of } } else { Why::Near { of, similarity } });
        }
    }
    if let Some(k) = wishes.best {
        let left: Vec<usize> = (0..why.len()).filter(|i| why[*i].is_none()).collect();
        let best = best::best(scan, &left, k);
        let others = left.into_iter().filter(|i| best.binary_search(i).is_err());
        others.for_each(|i| why[i] = Some(Why::NotAmongTheBest));
    }
    Ok(collect(scan, why))
}

/// Copies among the rows that take part.
pub(super) fn found(
    scan: &Scan,
    alive: &[bool],
    near: Option<f32>,
    tick: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<CopyPair>> {
    let exact = |i: usize| scan.facts[i].exact;
    let corpus = Corpus { exact: &exact, words: &scan.words, frequencies: &scan.frequencies, alive };
    copies::find(&corpus, near, tick)
}

/// What the row itself is removed for.
fn alone(scan: &Scan, i: usize, wishes: &Wishes, leaks: &std::collections::HashMap<RowPlace, &Leak>) -> Option<Why> {
    let facts = &scan.facts[i];
    if let Some(leak) = leaks.get(&facts.place) {
        return Some(Why::Leak { of: leak.of, overlap: leak.overlap });
    }
    if let Some(language) = facts.language.filter(|l| !wishes.languages.is_empty() && !wishes.languages.iter().any(|w| w == l)) {
        return Some(Why::Language { language });
    }
    if let Some(flaw) = facts.flaws().into_iter().find(|f| wishes.flaws.contains(f)) {
        return Some(Why::Flaw { flaw });
    }
    if wishes.pii && facts.pii != 0 {
        return Some(Why::Pii);
    }
    wishes.min_quality.filter(|least| facts.score < *least).map(|_| Why::Quality { score: facts.score })
}

fn collect(scan: &Scan, why: Vec<Option<Why>>) -> KeepChoice {
    let mut kept: Vec<Vec<bool>> = scan.usable.clone();
    let mut removed = Vec::new();
    let mut rows = scan.facts.iter().zip(why);
    let mut others = scan.unusable.iter();
    for row in kept.iter_mut().flatten() {
        match *row {
            true => {
                let Some((facts, why)) = rows.next() else { continue };
                *row = why.is_none();
                removed.extend(why.map(|why| Removed { row: facts.place, why }));
            }
            // They take no part in anything else.
            false => {
                let Some((place, because)) = others.next() else { continue };
                removed.push(Removed { row: *place, why: Why::Unusable { because: *because } });
            }
        }
    }
    KeepChoice { kept, removed }
}
