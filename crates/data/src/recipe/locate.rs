//! The recipe as written: a plain tree of values, and for every dotted key the line (or `--set`) it came from.
//!
//! Refuses to know: which keys there are and what they mean.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml_edit::{Document, Item, Key, TableLike};

use crate::error::{Error, Result};

/// A file's values with their places.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) file: PathBuf,
    pub(super) tree: Map<String, Value>,
    pub(super) places: HashMap<String, WrittenAt>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WrittenAt {
    /// A line of the file, counted from 1.
    Line(usize),
    /// A `--set` argument, as typed.
    Set(String),
}

impl Written {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`Error::Recipe`] at the line where it stops being TOML, or at a value that no recipe can use (a date, `nan`).
    pub(super) fn parse(text: &str, file: &Path) -> Result<Written> {
        let document = Document::parse(text).map_err(|e| not_toml(&e, text, file))?;
        let mut written = Written { file: file.to_path_buf(), tree: Map::new(), places: HashMap::new() };
        written.tree = written.table(document.as_table(), "", text)?;
        Ok(written)
    }

    /// The complaint about `key`, at the place of the key or, when it was not written, of what it would stand in.
    pub(super) fn complain(&self, key: &str, why: impl Into<String>, help: impl Into<String>) -> Error {
        complain(&self.file, self.place(key), key, why.into(), help.into())
    }

    /// Whether the value of `key` was given on the command line.
    pub(super) fn was_set(&self, key: &str) -> bool {
        matches!(self.place(key), Some(WrittenAt::Set(_)))
    }

    fn place(&self, key: &str) -> Option<&WrittenAt> {
        place(&self.places, key)
    }

    fn table(&mut self, table: &dyn TableLike, parent: &str, text: &str) -> Result<Map<String, Value>> {
        let mut tree = Map::new();
        for (name, item) in table.iter() {
            let key = join(parent, name);
            if let Some(span) = table.key(name).and_then(Key::span).or_else(|| item.span()) {
                self.places.insert(key.clone(), WrittenAt::Line(line_of(text, span.start)));
            }
            tree.insert(name.to_string(), self.item(item, &key, text)?);
        }
        Ok(tree)
    }

    fn item(&mut self, item: &Item, key: &str, text: &str) -> Result<Value> {
        if let Some(table) = item.as_table_like() {
            return Ok(Value::Object(self.table(table, key, text)?));
        }
        if let Some(tables) = item.as_array_of_tables() {
            let mut list = Vec::new();
            for (index, table) in tables.iter().enumerate() {
                let key = self.entry(key, index, table.span(), text);
                list.push(Value::Object(self.table(table, &key, text)?));
            }
            return Ok(Value::Array(list));
        }
        match item.as_value() {
            Some(value) => self.value(value, key, text),
            None => Ok(Value::Null),
        }
    }

    /// A TOML value as a plain one; `text` is what its spans point into.
    pub(super) fn value(&mut self, value: &toml_edit::Value, key: &str, text: &str) -> Result<Value> {
        Ok(match value {
            toml_edit::Value::String(string) => Value::from(string.value().as_str()),
            toml_edit::Value::Integer(integer) => Value::from(*integer.value()),
            toml_edit::Value::Boolean(boolean) => Value::from(*boolean.value()),
            toml_edit::Value::Float(float) => match serde_json::Number::from_f64(*float.value()) {
                Some(number) => Value::Number(number),
                None => {
                    return Err(self.complain(
                        key,
                        format!("`{float}` is not a finite number", float = float.value()),
                        "write a plain number",
                    ));
                }
            },
            toml_edit::Value::Datetime(date) => {
                let help = format!("if a text is meant, put it in quotes: \"{}\"", date.value());
                return Err(self.complain(key, format!("`{}` is a date, and no key of a recipe is one", date.value()), help));
            }
            toml_edit::Value::Array(array) => {
                let mut list = Vec::new();
                for (index, value) in array.iter().enumerate() {
                    let key = self.entry(key, index, value.span(), text);
                    list.push(self.value(value, &key, text)?);
                }
                Value::Array(list)
            }
            toml_edit::Value::InlineTable(table) => Value::Object(self.table(table, key, text)?),
        })
    }

    fn entry(&mut self, list: &str, index: usize, span: Option<std::ops::Range<usize>>, text: &str) -> String {
        let key = format!("{list}[{index}]");
        if let Some(span) = span {
            self.places.insert(key.clone(), WrittenAt::Line(line_of(text, span.start)));
        }
        key
    }
}

/// Where the keys of a checked recipe were written, for what is found wrong with a value later. Recipes that say the same are
/// equal, wherever they say it.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyPlaces(HashMap<String, WrittenAt>);

impl PartialEq for KeyPlaces {
    fn eq(&self, _: &KeyPlaces) -> bool {
        true
    }
}

impl KeyPlaces {
    pub(super) fn of(written: &Written) -> KeyPlaces {
        KeyPlaces(written.places.clone())
    }

    /// As [`Written::complain`], of the recipe `file`.
    pub(super) fn complain(&self, file: &Path, key: &str, why: String, help: String) -> Error {
        complain(file, place(&self.0, key), key, why, help)
    }
}

fn place<'p>(places: &'p HashMap<String, WrittenAt>, key: &str) -> Option<&'p WrittenAt> {
    let mut key = key;
    loop {
        if let Some(place) = places.get(key) {
            return Some(place);
        }
        key = &key[..key.rfind(['.', '['])?];
    }
}

fn complain(file: &Path, place: Option<&WrittenAt>, key: &str, why: String, help: String) -> Error {
    let (file, line) = match place {
        Some(WrittenAt::Line(line)) => (file.to_path_buf(), Some(*line)),
        Some(WrittenAt::Set(argument)) => (PathBuf::from(format!("--set {argument}")), None),
        None => (file.to_path_buf(), None),
    };
    Error::Recipe { file, line, key: key.to_string(), why, help }
}

/// `parent.name`, with quotes around a name that TOML wants quoted.
pub(super) fn join(parent: &str, name: &str) -> String {
    let name = Key::new(name).display_repr().into_owned();
    if parent.is_empty() { name } else { format!("{parent}.{name}") }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn not_toml(error: &toml_edit::TomlError, text: &str, file: &Path) -> Error {
    let line = error.span().map(|span| line_of(text, span.start));
    let written = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default().trim();
    let why = format!("not valid TOML: {}", error.message().trim().replace('\n', "; "));
    Error::Recipe { file: file.to_path_buf(), line, key: written.to_string(), why, help: advice(written).to_string() }
}

/// What is most often wrong with a line like this.
fn advice(line: &str) -> &'static str {
    let value = line.split_once('=').map(|(_, value)| value.trim());
    match value {
        _ if line.starts_with('[') => "a section is written `[train]` on a line of its own, once in a file",
        Some("") => "write a value after the `=`, e.g. `rank = 16`",
        Some(value) if value.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            "put texts in double quotes, e.g. `schedule = \"cosine\"`; true and false are lower case"
        }
        Some(_) => "write each key once, as `key = value`: texts in double quotes, lists in brackets, numbers plain",
        None if line.contains(':') => "this is TOML, not YAML: write `key = value`",
        None => "write `key = value`, one a line, below a `[section]`",
    }
}
