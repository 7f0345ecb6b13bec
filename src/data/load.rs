//! Every row of a recipe's files as examples, split into training and held-out ones, with an account of each row.
//!
//! Refuses to know shapes and templates; what it draws (limit, held-out rows) is a function of the seed.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::encode::Encoded;
use super::order::choose;
use super::report::{Counts, Dropped, Injected, Long, Reason, Report, SourceReport, Split};
use super::shape::{Converted, Piece, Reader};
use super::{Example, Examples, Prompt, Prompts, Renderer, Row};
use crate::error::{Error, Result};
use crate::recipe::{Data, OverLong, Source};

/// How many of the longest rows a [`Report`] names.
const LONGEST: usize = 10;

/// The data of a run.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub train: Examples,
    pub heldout: Examples,
    /// One for each held-out example that has a prompt, in the same order.
    pub heldout_prompts: Prompts,
    pub report: Report,
}

/// Reads, renders and tokenises all rows. Without held-out files, `heldout_fraction` of the rows are set aside.
///
/// # Errors
/// [`Error::Data`] with file and line for a row or file that cannot be used (see [`super`]), for a row that is too
/// long when the recipe says `error`, and when nothing is left to train on.
pub fn load(data: &Data, renderer: &Renderer, max_length: usize, seed: u64) -> Result<Loaded> {
    let mut loading = Loading { data, renderer, max_length, seed, loaded: Loaded::default() };
    let train = loading.split(&data.train, Split::Train)?;
    let heldout = loading.split(&data.heldout, Split::Heldout)?;
    if train.is_empty() {
        let path = data.train.first().map_or(Path::new("[data] train"), |s| &s.path);
        let dropped = &loading.loaded.report.dropped;
        let why = format!("no row is left to train on; {}", reasons(dropped));
        let help = match dropped.iter().any(|d| d.reason == Reason::Malformed) {
            true => "set the source's `malformed = \"error\"` to see what is wrong with its rows",
            false => "raise `train.max_length`, or look at the rows with `lorakit data show`",
        };
        return Err(Error::data(path, None, why, help));
    }
    let (train, heldout) = loading.set_aside(train, heldout);
    loading.finish(train, heldout)
}

/// Rows of a further set to judge by, as held-out rows; `data` says what becomes of long ones.
///
/// # Errors
/// As [`load`]; also when none of the rows can be judged.
pub fn load_set(rows: &[Source], data: &Data, renderer: &Renderer, max_length: usize, seed: u64) -> Result<Loaded> {
    let data = &Data { train: Vec::new(), heldout: rows.to_vec(), ..data.clone() };
    let mut loading = Loading { data, renderer, max_length, seed, loaded: Loaded::default() };
    let heldout = loading.split(rows, Split::Heldout)?;
    if heldout.is_empty() {
        let path = rows.first().map_or(Path::new("[eval] sets"), |s| &s.path);
        let why = format!("no row is left to judge by; {}", reasons(&loading.loaded.report.dropped));
        return Err(Error::data(path, None, why, "raise `train.max_length`, or name other rows"));
    }
    loading.finish(Vec::new(), heldout)
}

fn reasons(dropped: &[Dropped]) -> String {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for d in dropped {
        let name = match d.reason {
            Reason::OverLong { .. } => "over-long".to_string(),
            other => other.to_string(),
        };
        counts.entry(name).or_insert((0, d.line)).0 += 1;
    }
    let parts: Vec<_> = counts.iter().map(|(name, (n, line))| format!("{n} {name} (first: line {line})")).collect();
    if parts.is_empty() { "the files have no rows".into() } else { parts.join(", ") }
}

/// A row that is used.
struct Ready {
    row: Row,
    encoded: Encoded,
    roles: Vec<String>,
}

struct Loading<'a> {
    data: &'a Data,
    renderer: &'a Renderer,
    max_length: usize,
    seed: u64,
    loaded: Loaded,
}

impl Loading<'_> {
    fn split(&mut self, sources: &[Source], split: Split) -> Result<Vec<Ready>> {
        let mut all = Vec::new();
        for source in sources {
            let rows = self.rows(source, split)?;
            all.extend(self.encode(&source.path, rows)?);
        }
        Ok(all)
    }

    /// The rows of a file as conversations; empty ones are dropped, `limit` is drawn from what remains.
    fn rows(&mut self, file: &Source, split: Split) -> Result<Vec<Row>> {
        let index = self.loaded.report.sources.len();
        let (mut reader, raw) = Reader::open(file, split, self.seed)?;
        let unread = reader.faults.lines.len();
        let mut rows = Vec::with_capacity(raw.len());
        // Rows that lie in others, beyond the first of each.
        let mut held = 0;
        for row in &raw {
            let converted = match reader.convert(row) {
                Ok(converted) => converted,
                Err(error) => {
                    reader.faults.put(error)?;
                    continue;
                }
            };
            match converted {
                Converted::Row(kind) => rows.push(Row::new(index, row.line, kind)),
                Converted::Rows(pieces) => {
                    held += pieces.len().saturating_sub(1);
                    pieces.into_iter().for_each(|piece| self.piece(index, piece, &mut rows));
                }
                Converted::Empty => self.drop(index, row.line, Reason::Empty),
                Converted::Dropped(reason) => self.drop(index, row.line, reason),
            }
        }
        for line in std::mem::take(&mut reader.faults.lines) {
            self.drop(index, line, Reason::Malformed);
        }
        let mut beyond_limit = 0;
        if let Some(limit) = file.limit.filter(|limit| *limit < rows.len()) {
            beyond_limit = rows.len() - limit;
            let chosen: HashSet<usize> = choose(rows.len(), limit, self.seed, "limit", index as u64).into_iter().collect();
            rows = rows.into_iter().enumerate().filter(|(i, _)| chosen.contains(i)).map(|(_, r)| r).collect();
        }
        let ignored = reader.ignored.iter().cloned().collect();
        let shape = reader.shape;
        self.loaded.report.sources.push(SourceReport {
            path: file.path.clone(),
            split,
            shape,
            rows: unread + raw.len() + held,
            beyond_limit,
            ignored,
        });
        Ok(rows)
    }

    /// One of the rows that a row holds.
    fn piece(&mut self, source: usize, piece: Piece, rows: &mut Vec<Row>) {
        match piece.became {
            Ok(kind) => {
                let (task, cluster, references) = (piece.task, piece.cluster, piece.references);
                rows.push(Row { task, cluster, references, ..Row::new(source, piece.line, kind) });
            }
            Err(reason) => self.drop(source, piece.line, reason),
        }
    }

    fn drop(&mut self, source: usize, line: usize, reason: Reason) {
        self.loaded.report.dropped.push(Dropped { source, line, reason });
    }

    /// Tokens of rows, in their order whatever the number of threads.
    fn encode(&mut self, path: &Path, rows: Vec<Row>) -> Result<Vec<Ready>> {
        let encoded: Vec<Result<(Encoded, Vec<String>)>> =
            rows.par_iter().map(|row| self.renderer.encoded_with_roles(row).map_err(|e| at_row(e, path, row.line))).collect();
        let mut ready = Vec::with_capacity(rows.len());
        for (row, encoded) in rows.into_iter().zip(encoded) {
            let (encoded, roles) = encoded?;
            ready.extend(self.admit(path, Ready { row, encoded, roles })?);
        }
        Ok(ready)
    }

    /// The row, cut or dropped as the recipe says about long ones.
    fn admit(&mut self, path: &Path, mut ready: Ready) -> Result<Option<Ready>> {
        let (source, line, tokens) = (ready.row.source, ready.row.line, ready.encoded.ids.len());
        let mut cut = false;
        if tokens > self.max_length {
            match self.data.over_long {
                OverLong::Drop => {
                    self.drop(source, line, Reason::OverLong { tokens });
                    return Ok(None);
                }
                OverLong::Error => {
                    let why = format!("the row has {tokens} tokens, `train.max_length` is {}", self.max_length);
                    return Err(Error::data(
                        path,
                        Some(line),
                        why,
                        "shorten it, raise `train.max_length`, or set `data.over_long = \"drop\"`",
                    ));
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
            self.drop(source, line, Reason::NoTrainedToken);
            return Ok(None);
        }
        if cut {
            self.loaded.report.truncated.push(Long { source, line, tokens });
        }
        Ok(Some(ready))
    }

    /// Moves `heldout_fraction` of the training rows to an empty held-out set, leaving at least one of each.
    fn set_aside(&self, train: Vec<Ready>, heldout: Vec<Ready>) -> (Vec<Ready>, Vec<Ready>) {
        let fraction = self.data.heldout_fraction;
        if !self.data.heldout.is_empty() || fraction <= 0.0 || train.len() < 2 {
            return (train, heldout);
        }
        let wanted = (train.len() as f64 * fraction).round() as usize;
        let chosen: HashSet<usize> =
            choose(train.len(), wanted.clamp(1, train.len() - 1), self.seed, "heldout", 0).into_iter().collect();
        let (heldout, train): (Vec<_>, Vec<_>) = train.into_iter().enumerate().partition(|(i, _)| chosen.contains(i));
        let bare = |rows: Vec<(usize, Ready)>| rows.into_iter().map(|(_, r)| r).collect();
        (bare(train), bare(heldout))
    }

    fn finish(mut self, train: Vec<Ready>, heldout: Vec<Ready>) -> Result<Loaded> {
        let mut prompts: Vec<Prompt> = Vec::new();
        for ready in &heldout {
            let path = &self.loaded.report.sources[ready.row.source].path;
            let prompt = self.renderer.prompt(&ready.row).map_err(|e| at_row(e, path, ready.row.line))?;
            prompts.extend(prompt);
        }
        self.loaded.heldout_prompts = prompts.into();
        let report = &mut self.loaded.report;
        report.repeated = repeated(&train, &heldout);
        let mut all: Vec<&Ready> = train.iter().chain(&heldout).collect();
        all.sort_by_key(|r| (r.row.source, r.row.line));
        for ready in &all {
            report.open_answers += ready.encoded.open_answers;
            report.injected.extend(injected(ready));
        }
        all.sort_by_key(|r| std::cmp::Reverse(r.encoded.ids.len()));
        report.longest = all.iter().take(LONGEST).map(|r| long(r)).collect();
        report.train = count(&train);
        report.heldout = count(&heldout);
        report.dropped.sort_by_key(|d| (d.source, d.line));
        self.loaded.train = train.into_iter().map(example).collect();
        self.loaded.heldout = heldout.into_iter().map(example).collect();
        Ok(self.loaded)
    }
}

/// The error of a template or a tokenizer, at the row that caused it.
fn at_row(error: Error, path: &Path, line: usize) -> Error {
    match error {
        Error::Template { name, line: place, why, help } => {
            let place = place.map(|l| format!(" line {l}")).unwrap_or_default();
            Error::data(path, Some(line), format!("chat template {name}{place}: {why}"), help)
        }
        Error::Usage { what, why, help } => Error::data(path, Some(line), format!("{what}: {why}"), help),
        other => other,
    }
}

fn long(ready: &Ready) -> Long {
    Long { source: ready.row.source, line: ready.row.line, tokens: ready.encoded.ids.len() }
}

fn repeated(train: &[Ready], heldout: &[Ready]) -> Vec<Long> {
    let seen: HashSet<&[u32]> = train.iter().map(|r| r.encoded.ids.as_slice()).collect();
    heldout.iter().filter(|r| seen.contains(r.encoded.ids.as_slice())).map(long).collect()
}

fn injected(ready: &Ready) -> Vec<Injected> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for token in &ready.encoded.injected {
        *times.entry(token).or_default() += 1;
    }
    let (source, line) = (ready.row.source, ready.row.line);
    times.into_iter().map(|(token, times)| Injected { source, line, token: token.into(), times }).collect()
}

fn count(rows: &[Ready]) -> Counts {
    let mut counts = Counts { examples: rows.len(), ..Counts::default() };
    for ready in rows {
        counts.tokens += ready.encoded.ids.len();
        counts.trained += ready.encoded.trained.iter().filter(|t| **t).count();
        for turn in &ready.encoded.turn {
            let role = turn.map_or("template", |i| &ready.roles[i]);
            match counts.roles.get_mut(role) {
                Some(n) => *n += 1,
                None => _ = counts.roles.insert(role.to_string(), 1),
            }
        }
    }
    counts
}

fn example(ready: Ready) -> Example {
    Example { ids: ready.encoded.ids, trained: ready.encoded.trained, source: ready.row.source, line: ready.row.line }
}
