//! Plain text: cut between paragraphs into documents of about [`SIZE`] characters, each a row with the field `text`.

use std::path::Path;

use crate::json::Value;

use super::{Faults, RawRow};
use crate::error::Result;

/// A document ends with the paragraph that reaches this many bytes: some 400 tokens of English.
const SIZE: usize = 1500;

/// The documents of a text; a paragraph ends at a blank line.
pub(super) fn read(_: &Path, text: &str, _: &mut Faults) -> Result<Vec<RawRow>> {
    let mut rows = Vec::new();
    let (mut document, mut start) = (String::new(), 1);
    let mut put = |document: &mut String, start: usize| {
        let text = std::mem::take(document);
        if !text.trim().is_empty() {
            rows.push(RawRow { line: start, fields: [("text".to_string(), Value::from(text.trim()))].into_iter().collect() });
        }
    };
    for (i, line) in text.lines().enumerate() {
        let blank = line.trim().is_empty();
        if blank && document.len() >= SIZE {
            put(&mut document, start);
        }
        if document.is_empty() {
            if blank {
                continue;
            }
            start = i + 1;
        }
        document += line;
        document.push('\n');
    }
    put(&mut document, start);
    Ok(rows)
}
