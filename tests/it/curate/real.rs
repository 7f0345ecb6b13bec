//! Copies among real rows: against a plain Jaccard index of every pair, and with copies planted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use lorakit::random;
use serde_json::{Value, json};

use super::planted::edited;
use super::{checked, scratch};
use crate::shared;

/// Files of instructions, questions and answers of several kinds.
const FILES: [&str; 5] = [
    "alpaca/alpaca_gpt4_en.jsonl",
    "alpaca/gpteacher_roleplay.jsonl",
    "alpaca/identity.jsonl",
    "customer_service/bitext_intents_train.jsonl",
    "customer_service/banking77_train.jsonl",
];

/// What the rows of the real files say, as far as they are Alpaca's or have texts at all.
fn rows(root: &Path) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for file in FILES {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let field = |names: &[&str]| names.iter().filter_map(|n| row[*n].as_str()).collect::<Vec<_>>().join("\n");
            rows.push((field(&["instruction", "input", "utterance", "text"]), field(&["output", "intent", "category"])));
        }
    }
    rows.retain(|(q, a)| !q.trim().is_empty() && !a.trim().is_empty());
    rows
}

fn written(rows: &[(String, String)]) -> String {
    rows.iter().map(|(q, a)| format!("{}\n", json!({"instruction": q, "output": a}))).collect()
}

/// Lower-cased runs of letters and digits, each once: simpler than, and apart from, the words of the program.
fn plain(row: &(String, String)) -> BTreeSet<String> {
    let text = format!("{} {}", row.0, row.1).to_lowercase();
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_string).collect()
}

/// The words as numbers, ascending, so that two rows are compared by one walk over both.
fn numbered(rows: &[(String, String)]) -> Vec<Vec<u32>> {
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let number = |word: String| {
        let next = numbers.len() as u32;
        *numbers.entry(word).or_insert(next)
    };
    let sets: Vec<Vec<u32>> =
        rows.iter().map(plain).scan(number, |n, set| Some(set.into_iter().map(&mut *n).collect())).collect();
    sets.into_iter()
        .map(|mut set| {
            set.sort_unstable();
            set
        })
        .collect()
}

fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        both += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

fn has_number(row: &(String, String)) -> bool {
    format!("{}{}", row.0, row.1).contains(|c: char| c.is_numeric())
}

#[test]
fn pairs_agree_with_a_plain_jaccard_index_of_all_pairs() {
    let Some(root) = shared::find("data") else { return };
    let rows = rows(&root);
    let dir = scratch(&[("rows.jsonl", &written(&rows))]);
    let found = checked(dir.path(), &["rows.jsonl", "--near", "0.8"]).copies;
    let sets = numbered(&rows);
    let is_copy: HashSet<usize> = found.iter().map(|c| c.row as usize - 1).collect();
    // Nothing that is very much alike is left among the rows that are no copies.
    let left: Vec<usize> = (0..rows.len()).filter(|i| !is_copy.contains(i)).collect();
    let mut missed = Vec::new();
    for (n, b) in left.iter().enumerate() {
        for a in &left[..n] {
            let numbers = has_number(&rows[*a]) && has_number(&rows[*b]);
            if !numbers && jaccard(&sets[*a], &sets[*b]) >= 0.95 {
                missed.push((a + 1, b + 1));
            }
        }
    }
    // Nothing is a copy that has little to do with its original.
    let alike = |c: &&super::Copy| jaccard(&sets[c.row as usize - 1], &sets[c.of as usize - 1]);
    let least = found.iter().map(|c| alike(&c)).fold(1.0, f64::min);
    println!(
        "{} real rows, {} copies from 0.8 on, of which plain Jaccard is at least {least:.3}; {} pairs at 0.95 or more missed: {missed:?}",
        rows.len(),
        found.len(),
        missed.len()
    );
    assert!(rows.len() > 2000 && !found.is_empty());
    assert!(missed.is_empty() && least >= 0.6);
}

#[test]
fn copies_planted_among_real_rows_are_found() {
    let Some(root) = shared::find("data") else { return };
    let rows = rows(&root);
    let mut rng = random::stream(7, "planted in real rows", &[]);
    let mut all = rows.clone();
    // Of rows of ten words and more: of fewer, no tenth can be changed.
    let long: Vec<usize> =
        (0..rows.len()).filter(|i| rows[*i].0.split(' ').count() > 2 && rows[*i].1.split(' ').count() > 9).collect();
    for i in &long {
        all.push((edited(&mut rng, &rows[*i].0), edited(&mut rng, &rows[*i].1)));
    }
    let dir = scratch(&[("rows.jsonl", &written(&all))]);
    let found = checked(dir.path(), &["rows.jsonl"]).copies;
    let of: HashMap<usize, usize> = found.iter().map(|c| (c.row as usize - 1, c.of as usize - 1)).collect();
    // The original may itself be a copy of an earlier real row.
    let right = |(n, i): &(usize, &usize)| of.get(&(rows.len() + n)).is_some_and(|o| o == *i || of.get(*i) == Some(o));
    let n = long.iter().enumerate().filter(right).count();
    let recall = n as f64 / long.len() as f64;
    println!("{n} of {} copies planted among {} real rows: recall {recall:.4}", long.len(), rows.len());
    assert!(long.len() > 500 && recall >= 0.97);
}
