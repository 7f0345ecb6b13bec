//! The JSON Schema of a recipe, derived from the raw form, and the list of keys in it.
//!
//! Refuses to know: any recipe.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::raw::RawRecipe;
use super::write::toml_value;

/// The JSON Schema (draft 2020-12) of a recipe, without references, ready for an editor's TOML plugin.
pub fn schema() -> Value {
    shared().clone()
}

/// The same, made once.
pub(super) fn shared() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<RawRecipe>().to_value();
        tidy(&mut schema);
        schema
    })
}

/// A key of a recipe and what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDoc {
    /// Dotted, e.g. `adapter.rank`.
    pub key: String,
    /// What may be written, in words.
    pub expects: String,
    /// What holds when it is absent, as TOML.
    pub default: Option<String>,
    pub doc: String,
}

/// Every key of every section, in the order of the sections.
pub fn keys() -> Vec<KeyDoc> {
    let mut keys = Vec::new();
    let mut tables = HashSet::new();
    for (section, fields) in properties(shared()) {
        describe(section, fields, &mut tables, &mut keys);
    }
    keys
}

/// The keys of a table, each before its own keys where it is a table, or may be one or a list of them (`KEY[]`). Such tables that
/// several keys have (sources of rows) are described once; `tables` has those that were.
fn describe(table: &str, fields: &Value, tables: &mut HashSet<Vec<String>>, keys: &mut Vec<KeyDoc>) {
    for (name, field) in properties(fields) {
        let key = format!("{table}.{name}");
        let default = field.get("default").map(toml_value);
        keys.push(KeyDoc { key: key.clone(), expects: expects(field), default, doc: doc(field).to_string() });
        let not_null = |branch: &&Value| branch.get("type").and_then(Value::as_str) != Some("null");
        let ways: Vec<&Value> = branches(field).into_iter().filter(not_null).collect();
        if let [only] = ways[..]
            && properties(only).next().is_some()
        {
            describe(&key, only, tables, keys);
            continue;
        }
        let items = ways.iter().flat_map(|way| way.get("items").map(branches).unwrap_or_default());
        let table = ways.iter().copied().chain(items).find(|way| properties(way).next().is_some());
        if let Some(table) = table
            && tables.insert(properties(table).map(|(name, _)| name.to_string()).collect())
        {
            describe(&format!("{key}[]"), table, tables, keys);
        }
    }
}

/// The named members of an object schema.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, field)| (name.as_str(), field))
}

/// The alternatives of a schema: itself when it has none.
pub(super) fn branches(schema: &Value) -> Vec<&Value> {
    match schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        Some(list) => list.iter().flat_map(branches).collect(),
        None => vec![schema],
    }
}

/// The words a schema allows, when it allows only certain words.
pub(super) fn words(schema: &Value) -> Vec<&str> {
    branches(schema)
        .into_iter()
        .flat_map(|branch| {
            let listed = branch.get("enum").and_then(Value::as_array).into_iter().flatten();
            branch.get("const").into_iter().chain(listed).filter_map(Value::as_str)
        })
        .collect()
}

/// What may be written, in words: `a whole number of at least 1`.
pub(super) fn expects(schema: &Value) -> String {
    let words = words(schema);
    if !words.is_empty() {
        return words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    }
    let mut kinds: Vec<String> = branches(schema).into_iter().map(kind).collect();
    kinds.dedup();
    kinds.join(" or ")
}

fn kind(branch: &Value) -> String {
    let bounds = bounds(branch);
    match branch.get("type").and_then(Value::as_str).unwrap_or_default() {
        "integer" => format!("a whole number{bounds}"),
        "number" => format!("a number{bounds}"),
        "boolean" => "true or false".to_string(),
        "array" => match branch.get("items").map(branches).unwrap_or_default().as_slice() {
            [one] => format!("a list of {}", plural(one)),
            _ => "a list".to_string(),
        },
        "object" => "a table".to_string(),
        _ => "a string".to_string(),
    }
}

fn plural(item: &Value) -> &'static str {
    match item.get("type").and_then(Value::as_str).unwrap_or_default() {
        "integer" => "whole numbers",
        "number" => "numbers",
        "string" => "strings",
        _ => "values",
    }
}

/// ` (at least 0, below 1)`, or nothing.
pub(super) fn bounds(schema: &Value) -> String {
    let names = [("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("exclusiveMaximum", "below")];
    let said: Vec<String> =
        names.iter().filter_map(|(key, word)| schema.get(*key).map(|bound| format!("{word} {bound}"))).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

/// The description of a key on one line.
pub(super) fn doc(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// TOML has no null, editors know no `uint64`, and wrapped doc comments are one paragraph.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.shift_remove("format");
            drop_null(map);
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn drop_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(allowed)) = map.get_mut("enum") {
        allowed.retain(|word| !word.is_null());
    }
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            map.insert("type".into(), one);
        }
    }
    let is_null = |branch: &Value| branch.get("type").is_some_and(|kind| kind == "null");
    let Some(Value::Array(branches)) = map.get_mut("anyOf") else { return };
    branches.retain(|branch| !is_null(branch));
    if let [Value::Object(one)] = branches.as_slice() {
        let one = one.clone();
        map.shift_remove("anyOf");
        for (key, value) in one {
            map.entry(key).or_insert(value);
        }
    }
}
