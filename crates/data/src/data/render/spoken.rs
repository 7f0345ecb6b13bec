//! Calls of tools as text, for templates that do not read them.
//!
//! A template that ignores `tool_calls` would leave an answer that calls a tool empty, and one that ignores `tools`
//! would teach calls of tools that the prompt never names. For these, calls and tools are written as the Hermes models
//! write them: `<tool_call>` around a JSON object, `<tools>` in the system message.

use std::borrow::Cow;

use crate::json::Value;

use crate::data::read::row::{Conversation, Message};

/// What a template reads besides role and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reads {
    calls: bool,
    tools: bool,
}

impl Reads {
    /// Whether it is given tools.
    pub(crate) fn tools(self) -> bool {
        self.tools
    }

    /// As the template's source mentions them.
    pub(crate) fn of(source: &str) -> Reads {
        Reads { calls: source.contains("tool_calls"), tools: source.contains("tools") }
    }

    /// Whether a template of this source reads a key of messages: it names the key, or goes through all keys.
    pub(crate) fn key(source: &str, key: &str) -> bool {
        source.contains(key) || source.contains("items")
    }

    /// The conversation with everything in it that this template would not read written as text.
    pub(crate) fn spoken<'c>(self, chat: &'c Conversation) -> Cow<'c, Conversation> {
        let calls = |m: &Message| m.fields.contains_key("tool_calls");
        let lost = (!self.calls && chat.messages.iter().any(calls)) || (!self.tools && chat.tools.is_some());
        if !lost {
            return Cow::Borrowed(chat);
        }
        let mut chat = chat.clone();
        if !self.calls {
            chat.messages.iter_mut().for_each(write_calls);
        }
        if let Some(tools) = chat.tools.take_if(|_| !self.tools) {
            write_tools(&mut chat.messages, &tools);
        }
        Cow::Owned(chat)
    }
}

fn write_calls(message: &mut Message) {
    let Some(Value::Array(calls)) = message.fields.remove("tool_calls") else { return };
    let text = |call: &Value| {
        let function = &call["function"];
        format!(
            "<tool_call>\n{}\n</tool_call>",
            Value::from([("name", function["name"].clone()), ("arguments", function["arguments"].clone())])
        )
    };
    let calls = calls.iter().map(text).collect::<Vec<_>>().join("\n");
    let gap = if message.content.trim().is_empty() { "" } else { "\n" };
    message.content = format!("{}{gap}{calls}", message.content.trim_end());
}

fn write_tools(messages: &mut Vec<Message>, tools: &Value) {
    let list: Vec<_> = tools.as_array().into_iter().flatten().map(Value::to_string).collect();
    let text = format!(
        "You may call these tools, each call as JSON in <tool_call></tool_call>:\n<tools>\n{}\n</tools>",
        list.join("\n")
    );
    match messages.first_mut().filter(|m| m.role == "system") {
        Some(system) => system.content = format!("{}\n\n{text}", system.content.trim_end()),
        None => messages.insert(0, Message::new("system", text)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn calling() -> Conversation {
        let mut call = Message::new("assistant", "");
        let function = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]);
        call.fields.insert("tool_calls".into(), function.into());
        let tools = Some(json!([{"type": "function", "function": {"name": "f"}}]).into());
        Conversation { messages: vec![Message::new("user", "q"), call], tools }
    }

    #[test]
    fn what_the_template_does_not_read_is_written() {
        let chat = calling();
        let spoken = Reads::of("{{ messages }}").spoken(&chat);
        let system = "You may call these tools, each call as JSON in <tool_call></tool_call>:\n<tools>\n\
                      {\"type\":\"function\",\"function\":{\"name\":\"f\"}}\n</tools>";
        assert_eq!((spoken.messages[0].role.as_str(), spoken.messages[0].content.as_str()), ("system", system));
        assert_eq!(spoken.messages[2].content, "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>");
        assert!(spoken.tools.is_none() && spoken.messages[2].fields.is_empty());
    }

    #[test]
    fn what_it_reads_stays() {
        let chat = calling();
        assert_eq!(*Reads::of("{{ tools }} {{ message.tool_calls }}").spoken(&chat), chat);
    }
}
