//! Conversations: `messages` as OpenAI writes them and `conversations` as ShareGPT does.

use crate::json::{Map, Value};

use super::keys::keys;
use super::{Converted, Message, RawRow, Reader, RowKind, calls, ghost, ignored, kind, loss, vicuna};
use crate::data::read::row::Conversation;
use crate::error::{Result, nearest};
use crate::recipe::Clean;

const MESSAGE_HELP: &str = "a message is {\"role\": \"user\", \"content\": \"…\"} or {\"from\": \"human\", \"value\": \"…\"}";

const KWARGS_HELP: &str = "remove the field; a value that holds for all rows can be set in the template itself: \
    `template.kind` names a copy of it that begins with, for instance, {% set enable_thinking = false %}";

/// What most templates read of a message besides role and content; whether other keys are read, a template's source says.
const FIELDS: [&str; 4] = ["tool_calls", "tool_call_id", "name", "reasoning_content"];

impl Reader<'_> {
    /// The conversation under the column `ours`, which ends with an answer.
    pub(super) fn conversation(&mut self, row: &RawRow, ours: &str) -> Result<Converted> {
        let mut conversation = self.turns(row, ours)?;
        if self.source.clean == Some(Clean::Vicuna) {
            match vicuna::clean(conversation.messages) {
                Ok(messages) => conversation.messages = messages,
                Err(reason) => return Ok(Converted::Dropped(reason)),
            }
        }
        if self.source.ghost_attention {
            ghost::apply(&mut conversation.messages);
        }
        self.trainable(row.line, conversation)
    }

    /// All turns under the column `ours`, with the row's system message and tools.
    pub(super) fn turns(&mut self, row: &RawRow, ours: &str) -> Result<Conversation> {
        let list = match self.get(row, ours) {
            Some(Value::Array(list)) => list,
            other => {
                let found = other.map_or("missing", kind);
                let why = format!("`{}` must be an array of messages, this is {found}", self.name(ours));
                return Err(self.fail(row.line, why, MESSAGE_HELP));
            }
        };
        let messages = self.messages(row.line, list)?;
        if messages.is_empty() {
            return Err(self.fail(row.line, "the conversation is empty", "remove the row or give it messages"));
        }
        self.with_row(row, messages)
    }

    /// The messages with what the row says for all of them: `system` and `tools`.
    pub(super) fn with_row(&self, row: &RawRow, mut messages: Vec<Message>) -> Result<Conversation> {
        let starts = messages.first().is_some_and(|m| m.role == "system");
        if let Some(system) = self.optional(row, "system")?.filter(|_| !starts) {
            messages.insert(0, Message::new("system", system));
        }
        if let Some(Value::Object(variables)) = self.given(row, "chat_template_kwargs").filter(|v| ignored::says_something(v)) {
            let why = format!("`chat_template_kwargs` gives the row's template {}, which is not carried out", keys(variables));
            return Err(self.fail(row.line, why, KWARGS_HELP));
        }
        let tools = match self.get(row, "tools") {
            Some(tools) => calls::tools(tools).map_err(|(why, help)| self.fail(row.line, why, help))?,
            None => None,
        };
        Ok(Conversation { messages, tools })
    }

    /// Cuts what follows the last assistant turn (nothing there is learnt) and refuses a conversation without one.
    pub(super) fn trainable(&self, line: usize, mut conversation: Conversation) -> Result<Converted> {
        let messages = &mut conversation.messages;
        let Some(last) = messages.iter().rposition(|m| m.role == "assistant") else {
            let roles: Vec<_> = messages.iter().map(|m| m.role.as_str()).collect();
            let why = format!("no assistant turn, so nothing to learn; roles: {}", roles.join(", "));
            return Err(self.fail(line, why, "add the answer that the model should give, or remove the row"));
        };
        messages.truncate(last + 1);
        let empty = messages.iter().any(|m| m.role == "assistant" && !says_something(m));
        Ok(if empty { Converted::Empty } else { Converted::Row(RowKind::Chat(conversation)) })
    }

    pub(super) fn messages(&mut self, line: usize, list: &[Value]) -> Result<Vec<Message>> {
        list.iter().enumerate().map(|(i, value)| self.message(line, i + 1, value)).collect()
    }

    pub(super) fn message(&mut self, line: usize, number: usize, value: &Value) -> Result<Message> {
        let Value::Object(written) = value else {
            return Err(self.fail(line, format!("message {number} must be an object, this is {}", kind(value)), MESSAGE_HELP));
        };
        let wrong = |why: String| format!("message {number}: {why}");
        let (role_key, role) = self.pick(line, number, written, ["role", "from"])?;
        let Value::String(role) = role else {
            return Err(self.fail(line, wrong(format!("`{role_key}` must be a string, this is {}", kind(role))), MESSAGE_HELP));
        };
        let mut fields = self.fields(written);
        let called = calls::read(&mut fields).map_err(|(why, help)| self.fail(line, wrong(why), help))?;
        let content = ["content", "value"].iter().find_map(|k| written.get(self.name(k)).filter(|v| !v.is_null()));
        let content = match content {
            None if called => String::new(),
            _ => {
                let (_, content) = self.pick(line, number, written, ["content", "value"])?;
                self.content(line, number, content)?
            }
        };
        self.note_keys(written);
        let loss = loss::read(written).map_err(|(why, help)| self.fail(line, wrong(why), help))?;
        let known = self.role(line, number, role)?;
        if role == "function_call" && !called {
            let call = calls::parse(&content).map_err(|(why, help)| self.fail(line, wrong(why), help))?;
            fields.insert("tool_calls".into(), call);
            return Ok(Message { loss, fields, ..Message::new(known, "") });
        }
        Ok(Message { loss, fields, ..Message::new(known, content) })
    }

    /// What a template gets besides role and content: every key that is not null, as in transformers, but those for the loss.
    fn fields(&self, written: &Map) -> Map {
        let said = |k: &str| ["role", "content"].contains(&k) || loss::LOSS_KEYS.contains(&k) || self.names_a_part(k);
        let others = written.iter().filter(|(k, v)| !v.is_null() && !said(k));
        others.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn names_a_part(&self, key: &str) -> bool {
        ["role", "from", "content", "value"].iter().any(|ours| self.name(ours) == key)
    }

    /// Keys of a message that no template is known to read.
    fn note_keys(&mut self, written: &Map) {
        let read = |k: &str| FIELDS.contains(&k) || loss::LOSS_KEYS.contains(&k) || self.names_a_part(k);
        let unread: Vec<_> =
            written.iter().filter(|(k, v)| !read(k) && !v.is_null()).map(|(k, _)| format!("message.{k}")).collect();
        unread.iter().for_each(|key| self.ignored.note(key));
    }

    /// The value under the first of the two keys (as the file names them) that is there.
    fn pick<'v>(&self, line: usize, number: usize, fields: &'v Map, ours: [&str; 2]) -> Result<(String, &'v Value)> {
        let names = ours.map(|k| self.name(k).to_string());
        // The keys of both forms, one of them null, are what tables make of two forms.
        let found = |wanted: fn(&Value) -> bool| {
            names.iter().find_map(|name| Some((name.clone(), fields.get(name).filter(|v| wanted(v))?)))
        };
        if let Some(found) = found(|v| !v.is_null()).or_else(|| found(|_| true)) {
            return Ok(found);
        }
        let why = format!("message {number} has neither `{}` nor `{}`; its keys are {}", names[0], names[1], keys(fields));
        Err(self.fail(line, why, MESSAGE_HELP))
    }

    fn role(&self, line: usize, number: usize, role: &str) -> Result<&'static str> {
        Ok(match role {
            "system" | "developer" => "system",
            "user" | "human" | "prompter" => "user",
            "assistant" | "gpt" | "model" | "bot" | "chatgpt" | "bing" | "bard" | "function_call" => "assistant",
            "tool" | "function" | "observation" | "function_response" => "tool",
            _ => {
                let known = ["system", "user", "human", "assistant", "gpt", "tool", "function", "observation", "function_call"];
                let close = nearest(role, known).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
                let why = format!("message {number} has the unknown role `{role}`");
                return Err(self.fail(line, why, format!("{close}known roles: {}", known.join(", "))));
            }
        })
    }

    fn content(&self, line: usize, number: usize, content: &Value) -> Result<String> {
        match content {
            Value::String(s) => Ok(s.clone()),
            // The parts form of the OpenAI API: only text can be trained on.
            Value::Array(parts) => {
                parts.iter().map(|p| text_part(p).ok_or(p)).collect::<std::result::Result<String, _>>().map_err(|p| {
                    let found = p.get("type").and_then(Value::as_str).unwrap_or(kind(p));
                    let why = format!("message {number} has a part that is not text ({found})");
                    self.fail(line, why, "only parts of the form {\"type\": \"text\", \"text\": \"…\"} can be used")
                })
            }
            other => {
                let why = format!("message {number}: the content must be a string, this is {}", kind(other));
                Err(self.fail(line, why, MESSAGE_HELP))
            }
        }
    }
}

/// Whether a turn has a visible character or calls a tool.
pub(super) fn says_something(message: &Message) -> bool {
    !message.content.trim().is_empty() || message.fields.contains_key("tool_calls")
}

/// Whether two messages say the same, whatever else (an id, a time) is kept about them.
pub(super) fn alike(a: &Message, b: &Message) -> bool {
    let same = |key: &&str| a.fields.get(key) == b.fields.get(key);
    (&a.role, &a.content, &a.loss) == (&b.role, &b.content, &b.loss) && FIELDS.iter().all(same)
}

fn text_part(part: &Value) -> Option<&str> {
    part.get("type").and_then(Value::as_str).filter(|t| *t == "text").and(part.get("text")).and_then(Value::as_str)
}
