//! The rows of all sources, gathered into columns source by source, with an account of each row.
//!
//! A few chunks of a file are in memory at a time. What a `limit` draws is a function of the seed. Refuses to know
//! shapes and templates, and which rows are held out where no source is.

use std::collections::BTreeMap;
use std::path::Path;

use super::chunks::{facts_of_file, in_order};
use super::draw::choose;
use super::filling::Filling;
use super::report::{Dropped, Report, SourceReport};
use super::request::{LoadProgress, Request};
use super::split::RowNumbers;
use super::tokenize::{RowTokenizer, TokenizedRows};
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::data::read::shape::{Facts, Reader, Stream};
use crate::data::read::source::Feed;
use crate::data::read::tasks::HeldOut;
use crate::error::{Error, Result};
use crate::recipe::{Shape, Source};

/// Why gathering ended early.
pub(crate) enum Stop {
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

/// All rows of a request in columns.
pub(crate) struct Gathered {
    pub(crate) filling: Filling,
    pub(crate) sources: Vec<SourceRows>,
    /// What the sources say each of the rows is for.
    pub(crate) numbers: RowNumbers,
    pub(crate) report: Report,
}

/// Where the rows of a source lie.
pub(crate) struct SourceRows {
    /// Where among its conversations each of its chunks starts, and where the last ends.
    pub(crate) chunks: Vec<usize>,
    /// Rows up to its end, those of the sources before it included.
    pub(crate) end: usize,
}

/// Gathers the rows of a request; `shapes` are those of sources that their first rows do not tell.
pub(crate) fn gather(request: &Request, folder: &Path, shapes: &BTreeMap<usize, Shape>) -> Step<Gathered> {
    let total = request.sources().filter_map(|s| std::fs::metadata(&s.path).ok()).map(|m| m.len()).sum();
    let mut gathering = Gathering {
        request,
        shapes,
        filling: Filling::new(folder),
        sources: Vec::new(),
        report: Report::default(),
        held_out: HeldOut::new(&request.data.heldout_tasks)?,
        occurrences: request.draws().map(|draw| draw.occurrence).collect(),
        progress: LoadProgress { total, ..LoadProgress::default() },
    };
    let numbers = gathering.all()?;
    let Gathering { filling, sources, report, .. } = gathering;
    Ok(Gathered { filling, sources, numbers, report })
}

struct Gathering<'a> {
    request: &'a Request<'a>,
    shapes: &'a BTreeMap<usize, Shape>,
    filling: Filling,
    sources: Vec<SourceRows>,
    report: Report,
    held_out: HeldOut,
    /// As [`super::draw::SourceDraw::occurrence`], of each source.
    occurrences: Vec<u64>,
    progress: LoadProgress,
}

impl<'a> Gathering<'a> {
    fn all(&mut self) -> Step<RowNumbers> {
        let data = self.request.data;
        let (mut numbers, mut replay) = (RowNumbers::default(), RowNumbers::default());
        self.gather(&data.train, Split::Train, &mut numbers)?;
        self.held_out.all_met()?;
        self.gather(data.replayed(), Split::Train, &mut replay)?;
        numbers.replay = replay.train;
        numbers.heldout.extend(replay.heldout);
        self.gather(&data.heldout, Split::Heldout, &mut numbers)?;
        Ok(numbers)
    }

    /// The rows of sources, to train on and held out: tasks among sources of either may be held out.
    fn gather(&mut self, sources: &'a [Source], split: Split, numbers: &mut RowNumbers) -> Step<()> {
        for source in sources {
            let start = self.filling.rows.len() as u32;
            let split = self.source(source, split)?;
            let rows = start..self.filling.rows.len() as u32;
            match split {
                Split::Train => numbers.train.extend(rows),
                Split::Heldout => numbers.heldout.extend(rows),
            }
        }
        Ok(())
    }

    /// All rows of a source; returns what they turn out to be for.
    fn source(&mut self, source: &'a Source, mut split: Split) -> Step<Split> {
        let index = self.sources.len();
        let Stream { mut reader, mut feed, mut sure } = Reader::stream(source, split, self.request.seed)?;
        if !sure {
            let first = Facts::of(&reader, &feed.first()?);
            sure = decide_shape(&mut reader, &feed, &first, self.shapes.get(&index))?;
        }
        if split == Split::Train && self.held_out.any() && self.held_out.holds(&reader.names(&feed.first()?)) {
            reader.hold_out();
            split = Split::Heldout;
        }
        let tokenizer = RowTokenizer::new(self.request, index, &source.path, reader).with_prompts(split == Split::Heldout);
        let taken = self.take(source, split, &tokenizer, &mut feed);
        // What is wrong with the file as a whole goes before what is wrong with one row.
        let all = match &taken {
            Ok(_) if sure => None,
            Ok(facts) => Some(tokenizer.reader.shape_of(facts)?),
            Err(_) if sure => None,
            Err(_) => Some(tokenizer.reader.shape_of(&facts_of_file(&tokenizer.reader, &feed)?)?),
        };
        if let Some(shape) = all.filter(|shape| *shape != tokenizer.reader.shape) {
            return Err(Stop::Shape { source: index, shape });
        }
        taken?;
        self.progress.bytes += feed.bytes();
        Ok(split)
    }

    /// Takes all rows of a source, or as many as its limit says, drawn from those that are conversations.
    fn take(&mut self, source: &Source, split: Split, tokenizer: &RowTokenizer, feed: &mut Feed) -> Result<Facts> {
        let index = self.sources.len();
        let chosen = match source.limit {
            None => None,
            Some(limit) => Chosen::draw(limit, tokenizer, feed, self.request.seed, self.occurrences[index])?,
        };
        self.begin(source, split, tokenizer);
        let (path, mut facts, mut ignored) = (feed.path().to_path_buf(), Facts::default(), BTreeMap::new());
        let wanted = |chunk, place| chosen.as_ref().is_none_or(|chosen| chosen.holds(chunk, place));
        in_order(
            feed,
            |i, chunk| tokenizer.run(&chunk.rows(&path)?, |place| wanted(i, place)),
            |feed, mut done| {
                facts.and(std::mem::take(&mut done.facts));
                std::mem::take(&mut done.ignored)
                    .into_iter()
                    .for_each(|(field, rows)| *ignored.entry(field).or_default() += rows);
                self.put(index, done)?;
                let LoadProgress { bytes, .. } = self.progress;
                (self.request.hear)(LoadProgress { bytes: bytes + feed.bytes(), ..self.progress });
                Ok(())
            },
        )?;
        self.sources[index].end = self.filling.rows.len();
        let report = &mut self.report.sources[index];
        report.notes.extend(feed.note().into_iter().chain(tokenizer.reader.advice(&ignored)));
        report.ignored = ignored;
        Ok(facts)
    }

    /// The account of a source, but for its rows, with the lines that could not be read.
    fn begin(&mut self, source: &Source, split: Split, tokenizer: &RowTokenizer) {
        let (index, unread) = (self.sources.len(), &tokenizer.reader.faults.lines);
        let malformed = |line: &usize| Dropped { source: index, line: *line, part: 0, reason: Reason::Malformed };
        self.report.dropped.extend(unread.iter().map(malformed));
        self.report.sources.push(SourceReport {
            path: source.path.clone(),
            split,
            shape: tokenizer.reader.shape,
            rows: unread.len(),
            beyond_limit: 0,
            ignored: BTreeMap::new(),
            notes: tokenizer.reader.faults.notes.clone(),
        });
        self.sources.push(SourceRows { chunks: vec![0], end: self.filling.rows.len() });
    }

    /// Takes the rows of the next chunk of a source.
    fn put(&mut self, source: usize, mut done: TokenizedRows) -> Result<()> {
        let chunks = &mut self.sources[source].chunks;
        let start = chunks.last().copied().unwrap_or(0);
        chunks.push(start + done.converted);
        self.filling.put(source, start, &mut done)?;
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
}

/// Decides the shape of a file by its first rows, whose facts these are, or is told it; true when all of the file was asked.
fn decide_shape(reader: &mut Reader, feed: &Feed, first: &Facts, told: Option<&Shape>) -> Result<bool> {
    if let Some(shape) = told {
        reader.settle(*shape)?;
        return Ok(true);
    }
    if let Ok(shape) = reader.shape_of(first) {
        // A key of the source that does not go with the shape may go with the whole file's.
        if reader.settle(shape).is_ok() {
            return Ok(false);
        }
    }
    let shape = reader.shape_of(&facts_of_file(reader, feed)?)?;
    reader.settle(shape)?;
    Ok(true)
}

/// The conversations of a source that a limit leaves.
struct Chosen {
    places: Vec<usize>,
    /// Where each chunk starts among the conversations.
    starts: Vec<usize>,
}

impl Chosen {
    /// Draws `limit` of them; `None` where there are no more than that.
    fn draw(limit: usize, tokenizer: &RowTokenizer, feed: &Feed, seed: u64, occurrence: u64) -> Result<Option<Chosen>> {
        let path = feed.path().to_path_buf();
        let (mut starts, mut all, mut rows) = (Vec::new(), 0, feed.again()?);
        if !rows.is_whole() {
            rows.first()?;
        }
        in_order(
            &mut rows,
            |_, chunk| Ok(tokenizer.convert(&chunk.rows(&path)?)?.rows.len()),
            |_, conversations| {
                starts.push(all);
                all += conversations;
                Ok(())
            },
        )?;
        let draw = || Chosen { places: choose(all, limit, seed, "limit", occurrence), starts };
        Ok((limit < all).then(draw))
    }

    fn holds(&self, chunk: usize, place: usize) -> bool {
        self.places.binary_search(&(self.starts[chunk] + place)).is_ok()
    }
}
