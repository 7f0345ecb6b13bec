//! Conversations as clients send them: OpenAI's messages into ours.

use serde_json::Value;

use super::error::ApiError;
use crate::data::Message;
use crate::json::{self, Map};

/// Messages of a conversation at most.
pub(super) const MOST: usize = 4096;

/// Roles that there are, and what a template knows them as.
const ROLES: [(&str, &str); 5] =
    [("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant"), ("tool", "tool")];

/// Keys of a message that templates read beside role and content.
const KEYS: [&str; 4] = ["name", "tool_calls", "tool_call_id", "reasoning_content"];

/// The messages of a request, together of at most `longest` bytes.
///
/// # Errors
/// 400 for none, and naming the one that cannot be used.
pub(super) fn read(list: &[Value], longest: usize) -> Result<Vec<Message>, ApiError> {
    if list.is_empty() {
        return Err(ApiError::field("messages", "`messages` is empty: there is nothing to answer"));
    }
    let messages: Vec<Message> = list.iter().enumerate().map(|(at, value)| message(value, at)).collect::<Result<_, _>>()?;
    fits(messages.iter().map(|m| m.content.len()).sum(), longest, "messages")?;
    Ok(messages)
}

/// Refuses a text that cannot fit however it is tokenised, before it is: that takes its time.
///
/// # Errors
/// 400.
pub(super) fn fits(bytes: usize, longest: usize, param: &str) -> Result<(), ApiError> {
    if bytes <= longest {
        return Ok(());
    }
    let message = format!("{bytes} bytes of text are more than the {longest} that could fit; nothing is cut here: shorten it");
    Err(ApiError::too_long(param, message))
}

fn message(value: &Value, at: usize) -> Result<Message, ApiError> {
    let bad = |why: String| ApiError::field(format!("messages[{at}]"), format!("`messages[{at}]`: {why}"));
    let object = value.as_object().ok_or_else(|| bad("it is not an object".into()))?;
    let role = object.get("role").and_then(Value::as_str).ok_or_else(|| bad("it has no role".into()))?;
    let known = ROLES.iter().find(|(theirs, _)| *theirs == role);
    let (_, role) =
        known.ok_or_else(|| bad(format!("its role is {role:?}; roles are system, developer, user, assistant, tool")))?;
    if let Some(key) = object.keys().find(|key| {
        !matches!(key.as_str(), "role" | "content" | "refusal" | "annotations" | "audio") && !KEYS.contains(&key.as_str())
    }) {
        return Err(bad(format!("`{key}` is not supported")));
    }
    if object.get("audio").is_some_and(|audio| !audio.is_null()) {
        return Err(bad("audio is not supported".into()));
    }
    let calls = object.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(|part| text_of(part).map_err(&bad)).collect::<Result<String, _>>()?,
        None | Some(Value::Null) if calls => String::new(),
        _ => return Err(bad("its content is neither a text nor a list of texts".into())),
    };
    let mut fields = Map::new();
    for key in KEYS {
        if let Some(value) = object.get(key).filter(|value| !value.is_null()) {
            fields.insert(key.into(), json::Value::from(value));
        }
    }
    Ok(Message { fields, ..Message::new(*role, content) })
}

/// A part of a message's content.
fn text_of(part: &Value) -> Result<String, String> {
    match part.get("type").and_then(Value::as_str) {
        Some("text" | "input_text" | "output_text") => {
            part.get("text").and_then(Value::as_str).map(str::to_string).ok_or_else(|| "a part of its content has no text".into())
        }
        Some(other) => {
            Err(format!("a part of its content is of type {other:?}: only texts are taken here, and no URL is fetched"))
        }
        None => Err("a part of its content has no type".into()),
    }
}

/// Puts an assistant's system prompt before a conversation that has none of its own.
///
/// # Errors
/// 400 where the assistant takes no other.
pub(super) fn with_system(mut messages: Vec<Message>, system: Option<String>, locked: bool) -> Result<Vec<Message>, ApiError> {
    let own = messages.iter().position(|m| m.role == "system");
    if let Some(at) = own.filter(|_| locked) {
        let param = format!("messages[{at}]");
        return Err(ApiError::field(param, "this assistant's system prompt cannot be replaced: leave the system message out"));
    }
    if let Some(system) = system.filter(|_| own.is_none()) {
        messages.insert(0, Message::new("system", system));
    }
    Ok(messages)
}
