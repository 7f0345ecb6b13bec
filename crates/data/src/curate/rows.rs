//! The rows of a source as they were written, and what each says: the seam to the readers of sources.
//!
//! A row is what a line (or an element, a table's row, a paragraph) holds; of a Super-NaturalInstructions file it is an
//! instance, because all of a task would be one row otherwise. Its task's definition is not compared: all instances have it.
//! Refuses to know what is looked for in rows.

use std::path::Path;

use serde_json::{Map, Value};

use super::RowPlace;
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::data::read::row::{Message, RowKind};
use crate::data::read::shape::{Converted, Reader};
use crate::data::read::source;
use crate::data::read::source::{Faults, Feed, RawRow};
use crate::error::{Error, Result};
use crate::recipe::{Shape, Source};

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// A turn of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowTurn {
    pub(super) by: Role,
    pub(super) text: String,
}

impl RowTurn {
    pub(super) fn new(by: Role, text: impl Into<String>) -> RowTurn {
        RowTurn { by, text: text.into() }
    }
}

/// A row as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    pub line: u32,
    /// Of a file of tasks: the numbers, from 1, of the instances that are left in it.
    pub instances: Option<Vec<u32>>,
    pub fields: Map<String, Value>,
}

/// A row and what it says, or why it says nothing.
#[derive(Debug)]
pub(super) struct WrittenRow {
    pub(super) place: RowPlace,
    pub(super) parts: std::result::Result<Vec<RowTurn>, Reason>,
}

/// A source whose rows have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadSource {
    pub(super) shape: Shape,
}

/// Calls `take` with the rows of a source, in order, in groups.
///
/// # Errors
/// [`Error::Data`] with file and line for what cannot be read or has no known shape; what `take` returns.
pub(super) fn open(
    source: &Source,
    index: u32,
    split: Split,
    mut take: impl FnMut(Vec<WrittenRow>) -> Result<()>,
) -> Result<ReadSource> {
    let (mut reader, mut feed) = Reader::stream(source, split, 0)?.settled()?;
    let shape = reader.shape;
    let unread = std::mem::take(&mut reader.faults.lines);
    let mut group = Vec::with_capacity(GROUP);
    while let Some(chunk) = feed.chunk()? {
        for row in &*chunk.rows(feed.path())? {
            units(&mut reader, shape, index, row, &mut group)?;
            if group.len() >= GROUP {
                take(std::mem::take(&mut group))?;
            }
        }
    }
    // Last, so that the others keep the numbers that `raw_rows` counts them by.
    let malformed = |line| WrittenRow { place: RowPlace { source: index, line: line as u32 }, parts: Err(Reason::Malformed) };
    group.extend(unread.into_iter().map(malformed));
    take(group)?;
    Ok(ReadSource { shape })
}

/// Rows looked at together, on all threads.
const GROUP: usize = 2048;

fn units(reader: &mut Reader<'_>, shape: Shape, source: u32, row: &RawRow, group: &mut Vec<WrittenRow>) -> Result<()> {
    let at = |line: usize| RowPlace { source, line: line as u32 };
    let converted = match reader.convert(row) {
        Ok(converted) => converted,
        Err(error) => {
            reader.faults.put(error)?;
            let instances = row.fields.get("Instances").and_then(Value::as_array).filter(|_| shape == Shape::SuperNi);
            let dropped = || WrittenRow { place: at(row.line), parts: Err(Reason::Malformed) };
            group.extend((0..instances.map_or(1, Vec::len)).map(|_| dropped()));
            return Ok(());
        }
    };
    match converted {
        Converted::Row(kind) => group.push(WrittenRow { place: at(row.line), parts: Ok(parts(kind)) }),
        Converted::Empty => group.push(WrittenRow { place: at(row.line), parts: Err(Reason::Empty) }),
        Converted::Dropped(reason) => group.push(WrittenRow { place: at(row.line), parts: Err(reason) }),
        Converted::Rows(pieces) if shape == Shape::SuperNi => {
            let instances = row.fields.get("Instances").and_then(Value::as_array);
            for piece in pieces {
                let instance = instances.and_then(|list| list.get(piece.line.saturating_sub(1)));
                let input = instance.and_then(|i| i.get("input")).and_then(Value::as_str).unwrap_or_default();
                let parts = piece.became.map(|kind| match kind {
                    RowKind::Completion { completion, .. } => {
                        vec![RowTurn::new(Role::User, input), RowTurn::new(Role::Assistant, completion)]
                    }
                    other => parts(other),
                });
                group.push(WrittenRow { place: at(piece.line), parts });
            }
        }
        // Pairs of ranked replies, phrasings of a task: one row that says all of it once.
        Converted::Rows(pieces) => {
            let mut all: Vec<RowTurn> = Vec::new();
            let mut reason = Reason::Empty;
            for piece in pieces {
                match piece.became {
                    Ok(kind) => parts(kind).into_iter().for_each(|part| {
                        if !all.contains(&part) {
                            all.push(part);
                        }
                    }),
                    Err(why) => reason = why,
                }
            }
            group.push(WrittenRow { place: at(row.line), parts: if all.is_empty() { Err(reason) } else { Ok(all) } });
        }
    }
    Ok(())
}

fn parts(kind: RowKind) -> Vec<RowTurn> {
    match kind {
        RowKind::Chat(conversation) => turns(conversation.messages),
        RowKind::Alpaca { instruction, input, output, system } => {
            let asked = if input.trim().is_empty() { instruction } else { format!("{instruction}\n{input}") };
            let system = system.map(|s| RowTurn::new(Role::System, s));
            system.into_iter().chain([RowTurn::new(Role::User, asked), RowTurn::new(Role::Assistant, output)]).collect()
        }
        RowKind::Completion { prompt, completion } => {
            vec![RowTurn::new(Role::User, prompt), RowTurn::new(Role::Assistant, completion)]
        }
        RowKind::Text(text) => vec![RowTurn::new(Role::Assistant, text)],
        RowKind::Preference(pair) => turns(pair.prompt.messages.into_iter().chain(pair.chosen).chain(pair.rejected).collect()),
        RowKind::Labelled { conversation, .. } => turns(conversation.messages),
    }
}

fn turns(messages: Vec<Message>) -> Vec<RowTurn> {
    messages.into_iter().map(turn).collect()
}

fn turn(message: Message) -> RowTurn {
    let by = match message.role.as_str() {
        "system" => Role::System,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => Role::User,
    };
    let calls = message.fields.get("tool_calls").map(Value::to_string).unwrap_or_default();
    let gap = if calls.is_empty() || message.content.is_empty() { "" } else { "\n" };
    RowTurn { by, text: format!("{}{gap}{calls}", message.content) }
}

/// Calls `take` with every row of a source as it was written, without those that `keep` refuses: it is asked about the rows in
/// their order, by number from 0 (rows as [`open`] counts them, so of a file of tasks about instances).
///
/// # Errors
/// As [`open`]; of a task that names its rows ([`Shape::Flan`]) there is nothing to write.
pub fn raw_rows(
    source: &Source,
    split: Split,
    mut keep: impl FnMut(usize) -> bool,
    mut take: impl FnMut(Raw) -> Result<()>,
) -> Result<()> {
    let (reader, mut feed) = Reader::stream(source, split, 0)?.settled()?;
    let shape = reader.shape;
    refuse_tasks(&source.path, shape)?;
    let mut number = 0;
    let mut asked = || {
        number += 1;
        keep(number - 1)
    };
    let mut each = |row: RawRow| -> Result<()> {
        let mut fields = row.fields;
        let mut left = None;
        let kept = match fields.get_mut("Instances") {
            Some(Value::Array(instances)) if shape == Shape::SuperNi => {
                let kept: Vec<bool> = instances.iter().map(|_| asked()).collect();
                let mut each = kept.iter().copied();
                instances.retain(|_| each.next().unwrap_or(false));
                left = Some((1..).zip(kept).filter(|(_, k)| *k).map(|(number, _)| number).collect());
                !instances.is_empty()
            }
            _ => asked(),
        };
        if kept { take(Raw { line: row.line as u32, instances: left, fields }) } else { Ok(()) }
    };
    while let Some(chunk) = feed.chunk()? {
        chunk.rows(feed.path())?.into_owned().into_iter().try_for_each(&mut each)?;
    }
    // [`open`] counts what could not be read last.
    reader.faults.lines.iter().for_each(|_| _ = asked());
    Ok(())
}

fn refuse_tasks(path: &Path, shape: Shape) -> Result<()> {
    if shape != Shape::Flan {
        return Ok(());
    }
    let why = "a task's rows are written beside its phrasings, not into one file with others";
    Err(Error::data(path, None, why, "curate the file of rows that the task names, then name the new file in the task"))
}

/// Calls `take` with what the rows of a file say, whatever their shape, a row at a time and with its line: the turns of its lists
/// of messages or, where it has none, every text in it as somebody's question.
///
/// # Errors
/// [`Error::Data`] or [`Error::Io`] for what cannot be read.
pub(super) fn texts(path: &Path, mut take: impl FnMut(u32, Vec<RowTurn>)) -> Result<()> {
    let mut feed = match Feed::is_of(path) {
        true => Feed::open(path)?,
        false => Feed::whole(path, source::read(path, &mut Faults::default())?),
    };
    feed.first()?;
    while let Some(chunk) = feed.chunk()? {
        let rows = chunk.rows(path)?.into_owned().into_iter();
        rows.for_each(|row| take(row.line as u32, spoken(row.fields)));
    }
    Ok(())
}

/// Of lists of messages that say the same, as two answers to one prompt do, every turn once.
fn spoken(fields: Map<String, Value>) -> Vec<RowTurn> {
    let mut all: Vec<RowTurn> = Vec::new();
    for list in fields.values().filter_map(dialogue) {
        let new: Vec<RowTurn> = list.into_iter().filter(|turn| !all.contains(turn)).collect();
        all.extend(new);
    }
    if all.is_empty() {
        return leaves(Value::Object(fields)).into_iter().map(|text| RowTurn::new(Role::User, text)).collect();
    }
    all
}

/// A value as turns, if it is a list of messages; turns without a text are passed over.
fn dialogue(value: &Value) -> Option<Vec<RowTurn>> {
    let text = |message: &Value, keys: [&str; 2]| keys.iter().find_map(|key| message.get(key)?.as_str().map(str::to_string));
    let mut turns = Vec::new();
    for message in value.as_array()? {
        let role = text(message, ["role", "from"])?;
        let by = match role.as_str() {
            "system" | "developer" => Role::System,
            "user" | "human" | "prompter" => Role::User,
            "tool" | "function" | "observation" | "function_response" => Role::Tool,
            _ => Role::Assistant,
        };
        turns.extend(text(message, ["content", "value"]).map(|said| RowTurn::new(by, said)));
    }
    Some(turns)
}

fn leaves(value: Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.into_iter().flat_map(leaves).collect(),
        Value::Object(fields) => fields.into_iter().flat_map(|(_, v)| leaves(v)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_any_row_are_turns_and_other_texts_are_questions() {
        let said = |json: &str| spoken(serde_json::from_str(json).unwrap());
        let turn = |by, text: &str| RowTurn::new(by, text);
        let row = r#"{"id":"a b c","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"x"}],
            "rejected":[{"from":"human","value":"q"},{"from":"gpt","value":"y"},{"role":"assistant","content":null}]}"#;
        assert_eq!(said(row), [turn(Role::User, "q"), turn(Role::Assistant, "x"), turn(Role::Assistant, "y")]);
        let row = r#"{"question":"Why?","choices":["so","or so"],"turns":[["agent","Hi"]],"number":1}"#;
        assert_eq!(said(row), ["Why?", "so", "or so", "agent", "Hi"].map(|text| turn(Role::User, text)));
    }
}
