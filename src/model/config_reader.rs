//! One table of a `config.json`, read key by key, with errors that name the key. It remembers which keys were read. Refuses to
//! know: what a key means.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::family::{Count, Missing};
use crate::error::{Error, Result};

/// Reads keys of one table of a `config.json`, with errors that name the key.
pub(super) struct ConfigReader<'a> {
    pub json: &'a Value,
    pub path: &'a Path,
    /// What stands before a key in messages, such as `rope_parameters.`.
    pub prefix: String,
    read: RefCell<BTreeSet<String>>,
}

/// What to do about a key that no published file has so.
pub(super) const RESTORE: &str = "restore the config.json of the model";

impl<'a> ConfigReader<'a> {
    pub(super) fn new(json: &'a Value, path: &'a Path, prefix: impl Into<String>) -> ConfigReader<'a> {
        ConfigReader { json, path, prefix: prefix.into(), read: RefCell::default() }
    }

    /// The value of a key, which counts as read.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_string());
        self.json.get(key)
    }

    /// Keys that nobody has read, with their values.
    pub(super) fn unread(&self) -> Vec<(&'a str, &'a Value)> {
        let read = self.read.borrow();
        let all = self.json.as_object().into_iter().flatten();
        all.map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !read.contains(*key)).collect()
    }

    /// The table of a key; an empty one says nothing.
    pub(super) fn table(&self, key: &str) -> Result<Option<ConfigReader<'a>>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(table)) if table.is_empty() => Ok(None),
            Some(json @ Value::Object(_)) => Ok(Some(ConfigReader::new(json, self.path, format!("{}{key}.", self.prefix)))),
            Some(other) => Err(self.fail(key, format!("expected a table, found {other}"), RESTORE)),
        }
    }

    /// The error about a key.
    pub(super) fn fail(&self, key: &str, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::model(self.path, format!("config `{}{key}`", self.prefix), why, help)
    }

    /// A finite number; `None` where the key is not there.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map_or(Ok(None), |value| {
            let number = value.as_f64().filter(|v| v.is_finite());
            number.map(Some).ok_or_else(|| self.fail(key, format!("expected a number, found {value}"), RESTORE))
        })
    }

    /// A number above zero that must be there.
    pub(super) fn positive(&self, key: &str) -> Result<f64> {
        match self.number(key)? {
            None => Err(self.fail(key, "missing", RESTORE)),
            Some(v) if v > 0.0 => Ok(v),
            Some(v) => Err(self.fail(key, format!("{v} is not possible: it must be above zero"), RESTORE)),
        }
    }

    /// As [`ConfigReader::positive`], `usual` where the key is not there; `null` is none.
    pub(super) fn positive_or(&self, key: &str, usual: f64) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(Some(usual)),
            Some(Value::Null) => Ok(None),
            Some(_) => self.positive(key).map(Some),
        }
    }

    /// As [`ConfigReader::positive_or`], where there must be a number.
    pub(super) fn factor_or(&self, key: &str, usual: f64) -> Result<f64> {
        self.positive_or(key, usual)?.ok_or_else(|| self.fail(key, "null is not a number", RESTORE))
    }

    /// A count from 1 to 2^24; `None` where it follows from others.
    pub(super) fn count(&self, Count(names, missing): &Count) -> Result<Option<usize>> {
        let all: Vec<_> = names.iter().map(|name| (*name, self.get(name))).collect();
        let found = all.into_iter().find_map(|(name, value)| Some((name, value?)));
        match (found, *missing) {
            (None, Missing::Is(n) | Missing::IsOrDerived(n)) => Ok(Some(n)),
            (None, Missing::Derived) => Ok(None),
            (Some((_, Value::Null)), Missing::Derived | Missing::IsOrDerived(_)) => Ok(None),
            (Some((name, value)), _) => self.whole(name, value).map(Some),
        }
    }

    fn whole(&self, name: &str, value: &Value) -> Result<usize> {
        match value.as_f64() {
            Some(v) if v.fract() == 0.0 && (1.0..=16_777_216.0).contains(&v) => Ok(v as usize),
            Some(_) => Err(self.fail(name, format!("{value} is not a possible size"), RESTORE)),
            None => Err(self.fail(name, format!("expected a number, found {value}"), RESTORE)),
        }
    }

    /// A count with a default.
    pub(super) fn count_or(&self, key: &str, usual: usize) -> Result<usize> {
        self.get(key).map_or(Ok(usual), |value| self.whole(key, value))
    }

    /// A count that may be missing.
    pub(super) fn whole_or(&self, key: &str, missing: Option<usize>) -> Result<Option<usize>> {
        self.get(key).map_or(Ok(missing), |value| self.whole(key, value).map(Some))
    }

    /// A count that follows from no other.
    pub(super) fn size(&self, count: &Count) -> Result<usize> {
        self.count(count)?.ok_or_else(|| self.fail(count.0[0], "missing", RESTORE))
    }

    /// A number with a default.
    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number(key)?.unwrap_or(default))
    }

    /// A list of numbers above zero.
    pub(super) fn positives(&self, key: &str) -> Result<Vec<f64>> {
        let list =
            self.get(key).and_then(Value::as_array).ok_or_else(|| self.fail(key, "expected a list of numbers", RESTORE))?;
        let number = |v: &Value| v.as_f64().filter(|v| v.is_finite() && *v > 0.0);
        let numbers: Option<Vec<f64>> = list.iter().map(number).collect();
        numbers.ok_or_else(|| self.fail(key, "expected numbers above zero", RESTORE))
    }

    /// A list of numbers; empty where there is none.
    pub(super) fn numbers_or_none(&self, key: &str) -> Result<Vec<f64>> {
        let Some(value) = self.get(key).filter(|v| !v.is_null()) else { return Ok(Vec::new()) };
        let list: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        list.ok_or_else(|| self.fail(key, format!("expected a list of numbers, found {value}"), RESTORE))
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.fail(name, format!("expected true or false, found {other}"), RESTORE)),
        }
    }
}
