//! Copies that were planted among rows that only look alike: how many are found, and what else is.

use std::collections::{HashMap, HashSet};

use lorakit::random;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{checked, scratch};

/// Templates of rows: what is in braces is a fact. Rows of one template differ in facts alone.
const TEMPLATES: [(&str, &str); 10] = [
    (
        "Write a short product description for a {a} {b} that costs {n} euros and is made in {p}.",
        "Meet the {a} {b} from {p}: sturdy, good looking and made to last. At {n} euros it is a bargain, and {s} have praised its {c}.",
    ),
    (
        "My order {n} with the {b} has not arrived in {p} yet, can you help?",
        "I am sorry about that. Order {n} with the {a} {b} left our warehouse in {q} and should reach {p} soon; ask for {s} at the desk.",
    ),
    (
        "Book a train from {p} to {q} for {s}.",
        "Done: {s} travels from {p} to {q} with a {a} ticket; the booking number is {n} and the seat is beside the {b}.",
    ),
    ("What is {n} plus {m}?", "{n} plus {m} is {k}."),
    ("How far is it from {p} to {q}?", "The distance from {p} to {q} is about {n} kilometres, past the {c} of {r}."),
    (
        "{s} has {n} {b} and buys {m} more at the market in {p}. How many are there now?",
        "{s} starts with {n}, buys {m} in {p}, and so has {k} {b}.",
    ),
    (
        "Summarise the complaint: the {b} I bought in {p} broke after a {c}, and {s} refuses to replace it.",
        "A customer from {p} bought a {b}. It broke after a {c} and {s} will not replace it.",
    ),
    (
        "Explain to a child what a {c} has to do with a {b}.",
        "Think of {s}, who took a {a} {b} to {p}: without the {c} nothing would have worked, and {q} would still be waiting.",
    ),
    (
        "Give three reasons to visit {p}.",
        "First, the {c} of {p} is {a}. Second, {s} lives there and shows everybody the {b}. Third, it is close to {q} and to {r}.",
    ),
    ("Translate into Latin: {s} sees a {a} {b} near {p}.", "{s} prope {p} {b} videt, et {c} {q} petit."),
];

const FILLERS: [&str; 12] =
    ["really", "please", "just", "very", "indeed", "kindly", "perhaps", "also", "quite", "actually", "simply", "again"];

/// A made-up word; there are thousands of a kind.
fn name(rng: &mut ChaCha8Rng, kind: &str) -> String {
    const PARTS: [&str; 24] = [
        "ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu", "dar", "fen", "gol", "hin", "jur", "kal", "lem", "nor",
        "pul", "qua", "ros", "sil", "tam", "ved",
    ];
    let parts = (0..rng.random_range(2..=3)).map(|_| PARTS[rng.random_range(0..PARTS.len())]);
    format!("{}{kind}", parts.collect::<String>())
}

fn base(rng: &mut ChaCha8Rng) -> (String, String) {
    let (question, answer) = TEMPLATES[rng.random_range(0..TEMPLATES.len())];
    let (n, m) = (rng.random_range(100..100_000u32), rng.random_range(100..100_000u32));
    let mut facts = vec![("n", n.to_string()), ("m", m.to_string()), ("k", (n + m).to_string())];
    facts.extend(
        [("a", "ish"), ("b", "er"), ("c", "tion"), ("p", "ia"), ("q", "burg"), ("r", "port"), ("s", "son")]
            .map(|(k, end)| (k, name(rng, end))),
    );
    let fill = |text: &str| facts.iter().fold(text.to_string(), |t, (key, fact)| t.replace(&format!("{{{key}}}"), fact));
    (fill(question), fill(answer))
}

/// A copy: up to a tenth of the words moved, left out, replaced or added, case and punctuation changed, words before or after.
pub(super) fn edited(rng: &mut ChaCha8Rng, text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_string).collect();
    for _ in 0..rng.random_range(0..=words.len() / 10) {
        let at = rng.random_range(0..words.len() - 1);
        match rng.random_range(0..5) {
            0 => words.swap(at, at + 1),
            1 => _ = words.remove(at),
            2 => words.insert(at, FILLERS[rng.random_range(0..FILLERS.len())].into()),
            3 => words[at] = FILLERS[rng.random_range(0..FILLERS.len())].into(),
            _ => words.insert(at, name(rng, "ly")),
        }
    }
    let mut text = words.join(" ");
    match rng.random_range(0..8) {
        0 => text = text.to_uppercase(),
        1 => text = text.to_lowercase(),
        2 => text = text.replace(['.', ',', '?', ':', ';'], ""),
        3 => text = text.replace(' ', "  "),
        4 => text = format!("Please note: {text}"),
        5 => text += " Thanks!",
        _ => {}
    }
    text
}

fn row(rng: &mut ChaCha8Rng, (question, answer): &(String, String), copy: bool) -> String {
    let (q, a) = match copy {
        true => (edited(rng, question), edited(rng, answer)),
        false => (question.clone(), answer.clone()),
    };
    format!("{}\n", serde_json::json!({"instruction": q, "output": a}))
}

#[test]
fn planted_near_copies_are_found_and_lookalikes_are_not() {
    const ROWS: usize = 20_000;
    const COPIES: usize = 5_000;
    let mut rng = random::stream(11, "planted", &[]);
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut seen = HashSet::new();
    while rows.len() < ROWS {
        let row = base(&mut rng);
        if seen.insert(row.clone()) {
            rows.push(row);
        }
    }
    let mut text: String = rows.iter().map(|r| row(&mut rng, r, false)).collect();
    let originals: Vec<usize> = (0..COPIES).map(|_| rng.random_range(0..ROWS)).collect();
    text.extend(originals.iter().map(|o| row(&mut rng, &rows[*o], true)));
    let dir = scratch(&[("rows.jsonl", &text)]);
    let copies = checked(dir.path(), &["rows.jsonl"]).copies;
    let truth: HashMap<u64, u64> = originals.iter().enumerate().map(|(i, o)| ((ROWS + i + 1) as u64, *o as u64 + 1)).collect();
    // A copy is found when the row it is said to be one of was really its original.
    let right = copies.iter().filter(|c| truth.get(&c.row) == Some(&c.of)).count();
    let (recall, precision) = (right as f64 / COPIES as f64, right as f64 / copies.len() as f64);
    println!(
        "{ROWS} rows and {COPIES} planted copies: {} found, {right} right: recall {recall:.4}, precision {precision:.4}",
        copies.len()
    );
    assert!(recall >= 0.97 && precision >= 0.99, "recall {recall:.4}, precision {precision:.4}");
}
