//! Fields of rows that nothing read, and in how many rows each of them says something.
//!
//! Refuses to know which fields a shape reads.

use std::collections::BTreeMap;

use crate::json::Value;

/// The fields met so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignored {
    /// Number of the row that is being read.
    row: usize,
    /// Rows that give the field, and the last of them.
    fields: BTreeMap<String, (usize, usize)>,
}

impl Ignored {
    /// What comes belongs to another row.
    pub(super) fn next_row(&mut self) {
        self.row += 1;
    }

    /// A field that is not read.
    pub(super) fn note(&mut self, field: &str) {
        let row = self.row;
        match self.fields.get_mut(field) {
            Some((_, last)) if *last == row => {}
            Some((rows, last)) => (*rows, *last) = (*rows + 1, row),
            None => _ = self.fields.insert(field.to_string(), (1, row)),
        }
    }

    /// Each field with its number of rows.
    pub(crate) fn rows(self) -> BTreeMap<String, usize> {
        self.fields.into_iter().map(|(field, (rows, _))| (field, rows)).collect()
    }
}

/// Whether a value says anything: null, nothing, and lists and objects of nothing do not.
pub(super) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}
