//! Every row of a recipe's files as examples, split into training and held-out ones, with an account of each row.
//!
//! A few chunks of a file are in memory at a time; their tokens go to columns that lie in files when they are long. What
//! it draws (limit, held-out rows) is a function of the seed. Refuses to know shapes and templates.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::column::Column;
use super::column::unpacked;
use super::counts::{count, index_of, longest, reasons, repeated};
use super::draw::choose;
use super::loaded::{Columns, Loaded};
use super::report::{Dropped, Long, Report, SourceReport};
use super::request::{LoadProgress, Request};
use super::split;
use super::split::Parted;
use super::spool::{ListSpool, PromptSpool, RowSpool, Spool};
use super::tokenize::{RowTokenizer, TokenizedRows};
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::data::read::shape::{Facts, Reader, Stream};
use crate::data::read::source::{Chunk, Feed};
use crate::data::read::tasks::HeldOut;
use crate::data::render::renderer::Renderer;
use crate::error::{Error, Result};
use crate::recipe::{Data, Shape, Source};

/// Chunks in work at a time, for each thread.
const AHEAD: usize = 8;

/// Reads, renders and tokenises all rows. Without held-out files, `heldout_fraction` of the rows are set aside.
///
/// # Errors
/// [`Error::Data`] with file and line for a row or file that cannot be used (see [`super`]), for a row that is too
/// long when the recipe says `error`, and when nothing is left to train on.
pub fn load(data: &Data, renderer: &Renderer, max_length: usize, seed: u64) -> Result<Loaded> {
    in_memory(&Request { data, renderer, max_length, seed, judge: false, hear: &|_| {} })
}

/// Rows of a further set to judge by, as held-out rows; `data` says what becomes of long ones.
///
/// # Errors
/// As [`load`]; also when none of the rows can be judged.
pub fn load_set(rows: &[Source], data: &Data, renderer: &Renderer, max_length: usize, seed: u64) -> Result<Loaded> {
    let data = &Data { train: Vec::new(), heldout: rows.to_vec(), heldout_tasks: Vec::new(), replay: None, ..data.clone() };
    in_memory(&Request { data, renderer, max_length, seed, judge: true, hear: &|_| {} })
}

/// With what does not fit into memory in a folder that goes with the last of the rows.
pub(crate) fn in_memory(request: &Request) -> Result<Loaded> {
    let folder = Arc::new(tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?);
    let mut columns = columns(request, folder.path(), false)?;
    columns.rows.folder = Some(Arc::clone(&folder));
    columns.prompts.folder = Some(folder);
    columns.loaded(request.data)
}

/// Loads into `folder`; with `keep` all columns lie there in files.
pub(crate) fn columns(request: &Request, folder: &Path, keep: bool) -> Result<Columns> {
    let mut shapes = BTreeMap::new();
    loop {
        match Loading::new(request, folder, &shapes)?.all(keep) {
            Ok(columns) => return Ok(columns),
            Err(Stop::Error(error)) => return Err(*error),
            Err(Stop::Shape { source, shape }) => _ = shapes.insert(source, shape),
        }
    }
}

/// Why a load ended early.
enum Stop {
    Error(Box<Error>),
    /// Rows further down show that the file has another shape than its first rows: all begins anew.
    Shape {
        source: usize,
        shape: Shape,
    },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(Box::new(error))
    }
}

type Step<T> = std::result::Result<T, Stop>;

struct Loading<'a> {
    request: &'a Request<'a>,
    /// Shapes of sources that their first rows do not tell.
    shapes: &'a BTreeMap<usize, Shape>,
    report: Report,
    rows: RowSpool,
    /// Which of its source's conversations each row is, and which part of it, packed.
    places: Spool<u64>,
    /// As [`TokenizedRows::grouping`].
    grouping: Spool<u8>,
    /// As [`TokenCounts`], with the numbers of `roles`.
    token_counts: ListSpool<u32>,
    roles: Vec<String>,
    prompts: PromptSpool,
    held_out: HeldOut,
    /// Of each source: where among its conversations each of its chunks starts, and where the last ends.
    chunks: Vec<Vec<usize>>,
    /// Of each source: how many rows there are up to its end.
    ends: Vec<usize>,
    progress: LoadProgress,
}

impl<'a> Loading<'a> {
    fn new(request: &'a Request<'a>, folder: &Path, shapes: &'a BTreeMap<usize, Shape>) -> Result<Loading<'a>> {
        let total = request.sources().filter_map(|s| std::fs::metadata(&s.path).ok()).map(|m| m.len()).sum();
        Ok(Loading {
            request,
            shapes,
            report: Report::default(),
            rows: RowSpool::new(folder),
            places: Spool::new(folder, "places"),
            grouping: Spool::new(folder, "kin"),
            token_counts: ListSpool::new(folder, "tallies"),
            roles: Vec::new(),
            prompts: PromptSpool::new(folder),
            held_out: HeldOut::new(&request.data.heldout_tasks)?,
            chunks: Vec::new(),
            ends: Vec::new(),
            progress: LoadProgress { total, ..LoadProgress::default() },
        })
    }

    fn all(mut self, keep: bool) -> Step<Columns> {
        let data = self.request.data;
        let (train, mut heldout) = self.split(&data.train, Split::Train)?;
        self.held_out.all_met()?;
        let (replay, held) = self.split(data.replayed(), Split::Train)?;
        heldout.extend(held);
        heldout.extend(self.split(&data.heldout, Split::Heldout)?.1);
        if self.request.judge && heldout.is_empty() {
            let path = data.heldout.first().map_or(Path::new("[eval] sets"), |s| &s.path);
            let why = format!("no row is left to judge by; {}", reasons(&self.report.dropped));
            return Err(Error::data(path, None, why, "raise `train.max_length`, or name other rows").into());
        }
        if !self.request.judge && train.is_empty() {
            let path = data.train.first().map_or(Path::new("[data] train"), |s| &s.path);
            let why = format!("no row is left to train on; {}", reasons(&self.report.dropped));
            let help = match self.report.dropped.iter().any(|d| d.reason == Reason::Malformed) {
                true => "set the source's `malformed = \"error\"` to see what is wrong with its rows",
                false => "raise `train.max_length`, or look at the rows with `lorakit data show`",
            };
            return Err(Error::data(path, None, why, help).into());
        }
        let grouping = std::mem::replace(&mut self.grouping, Spool::new(Path::new(""), "")).finish(false)?;
        let mut split = match heldout.is_empty() && data.heldout.is_empty() {
            true => split::set_aside(train, &grouping, data.heldout_fraction, self.request.seed),
            false => Parted { train, heldout, ..Parted::default() },
        };
        split.train.extend(replay);
        Ok(self.finish(split, keep)?)
    }

    /// The rows of sources, by number: those to train on, and held-out ones, which tasks among sources of either may be.
    fn split(&mut self, sources: &'a [Source], split: Split) -> Step<(Vec<u32>, Vec<u32>)> {
        let (mut train, mut heldout) = (Vec::new(), Vec::new());
        for source in sources {
            let start = self.rows.len() as u32;
            self.source(source, split)?;
            let rows = start..self.rows.len() as u32;
            match self.report.sources.last().map(|s| s.split) {
                Some(Split::Train) => train.extend(rows),
                _ => heldout.extend(rows),
            }
        }
        Ok((train, heldout))
    }

    fn source(&mut self, source: &'a Source, mut split: Split) -> Step<()> {
        let index = self.report.sources.len();
        let Stream { mut reader, mut feed, mut sure } = Reader::stream(source, split, self.request.seed)?;
        if !sure {
            let facts = Facts::of(&reader, &feed.first()?);
            sure = self.shape(&mut reader, &feed, facts, index)?;
        }
        if split == Split::Train && self.held_out.any() && self.held_out.holds(&reader.names(&feed.first()?)) {
            reader.hold_out();
            split = Split::Heldout;
        }
        let work = self.work(&source.path, reader, index, split == Split::Heldout);
        let (facts, before) = (self.take(source, split, &work, &mut feed), self.progress.bytes);
        let facts = match facts {
            Ok(facts) => facts,
            // What is wrong with the file as a whole goes before what is wrong with one row.
            Err(error) if sure => return Err(error.into()),
            Err(error) => {
                let shape = work.reader.shape_of(&scan(&work.reader, &feed)?)?;
                let other = shape != work.reader.shape;
                return Err(if other { Stop::Shape { source: index, shape } } else { error.into() });
            }
        };
        if !sure {
            let shape = work.reader.shape_of(&facts)?;
            if shape != work.reader.shape {
                return Err(Stop::Shape { source: index, shape });
            }
        }
        self.progress.bytes = before + feed.bytes();
        self.ends.push(self.rows.len());
        Ok(())
    }

    /// Decides the shape of a file by its first rows, whose facts these are; true when all of the file was asked.
    fn shape(&self, reader: &mut Reader, feed: &Feed, first: Facts, index: usize) -> Result<bool> {
        if let Some(shape) = self.shapes.get(&index) {
            reader.settle(*shape)?;
            return Ok(true);
        }
        if let Ok(shape) = reader.shape_of(&first) {
            // A key of the source that does not go with the shape may go with the whole file's.
            if reader.settle(shape).is_ok() {
                return Ok(false);
            }
        }
        let shape = reader.shape_of(&scan(reader, feed)?)?;
        reader.settle(shape)?;
        Ok(true)
    }

    fn work(&self, path: &'a Path, reader: Reader<'a>, source: usize, prompts: bool) -> RowTokenizer<'a> {
        RowTokenizer::new(self.request, source, path, reader).with_prompts(prompts)
    }

    /// Takes all rows of a source, or as many as its limit says, drawn from those that are conversations.
    fn take(&mut self, source: &Source, split: Split, work: &RowTokenizer, feed: &mut Feed) -> Result<Facts> {
        let index = self.report.sources.len();
        let chosen = match source.limit {
            None => None,
            Some(limit) => {
                let path = feed.path().to_path_buf();
                let (mut counts, mut rows) = (Vec::new(), feed.again()?);
                if !rows.is_whole() {
                    rows.first()?;
                }
                in_order(
                    &mut rows,
                    |_, chunk| Ok(work.convert(&chunk.rows(&path)?)?.rows.len()),
                    |_, n| {
                        counts.push(n);
                        Ok(())
                    },
                )?;
                let all: usize = counts.iter().sum();
                let starts = starts(&counts);
                (limit < all).then(|| (choose(all, limit, self.request.seed, "limit", index as u64), starts))
            }
        };
        let unread = &work.reader.faults.lines;
        let malformed = |line: &usize| Dropped { source: index, line: *line, part: 0, reason: Reason::Malformed };
        self.report.dropped.extend(unread.iter().map(malformed));
        self.report.sources.push(SourceReport {
            path: source.path.clone(),
            split,
            shape: work.reader.shape,
            rows: unread.len(),
            beyond_limit: 0,
            ignored: Vec::new(),
        });
        self.chunks.push(vec![0]);
        let (path, mut facts, mut ignored) = (feed.path().to_path_buf(), Facts::default(), std::collections::BTreeSet::new());
        let wanted = |chunk: usize, place: usize| match &chosen {
            None => true,
            Some((chosen, starts)) => chosen.binary_search(&(starts[chunk] + place)).is_ok(),
        };
        in_order(
            feed,
            |i, chunk| work.run(&chunk.rows(&path)?, |place| wanted(i, place)),
            |feed, mut done| {
                facts.and(std::mem::take(&mut done.facts));
                ignored.append(&mut done.ignored);
                self.put(done)?;
                let LoadProgress { bytes, .. } = self.progress;
                (self.request.hear)(LoadProgress { bytes: bytes + feed.bytes(), ..self.progress });
                Ok(())
            },
        )?;
        if let Some(report) = self.report.sources.last_mut() {
            report.ignored = ignored.into_iter().collect();
        }
        Ok(facts)
    }

    /// Takes the rows of the next chunk of the newest source.
    fn put(&mut self, mut done: TokenizedRows) -> Result<()> {
        let source = self.report.sources.len() - 1;
        let chunks = &mut self.chunks[source];
        let start = chunks.last().copied().unwrap_or(0);
        chunks.push(start + done.converted);
        let places: Vec<u64> = done.places.iter().map(|place| start as u64 + place).collect();
        self.places.extend(&places)?;
        self.grouping.extend(&done.grouping)?;
        let numbers: Vec<u32> = done.token_counts.roles.iter().map(|role| index_of(&mut self.roles, role)).collect();
        let mut at = 0;
        for length in &done.token_counts.lengths {
            let tally = &mut done.token_counts.values[at..at + *length as usize];
            tally.iter_mut().skip(1).step_by(2).for_each(|role| *role = numbers[*role as usize]);
            at += tally.len();
        }
        self.token_counts.extend(&done.token_counts.values, done.token_counts.lengths.iter().map(|n| *n as usize))?;
        self.rows.extend(source, &done.batch)?;
        for prompt in &done.prompts {
            self.prompts.push(prompt)?;
        }
        let report = &mut self.report;
        report.sources[source].rows += done.read;
        report.sources[source].beyond_limit += done.beyond_limit;
        report.dropped.append(&mut done.dropped);
        report.truncated.append(&mut done.truncated);
        report.split.append(&mut done.split);
        report.injected.append(&mut done.injected);
        report.open_answers += done.open_answers;
        self.progress.rows += done.read;
        self.progress.tokens += done.batch.ids.len() as u64;
        Ok(())
    }

    fn finish(mut self, split: Parted, keep: bool) -> Result<Columns> {
        let Parted { train, heldout, left_out } = split;
        let places = std::mem::replace(&mut self.places, Spool::new(Path::new(""), "")).finish(keep)?;
        self.late_prompts(&heldout, &places)?;
        let Loading { mut report, rows, token_counts, prompts, roles, .. } = self;
        let (rows, token_counts, prompts) = (rows.finish(keep)?, token_counts.finish(keep)?, prompts.finish(keep)?);
        let long = |row: usize| Long {
            source: rows.sources[row] as usize,
            line: rows.line(row).0,
            part: rows.line(row).1,
            tokens: rows.ids.place(row).len(),
        };
        let unused = |Long { source, line, part, .. }| Dropped { source, line, part, reason: Reason::HeldOutElsewhere };
        report.dropped.extend(left_out.into_iter().map(|row| unused(long(row as usize))));
        report.repeated = repeated(&rows, &train, &heldout).into_iter().map(long).collect();
        report.longest = longest(&rows).into_iter().map(long).collect();
        report.train = count(&rows, &token_counts, &roles, &train);
        report.heldout = count(&rows, &token_counts, &roles, &heldout);
        report.dropped.sort_by_key(|d| (d.source, d.line, d.part));
        report.injected.sort_by_key(|i| (i.source, i.line));
        Ok(Columns { rows, train: Column::Owned(train), heldout: Column::Owned(heldout), prompts, report })
    }

    /// Prompts of held-out rows that lie in training files: these are read once more.
    fn late_prompts(&mut self, heldout: &[u32], places: &[u64]) -> Result<()> {
        let mut rows = heldout.iter().map(|row| *row as usize).peekable();
        for (index, source) in self.request.data.train.iter().enumerate() {
            let end = self.ends[index];
            let wanted: Vec<(usize, usize)> =
                std::iter::from_fn(|| rows.next_if(|row| *row < end)).map(|row| unpacked(places[row])).collect();
            let report = &self.report.sources[index];
            if wanted.is_empty() || report.split == Split::Heldout {
                continue;
            }
            let Stream { mut reader, mut feed, sure } = Reader::stream(source, report.split, self.request.seed)?;
            if !sure {
                // The first chunk then is what it was when the rows were counted.
                feed.first()?;
                reader.settle(report.shape)?;
            }
            let work = self.work(&source.path, reader, index, true);
            let (path, starts) = (feed.path().to_path_buf(), std::mem::take(&mut self.chunks[index]));
            in_order(
                &mut feed,
                |i, chunk| {
                    let (start, end) = (starts.get(i).copied().unwrap_or(usize::MAX), starts.get(i + 1).copied().unwrap_or(0));
                    let places = &wanted[wanted.partition_point(|w| w.0 < start)..];
                    let places = &places[..places.partition_point(|w| w.0 < end)];
                    let rows = if places.is_empty() { Vec::new() } else { work.convert(&chunk.rows(&path)?)?.rows };
                    let found = places.par_iter().filter_map(|(place, part)| Some((rows.get(place - start)?, *part)));
                    let prompts = found.map(|(row, part)| work.prompt_of(row, part));
                    prompts.collect::<Result<Vec<_>>>()
                },
                |_, prompts| prompts.iter().flatten().try_for_each(|prompt| self.prompts.push(prompt)),
            )?;
        }
        Ok(())
    }
}

/// The facts of all rows of a file.
fn scan(reader: &Reader, feed: &Feed) -> Result<Facts> {
    let (mut all, path) = (Facts::default(), feed.path().to_path_buf());
    in_order(
        &mut feed.again()?,
        |_, chunk| Ok(Facts::of(reader, &chunk.rows(&path)?)),
        |_, facts| {
            all.and(facts);
            Ok(())
        },
    )?;
    Ok(all)
}

/// Does `work` on chunks, several at a time, and gives `take` what comes of them in their order.
fn in_order<T: Send>(
    feed: &mut Feed,
    work: impl Fn(usize, Chunk) -> Result<T> + Sync,
    mut take: impl FnMut(&Feed, T) -> Result<()>,
) -> Result<()> {
    let mut first = 0;
    loop {
        let mut chunks = Vec::new();
        while chunks.len() < AHEAD * rayon::current_num_threads() {
            match feed.chunk()? {
                Some(chunk) => chunks.push(chunk),
                None => break,
            }
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let many = chunks.len();
        let done: Vec<Result<T>> = chunks.into_par_iter().enumerate().map(|(i, chunk)| work(first + i, chunk)).collect();
        done.into_iter().try_for_each(|done| take(feed, done?))?;
        first += many;
    }
}

/// Where each of parts of these sizes starts, and where the last ends.
fn starts(sizes: &[usize]) -> Vec<usize> {
    let mut sum = 0;
    let ends = sizes.iter().map(|size| {
        sum += size;
        sum
    });
    std::iter::once(0).chain(ends).collect()
}
