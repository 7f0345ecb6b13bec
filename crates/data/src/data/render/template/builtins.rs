//! Tests, filters and functions of Python's Jinja that minijinja lacks or answers otherwise.
//!
//! Refuses to know values as text ([`super::python`]) and methods of values ([`super::methods`]).

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::methods;

/// Puts Python's in the place of minijinja's.
pub(super) fn add(env: &mut Environment<'static>) {
    // What `iter()` takes: an undefined value is an empty list, None is an error.
    env.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    // What has a length and an item: strings and mappings, too.
    env.add_test("sequence", |v: &Value| {
        matches!(v.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    // Python's booleans are integers.
    env.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("truncate", truncate);
    env.add_filter("list", list);
    env.add_filter("center", |text: &str, width: Option<usize>| methods::padded(text, "center", width.unwrap_or(80), " "));
    env.add_function("cycler", |items: minijinja::value::Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    env.add_function("joiner", minijinja_contrib::globals::joiner);
}

/// 0, where there is no other default, for what is no number.
fn int(state: &State, value: &Value, default: Option<Value>, base: Option<u32>, options: Kwargs) -> Result<Value, Error> {
    filters::int(state, value, default, base, options).or_else(|_| Ok(Value::from(0)))
}

/// As [`int`].
fn float(state: &State, value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    filters::float(state, value, default, options).or_else(|_| Ok(Value::from(0.0)))
}

/// Python does not take None for a list.
fn list(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "None is not iterable"));
    }
    filters::list(state, value)
}

/// Cut between words at `length` characters, `end` among them, where the text is more than five characters longer.
fn truncate(
    text: &str,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<String>,
    options: Kwargs,
) -> Result<String, Error> {
    let length = options.get::<Option<usize>>("length")?.or(length).unwrap_or(255);
    let killwords = options.get::<Option<bool>>("killwords")?.or(killwords).unwrap_or(false);
    let end = options.get::<Option<String>>("end")?.or(end).unwrap_or_else(|| "...".into());
    let leeway = options.get::<Option<usize>>("leeway")?.unwrap_or(5);
    options.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let cut: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if killwords { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}
