//! Comma- or tab-separated tables (RFC 4180): a header that names the columns, then rows of strings.

use std::path::Path;

use crate::json::{Map, Value};

use super::{Faults, RawRow};
use crate::error::{Error, Result};

const HELP: &str = "the first line names the columns; a field with separators, quotes or line breaks stands in double quotes, \
    a quote in it is doubled";

/// Every row of a table. A quote is a quote at the beginning of a comma-separated field only; tab-separated ones have none.
///
/// # Errors
/// [`Error::Data`] with the line: a column without a name or named twice, a row of another width, a quote without end.
pub(super) fn read(path: &Path, text: &str, separator: u8, faults: &mut Faults) -> Result<Vec<RawRow>> {
    let quoting = separator == b',';
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(quoting)
        .flexible(true)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| Error::data(path, None, format!("not a table: {e}"), HELP))?;
        let start = record.position().map_or(0, |p| p.byte() as usize);
        // Blank lines before a row belong to its position.
        let blank = text[start..].len() - text[start..].trim_start_matches(['\r', '\n']).len();
        let line = 1 + text[..start + blank].bytes().filter(|b| *b == b'\n').count();
        if columns.is_empty() {
            columns = header(path, &record)?;
            continue;
        }
        if quoting && unclosed(&text[start + blank..], &record, text) {
            return Err(Error::data(path, Some(line), "the quote that begins here does not end", HELP));
        }
        if record.len() != columns.len() {
            let why = format!("{} fields, the header has {}", record.len(), columns.len());
            faults.put(Error::data(path, Some(line), why, HELP))?;
            continue;
        }
        let fields: Map = columns.iter().cloned().zip(record.iter().map(Value::from)).collect();
        rows.push(RawRow { line, fields });
    }
    Ok(rows)
}

fn header(path: &Path, record: &csv::StringRecord) -> Result<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    for (i, name) in record.iter().map(str::trim).enumerate() {
        let why = match () {
            () if name.is_empty() => format!("column {} has no name", i + 1),
            () if columns.iter().any(|c| c == name) => format!("column `{name}` is named twice"),
            () => {
                columns.push(name.to_string());
                continue;
            }
        };
        return Err(Error::data(path, Some(1), why, HELP));
    }
    Ok(columns)
}

/// Whether the text ends inside a quoted field of the last row, which the reader does not complain about: its quotes are odd.
fn unclosed(rest: &str, record: &csv::StringRecord, text: &str) -> bool {
    let end = record.position().map_or(0, |p| p.byte() as usize);
    let last = record.iter().next_back().unwrap_or_default();
    text.len() >= end && rest.trim_end().ends_with(last.trim_end()) && rest.bytes().filter(|b| *b == b'"').count() % 2 == 1
}
