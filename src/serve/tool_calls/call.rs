//! One call: read from JSON, or from the texts of its parameters.

use super::tool::{Tool, may_be};
use crate::json::{self, Map, Value};

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub name: String,
    /// A JSON object as text, without white space between its parts, numbers as the model wrote them.
    pub arguments: String,
}

/// Why a text is no call: what to tell of it, where it looked like one.
pub(super) type NoCall = Option<String>;

/// The calls of a JSON text, one object or an array of them; `bare`: nothing but its keys says that it is a call.
pub(super) fn of_json(text: &str, tools: &[Tool], bare: bool) -> Result<Vec<Call>, NoCall> {
    let value = json::parse(text).map_err(|error| Some(format!("a call is not valid JSON ({error})")))?;
    match value {
        Value::Array(list) if list.is_empty() => Err(Some("a list of calls is empty".into())),
        Value::Array(list) => list.iter().map(|value| one(value, tools, bare)).collect(),
        value => Ok(vec![one(&value, tools, bare)?]),
    }
}

fn one(value: &Value, tools: &[Tool], bare: bool) -> Result<Call, NoCall> {
    let told = |why: &str| Some(why.to_string()).filter(|_| !bare);
    let function = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let name = function["name"].as_str().ok_or_else(|| told("a call has no name"))?;
    let arguments = match function.get("arguments").or(function.get("parameters")) {
        None if bare => return Err(None),
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) => json::parse(text).map_err(|_| not_an_object(name))?,
        Some(other) => other.clone(),
    };
    known(name, tools)?;
    with(name, &arguments)
}

/// The call of a function that is named beside the JSON text of its arguments.
pub(super) fn of_arguments(name: &str, text: &str) -> Result<Call, NoCall> {
    let arguments = json::parse(text).map_err(|error| Some(format!("the arguments of `{name}` are not valid JSON ({error})")))?;
    with(name, &arguments)
}

fn with(name: &str, arguments: &Value) -> Result<Call, NoCall> {
    match arguments {
        Value::Object(_) => Ok(Call { name: name.to_string(), arguments: arguments.to_string() }),
        _ => Err(not_an_object(name)),
    }
}

fn not_an_object(name: &str) -> NoCall {
    Some(format!("the arguments of `{name}` are no JSON object"))
}

/// The tool of this name.
pub(super) fn known<'t>(name: &str, tools: &'t [Tool]) -> Result<&'t Tool, NoCall> {
    Tool::find(tools, name).ok_or_else(|| Some(format!("`{name}` is called, which is not among the tools")))
}

/// The value of a parameter that stands as bare text: a text where the tool's schema says so or says nothing, else the JSON
/// (or Python's `True`, `False`, `None`) that it is, and a text where it is neither.
pub(super) fn of_text(tool: &Tool, key: &str, text: &str) -> Value {
    let schema = &tool.parameters["properties"][key];
    let read = || match text.trim() {
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        text => json::parse(text).ok(),
    };
    let listed = schema["enum"].as_array().is_some_and(|list| list.iter().any(|v| *v == text));
    let value = match may_be(schema, "string") {
        true => read().filter(|value| value.is_null() && may_be(schema, "null")),
        false if listed || !schema.is_object() => None,
        false => read(),
    };
    value.unwrap_or_else(|| text.into())
}
