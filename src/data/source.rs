//! Reading a file of rows: JSON Lines, or one JSON array, each row with the line it starts on.
//!
//! Refuses to know what the columns of a row mean.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files;

/// One row as written: an object and the line (from 1) it starts on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawRow {
    pub(super) line: usize,
    pub(super) fields: Map<String, Value>,
}

/// Every row of `path`, in order; blank lines and a byte-order mark are skipped.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] with the line when it is not rows of JSON or has none.
pub(super) fn read(path: &Path) -> Result<Vec<RawRow>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if !matches!(extension.as_str(), "jsonl" | "json" | "ndjson") {
        return Err(Error::data(
            path,
            None,
            format!("files ending in `.{extension}` are not read"),
            "convert it to JSON Lines (`.jsonl`, one object a line) or to a JSON array of objects (`.json`)",
        ));
    }
    let text = files::read_text(path)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let rows = if extension == "json" { read_json(path, text)? } else { read_lines(path, text)? };
    if rows.is_empty() {
        return Err(Error::data(
            path,
            None,
            "the file has no rows",
            "put at least one row into it, or remove it from the recipe",
        ));
    }
    Ok(rows)
}

fn read_lines(path: &Path, text: &str) -> Result<Vec<RawRow>> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(line).map_err(|e| malformed(path, i + 1, &e, JSONL_HELP))?;
        rows.push(row(path, i + 1, value)?);
    }
    Ok(rows)
}

const JSONL_HELP: &str = "every line must be one JSON object, e.g. {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}, …]}";
const JSON_HELP: &str = "the file must be an array of objects, or an object with an array under `data`";

fn malformed(path: &Path, line: usize, error: &serde_json::Error, help: &str) -> Error {
    // serde_json appends "at line L column C", counted from where it began to read.
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    Error::data(path, Some(line), format!("malformed JSON at column {}: {text}", error.column()), help)
}

fn row(path: &Path, line: usize, value: Value) -> Result<RawRow> {
    match value {
        Value::Object(fields) => Ok(RawRow { line, fields }),
        other => Err(Error::data(path, Some(line), format!("a row must be an object, this is {}", kind(&other)), JSONL_HELP)),
    }
}

/// The name of a JSON type, with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn read_json(path: &Path, text: &str) -> Result<Vec<RawRow>> {
    let mut walker = Walker { path, text, pos: 0, line: 1 };
    match walker.peek() {
        Some('[') => {
            let rows = walker.array()?;
            walker.end()?;
            Ok(rows)
        }
        Some('{') => match walker.object()? {
            Some(rows) => Ok(rows),
            // Objects one after the other: JSON Lines under the wrong ending.
            None if walker.peek().is_some() => read_lines(path, text),
            // One object and nothing else is one row: a file that holds a task.
            None => read_object(path, text),
        },
        None => Ok(Vec::new()),
        Some(_) => Err(Error::data(path, Some(walker.line), "the file begins with neither `[` nor `{`", JSON_HELP)),
    }
}

fn read_object(path: &Path, text: &str) -> Result<Vec<RawRow>> {
    let mut walker = Walker { path, text, pos: 0, line: 1 };
    walker.peek();
    let line = walker.line;
    Ok(vec![row(path, line, walker.value()?)?])
}

/// A position in a JSON text that knows its line.
struct Walker<'a> {
    path: &'a Path,
    text: &'a str,
    pos: usize,
    line: usize,
}

impl Walker<'_> {
    fn advance(&mut self, to: usize) {
        self.line += self.text[self.pos..to].bytes().filter(|b| *b == b'\n').count();
        self.pos = to;
    }

    /// The next character that is not white space.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.pos..];
        let skipped = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.advance(self.pos + skipped);
        self.text[self.pos..].chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.advance(self.pos + c.len_utf8());
        }
        found
    }

    fn fail(&self, why: &str) -> Error {
        Error::data(self.path, Some(self.line), format!("malformed JSON: {why}"), JSON_HELP)
    }

    fn value(&mut self) -> Result<Value> {
        self.peek();
        let mut values = serde_json::Deserializer::from_str(&self.text[self.pos..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                let read = values.byte_offset();
                self.advance(self.pos + read);
                Ok(value)
            }
            Some(Err(e)) => Err(malformed(self.path, self.line + e.line().saturating_sub(1), &e, JSON_HELP)),
            None => Err(self.fail("the file ends in the middle")),
        }
    }

    fn array(&mut self) -> Result<Vec<RawRow>> {
        let mut rows = Vec::new();
        self.eat('[');
        if self.eat(']') {
            return Ok(rows);
        }
        loop {
            self.peek();
            let line = self.line;
            let value = self.value()?;
            rows.push(row(self.path, line, value)?);
            if self.eat(']') {
                return Ok(rows);
            }
            if !self.eat(',') {
                return Err(self.fail("`,` or `]` is missing after a row"));
            }
        }
    }

    /// The rows under `data` of the object here, if it has them.
    fn object(&mut self) -> Result<Option<Vec<RawRow>>> {
        let mut rows = None;
        self.eat('{');
        if self.eat('}') {
            return Ok(None);
        }
        loop {
            let key = self.value()?;
            if !self.eat(':') {
                return Err(self.fail("`:` is missing after a key"));
            }
            if key == "data" && self.peek() == Some('[') {
                rows = Some(self.array()?);
            } else {
                self.value()?;
            }
            if self.eat('}') {
                return Ok(rows);
            }
            if !self.eat(',') {
                return Err(self.fail("`,` or `}` is missing after a value"));
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fail("there is text after the end of the array")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> Result<Vec<RawRow>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn lines(rows: &[RawRow]) -> Vec<usize> {
        rows.iter().map(|r| r.line).collect()
    }

    #[test]
    fn json_lines_keep_their_numbers_past_blanks_and_a_bom() {
        let rows = written("a.jsonl", "\u{feff}{\"text\":\"a\"}\n\n  \n{\"text\":\"b\"}\r\n").unwrap();
        assert_eq!(lines(&rows), [1, 4]);
    }

    #[test]
    fn arrays_know_the_line_of_every_row() {
        let rows = written("a.json", "[\n {\"text\":\n  \"a\"},\n\n {\"text\":\"b\"}, {\"text\":\"c\"}\n]").unwrap();
        assert_eq!(lines(&rows), [2, 5, 5]);
        let rows = written("b.json", "{\"version\": 1,\n\"data\": [\n{\"text\":\"a\"}\n]}").unwrap();
        assert_eq!(lines(&rows), [3]);
        let rows = written("c.json", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n").unwrap();
        assert_eq!(lines(&rows), [1, 2]);
    }

    #[test]
    fn broken_files_name_the_line() {
        let table = [
            ("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\n", ":2: malformed JSON"),
            ("a.jsonl", "[1]\n", ":1: a row must be an object, this is an array"),
            ("a.jsonl", "\n\n", "no rows"),
            ("a.json", "[]", "no rows"),
            ("a.json", "", "no rows"),
            ("a.json", "[{\"text\":\"a\"},\n{\"text\" \"b\"}]", ":2: malformed JSON"),
            ("a.json", "[{\"text\":\"a\"}\n{\"text\":\"b\"}]", ":2: malformed JSON: `,` or `]`"),
            ("a.json", "[{\"text\":\"a\"}", "malformed JSON: `,` or `]`"),
            ("a.json", "[{\"text\":\"a\"}] x", "after the end"),
            ("a.json", "hello", "neither `[` nor `{`"),
            ("a.csv", "a,b", "`.csv` are not read"),
        ];
        for (name, text, expect) in table {
            let error = written(name, text).unwrap_err().to_string();
            assert!(error.contains(expect), "{text:?}: {error}");
        }
    }
}
