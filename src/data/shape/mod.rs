//! From the columns of a file to conversations: which of the known shapes it has, and each row in it.
//!
//! The shape is decided over the whole file. Refuses to know files, templates and tokens.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::source::{RawRow, kind};
use super::{Message, RowKind, loss};
use crate::error::{Error, Result, nearest};
use crate::recipe::{FIELDS, Shape};

#[cfg(test)]
mod tests;

/// The shapes, the most telling first: a file whose rows all fit several has the first of them.
const SHAPES: [(Shape, &[&str]); 5] = [
    (Shape::Messages, &["messages"]),
    (Shape::ShareGpt, &["conversations"]),
    (Shape::Alpaca, &["instruction", "output"]),
    (Shape::Completion, &["prompt", "completion"]),
    (Shape::Text, &["text"]),
];

const KNOWN: &str = "known shapes: `messages`; `conversations`; `instruction` (`input`) `output`; `prompt` `completion`; `text`. \
    Map other names in the recipe, e.g. columns = { instruction = \"question\", output = \"answer\" }";

/// What a row became.
pub(super) enum Converted {
    Row(RowKind),
    /// An answer (or a text) without a visible character: nothing to learn from.
    Empty,
}

/// How the rows of one file are read: its shape and its names of our fields.
pub(super) struct Reader<'a> {
    path: &'a Path,
    columns: &'a [(String, String)],
    pub(super) shape: Shape,
    /// Columns (and keys of messages) that carry something this program does not use.
    pub(super) ignored: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    /// Decides the shape over all of `rows`, or checks that they all have the one asked for.
    ///
    /// # Errors
    /// [`Error::Data`]: unknown columns, rows of differing shapes (two lines named), a mapping to a column that is not there.
    pub(super) fn new(
        path: &'a Path,
        columns: &'a [(String, String)],
        asked: Option<Shape>,
        rows: &[RawRow],
    ) -> Result<Reader<'a>> {
        let mut reader = Reader { path, columns, shape: Shape::Text, ignored: BTreeSet::new() };
        reader.check_columns(rows)?;
        reader.shape = match asked {
            Some(shape) => reader.check_all(shape, rows)?,
            None => reader.detect(rows)?,
        };
        Ok(reader)
    }

    fn check_columns(&self, rows: &[RawRow]) -> Result<()> {
        for (ours, theirs) in self.columns {
            if !FIELDS.contains(&ours.as_str()) {
                let close = nearest(ours, FIELDS.iter().copied()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
                let why = format!("`columns` maps `{ours}`, which is not one of our fields");
                return Err(Error::data(self.path, None, why, format!("{close}fields: {}", FIELDS.join(", "))));
            }
            let inner = matches!(ours.as_str(), "role" | "content" | "from" | "value");
            if !inner && !rows.iter().any(|r| r.fields.contains_key(theirs)) {
                let why = format!("no row has the column `{theirs}` that `columns` names for `{ours}`");
                return Err(Error::data(self.path, None, why, format!("columns of the file: {}", seen(rows))));
            }
        }
        Ok(())
    }

    /// The file's name of our field `ours`.
    fn name<'b>(&'b self, ours: &'b str) -> &'b str {
        self.columns.iter().find(|(o, _)| o == ours).map_or(ours, |(_, theirs)| theirs)
    }

    fn get<'r>(&self, row: &'r RawRow, ours: &str) -> Option<&'r Value> {
        row.fields.get(self.name(ours))
    }

    fn fits(&self, row: &RawRow, fields: &[&str]) -> bool {
        fields.iter().all(|f| self.get(row, f).is_some())
    }

    fn check_all(&self, shape: Shape, rows: &[RawRow]) -> Result<Shape> {
        let fields = SHAPES.iter().find(|(s, _)| *s == shape).map_or(&[][..], |(_, f)| f);
        match rows.iter().find(|r| !self.fits(r, fields)) {
            None => Ok(shape),
            Some(row) => {
                let wanted: Vec<_> = fields.iter().map(|f| format!("`{}`", self.name(f))).collect();
                let why = format!("shape `{}` needs {}, the row has {}", label(shape), wanted.join(" and "), keys(&row.fields));
                Err(Error::data(self.path, Some(row.line), why, KNOWN))
            }
        }
    }

    fn detect(&self, rows: &[RawRow]) -> Result<Shape> {
        if let Some((shape, _)) = SHAPES.iter().find(|(_, fields)| rows.iter().all(|r| self.fits(r, fields))) {
            return Ok(*shape);
        }
        let of = |row: &RawRow| SHAPES.iter().find(|(_, fields)| self.fits(row, fields)).map(|(s, _)| *s);
        if let Some(row) = rows.iter().find(|r| of(r).is_none()) {
            let why = format!(
                "no known shape fits this row; its columns are {}; columns of the file: {}",
                keys(&row.fields),
                seen(rows)
            );
            return Err(Error::data(self.path, Some(row.line), why, KNOWN));
        }
        let first = &rows[0];
        let shape = of(first);
        let other = rows.iter().find(|r| of(r) != shape).unwrap_or(first);
        let why = format!(
            "rows of differing shapes: line {} is `{}`, line {} is `{}`",
            first.line,
            shape.map_or("?", label),
            other.line,
            of(other).map_or("?", label)
        );
        let help = "put each shape into a file of its own and list both in the recipe, or map its columns to one shape";
        Err(Error::data(self.path, Some(other.line), why, help))
    }

    /// One row as a conversation.
    ///
    /// # Errors
    /// [`Error::Data`] with the line: a field of the wrong type, an unknown role, no message, no assistant turn.
    pub(super) fn convert(&mut self, row: &RawRow) -> Result<Converted> {
        self.note_ignored(row);
        match self.shape {
            Shape::Messages => self.conversation(row, "messages"),
            Shape::ShareGpt => self.conversation(row, "conversations"),
            Shape::Alpaca => {
                let (instruction, output) = (self.text(row, "instruction")?, self.text(row, "output")?);
                let (input, system) = (self.optional(row, "input")?, self.optional(row, "system")?);
                let kept = RowKind::Alpaca { instruction, input: input.unwrap_or_default(), output: output.clone(), system };
                Ok(unless_empty(&output, kept))
            }
            Shape::Completion => {
                let (prompt, completion) = (self.text(row, "prompt")?, self.text(row, "completion")?);
                Ok(unless_empty(&completion.clone(), RowKind::Completion { prompt, completion }))
            }
            Shape::Text => {
                let text = self.text(row, "text")?;
                Ok(unless_empty(&text.clone(), RowKind::Text(text)))
            }
        }
    }

    fn note_ignored(&mut self, row: &RawRow) {
        let used: &[&str] = match self.shape {
            Shape::Messages => &["messages", "system"],
            Shape::ShareGpt => &["conversations", "system"],
            Shape::Alpaca => &["instruction", "input", "output", "system"],
            Shape::Completion => &["prompt", "completion"],
            Shape::Text => &["text"],
        };
        let new: Vec<_> = row
            .fields
            .keys()
            .filter(|k| !used.iter().any(|u| self.name(u) == k.as_str()) && !self.ignored.contains(*k))
            .cloned()
            .collect();
        self.ignored.extend(new);
    }

    fn fail(&self, line: usize, why: String, help: &str) -> Error {
        Error::data(self.path, Some(line), why, help)
    }

    fn text(&self, row: &RawRow, ours: &str) -> Result<String> {
        match self.get(row, ours) {
            Some(Value::String(s)) => Ok(s.clone()),
            Some(other) => {
                let why = format!("`{}` must be a string, this is {}", self.name(ours), kind(other));
                Err(self.fail(row.line, why, "write the value as a JSON string"))
            }
            None => Err(self.fail(row.line, format!("the column `{}` is missing", self.name(ours)), KNOWN)),
        }
    }

    fn optional(&self, row: &RawRow, ours: &str) -> Result<Option<String>> {
        match self.get(row, ours) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => Ok(Some(self.text(row, ours)?).filter(|s| !s.trim().is_empty())),
        }
    }

    fn conversation(&mut self, row: &RawRow, ours: &str) -> Result<Converted> {
        let list = match self.get(row, ours) {
            Some(Value::Array(list)) => list,
            other => {
                let why =
                    format!("`{}` must be an array of messages, this is {}", self.name(ours), other.map_or("missing", kind));
                return Err(self.fail(row.line, why, MESSAGE_HELP));
            }
        };
        let mut messages = Vec::with_capacity(list.len() + 1);
        for (i, value) in list.iter().enumerate() {
            let message = self.message(row.line, i + 1, value)?;
            messages.push(message);
        }
        if messages.is_empty() {
            return Err(self.fail(row.line, "the conversation is empty".into(), "remove the row or give it messages"));
        }
        if let Some(system) = self.optional(row, "system")?
            && messages[0].role != "system"
        {
            messages.insert(0, Message::new("system", system));
        }
        self.trainable(row.line, messages)
    }

    /// Cuts what follows the last assistant turn (nothing there is learnt) and refuses a conversation without one.
    fn trainable(&self, line: usize, mut messages: Vec<Message>) -> Result<Converted> {
        let Some(last) = messages.iter().rposition(|m| m.role == "assistant") else {
            let roles: Vec<_> = messages.iter().map(|m| m.role.as_str()).collect();
            let why = format!("no assistant turn, so nothing to learn; roles: {}", roles.join(", "));
            return Err(self.fail(line, why, "add the answer that the model should give, or remove the row"));
        };
        messages.truncate(last + 1);
        let empty = messages.iter().any(|m| m.role == "assistant" && m.content.trim().is_empty());
        Ok(if empty { Converted::Empty } else { Converted::Row(RowKind::Chat(messages.into())) })
    }

    fn message(&mut self, line: usize, number: usize, value: &Value) -> Result<Message> {
        let Value::Object(fields) = value else {
            return Err(self.fail(line, format!("message {number} must be an object, this is {}", kind(value)), MESSAGE_HELP));
        };
        let (role_key, role) = self.pick(line, number, fields, ["role", "from"])?;
        let (content_key, content) = self.pick(line, number, fields, ["content", "value"])?;
        let Value::String(role) = role else {
            return Err(self.fail(
                line,
                format!("message {number}: `{role_key}` must be a string, this is {}", kind(role)),
                MESSAGE_HELP,
            ));
        };
        let calls = fields.get("tool_calls").is_some_and(|c| !c.is_null() && c.as_array().is_none_or(|a| !a.is_empty()));
        if calls {
            let help = "write the call as text in `content`, in the form the model's template uses";
            return Err(self.fail(line, format!("message {number} has `tool_calls`, which are not rendered"), help));
        }
        let new: Vec<_> =
            fields.keys().filter(|k| **k != role_key && **k != content_key && *k != "tool_calls").cloned().collect();
        let new = new.into_iter().filter(|k| !loss::LOSS_KEYS.contains(&k.as_str()));
        self.ignored.extend(new.map(|k| format!("message.{k}")));
        let role = self.role(line, number, role)?;
        let loss = loss::read(fields).map_err(|(why, help)| self.fail(line, format!("message {number}: {why}"), help))?;
        Ok(Message { loss, ..Message::new(role, self.content(line, number, content)?) })
    }

    /// The value under the first of the two keys (as the file names them) that is there.
    fn pick<'v>(
        &self,
        line: usize,
        number: usize,
        fields: &'v Map<String, Value>,
        keys: [&str; 2],
    ) -> Result<(String, &'v Value)> {
        let names = keys.map(|k| self.name(k).to_string());
        for name in &names {
            if let Some(value) = fields.get(name) {
                return Ok((name.clone(), value));
            }
        }
        let why = format!("message {number} has neither `{}` nor `{}`; its keys are {}", names[0], names[1], self::keys(fields));
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
                return Err(self.fail(line, why, &format!("{close}known roles: {}", known.join(", "))));
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

const MESSAGE_HELP: &str = "a message is {\"role\": \"user\", \"content\": \"…\"} or {\"from\": \"human\", \"value\": \"…\"}";

fn text_part(part: &Value) -> Option<&str> {
    part.get("type").and_then(Value::as_str).filter(|t| *t == "text").and(part.get("text")).and_then(Value::as_str)
}

fn unless_empty(answer: &str, row: RowKind) -> Converted {
    if answer.trim().is_empty() { Converted::Empty } else { Converted::Row(row) }
}

pub(super) fn label(shape: Shape) -> &'static str {
    match shape {
        Shape::Messages => "messages",
        Shape::ShareGpt => "sharegpt",
        Shape::Alpaca => "alpaca",
        Shape::Completion => "completion",
        Shape::Text => "text",
    }
}

fn keys(fields: &Map<String, Value>) -> String {
    fields.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
}

fn seen(rows: &[RawRow]) -> String {
    let all: BTreeSet<_> = rows.iter().flat_map(|r| r.fields.keys()).collect();
    all.iter().take(20).map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
}
