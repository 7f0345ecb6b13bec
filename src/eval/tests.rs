//! What is judged, and what the intervals say.

use super::choices::judged;
use super::*;
use crate::data::{Choice, Question};
use crate::model::LossSum;

fn score(right: bool) -> RowScore {
    let nats = if right { 1.0 } else { 3.0 };
    RowScore { nats, tokens: 2, exact_match: Some(f64::from(u8::from(right))), ..RowScore::default() }
}

fn label(task: &str, cluster: &str) -> Label {
    Label { task: Some(task.into()), cluster: Some(cluster.into()) }
}

/// `n` rows of which every `every`-th is right.
fn scores(n: usize, every: usize) -> Vec<RowScore> {
    (0..n).map(|i| score(i % every == 0)).collect()
}

fn of(comparison: &Comparison, metric: Metric, over: Over) -> &Compared {
    comparison.metrics.iter().find(|c| c.metric == metric && c.over == over).unwrap()
}

#[test]
fn the_interval_is_that_of_the_binomial_and_the_same_every_time() {
    // 100 of 400 right, against none: the standard error of the difference is sqrt(0.25 · 0.75 / 400).
    let (base, adapter) = (vec![score(false); 400], scores(400, 4));
    let labels = vec![Label::default(); 400];
    let comparison = compare(&labels, &base, &adapter, 7);
    let c = of(&comparison, Metric::ExactMatch, Over::Rows);
    let error = (0.25f64 * 0.75 / 400.0).sqrt();
    assert_eq!((c.base, c.adapter, c.difference), (0.0, 0.25, 0.25));
    assert!((c.low - (0.25 - 1.96 * error)).abs() < 0.004 && (c.high - (0.25 + 1.96 * error)).abs() < 0.004, "{c:?}");
    let loss = of(&comparison, Metric::Loss, Over::Rows);
    // Two tokens a row: 3 nats a row are 1.5 a token.
    assert_eq!((loss.base, loss.adapter), (1.5, 1.25));
    assert!(loss.low < -0.25 && loss.high > -0.25 && loss.high < 0.0);
    assert_eq!(comparison, compare(&labels, &base, &adapter, 7));
    assert_ne!(comparison, compare(&labels, &base, &adapter, 8));
    assert!(comparison.tasks.is_empty() && comparison.clusters.is_empty());
    assert!(comparison.metrics.iter().all(|c| c.over == Over::Rows && c.metric != Metric::RougeL));
}

#[test]
fn what_is_equal_has_no_difference_and_no_interval() {
    let rows = scores(50, 3);
    let comparison = compare(&vec![label("a", "x"); 50], &rows, &rows, 1);
    for c in &comparison.metrics {
        assert_eq!((c.difference, c.low, c.high), (0.0, 0.0, 0.0), "{c:?}");
    }
}

#[test]
fn tasks_count_the_same_and_their_interval_is_wider() {
    // Task a, 90 rows, gains everything; b and c, 10 rows each, nothing.
    let labels: Vec<Label> = (0..110)
        .map(|i| match i {
            0..90 => label("a", "x"),
            90..100 => label("b", "x"),
            _ => label("c", "y"),
        })
        .collect();
    let base = vec![score(false); 110];
    let adapter: Vec<RowScore> = (0..110).map(|i| score(i < 90)).collect();
    let comparison = compare(&labels, &base, &adapter, 3);
    let (rows, tasks) = (of(&comparison, Metric::ExactMatch, Over::Rows), of(&comparison, Metric::ExactMatch, Over::Tasks));
    assert!((rows.difference - 90.0 / 110.0).abs() < 1e-12 && (tasks.difference - 1.0 / 3.0).abs() < 1e-12);
    // Within a task every row has the same difference, so that drawing rows anew changes nothing; drawing tasks does.
    assert!(rows.high - rows.low < 1e-12, "{rows:?}");
    assert_eq!((tasks.low, tasks.high), (0.0, 1.0));
    let names: Vec<_> = comparison.tasks.iter().map(|t| (t.label.task.as_deref().unwrap(), t.rows)).collect();
    assert_eq!(names, [("a", 90), ("b", 10), ("c", 10)]);
    let clusters: Vec<_> = comparison.clusters.iter().map(|c| (c.cluster.as_str(), c.tasks, c.rows, c.values[1])).collect();
    assert_eq!(clusters, [("x", 2, 100, (Metric::ExactMatch, 0.0, 0.5)), ("y", 1, 10, (Metric::ExactMatch, 0.0, 0.0))]);
}

#[test]
fn rows_without_answers_count_for_the_loss_alone() {
    let text = RowScore { nats: 10.0, tokens: 10, ..RowScore::default() };
    let base = vec![text, score(true)];
    let comparison = compare(&[Label::default(), Label::default()], &base, &base, 1);
    assert_eq!(of(&comparison, Metric::Loss, Over::Rows).base, 11.0 / 12.0);
    assert_eq!(of(&comparison, Metric::ExactMatch, Over::Rows).base, 1.0);
}

#[test]
fn answers_are_normalised_as_super_natural_instructions_does() {
    let table = [
        ("Positive.", "positive"),
        ("  It's \"A\",\n\tthen B! ", "its a then b"),
        ("the 3.5 %", "the 35"),
        ("«Ja», schön", "«ja» schön"),
        ("...", ""),
    ];
    for (text, want) in table {
        assert_eq!(normalised(text), want);
    }
}

/// What is said of a question with these choices and their log-probabilities: `acc`, `acc_norm`, `acc_bytes`.
fn chosen(choices: &[(&str, f64)], answer: usize) -> [Option<f64>; 3] {
    let choice =
        |(text, _): &(&str, f64)| Choice { ids: vec![1, 2], prompt: 1, characters: text.chars().count(), bytes: text.len() };
    let question = Question { choices: choices.iter().map(choice).collect(), answer, path: "quiz.jsonl".into(), line: 1 };
    let scores: Vec<LossSum> = choices.iter().map(|(_, logp)| LossSum { sum: -logp, tokens: 1 }).collect();
    let score = judged(&question, &scores);
    assert_eq!((score.nats, score.tokens), (-choices[answer].1, 1));
    [score.acc, score.acc_norm, score.acc_bytes]
}

#[test]
fn of_equally_likely_choices_the_first_is_taken() {
    assert_eq!(chosen(&[("aa", -3.0), ("bb", -2.0), ("cc", -2.0)], 1), [Some(1.0); 3]);
    assert_eq!(chosen(&[("aa", -3.0), ("bb", -2.0), ("cc", -2.0)], 2), [Some(0.0); 3]);
}

#[test]
fn length_counts_in_characters_for_one_and_in_bytes_for_the_other() {
    // By the sum "no" wins; a character costs -2, -1 and -1.2; a byte -2, -1 and -0.6.
    let choices = [("no", -4.0), ("a longer one", -12.0), ("äöüäö", -6.0)];
    assert_eq!(chosen(&choices, 0), [Some(1.0), Some(0.0), Some(0.0)]);
    assert_eq!(chosen(&choices, 1), [Some(0.0), Some(1.0), Some(0.0)]);
    assert_eq!(chosen(&choices, 2), [Some(0.0), Some(0.0), Some(1.0)]);
}
