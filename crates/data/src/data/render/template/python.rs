//! Values as Python prints them: `str()` for what a template writes out, `json.dumps` for its `tojson`.
//!
//! Refuses to know templates.

use std::fmt::Write;
use std::sync::LazyLock;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use regex::Regex;

use super::written;
use crate::json::Value as Json;
use crate::json::float_text;

/// Longest text that one value is written as, in bytes.
const MAX_TEXT: usize = 4 << 20;
/// Deepest nesting of a value that is written; a row of data has at most 128 levels, the template adds a few.
const MAX_DEPTH: usize = 256;

/// Layout of JSON: Python's `json.dumps(indent=, sort_keys=, separators=, ensure_ascii=)`.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonStyle {
    pub(super) indent: Option<usize>,
    pub(super) sort_keys: bool,
    /// Between items, and after keys; `None`: Python's defaults.
    pub(super) separators: Option<[String; 2]>,
    /// Everything beyond ASCII as escapes.
    pub(super) ascii: bool,
}

impl JsonStyle {
    fn between(&self) -> &str {
        let default = if self.indent.is_some() { "," } else { ", " };
        self.separators.as_ref().map_or(default, |[item, _]| item)
    }

    fn after_key(&self) -> &str {
        self.separators.as_ref().map_or(": ", |[_, key]| key)
    }
}

/// A template can build values whose text has no end: lists in lists, each of them twice in the next.
fn bound(out: &str, more: usize, depth: usize) -> Result<(), Error> {
    let why = match (depth > MAX_DEPTH, out.len().saturating_add(more) > MAX_TEXT) {
        (true, _) => format!("a value has more than {MAX_DEPTH} levels"),
        (_, true) => format!("the text of a value is longer than {MAX_TEXT} bytes"),
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::BadSerialization, why))
}

/// `json.dumps(value, ensure_ascii=False)`, as transformers defines `tojson` (no HTML escapes).
pub(super) fn json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(value, style, 0, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) -> Result<(), Error> {
    bound(out, 0, depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_json_string(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => write_json_list(value, style, depth, out)?,
        ValueKind::Map => write_json_map(value, style, depth, out)?,
        _ if written::text(value).is_some() => out.push_str(&number(value)),
        kind => {
            let why = format!("tojson: a value of type {kind} has no JSON form");
            return Err(Error::new(ErrorKind::BadSerialization, why));
        }
    }
    Ok(())
}

fn write_json_string(text: &str, style: &JsonStyle, out: &mut String) {
    // serde_json escapes strings as `json.dumps(ensure_ascii=False)` does.
    let json = serde_json::Value::from(text).to_string();
    for c in json.chars() {
        match style.ascii && !(' '..='~').contains(&c) {
            // Writing to a string cannot fail.
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}")),
            false => out.push(c),
        }
    }
}

fn write_json_list(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) -> Result<(), Error> {
    let items: Vec<Value> = value.try_iter()?.collect();
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        separate(style, depth + 1, i > 0, out)?;
        write_json(item, style, depth + 1, out)?;
    }
    close(style, depth, items.is_empty(), ']', out)
}

fn write_json_map(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) -> Result<(), Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if style.sort_keys {
        keys.sort();
    }
    out.push('{');
    for (i, key) in keys.iter().enumerate() {
        separate(style, depth + 1, i > 0, out)?;
        write_json_string(&print(key)?, style, out);
        out.push_str(style.after_key());
        write_json(&value.get_item(key)?, style, depth + 1, out)?;
    }
    close(style, depth, keys.is_empty(), '}', out)
}

fn separate(style: &JsonStyle, depth: usize, comma: bool, out: &mut String) -> Result<(), Error> {
    if comma {
        out.push_str(style.between());
    }
    style.indent.map_or(Ok(()), |width| indented_line(width, depth, out))
}

fn close(style: &JsonStyle, depth: usize, empty: bool, bracket: char, out: &mut String) -> Result<(), Error> {
    if let Some(width) = style.indent.filter(|_| !empty) {
        indented_line(width, depth, out)?;
    }
    out.push(bracket);
    Ok(())
}

fn indented_line(width: usize, depth: usize, out: &mut String) -> Result<(), Error> {
    let spaces = width.saturating_mul(depth);
    bound(out, spaces, depth)?;
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', spaces));
    Ok(())
}

/// What `{{ value }}` writes in Jinja: Python's `str(value)`.
pub(super) fn print(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        _ => {
            let mut out = String::new();
            repr(value, 0, &mut out)?;
            Ok(out)
        }
    }
}

fn number(value: &Value) -> String {
    if let Some(text) = written::text(value) {
        return text;
    }
    match value.is_integer() {
        true => value.to_string(),
        false => f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float_text),
    }
}

fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    bound(out, 0, depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), depth + 1, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            // Writing to a string cannot fail.
            c if !printable(c) && u32::from(c) < 0x100 => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c if !printable(c) && u32::from(c) < 0x1_0000 => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c if !printable(c) => _ = write!(out, "\\U{:08x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Python's `str.isprintable` of a character: no control, no space but the usual one, nothing that is not assigned.
fn printable(c: char) -> bool {
    #[allow(clippy::unwrap_used, reason = "the pattern is a constant and parses")]
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").unwrap());
    (' '..='~').contains(&c) || !OTHERS.is_match(c.encode_utf8(&mut [0; 4]))
}

/// A JSON value as a template sees it.
pub(crate) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => written::value(n),
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(k, v)| (k.as_str(), from_json(v)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        from_json(&crate::json::parse(json).unwrap())
    }

    #[test]
    fn json_is_that_of_python() {
        let v = value(r#"{"b": [1, 2.0, true, null, "é<\"'"], "a": {}, "e": 1e+20}"#);
        assert_eq!(json(&v, &JsonStyle::default()).unwrap(), r#"{"b": [1, 2.0, true, null, "é<\"'"], "a": {}, "e": 1e+20}"#);
        let v = value(r#"{"b": [1], "a": []}"#);
        let style = JsonStyle { indent: Some(2), sort_keys: true, ..JsonStyle::default() };
        assert_eq!(json(&v, &style).unwrap(), "{\n  \"a\": [],\n  \"b\": [\n    1\n  ]\n}");
    }

    #[test]
    fn printing_is_that_of_python() {
        let v = value(r#"[true, null, "it's", 'x', 1.5, {"k": false}]"#.replace("'x'", "\"x\"").as_str());
        assert_eq!(print(&v).unwrap(), r#"[True, None, "it's", 'x', 1.5, {'k': False}]"#);
        assert_eq!(print(&Value::from("a\nb")).unwrap(), "a\nb");
        assert_eq!(float_text(1e-5), "1e-05");
        assert_eq!(float_text(1e16), "1e+16");
        assert_eq!(float_text(0.0001), "0.0001");
    }
}
