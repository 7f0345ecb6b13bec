//! A conversation as a template gets it: messages with whatever fields they have, and what else the context holds.
//!
//! Refuses to know what a template makes of it.

use crate::json::{Map, Value as Json};
use minijinja::value::{Value, ValueKind};

use super::python::from_json;
use crate::data::read::row::Message;

/// A conversation.
#[derive(Debug, Clone)]
pub(crate) struct Chat {
    pub(crate) messages: Vec<ChatMessage>,
    /// Descriptions of tools, where the conversation has its own.
    pub(crate) tools: Option<Value>,
}

/// A message.
#[derive(Debug, Clone)]
pub(crate) struct ChatMessage {
    pub(crate) role: String,
    /// The content where it is a string; the texts of its parts otherwise.
    pub(crate) content: Vec<String>,
    /// Every field, in the order given, the content among them.
    fields: Vec<(Value, Value)>,
}

impl ChatMessage {
    /// A message of a row; a field called `content` (a null, usually) replaces the text.
    pub(crate) fn of(message: &Message) -> ChatMessage {
        let text = || Value::from(message.content.as_str());
        let mut fields = Vec::with_capacity(2 + message.fields.len());
        fields.push((Value::from("role"), Value::from(message.role.as_str())));
        fields.push((Value::from("content"), message.fields.get("content").map_or_else(text, from_json)));
        let others = message.fields.iter().filter(|(key, _)| *key != "content" && *key != "role");
        fields.extend(others.map(|(key, value)| (Value::from(key.as_str()), from_json(value))));
        let content = if message.fields.contains_key("content") { vec![] } else { vec![message.content.clone()] };
        ChatMessage { role: message.role.clone(), content, fields }
    }

    /// A message of a context; `None` when it is not an object.
    pub(crate) fn from_json(message: &Json) -> Option<ChatMessage> {
        let fields: &Map = message.as_object()?;
        let content = match fields.get("content") {
            Some(Json::String(text)) => vec![text.clone()],
            Some(Json::Array(parts)) => parts.iter().filter_map(|p| p["text"].as_str().map(str::to_string)).collect(),
            _ => Vec::new(),
        };
        Some(ChatMessage {
            role: fields.get("role").and_then(Json::as_str).unwrap_or_default().to_string(),
            content,
            fields: fields.iter().map(|(key, value)| (Value::from(key.as_str()), from_json(value))).collect(),
        })
    }

    /// Whether it is a role and a text and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.fields.len() == 2 && self.content.len() == 1
    }

    /// Whether it is a role and a text, with fields that may or may not be written.
    pub(crate) fn is_text(&self) -> bool {
        self.content.len() == 1 && !self.calls_tools()
    }

    /// Whether it calls tools.
    pub(crate) fn calls_tools(&self) -> bool {
        ["tool_calls", "function_call"].iter().any(|key| self.get(key).is_some_and(Value::is_true))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    }

    /// As a template sees it.
    pub(crate) fn value(&self) -> Value {
        Value::from_pairs(self.fields.iter().cloned())
    }

    /// As a template sees it, the texts of what it says (its content, its reasoning, the names and arguments of its calls)
    /// changed by `f`.
    pub(crate) fn value_with_said(&self, f: &dyn Fn(&str, Said) -> String) -> Value {
        let text = |value: &Value, said: Said| with_texts(value, &|text| f(text, said));
        let change = |(key, value): &(Value, Value)| match (key.as_str().unwrap_or_default(), value.kind()) {
            ("content", ValueKind::String) => (key.clone(), text(value, Said::Content)),
            ("content", ValueKind::Seq) => (key.clone(), parts(value, &|text| f(text, Said::Content))),
            ("reasoning_content" | "reasoning" | "thinking", ValueKind::String) => (key.clone(), text(value, Said::Reasoning)),
            ("tool_calls", ValueKind::Seq) => {
                let calls = value.try_iter().into_iter().flatten().map(|call| said_in_call(&call, f));
                (key.clone(), Value::from(calls.collect::<Vec<_>>()))
            }
            ("function_call", ValueKind::Map) => (key.clone(), said_in_call(value, f)),
            _ => (key.clone(), value.clone()),
        };
        Value::from_pairs(self.fields.iter().map(change))
    }

    /// The names of the functions that it calls.
    pub(crate) fn called(&self) -> Vec<String> {
        let name = |call: Value| {
            let function = call.get_attr("function").ok().filter(|f| f.kind() == ValueKind::Map).unwrap_or(call);
            function.get_attr("name").ok()?.as_str().map(str::to_string)
        };
        let calls = self.get("tool_calls").filter(|calls| calls.kind() == ValueKind::Seq);
        let listed = calls.into_iter().flat_map(|calls| calls.try_iter().into_iter().flatten());
        listed.chain(self.get("function_call").cloned()).filter_map(name).collect()
    }

    /// As a template sees it, every text in it but the role changed by `f`.
    pub(crate) fn value_with_texts(&self, f: &dyn Fn(&str) -> String) -> Value {
        let change = |(key, value): &(Value, Value)| match key.as_str() {
            Some("role") => (key.clone(), value.clone()),
            _ => (key.clone(), with_texts(value, f)),
        };
        Value::from_pairs(self.fields.iter().map(change))
    }

    /// Calls `f` with every text outside the content, and whether it is a key of a mapping.
    pub(crate) fn other_texts(&self, f: &mut dyn FnMut(&str, bool)) {
        for (key, value) in &self.fields {
            match (key.as_str(), value.kind()) {
                (Some("role"), _) | (Some("content"), ValueKind::String) => {}
                _ => texts(value, f),
            }
        }
    }
}

/// What a text of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Content,
    Reasoning,
    /// Of a function that is called.
    Name,
    Argument,
}

/// A call, the name of its function and the texts of its arguments changed.
fn said_in_call(call: &Value, f: &dyn Fn(&str, Said) -> String) -> Value {
    if call.kind() != ValueKind::Map {
        return call.clone();
    }
    Value::from_pairs(call.try_iter().into_iter().flatten().map(|key| {
        let inner = call.get_item(&key).unwrap_or_default();
        let inner = match key.as_str().unwrap_or_default() {
            "function" => said_in_call(&inner, f),
            "name" => with_texts(&inner, &|text| f(text, Said::Name)),
            "arguments" | "parameters" => with_texts(&inner, &|text| f(text, Said::Argument)),
            _ => inner,
        };
        (key, inner)
    }))
}

/// Parts of a content, their texts changed.
fn parts(value: &Value, f: &dyn Fn(&str) -> String) -> Value {
    let change = |part: Value| match part.get_attr("text").ok().filter(|t| t.kind() == ValueKind::String) {
        Some(text) => {
            let pairs = part.try_iter().into_iter().flatten().map(|key| {
                let old = part.get_item(&key).unwrap_or_default();
                let new = if key.as_str() == Some("text") { Value::from(f(text.as_str().unwrap_or_default())) } else { old };
                (key, new)
            });
            Value::from_pairs(pairs)
        }
        None => part,
    };
    Value::from(value.try_iter().into_iter().flatten().map(change).collect::<Vec<_>>())
}

/// A value with every text in it (keys excepted) changed by `f`.
pub(crate) fn with_texts(value: &Value, f: &dyn Fn(&str) -> String) -> Value {
    match value.kind() {
        ValueKind::String => Value::from(f(value.as_str().unwrap_or_default())),
        ValueKind::Seq => Value::from(value.try_iter().into_iter().flatten().map(|v| with_texts(&v, f)).collect::<Vec<_>>()),
        ValueKind::Map => Value::from_pairs(value.try_iter().into_iter().flatten().map(|key| {
            let inner = with_texts(&value.get_item(&key).unwrap_or_default(), f);
            (key, inner)
        })),
        _ => value.clone(),
    }
}

/// Calls `f` with every text of a value, and whether it is a key.
pub(crate) fn texts(value: &Value, f: &mut dyn FnMut(&str, bool)) {
    match value.kind() {
        ValueKind::String => f(value.as_str().unwrap_or_default(), false),
        ValueKind::Seq => value.try_iter().into_iter().flatten().for_each(|v| texts(&v, f)),
        ValueKind::Map => {
            for key in value.try_iter().into_iter().flatten() {
                f(key.as_str().unwrap_or_default(), true);
                texts(&value.get_item(&key).unwrap_or_default(), f);
            }
        }
        _ => {}
    }
}
