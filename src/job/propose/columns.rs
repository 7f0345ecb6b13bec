//! Which columns of a file ask and which answer, where their names are no shape's.
//!
//! Refuses to know what becomes of the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::curate::text_columns;
use crate::error::Result;

/// What is asked, the likeliest name first.
const ASKS: [&str; 15] = [
    "question",
    "query",
    "prompt",
    "instruction",
    "input",
    "inputs",
    "text",
    "sentence",
    "utterance",
    "message",
    "user",
    "human",
    "source",
    "document",
    "article",
];
/// What is answered, the likeliest name first.
const ANSWERS: [&str; 17] = [
    "answer",
    "response",
    "output",
    "outputs",
    "completion",
    "target",
    "targets",
    "reply",
    "assistant",
    "bot",
    "summary",
    "intent",
    "label",
    "label_text",
    "class",
    "category",
    "topic",
];
/// Rows that are looked at.
const ENOUGH: usize = 2000;
/// Most different answers that are listed in the system message.
const LISTED: usize = 20;
/// Most characters of an answer that is the name of a class.
const NAME: usize = 60;

/// How the columns of a file are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ColumnMapping {
    /// Our field, the file's column; empty where the names are those of a shape.
    pub(super) columns: Vec<(&'static str, String)>,
    /// What the answers are, where they are names of classes.
    pub(super) classes: Option<Classes>,
}

/// Answers that come again and again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Classes {
    /// The column they stand in.
    pub(super) column: String,
    /// In the order of the alphabet.
    pub(super) names: Vec<String>,
}

impl Classes {
    /// The system message that asks for one of them.
    pub(super) fn system(&self) -> String {
        let what = self.column.replace('_', " ");
        match self.names.len() <= LISTED {
            true => format!("Answer with the {what} of the message, one of: {}.", self.names.join(", ")),
            false => format!("Answer with the {what} of the message and nothing else."),
        }
    }
}

/// The mapping of a file. Where no two columns ask and answer, none: reading the rows will say what is wrong.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn of(file: &Path) -> Result<ColumnMapping> {
    Ok(mapping(&text_columns(file, ENOUGH)?))
}

/// Columns that hold text, by name.
type TextColumns = Vec<(String, String)>;

fn mapping(rows: &[TextColumns]) -> ColumnMapping {
    let mut filled: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter().flatten().for_each(|(name, _)| *filled.entry(name).or_default() += 1);
    let in_most = |name: &&&str| filled.get(**name).is_some_and(|n| *n * 2 > rows.len());
    let (Some(asks), Some(answers)) = (ASKS.iter().find(in_most), ANSWERS.iter().find(in_most)) else {
        return ColumnMapping::default();
    };
    let columns = match (*asks, *answers) {
        ("prompt", "completion") | ("instruction", "output") => Vec::new(),
        _ => vec![("prompt", (*asks).to_string()), ("completion", (*answers).to_string())],
    };
    ColumnMapping { columns, classes: classes(rows, answers) }
}

/// The classes, if the answers are short and each comes three times on average.
fn classes(rows: &[TextColumns], column: &str) -> Option<Classes> {
    let answers: Vec<&str> = rows.iter().flatten().filter(|(name, _)| name == column).map(|(_, text)| text.as_str()).collect();
    let names: BTreeSet<String> = answers.iter().map(ToString::to_string).collect();
    let few = names.len() * 3 <= answers.len() && names.iter().all(|name| name.chars().count() <= NAME);
    few.then(|| Classes { column: column.to_string(), names: names.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[(&str, &str)]) -> TextColumns {
        columns.iter().map(|(name, text)| ((*name).to_string(), (*text).to_string())).collect()
    }

    #[test]
    fn a_table_of_texts_and_classes_asks_for_the_class() {
        let rows: Vec<TextColumns> = (0..12)
            .map(|i| row(&[("text", &format!("message {i}")), ("intent", ["cancel", "order"][i % 2]), ("category", "X")]))
            .collect();
        let found = mapping(&rows);
        assert_eq!(found.columns, [("prompt", "text".to_string()), ("completion", "intent".to_string())]);
        assert_eq!(found.classes.unwrap().system(), "Answer with the intent of the message, one of: cancel, order.");
    }

    #[test]
    fn answers_that_are_all_different_are_no_classes() {
        let rows: Vec<TextColumns> =
            (0..12).map(|i| row(&[("question", &format!("why {i}?")), ("answer", &format!("because of {i}"))])).collect();
        let found = mapping(&rows);
        assert_eq!(found.columns, [("prompt", "question".to_string()), ("completion", "answer".to_string())]);
        assert_eq!(found.classes, None);
    }

    #[test]
    fn names_of_a_shape_are_left_alone_and_lone_columns_too() {
        let alpaca = row(&[("instruction", "a"), ("output", "b")]);
        assert_eq!(mapping(&[alpaca]).columns, []);
        assert_eq!(mapping(&[row(&[("text", "a")])]), ColumnMapping::default());
        // A column that is empty in most rows does not answer.
        let rows = [row(&[("text", "a"), ("label", "b")]), row(&[("text", "a")]), row(&[("text", "a")])];
        assert_eq!(mapping(&rows), ColumnMapping::default());
    }
}
