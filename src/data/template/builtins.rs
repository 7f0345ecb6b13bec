//! Tests and filters of Python's Jinja where minijinja's answer differently.
//!
//! Refuses to know values as text ([`super::python`]).

use minijinja::Environment;
use minijinja::value::{Value, ValueKind};

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
}
