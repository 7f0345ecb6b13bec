//! The rows of a source as they were written, and what each says: the seam to the readers of sources.
//!
//! A row is what a line (or an element, a table's row, a paragraph) holds; of a Super-NaturalInstructions file it is an
//! instance, because all of a task would be one row otherwise. Its task's definition is not compared: all instances have it.
//! Refuses to know what is looked for in rows.

use std::path::Path;

use crate::json;
use crate::json::Value;

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
    /// The row as JSON on one line: the very text of it where its file is JSON.
    pub text: String,
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
    let (reader, feed) = Reader::stream(source, split, 0)?.settled()?;
    let shape = reader.shape;
    // What was looked at for the shape is no longer there as text.
    let mut feed = feed.again()?;
    refuse_tasks(&source.path, shape)?;
    let mut number = 0;
    let mut asked = || {
        number += 1;
        keep(number - 1)
    };
    let mut each = |row: &RawRow, text: &mut dyn FnMut() -> String| -> Result<()> {
        let line = row.line as u32;
        match row.fields.get("Instances") {
            Some(Value::Array(instances)) if shape == Shape::SuperNi => {
                let kept: Vec<bool> = instances.iter().map(|_| asked()).collect();
                let left: Vec<u32> = (1..).zip(&kept).filter(|(_, k)| **k).map(|(number, _)| number).collect();
                match left.is_empty() {
                    true => Ok(()),
                    false => take(Raw { line, instances: Some(left), text: with_instances(&text(), &kept) }),
                }
            }
            _ if asked() => take(Raw { line, instances: None, text: text() }),
            _ => Ok(()),
        }
    };
    let mut whole = match feed.is_whole() {
        true => source::texts(feed.path(), &mut Faults::new(source.malformed))?.unwrap_or_default(),
        false => Vec::new(),
    }
    .into_iter();
    while let Some(chunk) = feed.chunk()? {
        let lines = chunk.lines();
        for row in &*chunk.rows(feed.path())? {
            let line = lines.as_ref().and_then(|(first, lines)| lines.get(row.line - first));
            // Rows that could not be used are among the texts.
            let own = |(line, text): &(usize, String)| {
                *line == row.line && json::parse(text).is_ok_and(|value| value.as_object() == Some(&row.fields))
            };
            let found = whole.find(own).map(|(_, text)| text);
            let plain = || Value::Object(row.fields.clone()).to_string();
            each(row, &mut || line.map(|line| line.to_string()).or_else(|| found.clone()).unwrap_or_else(plain))?;
        }
    }
    // [`open`] counts what could not be read last.
    reader.faults.lines.iter().for_each(|_| _ = asked());
    Ok(())
}

/// The text of a task with the instances that are kept.
fn with_instances(text: &str, kept: &[bool]) -> String {
    let Some(place) = json::place_of(text, "Instances") else { return text.into() };
    let list = &text[place];
    let items = json::items(list);
    let between = items.first().zip(items.get(1)).map_or(", ", |(a, b)| &list[a.end..b.start]);
    let left: Vec<&str> = items.iter().zip(kept).filter(|(_, kept)| **kept).map(|(item, _)| &list[item.clone()]).collect();
    let (Some(first), Some(last)) = (items.first(), items.last()) else { return text.into() };
    let list = format!("{}{}{}", &list[..first.start], left.join(between), &list[last.end..]);
    json::with_entry(text, "Instances", &list)
}

fn refuse_tasks(path: &Path, shape: Shape) -> Result<()> {
    if shape != Shape::Flan {
        return Ok(());
    }
    let why = "a task's rows are written beside its phrasings, not into one file with others";
    Err(Error::data(path, None, why, "curate the file of rows that the task names, then name the new file in the task"))
}

/// The rows of a file, whatever their shape, at its first one.
fn begun(path: &Path) -> Result<Feed> {
    let mut feed = match Feed::is_of(path) {
        true => Feed::open(path)?,
        false => Feed::whole(path, source::read(path, &mut Faults::default())?),
    };
    feed.first()?;
    Ok(feed)
}

/// Of the first rows of a file, whatever their shape: its columns that hold text, by name. At least `enough` rows, where it has them.
///
/// # Errors
/// [`Error::Data`] or [`Error::Io`] for what cannot be read.
pub fn text_columns(path: &Path, enough: usize) -> Result<Vec<Vec<(String, String)>>> {
    let mut feed = begun(path)?;
    let mut all = Vec::new();
    while let Some(chunk) = feed.chunk()?.filter(|_| all.len() < enough) {
        for row in &*chunk.rows(path)? {
            all.push(row.fields.iter().filter_map(|(name, v)| Some((name.clone(), v.as_str()?.to_string()))).collect());
        }
    }
    Ok(all)
}

/// Calls `take` with what the rows of a file say, whatever their shape, a row at a time and with its line: the turns of its lists
/// of messages or, where it has none, every text in it as somebody's question.
///
/// # Errors
/// [`Error::Data`] or [`Error::Io`] for what cannot be read.
pub(super) fn texts(path: &Path, mut take: impl FnMut(u32, Vec<RowTurn>)) -> Result<()> {
    let mut feed = begun(path)?;
    while let Some(chunk) = feed.chunk()? {
        let rows = chunk.rows(path)?.into_owned().into_iter();
        rows.for_each(|row| take(row.line as u32, spoken(row.fields)));
    }
    Ok(())
}

/// Of lists of messages that say the same, as two answers to one prompt do, every turn once.
fn spoken(fields: json::Map) -> Vec<RowTurn> {
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

    fn texts(name: &str, text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let source = Source { path, ..Source::default() };
        let mut found = Vec::new();
        let keep = |i: usize| i != 1;
        raw_rows(&source, Split::Train, keep, |raw| {
            found.push(raw.text);
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn a_row_is_the_text_that_was_read() {
        let [a, b, c] = [r#"{"text": "\u00e9",  "n":1.50}"#, r#"{"text":"b"}"#, r#" {"text" : "c", "n" : [1e3, 1E400, -0]}"#];
        assert_eq!(texts("a.jsonl", &format!("\u{feff}{a}\r\n{b}\n\n{c}")), [a, c]);
        assert_eq!(texts("a.json", &format!("{a}\n{b}\n{c}\n")), [a, c]);
        assert_eq!(texts("a.json", &format!("[{a}, {b},\n{c}]")), [a, c.trim()]);
        assert_eq!(texts("a.json", &format!("{{\"v\": 1.0, \"data\": [{a}, {b},\n{}]}}", c.replace(", ", ",\n"))), [a, c.trim()]);
        assert_eq!(
            texts("a.csv", "text,n\na,1.50\nb,2\n\"c\"\"\",1e3\n"),
            [r#"{"text":"a","n":"1.50"}"#, r#"{"text":"c\"","n":"1e3"}"#]
        );
    }

    #[test]
    fn a_task_keeps_the_text_of_its_instances() {
        let [a, b, c] = [
            r#"{"input": "a", "output": ["x"],  "n": 1.50}"#,
            r#"{"input": "b", "output": ["y"]}"#,
            r#"{"input": "c", "output": ["z"]}"#,
        ];
        let task = |list: &str| format!(r#"{{"Definition": ["d"],  "Instances": [ {list} ], "v": 1e3}}"#);
        assert_eq!(texts("a.json", &task(&format!("{a}, {b}, {c}"))), [task(&format!("{a}, {c}"))]);
    }

    #[test]
    fn messages_of_any_row_are_turns_and_other_texts_are_questions() {
        let said = |text: &str| spoken(json::parse(text).unwrap().as_object().unwrap().clone());
        let turn = |by, text: &str| RowTurn::new(by, text);
        let row = r#"{"id":"a b c","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"x"}],
            "rejected":[{"from":"human","value":"q"},{"from":"gpt","value":"y"},{"role":"assistant","content":null}]}"#;
        assert_eq!(said(row), [turn(Role::User, "q"), turn(Role::Assistant, "x"), turn(Role::Assistant, "y")]);
        let row = r#"{"question":"Why?","choices":["so","or so"],"turns":[["agent","Hi"]],"number":1}"#;
        assert_eq!(said(row), ["Why?", "so", "or so", "agent", "Hi"].map(|text| turn(Role::User, text)));
    }
}
