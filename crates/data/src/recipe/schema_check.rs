//! The written tree against the schema: unknown keys, missing keys, wrong types, values out of range.
//!
//! Every complaint is worded from the schema, so a key is described in one place (`raw`). Refuses to know: what the
//! keys do, and which values exclude each other.

use serde_json::Value;

use super::key_synonyms;
use super::locate::{Written, join};
use super::schema::{branches, doc, expects, properties, shared, words};
use super::write::toml_value;
use crate::error::{Error, Result, nearest};

/// Checks every value that was written.
///
/// # Errors
/// [`Error::Recipe`] for the first key that the schema does not allow.
pub(super) fn check(written: &Written) -> Result<()> {
    let tree = Value::Object(written.tree.clone());
    Walk { written }.value(shared(), &tree, "")
}

struct Walk<'a> {
    written: &'a Written,
}

impl Walk<'_> {
    fn value(&self, schema: &Value, value: &Value, key: &str) -> Result<()> {
        let allowed = words(schema);
        if !allowed.is_empty() {
            return self.word(schema, &allowed, value, key);
        }
        let fitting: Vec<&Value> = branches(schema).into_iter().filter(|branch| fits(branch, value)).collect();
        let Some((first, others)) = fitting.split_first() else { return Err(self.wrong_type(schema, value, key)) };
        let outcome = self.branch(first, schema, value, key);
        match outcome {
            Err(_) if others.iter().any(|other| self.branch(other, schema, value, key).is_ok()) => Ok(()),
            outcome => outcome,
        }
    }

    fn branch(&self, branch: &Value, schema: &Value, value: &Value, key: &str) -> Result<()> {
        match value {
            Value::Object(_) => self.table(branch, value, key),
            Value::Array(list) => self.list(branch, schema, list, key),
            Value::Number(number) => match outside(branch, number.as_f64().unwrap_or(f64::NAN)) {
                Some(bound) => {
                    Err(self.written.complain(key, format!("is {number}, but must be {bound}"), remedy(schema, key, "")))
                }
                None => Ok(()),
            },
            Value::String(text) if text.trim().is_empty() && branch.get("minLength").is_some() => {
                Err(self.written.complain(key, "is an empty text", remedy(schema, key, "")))
            }
            _ => Ok(()),
        }
    }

    fn table(&self, schema: &Value, value: &Value, key: &str) -> Result<()> {
        let other = schema.get("additionalProperties");
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = join(key, name);
            match schema.get("properties").and_then(|fields| fields.get(name)).or(other) {
                None | Some(Value::Bool(false)) => return Err(self.unknown(schema, name, key)),
                Some(field) => self.value(field, value, &path)?,
            }
        }
        let mut needed = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        match needed.find(|name| value.get(name).is_none()) {
            Some(name) => Err(self.missing(&schema["properties"][name], &join(key, name))),
            None => Ok(()),
        }
    }

    fn list(&self, branch: &Value, schema: &Value, list: &[Value], key: &str) -> Result<()> {
        if list.is_empty() && branch.get("minItems").is_some() {
            return Err(self.written.complain(key, "is an empty list", remedy(schema, key, ", or leave the key out")));
        }
        let items = branch.get("items").unwrap_or(&Value::Null);
        list.iter().enumerate().try_for_each(|(index, item)| self.value(items, item, &format!("{key}[{index}]")))
    }

    fn word(&self, schema: &Value, allowed: &[&str], value: &Value, key: &str) -> Result<()> {
        let Some(word) = value.as_str() else {
            let why = format!("is {}, but must be one of {}", found(value), expects(schema));
            return Err(self.written.complain(key, why, remedy(schema, key, "")));
        };
        if allowed.contains(&word) {
            return Ok(());
        }
        let guess = nearest(&word.to_lowercase(), allowed.iter().copied());
        let guess = guess.map(|guess| format!("did you mean \"{guess}\"? ")).unwrap_or_default();
        Err(self.written.complain(
            key,
            format!("\"{word}\" is not one of the choices"),
            format!("{guess}choices: {}", expects(schema)),
        ))
    }

    fn wrong_type(&self, schema: &Value, value: &Value, key: &str) -> Error {
        let why = format!("is {}, but must be {}", found(value), expects(schema));
        let mut help = remedy(schema, key, "");
        let unquoted = value.as_str().filter(|text| text.parse::<f64>().is_ok() || matches!(*text, "true" | "false"));
        if let Some(text) = unquoted {
            help = format!("write it without quotes: `{} = {text}`", last(key));
        }
        let only_text = branches(schema).iter().all(|branch| branch["type"] == "string");
        if only_text && !key.ends_with(']') && matches!(value, Value::Number(_) | Value::Bool(_)) {
            help = format!("write it with quotes: `{} = \"{value}\"`", last(key));
        }
        if !key.contains('.') {
            help = format!("write the keys of this section below a line `[{key}]`");
        }
        self.written.complain(key, why, help)
    }

    fn missing(&self, schema: &Value, key: &str) -> Error {
        let inner = schema.get("required").and_then(Value::as_array).and_then(|list| list.first()).and_then(Value::as_str);
        match inner {
            Some(name) => self.missing(&schema["properties"][name], &join(key, name)),
            None => {
                let section = key.rsplit_once('.').map(|(section, _)| section).unwrap_or_default();
                let whereto = if section.contains('[') { String::new() } else { format!(" below `[{section}]`") };
                self.written.complain(key, "is missing, and there is no default", remedy(schema, key, &whereto))
            }
        }
    }

    fn unknown(&self, schema: &Value, name: &str, parent: &str) -> Error {
        let key = join(parent, name);
        let siblings: Vec<&str> = properties(schema).map(|(name, _)| name).collect();
        let list = match parent {
            "" => format!("sections: {}", siblings.iter().map(|name| format!("[{name}]")).collect::<Vec<_>>().join(" ")),
            _ => format!("keys of `{parent}`: {}", siblings.join(", ")),
        };
        let is_section = self.written.tree.get(name).is_some_and(Value::is_object) && parent.is_empty();
        let section = || key_synonyms::section(name).or_else(|| nearest(&name.to_lowercase(), siblings.iter().copied()));
        let guess = match (is_section.then(section).flatten(), key_synonyms::meant(name)) {
            (Some(ours), _) => format!("did you mean `[{ours}]`? "),
            (None, Some(ours)) => format!("write `{ours}` instead; "),
            (None, None) => guess(name, parent, &siblings).map(|key| format!("did you mean `{key}`? ")).unwrap_or_default(),
        };
        let what = if is_section { "section" } else { "key" };
        self.written.complain(&key, format!("there is no such {what}"), format!("{guess}{list}"))
    }
}

/// A key of that name in another section, else the nearest here, else the nearest anywhere.
fn guess(name: &str, parent: &str, siblings: &[&str]) -> Option<String> {
    let elsewhere: Vec<(String, &str)> = properties(shared())
        .flat_map(|(section, fields)| properties(fields).map(move |(name, _)| (format!("{section}.{name}"), name)))
        .collect();
    let name = &name.to_lowercase();
    if let Some((key, _)) = elsewhere.iter().find(|(_, other)| other == name) {
        return Some(key.clone());
    }
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return Some(join(parent, near));
    }
    let near = nearest(name, elsewhere.iter().map(|(_, name)| *name))?;
    elsewhere.iter().find(|(_, name)| *name == near).map(|(key, _)| key.clone())
}

fn fits(branch: &Value, value: &Value) -> bool {
    match branch["type"].as_str().unwrap_or_default() {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// The bound that `number` breaks, in words.
fn outside(schema: &Value, number: f64) -> Option<String> {
    type Breaks = fn(f64, f64) -> bool;
    let bounds: [(&str, &str, Breaks); 4] = [
        ("minimum", "at least", |x, b| x < b),
        ("exclusiveMinimum", "above", |x, b| x <= b),
        ("maximum", "at most", |x, b| x > b),
        ("exclusiveMaximum", "below", |x, b| x >= b),
    ];
    bounds.into_iter().find_map(|(name, words, breaks)| {
        let bound = schema.get(name)?;
        breaks(number, bound.as_f64()?).then(|| format!("{words} {bound}"))
    })
}

fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text \"{text}\""),
        Value::Number(number) if number.is_f64() => format!("the fractional number {}", toml_value(value)),
        Value::Number(number) => format!("the number {number}"),
        Value::Bool(bool) => format!("{bool}"),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a table".to_string(),
        Value::Null => "empty".to_string(),
    }
}

/// What to write (`note` says more about that), and what the key is for.
fn remedy(schema: &Value, key: &str, note: &str) -> String {
    let examples = schema.get("examples").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let written: Vec<String> = examples.iter().map(|example| format!("`{} = {}`", last(key), toml_value(example))).collect();
    let doc = doc(schema);
    let gap = if doc.is_empty() { "" } else { ". " };
    match key.strip_suffix(']') {
        Some(_) => format!("every entry of the list is {}{note}", expects(schema)),
        None if written.is_empty() => format!("write {}{note}{gap}{doc}", expects(schema)),
        None => format!("write e.g. {}{note}{gap}{doc}", written.join(" or ")),
    }
}

/// The name after the last dot that is not in quotes.
fn last(key: &str) -> &str {
    let mut quote = None;
    let mut start = 0;
    for (at, char) in key.char_indices() {
        match (quote, char) {
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            (None, '.') => start = at + 1,
            _ => {}
        }
    }
    &key[start..]
}
