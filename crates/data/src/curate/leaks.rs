//! Rows to be judged by that stand in the rows to be trained on.
//!
//! A leak is a whole conversation, or a turn of the user that is its own; not a thank-you that two dialogues end with. The same
//! word for word are the whole row, all of its questions together, or one question of at least [`RARE`] distinct words that few
//! rows ask. What is only alike is found by runs of n words (13, usually; Brown et al. 2020, appendix C): at least half of the
//! words of the row, or of the runs of one of its questions, are in runs that the training row has as well. Runs of more than two
//! rows to be judged by are phrases and do not count; nor do those of more than ten training rows, unless they make up the row.
//! Refuses to know copies among training rows.

use std::collections::{HashMap, HashSet};

use super::RowPlace;
use super::rows::{Role, RowTurn};
use super::words::{Word, mix, words};

/// What more training rows than this have is a phrase that rows have in common.
const COMMON: u32 = 10;
/// So is a single question, or a run, that more rows to be judged by than this have.
const HELD_COMMON: u32 = 2;
/// A question of fewer words is nobody's own.
const OWN: usize = 3;
/// Distinct words of a question that is its row's own among others.
const RARE: usize = 10;
/// Share of the words of a row, or of the runs of a question, from which it is another's.
const MOST: f32 = 0.5;
/// Share of the words of a row from which it is another's, however many have it.
const ALL: f32 = 0.9;
/// Characters of an excerpt.
const EXCERPT: usize = 100;

/// A training row that has (part of) a row to be judged by.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Leak {
    pub row: RowPlace,
    /// The row it was found in: `source` counts the held-out sources and then the other files.
    pub of: RowPlace,
    /// Word for word the same question or row; otherwise only runs of words are shared.
    pub whole: bool,
    /// The share of the runs of the held-out row that the training row has, phrases not counted as shared; 0 where it is too short
    /// to have any.
    pub overlap: f32,
    /// The beginning of what both have, as the held-out row says it.
    pub text: String,
}

/// The rows to be judged by.
#[derive(Default)]
pub(super) struct Held {
    ngram: usize,
    places: Vec<RowPlace>,
    /// Runs and words of each row.
    sizes: Vec<(u32, u32)>,
    turns: Vec<HeldTurn>,
    grams: HashMap<u64, Run>,
    /// Hash of what is looked for as a whole → the first turn of the first row that has it, and in how many rows it is.
    whole: HashMap<u64, (u32, u32)>,
}

/// A run of words.
struct Run {
    /// The first turn that has it.
    turn: u32,
    /// A number of its own.
    number: u32,
    /// In how many rows it is.
    rows: u32,
}

struct HeldTurn {
    row: u32,
    words: u32,
    runs: u32,
    asks: bool,
    excerpt: String,
}

/// What a training row has of them.
#[derive(Debug, Default)]
pub(super) struct SharedRuns {
    wholes: Vec<Whole>,
    /// Turn and number of each run.
    grams: Vec<(u32, u32)>,
}

/// Something that is looked for word for word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Whole {
    hash: u64,
    /// Of the first turn in it.
    turn: u32,
    /// One question among others.
    single: bool,
}

fn whole(words: &[Word]) -> u64 {
    words.iter().fold(words.len() as u64, |h, w| mix(h ^ u64::from(w.0)))
}

fn grams(words: &[Word], n: usize) -> impl Iterator<Item = u64> {
    words.windows(n).map(whole)
}

/// What of a row is looked for as a whole, with turns counted from 0: all questions together, the row, every question that is
/// its own. Texts that nobody answers are no conversation, and each of them stands for itself.
fn wholes(parts: &[&RowTurn], lists: &[Vec<Word>]) -> Vec<Whole> {
    let questions = || (0u32..).zip(parts.iter().zip(lists)).filter(|(_, (p, _))| p.by == Role::User).map(|(i, (_, l))| (i, l));
    let joined: Vec<Word> = questions().flat_map(|(_, l)| l).copied().collect();
    let row: Vec<Word> = lists.iter().flatten().copied().collect();
    let first = questions().next().map_or(0, |(i, _)| i);
    let distinct = |list: &[Word]| list.iter().collect::<HashSet<_>>().len();
    let single = |(turn, list): (u32, &Vec<Word>)| Whole { hash: mix(whole(list) ^ 1), turn, single: true };
    let mut all: Vec<Whole> = questions().filter(|(_, l)| distinct(l) >= RARE).map(single).collect();
    all.extend(Some(&joined).filter(|l| l.len() >= OWN).map(|l| Whole { hash: whole(l), turn: first, single: false }));
    all.extend(Some(&row).filter(|l| l.len() >= OWN).map(|l| Whole { hash: mix(whole(l)), turn: 0, single: false }));
    if parts.iter().all(|p| p.by == Role::User) {
        let alone = questions().filter(|(_, l)| l.len() >= OWN);
        all.extend(alone.map(|(turn, l)| Whole { hash: whole(l), turn, single: false }));
    }
    all
}

fn excerpt(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = flat.chars().take(EXCERPT).collect();
    if short.len() < flat.len() { format!("{short}…") } else { short }
}

fn said(parts: &[RowTurn]) -> (Vec<&RowTurn>, Vec<Vec<Word>>) {
    let parts: Vec<&RowTurn> = parts.iter().filter(|p| p.by != Role::System).collect();
    let lists = parts.iter().map(|p| words(&p.text)).collect();
    (parts, lists)
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
        let (row, start) = (self.places.len() as u32, self.turns.len() as u32);
        self.places.push(place);
        let (parts, lists) = said(parts);
        let mut all: HashSet<u64> = HashSet::new();
        for (part, list) in parts.iter().zip(&lists) {
            let turn = self.turns.len() as u32;
            let mut runs: Vec<u64> = grams(list, self.ngram).collect();
            runs.sort_unstable();
            runs.dedup();
            let (asks, excerpt) = (part.by == Role::User, excerpt(&part.text));
            self.turns.push(HeldTurn { row, words: list.len() as u32, runs: runs.len() as u32, asks, excerpt });
            for run in runs {
                let number = self.grams.len() as u32;
                let known = self.grams.entry(run).or_insert(Run { turn, number, rows: 0 });
                known.rows += u32::from(all.insert(run));
            }
        }
        self.sizes.push((all.len() as u32, lists.iter().map(Vec::len).sum::<usize>() as u32));
        let mut mine = HashSet::new();
        for found in wholes(&parts, &lists).into_iter().filter(|w| mine.insert(w.hash)) {
            self.whole.entry(found.hash).or_insert((start + found.turn, 0)).1 += 1;
        }
    }

    /// What a training row shares with them.
    pub(super) fn shared(&self, parts: &[RowTurn]) -> SharedRuns {
        if self.places.is_empty() {
            return SharedRuns::default();
        }
        let (parts, lists) = said(parts);
        let runs = lists.iter().flat_map(|l| grams(l, self.ngram)).filter_map(|g| self.grams.get(&g));
        let mut shared: Vec<(u32, u32)> = runs.filter(|r| r.rows <= HELD_COMMON).map(|r| (r.turn, r.number)).collect();
        shared.sort_unstable();
        shared.dedup();
        let known = |w: Whole| {
            let (turn, rows) = *self.whole.get(&w.hash)?;
            (!w.single || rows <= HELD_COMMON).then_some(Whole { turn, ..w })
        };
        let mut wholes: Vec<Whole> = wholes(&parts, &lists).into_iter().filter_map(known).collect();
        wholes.sort_by_key(|w| (w.single, w.turn, w.hash));
        wholes.dedup();
        SharedRuns { wholes, grams: shared }
    }

    /// The leaks among the training rows that share something.
    pub(super) fn leaks(&self, shared: &[(RowPlace, SharedRuns)]) -> Vec<Leak> {
        let (mut rows_with, mut rows_asking): (HashMap<u32, u32>, HashMap<u64, u32>) = Default::default();
        for (_, shared) in shared {
            shared.grams.iter().for_each(|(_, g)| *rows_with.entry(*g).or_default() += 1);
            shared.wholes.iter().for_each(|w| *rows_asking.entry(w.hash).or_default() += 1);
        }
        let own = |w: &&Whole| !w.single || rows_asking.get(&w.hash).is_none_or(|n| *n <= COMMON);
        let leak = |(place, shared): &(RowPlace, SharedRuns)| {
            let whole = shared.wholes.iter().find(own).map(|w| w.turn);
            let (turn, whole) = match whole {
                Some(turn) => (turn, true),
                None => (self.alike(shared, &rows_with)?, false),
            };
            let HeldTurn { row, excerpt, .. } = &self.turns[turn as usize];
            let overlap = self.share_of_row(shared, *row);
            Some(Leak { row: *place, of: self.places[*row as usize], whole, overlap, text: excerpt.clone() })
        };
        shared.iter().filter_map(leak).collect()
    }

    /// The share of a held-out row's runs that a training row has.
    fn share_of_row(&self, shared: &SharedRuns, row: u32) -> f32 {
        let have = shared.grams.iter().filter(|(turn, _)| self.turns[*turn as usize].row == row).count();
        share(have as u32, self.sizes[row as usize].0)
    }

    /// The share of a held-out row's words that lie in shared runs, of which turns have so many.
    fn share_of_words(&self, of: &HashMap<u32, (u32, bool)>, row: u32) -> f32 {
        let mine = of.iter().map(|(turn, (have, _))| (&self.turns[*turn as usize], have)).filter(|(turn, _)| turn.row == row);
        let words = mine.map(|(turn, have)| turn.words.min(have + self.ngram as u32 - 1)).sum();
        share(words, self.sizes[row as usize].1)
    }

    /// The turn of which, or of whose row, most is in a training row, at least one run of it in few.
    fn alike(&self, shared: &SharedRuns, rows_with: &HashMap<u32, u32>) -> Option<u32> {
        // Turn → runs that are shared, and whether one of them is rare.
        let mut of: HashMap<u32, (u32, bool)> = HashMap::new();
        for (turn, gram) in &shared.grams {
            let entry = of.entry(*turn).or_default();
            entry.0 += 1;
            entry.1 |= rows_with.get(gram).is_none_or(|n| *n <= COMMON);
        }
        let most = |(turn, (have, rare)): &(&u32, &(u32, bool))| {
            let held = &self.turns[**turn as usize];
            let question = if held.asks { share(*have, held.runs) } else { 0.0 };
            let row = self.share_of_words(&of, held.row);
            (*rare && question.max(row) >= MOST) || row >= ALL
        };
        of.iter().filter(most).max_by_key(|(turn, (have, _))| (*have, std::cmp::Reverse(**turn))).map(|(turn, _)| *turn)
    }
}

fn share(have: u32, of: u32) -> f32 {
    if of == 0 { 0.0 } else { (have as f32 / of as f32).min(1.0) }
}

impl SharedRuns {
    pub(super) fn is_empty(&self) -> bool {
        self.wholes.is_empty() && self.grams.is_empty()
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
        let head: String = LONG.split(' ').take(19).collect::<Vec<_>>().join(" ");
        let many: Vec<Vec<RowTurn>> = (0..20).map(|i| row(&format!("{head} question {i}"), "yes")).collect();
        assert_eq!(found(&many), []);
        assert_eq!(found(&many[..3]).len(), 3);
    }

    fn dialogue(turns: &[&str]) -> Vec<RowTurn> {
        let by = |i: usize| if i.is_multiple_of(2) { Role::User } else { Role::Assistant };
        turns.iter().enumerate().map(|(i, text)| RowTurn::new(by(i), *text)).collect()
    }

    const TABLE: &str = "Can you book me a quiet table for seven at the Harbour Grill next Friday evening?";

    fn texts(held: &[Vec<RowTurn>], rows: &[Vec<RowTurn>]) -> Vec<(u32, bool, String)> {
        let mut judge = Held::new(13);
        (0..).zip(held).for_each(|(i, row)| judge.add(at(i), row));
        let shared: Vec<_> = (0..).zip(rows).map(|(i, r)| (at(i), judge.shared(r))).filter(|(_, s)| !s.is_empty()).collect();
        judge.leaks(&shared).into_iter().map(|l| (l.row.line, l.whole, l.text)).collect()
    }

    #[test]
    fn a_thank_you_is_no_leak_and_a_question_of_its_own_is() {
        let thanks = "Thank you very much, that is all I need.";
        let held = [dialogue(&[TABLE, "It is booked.", thanks, "Have a nice day!"])];
        let rows = [
            dialogue(&["Find me a flight to Oslo.", "There is one at nine.", thanks, "Have a nice day!"]),
            dialogue(&["Hello!", "Hello.", &TABLE.to_lowercase(), "Which Friday?", "No, leave it.", "As you like."]),
            dialogue(&[TABLE, "It is booked.", thanks, "Have a nice day!"]),
            dialogue(&[thanks, "You are welcome."]),
        ];
        assert_eq!(texts(&held, &rows), [(1, true, TABLE.to_string()), (2, true, TABLE.to_string())]);
    }

    #[test]
    fn a_question_of_many_dialogues_and_an_answer_of_many_words_are_phrases() {
        let answer = "Your reservation has been made for you at the time you wanted, and is there anything else that I can do?";
        let held: Vec<_> = (0..4).map(|i| dialogue(&[TABLE, answer, &format!("Tell me joke number {i}"), "No."])).collect();
        let row = [dialogue(&[TABLE, "For how many?", "Seven.", answer])];
        assert_eq!(texts(&held, &row), []);
        let other = [dialogue(&["A car for two days, please.", answer, "No.", "Bye."])];
        let alone = [dialogue(&["Two seats in the stalls?", answer, &format!("And now: {LONG}"), "Bye."])];
        assert_eq!(texts(&alone, &other), []);
    }

    #[test]
    fn each_text_of_a_file_that_nobody_answers_stands_for_itself() {
        let benchmark = [vec![RowTurn::new(Role::User, "Capital of Peru?"), RowTurn::new(Role::User, "Lima")]];
        assert_eq!(texts(&benchmark, &[row("capital of peru", "It is Lima.")]), [(0, true, "Capital of Peru?".to_string())]);
    }

    #[test]
    fn what_is_shown_is_short_and_on_one_line() {
        let long = format!("{}\n{}", "wort ".repeat(30), "ä".repeat(40));
        let short = excerpt(&long);
        assert!(short.chars().count() == EXCERPT + 1 && short.ends_with('…') && !short.contains('\n'));
        assert_eq!(excerpt(" a\n b "), "a b");
    }
}
