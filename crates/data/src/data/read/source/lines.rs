//! JSON Lines, or one JSON array (or object with an array under `data`), read with the line of every row.

use std::ops::Range;
use std::path::Path;

use crate::json;
use crate::json::Value;

use super::{Faults, RawRow, kind};
use crate::error::{Error, Result};

/// One object a line.
pub(super) fn read_lines(path: &Path, text: &str, faults: &mut Faults) -> Result<Vec<RawRow>> {
    read_lines_from(path, 1, text, faults)
}

/// As [`read_lines`], of text that begins with line `first` of the file.
pub(super) fn read_lines_from(path: &Path, first: usize, text: &str, faults: &mut Faults) -> Result<Vec<RawRow>> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let value = json::parse(line).map_err(|e| malformed(path, first + i, &e, JSONL_HELP));
        match value.and_then(|value| row(path, first + i, value)) {
            Ok(row) => rows.push(row),
            Err(error) => faults.put(error)?,
        }
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

/// One JSON value, or several.
pub(super) fn read_json(path: &Path, text: &str, faults: &mut Faults) -> Result<Vec<RawRow>> {
    let mut walker = Walker::new(path, text, faults);
    match walker.peek() {
        Some('[') => {
            let rows = walker.array()?;
            walker.end()?;
            Ok(rows)
        }
        Some('{') => match walker.object()? {
            Some(rows) => Ok(rows),
            // Objects one after the other: JSON Lines under the wrong ending.
            None if walker.peek().is_some() => read_lines(path, text, faults),
            // One object and nothing else is one row: a file that holds a task.
            None => read_object(path, text, faults),
        },
        None => Ok(Vec::new()),
        Some(_) => Err(Error::data(path, Some(walker.line), "the file begins with neither `[` nor `{`", JSON_HELP)),
    }
}

fn read_object(path: &Path, text: &str, faults: &mut Faults) -> Result<Vec<RawRow>> {
    let mut walker = Walker::new(path, text, faults);
    walker.peek();
    let line = walker.line;
    Ok(vec![row(path, line, walker.value()?)?])
}

/// The text of every row of one JSON value, or several, on one line each, with the line that it starts on.
pub(super) fn texts_of_json(path: &Path, text: &str, faults: &mut Faults) -> Result<Vec<(usize, String)>> {
    let mut walker = Walker::new(path, text, faults);
    match walker.peek() {
        Some('[') => _ = walker.array()?,
        Some('{') if walker.object()?.is_some() => {}
        Some('{') if walker.peek().is_some() => return Ok(texts_of_lines(text)),
        Some('{') => return Ok(vec![(first_line(text), json::one_line(text).into_owned())]),
        _ => {}
    }
    Ok(walker.places.into_iter().map(|(line, place)| (line, json::one_line(&text[place]).into_owned())).collect())
}

fn first_line(text: &str) -> usize {
    1 + text[..text.len() - text.trim_start().len()].matches('\n').count()
}

/// Every line that may be a row, with its number.
pub(super) fn texts_of_lines(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| (i + 1, line.to_string())).collect()
}

/// A position in a JSON text that knows its line.
struct Walker<'a> {
    path: &'a Path,
    text: &'a str,
    pos: usize,
    line: usize,
    faults: &'a mut Faults,
    /// Line and place of every row that was read.
    places: Vec<(usize, Range<usize>)>,
}

impl<'a> Walker<'a> {
    fn new(path: &'a Path, text: &'a str, faults: &'a mut Faults) -> Walker<'a> {
        Walker { path, text, pos: 0, line: 1, faults, places: Vec::new() }
    }

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
        if self.peek().is_none() {
            return Err(self.fail("the file ends in the middle"));
        }
        let (value, read) = json::parse_first(&self.text[self.pos..])
            .map_err(|e| malformed(self.path, self.line + e.line().saturating_sub(1), &e, JSON_HELP))?;
        self.advance(self.pos + read);
        Ok(value)
    }

    fn array(&mut self) -> Result<Vec<RawRow>> {
        let mut rows = Vec::new();
        self.eat('[');
        if self.eat(']') {
            return Ok(rows);
        }
        loop {
            self.peek();
            let (line, start) = (self.line, self.pos);
            let value = self.value()?;
            match row(self.path, line, value) {
                Ok(row) => {
                    rows.push(row);
                    self.places.push((line, start..self.pos));
                }
                Err(error) => self.faults.put(error)?,
            }
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
                self.places.clear();
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
