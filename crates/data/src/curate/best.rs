//! The best k rows: good ones, and different ones.
//!
//! Rows are taken one after another, each time the one of the highest score × novelty. Novelty is the share of its words' weight that
//! the rows taken so far do not have (a word loses half of it each time it is taken), for a fifth what it asks for
//! (verb and object) in place of words. It only falls as rows are taken, so that a row that is still best when it is looked at
//! again is the best of all (lazy greedy, Minoux 1978). Refuses to know what was removed before.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::minhash::distinct;
use super::scan::Scan;

/// The share of novelty that is the task's.
const TASK: f32 = 0.2;

struct Candidate {
    value: f32,
    row: usize,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    /// The higher value, of equal ones the earlier row.
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.value.total_cmp(&other.value).then(other.row.cmp(&self.row))
    }
}

/// How often words and tasks were taken.
#[derive(Default)]
struct Taken {
    words: HashMap<u32, i32>,
    tasks: HashMap<(u32, Option<u32>), i32>,
}

impl Taken {
    fn value(&self, scan: &Scan, row: usize) -> f32 {
        let facts = &scan.facts[row];
        let (mut new, mut all) = (0.0f32, 0.0f32);
        for word in distinct(&scan.words.words(row)) {
            let weight = scan.frequencies.weight(word);
            all += weight;
            new += weight * 0.5f32.powi(self.words.get(&word.0).copied().unwrap_or(0));
        }
        let words = if all > 0.0 { new / all } else { 0.0 };
        let task = facts.verb.and_then(|v| self.tasks.get(&(v, facts.object))).copied().unwrap_or(0);
        facts.score * ((1.0 - TASK) * words + TASK * 0.5f32.powi(task))
    }

    fn take(&mut self, scan: &Scan, row: usize) {
        for word in distinct(&scan.words.words(row)) {
            *self.words.entry(word.0).or_default() += 1;
        }
        if let Some(verb) = scan.facts[row].verb {
            *self.tasks.entry((verb, scan.facts[row].object)).or_default() += 1;
        }
    }
}

/// The `k` best of `rows` (all of them, if they are fewer), ascending.
pub(super) fn best(scan: &Scan, rows: &[usize], k: usize) -> Vec<usize> {
    let mut taken = Taken::default();
    let mut heap: BinaryHeap<Candidate> = rows.iter().map(|row| Candidate { value: f32::MAX, row: *row }).collect();
    let mut chosen = Vec::with_capacity(k.min(rows.len()));
    while chosen.len() < k {
        let Some(top) = heap.pop() else { break };
        let value = taken.value(scan, top.row);
        let next = Candidate { value, row: top.row };
        match heap.peek() {
            Some(other) if *other > next => heap.push(next),
            _ => {
                taken.take(scan, next.row);
                chosen.push(next.row);
            }
        }
    }
    chosen.sort_unstable();
    chosen
}
