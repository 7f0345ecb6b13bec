//! One table of a `config.json`, read key by key, with errors that name the key. Refuses to know: what a key means.

use std::path::Path;

use serde_json::Value;

use super::family::{Count, Missing};
use crate::error::{Error, Result};

/// Reads keys of one table of a `config.json`, with errors that name the key.
pub(super) struct ConfigReader<'a> {
    pub json: &'a Value,
    pub path: &'a Path,
    /// What stands before a key in messages, such as `rope_parameters.`.
    pub prefix: &'static str,
}

/// What to do about a key that no published file has so.
pub(super) const RESTORE: &str = "restore the config.json of the model";

impl ConfigReader<'_> {
    /// The error about a key.
    pub(super) fn fail(&self, key: &str, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::model(self.path, format!("config `{}{key}`", self.prefix), why, help)
    }

    /// A finite number; `None` where the key is not there.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.json.get(key).map_or(Ok(None), |value| {
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
        match self.json.get(key) {
            None => Ok(Some(usual)),
            Some(Value::Null) => Ok(None),
            Some(_) => self.positive(key).map(Some),
        }
    }

    /// A count from 1 to 2^24; `None` where it follows from others.
    pub(super) fn count(&self, Count(names, missing): &Count) -> Result<Option<usize>> {
        let found = names.iter().find_map(|name| Some((*name, self.json.get(*name)?)));
        match (found, *missing) {
            (None, Missing::Is(n) | Missing::IsOrDerived(n)) => Ok(Some(n)),
            (None, Missing::Derived) => Ok(None),
            (Some((_, Value::Null)), Missing::Derived | Missing::IsOrDerived(_)) => Ok(None),
            (Some((name, value)), _) => match value.as_f64() {
                Some(v) if v.fract() == 0.0 && (1.0..=16_777_216.0).contains(&v) => Ok(Some(v as usize)),
                Some(_) => Err(self.fail(name, format!("{value} is not a possible size"), RESTORE)),
                None => Err(self.fail(name, format!("expected a number, found {value}"), RESTORE)),
            },
        }
    }

    /// A count that follows from no other.
    pub(super) fn size(&self, count: &Count) -> Result<usize> {
        self.count(count)?.ok_or_else(|| self.fail(count.0[0], "missing", RESTORE))
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.json.get(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.fail(name, format!("expected true or false, found {other}"), RESTORE)),
        }
    }
}
