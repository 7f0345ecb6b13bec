//! From the columns of a file to rows: which of the known shapes it has, and each row in it.
//!
//! The shape is decided over the whole file. Refuses to know files, templates and tokens.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `keys`, `ignored`, `calls`, `flan`, `ghost`, `superni`, `vicuna` | names of columns; what nothing read; calls of tools; tasks in several phrasings; Ghost Attention; Super-NaturalInstructions; conversations of a web page |
//! | 1 | `message` | one message |
//! | 2 | `preference` | two answers to one prompt |
//! | 3 | `facts`, `completion` | what rows say of the shape; a prompt and its completion |
//! | 4 | `detect` | which shape a file has |

mod keys;
mod ignored;
mod facts;
mod detect;
mod message;
mod calls;
mod preference;
mod completion;
mod superni;
mod flan;
mod ghost;
mod vicuna;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod padded_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::json::Value;

pub(crate) use self::calls::conversation;
pub(crate) use self::facts::Facts;
use self::flan::Task;
use self::ignored::Ignored;
use super::Split;
use super::loss;
use super::reason::Reason;
use super::row::{Message, RowKind};
use super::source;
use super::source::{Faults, Feed, RawRow, kind};
use crate::error::{Error, Result};
use crate::recipe::{Malformed, Shape, Source, Templates};

/// What a row became.
#[derive(Debug)]
pub(crate) enum Converted {
    Row(RowKind),
    /// One row that holds several: the instances of a task, the pairs of ranked replies.
    Rows(Vec<Piece>),
    /// An answer (or a text) without a visible character: nothing to learn from.
    Empty,
    /// Not used, and why.
    Dropped(Reason),
}

/// One of several rows that a row holds.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The row's own line or, in files that hold a task each, the instance's number from 1.
    pub(crate) line: usize,
    pub(crate) task: Option<String>,
    pub(crate) cluster: Option<String>,
    /// All accepted answers; may be empty.
    pub(crate) references: Vec<String>,
    /// Another form of the piece before it: whoever knows one knows the other.
    pub(crate) again: bool,
    /// Never among held-out rows.
    pub(crate) train_only: bool,
    pub(crate) became: std::result::Result<RowKind, Reason>,
}

/// How the rows of one file are read: its shape and its names of our fields.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    path: &'a Path,
    source: &'a Source,
    pub(crate) shape: Shape,
    task: Option<Arc<Task>>,
    /// What is drawn for a row depends on these.
    draw: (Split, u64),
    /// Rows that cannot be used.
    pub(crate) faults: Faults,
    /// Columns (and keys of messages) that carry something this program does not use.
    pub(crate) ignored: Ignored,
}

/// The rows of a source and how they are read.
pub(crate) struct Stream<'a> {
    pub(crate) reader: Reader<'a>,
    pub(crate) feed: Feed,
    /// The shape is decided; else [`Reader::settle`] is to be asked first.
    pub(crate) sure: bool,
}

impl<'a> Stream<'a> {
    /// With the shape that all rows say; where it is not decided, the file is read once for it.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub(crate) fn settled(self) -> Result<(Reader<'a>, Feed)> {
        let Stream { mut reader, mut feed, sure } = self;
        if !sure {
            feed.first()?;
            let (mut facts, mut all) = (Facts::default(), feed.again()?);
            while let Some(chunk) = all.chunk()? {
                facts.and(Facts::of(&reader, &chunk.rows(feed.path())?));
            }
            reader.settle(reader.shape_of(&facts)?)?;
        }
        Ok((reader, feed))
    }
}

impl<'a> Reader<'a> {
    /// The rows of a source's file and how they are read; `split` and `seed` decide what is drawn for a row.
    ///
    /// # Errors
    /// As [`Reader::new`], and what is wrong with the file or with a task's.
    pub(crate) fn open(source: &'a Source, split: Split, seed: u64) -> Result<(Reader<'a>, Vec<RawRow>)> {
        let path = source.path.as_path();
        let mut reader = Reader { draw: (split, seed), ..Reader::bare(path, source) };
        match (Task::is_at(path), source.shape) {
            (false, Some(Shape::Flan)) => {
                let why = "a task of shape `flan` is a TOML file";
                Err(Error::data(path, None, why, "name the task's .toml file, which names its rows"))
            }
            (true, Some(shape)) if shape != Shape::Flan => {
                let why = format!("a TOML file holds a task of shape `flan`, not `{}`", detect::label(shape));
                Err(Error::data(path, None, why, "write `shape = \"flan\"`, or name a file of rows"))
            }
            (true, _) => {
                let mut task = Task::read(path)?;
                let rows = task.rows(&mut reader.faults)?;
                (reader.shape, reader.task) = (Shape::Flan, Some(Arc::new(task)));
                reader.check_keys()?;
                Ok((reader, rows))
            }
            (false, _) => {
                let mut rows = source::read(path, &mut reader.faults)?;
                if reader.faults.drops() {
                    let facts = Facts::of(&reader, &rows);
                    reader.check_columns(&facts)?;
                    rows = reader.fitting(&facts, rows)?;
                }
                if rows.is_empty() {
                    return Ok((reader, rows));
                }
                let faults = std::mem::take(&mut reader.faults);
                Ok((Reader { faults, ..Reader::new(path, source, &rows)? }, rows))
            }
        }
    }

    /// As [`Reader::open`], of JSON Lines a part at a time. Where malformed rows are left out all of the file is read, as its
    /// shape is the one that most rows have.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub(crate) fn stream(source: &'a Source, split: Split, seed: u64) -> Result<Stream<'a>> {
        let path = source.path.as_path();
        let whole = Task::is_at(path) || source.shape == Some(Shape::Flan) || source.malformed == Malformed::Drop;
        if whole || !Feed::is_of(path) {
            let (reader, rows) = Reader::open(source, split, seed)?;
            return Ok(Stream { reader, feed: Feed::whole(path, rows), sure: true });
        }
        let reader = Reader { draw: (split, seed), ..Reader::bare(path, source) };
        Ok(Stream { reader, feed: Feed::open(path)?, sure: false })
    }

    /// The files that a source's rows come from: its own, and the one that a task names.
    ///
    /// # Errors
    /// What is wrong with a task's file.
    pub(crate) fn files(source: &Source) -> Result<Vec<PathBuf>> {
        let own = source.path.clone();
        let named = if Task::is_at(&own) { Task::read(&own)?.data } else { own.clone() };
        Ok(if named == own { vec![own] } else { vec![own, named] })
    }

    /// Reads the rows as `shape` from here on.
    ///
    /// # Errors
    /// [`Error::Data`]: a key of the source that means nothing for the shape.
    pub(crate) fn settle(&mut self, shape: Shape) -> Result<()> {
        self.shape = shape;
        self.check_keys()
    }

    /// The names that the task of the file goes by: its own and its cluster's; none where the shape knows no tasks.
    pub(crate) fn names(&self, rows: &[RawRow]) -> Vec<String> {
        match (&self.task, self.shape) {
            (Some(task), _) => task.names(),
            (None, Shape::SuperNi) => self.task_and_category(rows),
            (None, _) => Vec::new(),
        }
    }

    /// From now on its rows are held-out ones.
    pub(crate) fn hold_out(&mut self) {
        self.draw.0 = Split::Heldout;
    }

    /// Whether its dialogues say an instruction once, at their beginning, that all of their answers follow.
    pub(crate) fn tells_once(&self) -> bool {
        self.source.ghost_attention
    }

    fn bare(path: &'a Path, source: &'a Source) -> Reader<'a> {
        let (shape, draw) = (source.shape.unwrap_or(Shape::Text), (Split::Train, 0));
        Reader { path, source, shape, task: None, draw, faults: Faults::new(source.malformed), ignored: Ignored::default() }
    }

    /// Decides the shape over all of `rows` of the file `path`, or checks that they all have the one asked for.
    ///
    /// # Errors
    /// [`Error::Data`]: unknown columns, rows of differing shapes (two lines named), a mapping to a column that is not
    /// there, a key of the source that means nothing for the shape.
    pub(crate) fn new(path: &'a Path, source: &'a Source, rows: &[RawRow]) -> Result<Reader<'a>> {
        let mut reader = Reader::bare(path, source);
        reader.settle(reader.shape_of(&Facts::of(&reader, rows))?)?;
        Ok(reader)
    }

    /// The file's name of our field `ours`.
    fn name<'b>(&'b self, ours: &'b str) -> &'b str {
        self.source.columns.iter().find(|(o, _)| o == ours).map_or(ours, |(_, theirs)| theirs)
    }

    fn get<'r>(&self, row: &'r RawRow, ours: &str) -> Option<&'r Value> {
        row.fields.get(self.name(ours))
    }

    /// As [`Reader::get`], of what is not null.
    fn given<'r>(&self, row: &'r RawRow, ours: &str) -> Option<&'r Value> {
        self.get(row, ours).filter(|value| !value.is_null())
    }

    /// One row as what it says.
    ///
    /// # Errors
    /// [`Error::Data`] with the line: a field of the wrong type, an unknown role, no message, no assistant turn.
    pub(crate) fn convert(&mut self, row: &RawRow) -> Result<Converted> {
        self.ignored.next_row();
        if let Some(task) = &self.task {
            let (split, seed) = self.draw;
            return task.phrase(row, self.source.templates.unwrap_or(Templates::One), split, seed);
        }
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
            Shape::Completion => self.completion(row),
            Shape::Text => {
                let text = self.text(row, "text")?;
                Ok(unless_empty(&text.clone(), RowKind::Text(text)))
            }
            Shape::Preference => self.preference(row),
            Shape::Labelled => self.labelled(row),
            Shape::SuperNi => self.instances(row),
            // A task is read by `open` alone, and answered above.
            Shape::Flan => Err(self.fail(row.line, "rows of a task without their task", detect::KNOWN)),
        }
    }

    fn note_ignored(&mut self, row: &RawRow) {
        let used = detect::used(self.shape);
        for (key, value) in &row.fields {
            let read = used.iter().any(|u| self.name(u) == key.as_str());
            if !read && ignored::says_something(value) {
                self.ignored.note(key);
            }
        }
    }

    /// Notes columns that this row's shape reads, and this row does not need.
    fn note_unread(&mut self, row: &RawRow, columns: &[&str]) {
        for ours in columns {
            if self.get(row, ours).is_some_and(ignored::says_something) {
                let name = self.name(ours).to_string();
                self.ignored.note(&name);
            }
        }
    }

    fn fail(&self, line: usize, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::data(self.path, Some(line), why, help)
    }

    fn text(&self, row: &RawRow, ours: &str) -> Result<String> {
        match self.get(row, ours) {
            Some(Value::String(s)) => Ok(s.clone()),
            Some(other) => {
                let why = format!("`{}` must be a string, this is {}", self.name(ours), kind(other));
                Err(self.fail(row.line, why, "write the value as a JSON string"))
            }
            None => Err(self.fail(row.line, format!("the column `{}` is missing", self.name(ours)), detect::KNOWN)),
        }
    }

    fn optional(&self, row: &RawRow, ours: &str) -> Result<Option<String>> {
        match self.get(row, ours) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => Ok(Some(self.text(row, ours)?).filter(|s| !s.trim().is_empty())),
        }
    }
}

fn unless_empty(answer: &str, row: RowKind) -> Converted {
    if answer.trim().is_empty() { Converted::Empty } else { Converted::Row(row) }
}
