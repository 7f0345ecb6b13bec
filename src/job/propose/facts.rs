//! What rows there are, in the words of the recipe's first comment.
//!
//! Refuses to know tokens, and what is chosen because of it.

use super::NamedData;
use super::columns::ColumnMapping;
use crate::curate::{CurationReport, ScanSettings, scan, summary};
use crate::error::Result;
use crate::recipe::{Malformed, Shape, Source};

/// Similarity from which rows are near copies, as `data check` has it.
const NEAR: f32 = 0.7;
/// Words of a run that makes a leak, as `data check` has it.
const NGRAM: usize = 13;

/// What was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) rows: usize,
    /// One for each name of data to train on.
    pub(super) shapes: Vec<Shape>,
    /// Words of answers: in the middle, and of the longest.
    pub(super) answer_words: (u32, u32),
    /// Sentences.
    pub(super) lines: Vec<String>,
}

impl Facts {
    /// Looks at every row once.
    ///
    /// # Errors
    /// As [`scan`].
    pub(super) fn of(train: &[NamedData], heldout: &[NamedData], mapped: &[ColumnMapping]) -> Result<Facts> {
        let source = |path: &std::path::PathBuf, columns: &[(&'static str, String)]| Source {
            path: path.clone(),
            columns: columns.iter().map(|(ours, theirs)| ((*ours).to_string(), theirs.clone())).collect(),
            malformed: Malformed::Error,
            ..Source::default()
        };
        let sources = train.iter().zip(mapped).flat_map(|(data, m)| data.files.iter().map(|f| source(f, &m.columns))).collect();
        let held = heldout.iter().flat_map(|data| data.files.iter()).map(|f| source(f, &mapped[0].columns)).collect();
        let found = scan(&ScanSettings { sources, heldout: held, against: Vec::new(), ngram: NGRAM }, &mut |_| Ok(()))?;
        let report = summary(&found, NEAR, &mut |_, _| Ok(()))?;
        Ok(Facts {
            rows: report.usable,
            shapes: train
                .iter()
                .scan(0, |at, data| Some(report.files[std::mem::replace(at, *at + data.files.len())].shape))
                .collect(),
            answer_words: (report.answer_words.median, report.answer_words.p95),
            lines: lines(&report),
        })
    }
}

fn lines(report: &CurationReport) -> Vec<String> {
    let mut lines = vec![format!(
        "{} rows, {}; a question has {} words and an answer {} (in the middle)",
        report.usable,
        languages(report),
        report.prompt_words.median,
        report.answer_words.median
    )];
    lines.extend(report.unusable.iter().map(|(why, rows)| format!("{rows} rows are not used: {why}")));
    let copies = report.copies.exact + report.copies.near;
    if copies > 0 {
        lines.push(format!(
            "{copies} rows are copies of others ({} to the letter): `lorakit data curate` leaves them out",
            report.copies.exact
        ));
    }
    if !report.leaks.rows.is_empty() {
        lines.push(format!("{} rows have held-out ones in them: `lorakit data check` names them", report.leaks.rows.len()));
    }
    lines
}

/// The three commonest languages with their shares, of at least one row in a hundred.
fn languages(report: &CurationReport) -> String {
    let mut languages: Vec<(&str, usize)> = report.languages.iter().map(|(code, rows)| (*code, *rows)).collect();
    languages.sort_by_key(|(code, rows)| (std::cmp::Reverse(*rows), *code));
    let share = |rows: usize| 100.0 * rows as f64 / report.usable.max(1) as f64;
    let common = languages.into_iter().filter(|(_, rows)| share(*rows) >= 1.0).take(3);
    let name = |code: &str| if code == "unknown" { "of no telling language".to_string() } else { code.to_string() };
    common.map(|(code, rows)| format!("{:.0} % {}", share(rows), name(code))).collect::<Vec<_>>().join(", ")
}
