//! Calls of tools and their descriptions, brought to the form that chat templates read: the OpenAI API's, with
//! arguments as an object (as the transformers library asks of conversations for templates).

use crate::json;
use crate::json::{Map, Value};

use super::kind;
use crate::data::read::row::{Conversation, Message};
use crate::error::{Error, Result as Outcome};

type Wrong = (String, &'static str);

const CALL_HELP: &str = "a call is {\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {…}}}";
const TEXT_HELP: &str = "the value of a `function_call` turn is JSON: {\"name\": \"f\", \"arguments\": {…}}";
const TOOLS_HELP: &str =
    "`tools` is an array of {\"type\": \"function\", \"function\": {\"name\": \"f\", …}} (or that JSON in a string)";

/// Brings `tool_calls` among the fields of a message to the one form; whether the message calls a tool.
pub(super) fn read(fields: &mut Map) -> Result<bool, Wrong> {
    let calls = match fields.remove("tool_calls") {
        None => return Ok(false),
        Some(Value::Array(calls)) if calls.is_empty() => return Ok(false),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err((format!("`tool_calls` must be an array, this is {}", kind(&other)), CALL_HELP)),
    };
    let calls = calls.iter().enumerate().map(|(i, c)| call(c).map_err(|(why, help)| (format!("call {}: {why}", i + 1), help)));
    fields.insert("tool_calls".into(), calls.collect::<Result<_, _>>()?);
    Ok(true)
}

/// The text of a ShareGPT `function_call` turn (one call, or a list of them) as `tool_calls`.
pub(super) fn parse(text: &str) -> Result<Value, Wrong> {
    let value = json::parse(text).map_err(|e| (format!("the call is not JSON ({e})"), TEXT_HELP))?;
    let calls = match value {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    if calls.is_empty() {
        return Err(("the turn holds no call".into(), TEXT_HELP));
    }
    calls.iter().map(call).collect::<Result<_, _>>().map_err(|(why, _)| (why, TEXT_HELP))
}

/// One call: its function may be bare, its arguments may be JSON in a string.
fn call(value: &Value) -> Result<Value, Wrong> {
    let function = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let Some(name) = function.get("name").and_then(Value::as_str).filter(|n| !n.is_empty()) else {
        return Err(("the function has no `name`".into(), CALL_HELP));
    };
    let arguments = match given(function, "arguments").or(given(function, "parameters")) {
        None => Map::new().into(),
        Some(Value::Object(map)) => Value::Object(map.clone()),
        Some(Value::String(text)) if text.trim().is_empty() => Map::new().into(),
        Some(Value::String(text)) => match json::parse(text) {
            Ok(Value::Object(map)) => Value::Object(map),
            Ok(other) => {
                return Err((format!("`arguments` of `{name}` must hold an object, this is {}", kind(&other)), CALL_HELP));
            }
            Err(e) => return Err((format!("`arguments` of `{name}` is not JSON ({e})"), CALL_HELP)),
        },
        Some(other) => return Err((format!("`arguments` of `{name}` must be an object, this is {}", kind(other)), CALL_HELP)),
    };
    let function = Value::from([("name", name.into()), ("arguments", arguments)]);
    let id = value.get("id").filter(|id| id.is_string()).map(|id| ("id".to_string(), id.clone()));
    Ok(Value::Object(
        [("type".to_string(), "function".into()), ("function".to_string(), function)].into_iter().chain(id).collect(),
    ))
}

fn given<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value.get(key).filter(|v| !v.is_null())
}

/// Descriptions of tools; bare functions are wrapped, no tool at all is `None`.
pub(super) fn tools(value: &Value) -> Result<Option<Value>, Wrong> {
    let parsed;
    let value = match value {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => {
            parsed = json::parse(text).map_err(|e| (format!("`tools` is not JSON ({e})"), TOOLS_HELP))?;
            &parsed
        }
        other => other,
    };
    let list = match value {
        Value::Null => return Ok(None),
        Value::Array(list) if list.is_empty() => return Ok(None),
        Value::Array(list) => list,
        other => return Err((format!("`tools` must be an array, this is {}", kind(other)), TOOLS_HELP)),
    };
    let tool = |(i, tool): (usize, &Value)| {
        let function = given(tool, "function").unwrap_or(tool);
        match function.get("name").and_then(Value::as_str) {
            Some(_) if given(tool, "function").is_some() => Ok(tool.clone()),
            Some(_) => Ok(Value::from([("type", "function".into()), ("function", tool.clone())])),
            None => Err((format!("tool {} has no `name`", i + 1), TOOLS_HELP)),
        }
    };
    list.iter().enumerate().map(tool).collect::<Result<_, _>>().map(Some)
}

/// A conversation that no row holds, with the tools that it may call, in the form that rows get.
///
/// # Errors
/// [`Error::Usage`]: a call or a tool has none of the known forms.
pub(crate) fn conversation(messages: &[Message], tools: &[Value]) -> Outcome<Conversation> {
    let mut messages = messages.to_vec();
    for (i, message) in messages.iter_mut().enumerate() {
        read(&mut message.fields).map_err(|(why, help)| Error::usage(format!("message {}", i + 1), why, help))?;
    }
    let tools = self::tools(&Value::Array(tools.to_vec())).map_err(|(why, help)| Error::usage("tools", why, help))?;
    Ok(Conversation { messages, tools })
}
