//! Rows to be judged by that stand in the rows to be trained on.
//!
//! As GPT-3's authors looked for them (Brown et al. 2020, appendix C): a shared run of n words (13, usually) is a leak, unless more than ten
//! training rows have that run, which makes it a phrase of the template. Rows too short for a run leak when a whole question,
//! or the whole row, is the same word for word. Refuses to know copies among training rows.

use std::collections::{HashMap, HashSet};

use super::RowPlace;
use super::rows::{Role, RowTurn};
use super::words::{Word, mix, words};

/// A run in more training rows than this is a phrase that rows have in common.
const COMMON: u32 = 10;
/// A question of fewer words is nobody's own.
const OWN: usize = 3;

/// A training row that has (part of) a row to be judged by.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Leak {
    pub row: RowPlace,
    /// The row it was found in: `source` counts the held-out sources and then the other files.
    pub of: RowPlace,
    /// Word for word the same question or row; otherwise only runs of words are shared.
    pub whole: bool,
    /// The share of the runs of the held-out row that the training row has; 0 where it is too short to have any.
    pub overlap: f32,
}

/// The rows to be judged by.
#[derive(Default)]
pub(super) struct Held {
    ngram: usize,
    places: Vec<RowPlace>,
    /// Runs of each row.
    runs: Vec<u32>,
    /// Run → the first row that has it, and a number of its own.
    grams: HashMap<u64, (u32, u32)>,
    whole: HashMap<u64, u32>,
}

/// What a training row has of them.
#[derive(Debug, Default)]
pub(super) struct SharedRuns {
    whole: Option<u32>,
    /// Row and number of each run.
    grams: Vec<(u32, u32)>,
}

fn whole(words: &[Word]) -> u64 {
    words.iter().fold(words.len() as u64, |h, w| mix(h ^ u64::from(w.0)))
}

fn grams(words: &[Word], n: usize) -> impl Iterator<Item = u64> {
    words.windows(n).map(whole)
}

/// What of a row is looked for as a whole: every question, all of them together, the row.
fn wholes(parts: &[RowTurn], lists: &[Vec<Word>]) -> Vec<u64> {
    let question = |p: &&RowTurn| p.by == Role::User;
    let asked = || parts.iter().zip(lists).filter(|(p, _)| question(p)).map(|(_, l)| l);
    let joined: Vec<Word> = asked().flatten().copied().collect();
    let row: Vec<Word> = lists.iter().flatten().copied().collect();
    let mut hashes: Vec<u64> = asked().filter(|l| l.len() >= OWN).map(|l| whole(l)).collect();
    hashes.extend([joined].iter().filter(|l| l.len() >= OWN).map(|l| whole(l)));
    hashes.extend([row].iter().filter(|l| l.len() >= OWN).map(|l| mix(whole(l))));
    hashes
}

impl Held {
    pub(super) fn new(ngram: usize) -> Held {
        Held { ngram, ..Held::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a row; what is a text of its own in it is a part.
    pub(super) fn add(&mut self, place: RowPlace, parts: &[RowTurn]) {
        let row = self.places.len() as u32;
        self.places.push(place);
        let lists: Vec<Vec<Word>> = parts.iter().filter(|p| p.by != Role::System).map(|p| words(&p.text)).collect();
        let parts: Vec<RowTurn> = parts.iter().filter(|p| p.by != Role::System).cloned().collect();
        let runs: HashSet<u64> = lists.iter().flat_map(|l| grams(l, self.ngram)).collect();
        self.runs.push(runs.len() as u32);
        let mut runs: Vec<u64> = runs.into_iter().collect();
        runs.sort_unstable();
        for run in runs {
            let number = self.grams.len() as u32;
            self.grams.entry(run).or_insert((row, number));
        }
        for hash in wholes(&parts, &lists) {
            self.whole.entry(hash).or_insert(row);
        }
    }

    /// What a training row shares with them.
    pub(super) fn shared(&self, parts: &[RowTurn]) -> SharedRuns {
        if self.places.is_empty() {
            return SharedRuns::default();
        }
        let parts: Vec<RowTurn> = parts.iter().filter(|p| p.by != Role::System).cloned().collect();
        let lists: Vec<Vec<Word>> = parts.iter().map(|p| words(&p.text)).collect();
        let mut shared: Vec<(u32, u32)> =
            lists.iter().flat_map(|l| grams(l, self.ngram)).filter_map(|g| self.grams.get(&g).copied()).collect();
        shared.sort_unstable();
        shared.dedup();
        let whole = wholes(&parts, &lists).iter().filter_map(|h| self.whole.get(h).copied()).min();
        SharedRuns { whole, grams: shared }
    }

    /// The leaks among the training rows that share something.
    pub(super) fn leaks(&self, shared: &[(RowPlace, SharedRuns)]) -> Vec<Leak> {
        let mut rows_with: HashMap<u32, u32> = HashMap::new();
        shared.iter().flat_map(|(_, s)| &s.grams).for_each(|(_, g)| *rows_with.entry(*g).or_default() += 1);
        let leak = |(place, shared): &(RowPlace, SharedRuns)| {
            let mut of: HashMap<u32, (u32, bool)> = HashMap::new();
            for (row, gram) in &shared.grams {
                let entry = of.entry(*row).or_default();
                entry.0 += 1;
                entry.1 |= rows_with.get(gram).is_none_or(|n| *n <= COMMON);
            }
            let share = |row: u32| {
                let have = of.get(&row).map_or(0, |(n, _)| *n);
                let runs = self.runs[row as usize];
                if runs == 0 { 0.0 } else { (have as f32 / runs as f32).min(1.0) }
            };
            let own = of
                .iter()
                .filter(|(row, (_, rare))| *rare || share(**row) == 1.0)
                .map(|(row, (n, _))| (*n, std::cmp::Reverse(*row)));
            let best = own.max().map(|(_, row)| row.0);
            let (row, whole) = match (shared.whole, best) {
                (Some(row), _) => (row, true),
                (None, Some(row)) => (row, false),
                (None, None) => return None,
            };
            Some(Leak { row: *place, of: self.places[row as usize], whole, overlap: share(row) })
        };
        shared.iter().filter_map(leak).collect()
    }
}

impl SharedRuns {
    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_none() && self.grams.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32) -> RowPlace {
        RowPlace { source: 0, line }
    }

    fn row(question: &str, answer: &str) -> Vec<RowTurn> {
        vec![RowTurn::new(Role::User, question), RowTurn::new(Role::Assistant, answer)]
    }

    const LONG: &str =
        "A train leaves the station at noon and reaches the next town, forty miles away, at ten past one; how fast is it?";

    fn found(rows: &[Vec<RowTurn>]) -> Vec<(u32, bool)> {
        let mut held = Held::new(13);
        held.add(at(1), &row(LONG, "Its speed is 34 miles an hour."));
        held.add(at(2), &row("Capital of Peru?", "Lima"));
        let shared: Vec<(RowPlace, SharedRuns)> =
            rows.iter().enumerate().map(|(i, r)| (at(i as u32), held.shared(r))).filter(|(_, s)| !s.is_empty()).collect();
        held.leaks(&shared).iter().map(|l| (l.row.line, l.whole)).collect()
    }

    #[test]
    fn whole_questions_and_long_runs_are_leaks() {
        let inside = format!("Solve this. {LONG} Show your work.");
        let rows = [
            row(&LONG.to_uppercase(), "no idea"),
            row(&inside, "34"),
            row("capital of peru", "It is Lima."),
            row("Capital of Chile?", "Santiago"),
            row("A train leaves the station at noon. When does it arrive?", "At one."),
        ];
        assert_eq!(found(&rows), [(0, true), (1, false), (2, true)]);
    }

    #[test]
    fn a_run_that_many_rows_have_is_a_phrase() {
        let head: String = LONG.split(' ').take(14).collect::<Vec<_>>().join(" ");
        let many: Vec<Vec<RowTurn>> = (0..20).map(|i| row(&format!("{head} question {i}"), "yes")).collect();
        assert_eq!(found(&many), []);
        assert_eq!(found(&many[..3]).len(), 3);
    }
}
