//! What becomes of some rows of a file: read, rendered, tokenised, and dropped or cut as the recipe says about long ones.
//!
//! Refuses to know which chunk of the file they are and what the others hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;

use super::column::packed;
use super::examples::Batch;
use super::report::{Dropped, Injected, Long, SplitRow};
use crate::data::read::reason::Reason;
use crate::data::read::row::{Conversation, Row, RowKind};
use crate::data::read::shape::{Converted, Facts, Piece, Reader};
use crate::data::read::source::RawRow;
use crate::data::render::encode::Encoded;
use crate::data::render::example::Prompt;
use crate::data::render::exchanges::Exchanges;
use crate::data::render::renderer::Renderer;
use crate::error::{Error, Result};
use crate::recipe::OverLong;

/// Fewest rows that a thread takes at a time.
const FEWEST: usize = 16;

/// How the rows of one source are worked on.
#[derive(Clone)]
pub(crate) struct Work<'a> {
    pub(crate) reader: Reader<'a>,
    pub(crate) renderer: &'a Renderer,
    pub(crate) path: &'a Path,
    /// Index of the source.
    pub(crate) source: usize,
    pub(crate) over_long: OverLong,
    pub(crate) max_length: usize,
    /// Prompts are wanted besides the tokens.
    pub(crate) prompts: bool,
}

/// Rows as conversations.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// Of each of `rows`.
    kin: Vec<Kin>,
    dropped: Vec<Dropped>,
    /// Rows that lie in others, beyond the first of each.
    held: usize,
    ignored: BTreeSet<String>,
}

/// What a row has to do with others.
#[derive(Debug, Clone, Copy)]
struct Kin {
    /// Rows of one number are forms of one row.
    unit: usize,
    train_only: bool,
}

/// Bits of [`Done::kin`]: another form of the row before it; never held out.
pub(crate) const AGAIN: u8 = 1;
pub(crate) const TRAIN_ONLY: u8 = 2;

/// What some rows became.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) facts: Facts,
    /// Rows read.
    pub(crate) read: usize,
    /// Rows that are conversations, whether they are used or not.
    pub(crate) converted: usize,
    pub(crate) beyond_limit: usize,
    pub(crate) ignored: BTreeSet<String>,
    pub(crate) batch: Batch,
    /// Of each row of `batch`: which of the conversations it is, and which part of it, packed.
    pub(crate) places: Vec<u64>,
    /// Of each row of `batch`: [`AGAIN`], [`TRAIN_ONLY`].
    pub(crate) kin: Vec<u8>,
    pub(crate) tallies: Tallies,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) truncated: Vec<Long>,
    pub(crate) split: Vec<SplitRow>,
    pub(crate) injected: Vec<Injected>,
    pub(crate) open_answers: usize,
}

/// Of rows: how many tokens are trained, then (role, tokens) for each role; roles are named once.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) roles: Vec<String>,
    pub(crate) values: Vec<u32>,
    pub(crate) lengths: Vec<u32>,
}

impl Tallies {
    fn push(&mut self, encoded: &Encoded, roles: &[String]) {
        let start = self.values.len();
        self.values.push(encoded.trained.iter().filter(|t| **t).count() as u32);
        let mut last = (None, 0);
        for turn in &encoded.turn {
            if last.0 != Some(*turn) {
                last = (Some(*turn), self.slot(start, turn.map_or("template", |i| &roles[i])));
            }
            self.values[last.1] += 1;
        }
        self.lengths.push((self.values.len() - start) as u32);
    }

    /// Where the row whose tally begins at `start` counts the tokens of `role`.
    fn slot(&mut self, start: usize, role: &str) -> usize {
        let number = index_of(&mut self.roles, role);
        let known = (start + 1..self.values.len()).step_by(2).find(|at| self.values[*at] == number);
        known.unwrap_or_else(|| {
            self.values.extend([number, 0]);
            self.values.len() - 2
        }) + 1
    }
}

/// The number of `name` among `names`, where it is put if it is new.
pub(crate) fn index_of(names: &mut Vec<String>, name: &str) -> u32 {
    let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.to_string());
        names.len() - 1
    });
    at as u32
}

impl Rows {
    fn push(&mut self, row: Row, kin: Kin) {
        self.rows.push(row);
        self.kin.push(kin);
    }
}

/// Tokens, and the roles of their turns.
type Voiced = (Encoded, Vec<String>);

/// A row or its parts as tokens.
struct Parts {
    /// Of the row.
    tokens: usize,
    ready: Vec<Ready>,
}

/// A row, or a part of it, as tokens.
struct Ready {
    place: usize,
    /// As [`Dropped::part`].
    part: usize,
    encoded: Encoded,
    roles: Vec<String>,
    prompt: Option<Prompt>,
}

impl Work<'_> {
    /// Rows as conversations; empty ones are dropped.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a row that cannot be used.
    pub(crate) fn convert(&self, raw: &[RawRow]) -> Result<Rows> {
        let (mut reader, mut out) = (self.reader.clone(), Rows::default());
        reader.faults.lines.clear();
        let mut unit = 0;
        for row in raw {
            let converted = match reader.convert(row) {
                Ok(converted) => converted,
                Err(error) => {
                    reader.faults.put(error)?;
                    continue;
                }
            };
            match converted {
                Converted::Row(kind) => {
                    unit += 1;
                    out.push(Row::new(self.source, row.line, kind), Kin { unit, train_only: false });
                }
                Converted::Rows(pieces) => {
                    out.held += pieces.len().saturating_sub(1);
                    for piece in pieces {
                        unit += usize::from(!piece.again);
                        self.piece(piece, unit, &mut out);
                    }
                }
                Converted::Empty => out.dropped.push(self.dropped(row.line, Reason::Empty)),
                Converted::Dropped(reason) => out.dropped.push(self.dropped(row.line, reason)),
            }
        }
        out.dropped.extend(reader.faults.lines.iter().map(|line| self.dropped(*line, Reason::Malformed)));
        out.ignored = reader.ignored;
        Ok(out)
    }

    /// One of the rows that a row holds.
    fn piece(&self, piece: Piece, unit: usize, out: &mut Rows) {
        match piece.became {
            Ok(kind) => {
                let (task, cluster, references) = (piece.task, piece.cluster, piece.references);
                let row = Row { task, cluster, references, ..Row::new(self.source, piece.line, kind) };
                out.push(row, Kin { unit, train_only: piece.train_only });
            }
            Err(reason) => out.dropped.push(self.dropped(piece.line, reason)),
        }
    }

    fn dropped(&self, line: usize, reason: Reason) -> Dropped {
        Dropped { source: self.source, line, part: 0, reason }
    }

    /// The tokens of rows in their order, whatever the number of threads; of those rows alone that `wanted` says.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a row that cannot be used, or is too long where that is an error.
    pub(crate) fn run(&self, raw: &[RawRow], wanted: impl Fn(usize) -> bool + Sync) -> Result<Done> {
        let facts = Facts::of(&self.reader, raw);
        let Rows { rows, kin, dropped, held, ignored } = self.convert(raw)?;
        let (read, converted) = (raw.len() + held, rows.len());
        let mut done = Done { facts, read, converted, ignored, dropped, ..Done::default() };
        let ready: Vec<Option<Result<Parts>>> = rows
            .par_iter()
            .enumerate()
            .with_min_len(FEWEST)
            .map(|(place, row)| wanted(place).then(|| self.encode(place, row)))
            .collect();
        let mut last = None;
        for ((row, kin), ready) in rows.iter().zip(&kin).zip(ready) {
            let Some(ready) = ready else {
                done.beyond_limit += 1;
                continue;
            };
            let Parts { tokens, ready } = ready?;
            if ready.len() > 1 {
                done.split.push(SplitRow { source: row.source, line: row.line, tokens, parts: ready.len() });
            }
            for ready in ready {
                if self.admit(row, ready, &mut done)? {
                    let again = if last == Some(kin.unit) { AGAIN } else { 0 };
                    done.kin.push(again | if kin.train_only { TRAIN_ONLY } else { 0 });
                    last = Some(kin.unit);
                }
            }
        }
        Ok(done)
    }

    /// The row as tokens; of a conversation that is to be split, its parts.
    fn encode(&self, place: usize, row: &Row) -> Result<Parts> {
        let (encoded, roles) = self.tokens(row)?;
        let tokens = encoded.ids.len();
        let ready = |row: &Row, part, (encoded, roles)| {
            let prompt = if self.prompts { self.prompt(row)? } else { None };
            Ok(Ready { place, part, encoded, roles, prompt })
        };
        let ready = match self.exchanges(row, tokens) {
            None => vec![ready(row, 0, (encoded, roles))?],
            Some(exchanges) => {
                let parts = self.parts(&exchanges, tokens)?.into_iter().enumerate();
                parts.map(|(i, (row, tokens))| ready(&row, i + 1, tokens)).collect::<Result<_>>()?
            }
        };
        Ok(Parts { tokens, ready })
    }

    fn tokens(&self, row: &Row) -> Result<Voiced> {
        self.renderer.encoded_with_roles(row).map_err(|e| at_row(e, self.path, row.line))
    }

    /// The exchanges of a row of so many tokens if it is to be split.
    fn exchanges<'r>(&self, row: &'r Row, tokens: usize) -> Option<Exchanges<'r>> {
        let RowKind::Chat(chat) = &row.kind else { return None };
        if self.over_long != OverLong::Split || tokens <= self.max_length || self.is_told_once(chat) {
            return None;
        }
        Some(Exchanges::of(row, chat)).filter(|exchanges| exchanges.len() > 1)
    }

    /// Whether parts after the first would lack the instruction that they follow.
    fn is_told_once(&self, chat: &Conversation) -> bool {
        self.reader.tells_once() && chat.messages.first().is_none_or(|m| m.role != "system")
    }

    fn parts(&self, exchanges: &Exchanges, tokens: usize) -> Result<Vec<(Row, Voiced)>> {
        exchanges.cut(tokens, self.max_length, |row| {
            let tokens = self.tokens(row)?;
            Ok((tokens.0.ids.len() <= self.max_length, tokens))
        })
    }

    /// As [`Work::prompt`], of a part of the row (0: of the row).
    ///
    /// # Errors
    /// As [`Work::prompt`].
    pub(crate) fn prompt_of(&self, row: &Row, part: usize) -> Result<Option<Prompt>> {
        if part == 0 {
            return self.prompt(row);
        }
        let tokens = self.tokens(row)?.0.ids.len();
        let Some(exchanges) = self.exchanges(row, tokens) else { return Ok(None) };
        let parts = self.parts(&exchanges, tokens)?;
        parts.get(part - 1).map_or(Ok(None), |(row, _)| self.prompt(row))
    }

    /// What to generate from for a row; `None` for plain text.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a row that the template refuses.
    pub(crate) fn prompt(&self, row: &Row) -> Result<Option<Prompt>> {
        self.renderer.prompt(row).map_err(|e| at_row(e, self.path, row.line))
    }

    /// Takes the row, cut as the recipe says about long ones; false when it is dropped.
    fn admit(&self, row: &Row, mut ready: Ready, done: &mut Done) -> Result<bool> {
        let (source, line, part, tokens) = (row.source, row.line, ready.part, ready.encoded.ids.len());
        let mut cut = false;
        if tokens > self.max_length {
            match self.over_long {
                OverLong::Drop | OverLong::Split => {
                    done.dropped.push(Dropped { part, ..self.dropped(line, Reason::OverLong { tokens }) });
                    return Ok(false);
                }
                OverLong::Error => {
                    let why = format!("the row has {tokens} tokens, `train.max_length` is {}", self.max_length);
                    let help = "shorten it, raise `train.max_length`, or set `data.over_long = \"split\"` or `\"drop\"`";
                    return Err(Error::data(self.path, Some(line), why, help));
                }
                OverLong::Truncate => {
                    ready.encoded.ids.truncate(self.max_length);
                    ready.encoded.trained.truncate(self.max_length);
                    ready.encoded.turn.truncate(self.max_length);
                    cut = true;
                }
            }
        }
        if !ready.encoded.trained.contains(&true) {
            done.dropped.push(Dropped { part, ..self.dropped(line, Reason::NoTrainedToken) });
            return Ok(false);
        }
        if cut {
            done.truncated.push(Long { source, line, part, tokens });
        }
        done.batch.push(&ready.encoded.ids, &ready.encoded.trained, line, part);
        done.places.push(packed(ready.place, part));
        done.tallies.push(&ready.encoded, &ready.roles);
        done.prompts.extend(ready.prompt);
        done.open_answers += ready.encoded.open_answers;
        done.injected.extend(injected(source, line, &ready.encoded));
        Ok(true)
    }
}

/// The error of a template or a tokenizer, at the row that caused it.
pub(crate) fn at_row(error: Error, path: &Path, line: usize) -> Error {
    match error {
        Error::Template { name, line: place, why, help } => {
            let place = place.map(|l| format!(" line {l}")).unwrap_or_default();
            Error::data(path, Some(line), format!("chat template {name}{place}: {why}"), help)
        }
        Error::Usage { what, why, help } => Error::data(path, Some(line), format!("{what}: {why}"), help),
        other => other,
    }
}

fn injected(source: usize, line: usize, encoded: &Encoded) -> Vec<Injected> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for token in &encoded.injected {
        *times.entry(token).or_default() += 1;
    }
    times.into_iter().map(|(token, times)| Injected { source, line, token: token.into(), times }).collect()
}
