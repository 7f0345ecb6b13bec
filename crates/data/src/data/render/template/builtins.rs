//! Tests, filters and functions of Python's Jinja that minijinja lacks or answers otherwise.
//!
//! Refuses to know values as text ([`super::python`]) and methods of values ([`super::methods`]).

use minijinja::value::{Kwargs, StringInput, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters, tests};

use super::{methods, written};

/// Puts Python's in the place of minijinja's.
pub(super) fn add(env: &mut Environment<'static>) {
    // What `iter()` takes: an undefined value is an empty list, None is an error.
    env.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    // What has a length and an item: strings and mappings, too.
    env.add_test("sequence", |v: &Value| {
        matches!(v.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    // Python's booleans are integers.
    env.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool) || written::plain(v).is_some());
    env.add_test("integer", |v: &Value| tests::is_integer(v) || written::is(v, true));
    env.add_test("float", |v: &Value| tests::is_float(v) || written::is(v, false));
    env.add_filter("string", string);
    env.add_filter("join", join);
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
    let value = &written::plain(value).unwrap_or_else(|| value.clone());
    filters::int(state, value, default, base, options).or_else(|_| Ok(Value::from(0)))
}

/// As [`int`].
fn float(state: &State, value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let value = &written::plain(value).unwrap_or_else(|| value.clone());
    filters::float(state, value, default, options).or_else(|_| Ok(Value::from(0.0)))
}

/// A number with its text.
fn string(state: &State, value: &Value) -> Result<Value, Error> {
    written::text(value).map_or_else(|| filters::string(state, value), |text| Ok(text.into()))
}

/// Numbers among the items with their texts.
fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    options: Kwargs,
) -> Result<Value, Error> {
    let numbers = value.kind() == ValueKind::Seq && value.try_iter()?.any(|item| written::text(&item).is_some());
    if !numbers {
        return filters::join(state, value, joiner, attribute, options);
    }
    let texts: Value = value.try_iter()?.map(|item| written::text(&item).map_or(item, Value::from)).collect();
    filters::join(state, &texts, joiner, attribute, options)
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
