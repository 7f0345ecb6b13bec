//! What becomes of some rows of a file: read, rendered, tokenised, and dropped where they cannot be used.
//!
//! Refuses to know which chunk of the file they are and what the others hold.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::column::packed;
use super::counts::TokenCounts;
use super::examples::Batch;
use super::report::{Dropped, Injected, Long, SplitRow};
use super::request::Request;
use super::truncation::{Fit, RowTokens, Truncation};
use crate::data::read::reason::Reason;
use crate::data::read::row::Row;
use crate::data::read::shape::{Converted, Facts, Piece, Reader};
use crate::data::read::source::RawRow;
use crate::data::render::encode::Encoded;
use crate::data::render::example::Prompt;
use crate::data::render::renderer::Renderer;
use crate::error::{Error, Result};

/// Fewest rows that a thread takes at a time.
const FEWEST: usize = 16;

/// Makes tokens of the rows of one source.
#[derive(Clone)]
pub(crate) struct RowTokenizer<'a> {
    pub(crate) reader: Reader<'a>,
    pub(crate) renderer: &'a Renderer,
    pub(crate) path: &'a Path,
    /// Index of the source.
    pub(crate) source: usize,
    pub(crate) truncation: Truncation,
    /// Prompts are wanted besides the tokens.
    pub(crate) prompts: bool,
}

/// Rows as conversations.
#[derive(Default)]
pub(crate) struct ReadRows {
    pub(crate) rows: Vec<Row>,
    /// Of each of `rows`.
    grouping: Vec<Grouping>,
    dropped: Vec<Dropped>,
    /// Rows that lie in others, beyond the first of each.
    held: usize,
    ignored: BTreeMap<String, usize>,
}

/// Whether a row is one of several forms of one row (its phrasings, the pairs of a prompt), and what it is for.
#[derive(Debug, Clone, Copy)]
struct Grouping {
    /// Rows of one number are forms of one row.
    group: usize,
    train_only: bool,
}

/// Bits of [`TokenizedRows::grouping`]: another form of the row before it; never held out.
pub(crate) const SAME_GROUP: u8 = 1;
pub(crate) const TRAIN_ONLY: u8 = 2;

/// What some rows became.
#[derive(Default)]
pub(crate) struct TokenizedRows {
    pub(crate) facts: Facts,
    /// Rows read.
    pub(crate) read: usize,
    /// Rows that are conversations, whether they are used or not.
    pub(crate) converted: usize,
    pub(crate) beyond_limit: usize,
    pub(crate) ignored: BTreeMap<String, usize>,
    pub(crate) batch: Batch,
    /// Of each row of `batch`: which of the conversations it is, and which part of it, packed.
    pub(crate) places: Vec<u64>,
    /// Of each row of `batch`: [`SAME_GROUP`], [`TRAIN_ONLY`].
    pub(crate) grouping: Vec<u8>,
    pub(crate) token_counts: TokenCounts,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) truncated: Vec<Long>,
    pub(crate) split: Vec<SplitRow>,
    pub(crate) injected: Vec<Injected>,
    pub(crate) open_answers: usize,
}

impl ReadRows {
    fn push(&mut self, row: Row, grouping: Grouping) {
        self.rows.push(row);
        self.grouping.push(grouping);
    }
}

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
    tokens: RowTokens,
    prompt: Option<Prompt>,
}

impl<'a> RowTokenizer<'a> {
    /// For the source number `source` of a request, which `reader` reads.
    pub(crate) fn new(request: &Request<'a>, source: usize, path: &'a Path, reader: Reader<'a>) -> RowTokenizer<'a> {
        let Request { renderer, data, max_length, .. } = *request;
        let truncation = Truncation { over_long: data.over_long, max_length, tells_once: reader.tells_once() };
        RowTokenizer { reader, renderer, path, source, truncation, prompts: false }
    }

    /// Makes prompts besides the tokens, if `prompts`.
    pub(crate) fn with_prompts(self, prompts: bool) -> RowTokenizer<'a> {
        RowTokenizer { prompts, ..self }
    }

    /// Rows as conversations; empty ones are dropped.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a row that cannot be used.
    pub(crate) fn convert(&self, raw: &[RawRow]) -> Result<ReadRows> {
        let (mut reader, mut out) = (self.reader.clone(), ReadRows::default());
        reader.faults.lines.clear();
        let mut group = 0;
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
                    group += 1;
                    out.push(Row::new(self.source, row.line, kind), Grouping { group, train_only: false });
                }
                Converted::Rows(pieces) => {
                    out.held += pieces.len().saturating_sub(1);
                    for piece in pieces {
                        group += usize::from(!piece.again);
                        self.piece(piece, group, &mut out);
                    }
                }
                Converted::Empty => out.dropped.push(self.dropped(row.line, Reason::Empty)),
                Converted::Dropped(reason) => out.dropped.push(self.dropped(row.line, reason)),
            }
        }
        out.dropped.extend(reader.faults.lines.iter().map(|line| self.dropped(*line, Reason::Malformed)));
        let read = |key: &String| key.strip_prefix("message.").is_some_and(|key| self.renderer.reads(key));
        out.ignored = reader.ignored.rows().into_iter().filter(|(key, _)| !read(key)).collect();
        Ok(out)
    }

    /// One of the rows that a row holds.
    fn piece(&self, piece: Piece, group: usize, out: &mut ReadRows) {
        match piece.became {
            Ok(kind) => {
                let (task, cluster, references) = (piece.task, piece.cluster, piece.references);
                let row = Row { task, cluster, references, ..Row::new(self.source, piece.line, kind) };
                out.push(row, Grouping { group, train_only: piece.train_only });
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
    pub(crate) fn run(&self, raw: &[RawRow], wanted: impl Fn(usize) -> bool + Sync) -> Result<TokenizedRows> {
        let facts = Facts::of(&self.reader, raw);
        let ReadRows { rows, grouping, dropped, held, ignored } = self.convert(raw)?;
        let (read, converted) = (raw.len() + held, rows.len());
        let mut done = TokenizedRows { facts, read, converted, ignored, dropped, ..TokenizedRows::default() };
        let ready: Vec<Option<Result<Parts>>> = rows
            .par_iter()
            .enumerate()
            .with_min_len(FEWEST)
            .map(|(place, row)| wanted(place).then(|| self.encode(place, row)))
            .collect();
        let mut last = None;
        for ((row, grouping), ready) in rows.iter().zip(&grouping).zip(ready) {
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
                    let again = if last == Some(grouping.group) { SAME_GROUP } else { 0 };
                    done.grouping.push(again | if grouping.train_only { TRAIN_ONLY } else { 0 });
                    last = Some(grouping.group);
                }
            }
        }
        Ok(done)
    }

    /// The row as tokens; of a conversation that is to be split, its parts.
    fn encode(&self, place: usize, row: &Row) -> Result<Parts> {
        let whole = self.tokens(row)?;
        let tokens = whole.encoded.ids.len();
        let ready = |row: &Row, part, tokens| {
            let prompt = if self.prompts { self.prompt(row)? } else { None };
            Ok(Ready { place, part, tokens, prompt })
        };
        let ready = match self.truncation.exchanges(row, tokens) {
            None => vec![ready(row, 0, whole)?],
            Some(exchanges) => {
                let parts = self.truncation.parts(&exchanges, tokens, |row| self.tokens(row))?.into_iter().enumerate();
                parts.map(|(i, (row, tokens))| ready(&row, i + 1, tokens)).collect::<Result<_>>()?
            }
        };
        Ok(Parts { tokens, ready })
    }

    fn tokens(&self, row: &Row) -> Result<RowTokens> {
        let (encoded, roles) = self.renderer.encoded_with_roles(row).map_err(|e| at_row(e, self.path, row.line))?;
        Ok(RowTokens { encoded, roles })
    }

    /// As [`RowTokenizer::prompt`], of a part of the row (0: of the row).
    ///
    /// # Errors
    /// As [`RowTokenizer::prompt`].
    pub(crate) fn prompt_of(&self, row: &Row, part: usize) -> Result<Option<Prompt>> {
        if part == 0 {
            return self.prompt(row);
        }
        let tokens = self.tokens(row)?.encoded.ids.len();
        let Some(exchanges) = self.truncation.exchanges(row, tokens) else { return Ok(None) };
        let parts = self.truncation.parts(&exchanges, tokens, |row| self.tokens(row))?;
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
    fn admit(&self, row: &Row, ready: Ready, done: &mut TokenizedRows) -> Result<bool> {
        let Ready { place, part, tokens: RowTokens { mut encoded, roles }, prompt } = ready;
        let (source, line, tokens) = (row.source, row.line, encoded.ids.len());
        let fit = self.truncation.apply(&mut encoded, self.path, line)?;
        let unused = match fit {
            Fit::TooLong => Some(Reason::OverLong { tokens }),
            _ if !encoded.trained.contains(&true) => Some(Reason::NoTrainedToken),
            _ => None,
        };
        if let Some(reason) = unused {
            done.dropped.push(Dropped { part, ..self.dropped(line, reason) });
            return Ok(false);
        }
        if fit == Fit::Truncated {
            done.truncated.push(Long { source, line, part, tokens });
        }
        done.batch.push(&encoded.ids, &encoded.trained, line, part);
        done.places.push(packed(place, part));
        done.token_counts.push(&encoded, &roles);
        done.prompts.extend(prompt);
        done.open_answers += encoded.open_answers;
        done.injected.extend(injected(source, line, &encoded));
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
