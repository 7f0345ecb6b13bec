//! From gathered rows to the columns of a load: rows are parted, held-out ones get their prompts, and all are counted.
//!
//! Refuses to know where the columns are kept.

use rayon::prelude::*;

use super::chunks::in_order;
use super::column::{Column, unpacked};
use super::counts::{count, longest, repeated};
use super::examples::RowColumns;
use super::filling::Filling;
use super::gather::{Gathered, SourceRows};
use super::loaded::Columns;
use super::report::{Dropped, Long, Report, SourceReport};
use super::request::Request;
use super::split::{Parted, part};
use super::spool::PromptSpool;
use super::tokenize::RowTokenizer;
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::data::read::shape::{Reader, Stream};
use crate::error::Result;
use crate::recipe::Source;

/// Completes a load; with `keep` all columns lie in files, however short they are.
///
/// # Errors
/// As [`super::load::load`].
pub(crate) fn finish(request: &Request, gathered: Gathered, keep: bool) -> Result<Columns> {
    let Gathered { filling, sources, numbers, mut report } = gathered;
    let Filling { rows, places, grouping, token_counts, roles, mut prompts } = filling;
    let ends: Vec<usize> = sources.iter().map(|source| source.end).collect();
    let parted = part(request, numbers, &grouping.finish(false)?, &ends);
    let places = places.finish(keep)?;
    for file in partly_held_out(request, &report, &sources, &parted.heldout, &places) {
        file.prompts(request, &mut prompts)?;
    }
    let (rows, token_counts, prompts) = (rows.finish(keep)?, token_counts.finish(keep)?, prompts.finish(keep)?);
    name_rows(&mut report, &rows, &parted);
    let Parted { train, heldout, .. } = parted;
    report.train = count(&rows, &token_counts, &roles, &train);
    report.heldout = count(&rows, &token_counts, &roles, &heldout);
    Ok(Columns { rows, train: Column::Owned(train), heldout: Column::Owned(heldout), prompts, report })
}

/// Completes the account by rows of the whole: those that are left out, repeated, or the longest.
fn name_rows(report: &mut Report, rows: &RowColumns, parted: &Parted) {
    let long = |row: usize| {
        let (line, part) = rows.line(row);
        Long { source: rows.sources[row] as usize, line, part, tokens: rows.ids.place(row).len() }
    };
    let unused = |Long { source, line, part, .. }| Dropped { source, line, part, reason: Reason::HeldOutElsewhere };
    report.dropped.extend(parted.left_out.iter().map(|row| unused(long(*row as usize))));
    report.repeated = repeated(rows, &parted.train, &parted.heldout).into_iter().map(long).collect();
    let used = parted.train.iter().chain(&parted.heldout);
    report.used_sources = used.map(|row| rows.sources[*row as usize] as usize).collect();
    report.longest = longest(rows).into_iter().map(long).collect();
    report.dropped.sort_by_key(|d| (d.source, d.line, d.part));
    report.injected.sort_by_key(|i| (i.source, i.line));
}

/// A training file some rows of which are held out: it is read once more for their prompts.
struct PartlyHeldOut<'a> {
    index: usize,
    source: &'a Source,
    report: &'a SourceReport,
    /// As [`SourceRows::chunks`].
    chunks: &'a [usize],
    /// Which of its conversations the rows are, and which parts of these, ascending.
    wanted: Vec<(usize, usize)>,
}

fn partly_held_out<'a>(
    request: &Request<'a>,
    report: &'a Report,
    sources: &'a [SourceRows],
    heldout: &[u32],
    places: &[u64],
) -> Vec<PartlyHeldOut<'a>> {
    let mut rows = heldout.iter().map(|row| *row as usize).peekable();
    let mut found = Vec::new();
    for (index, source) in request.data.train.iter().enumerate() {
        let SourceRows { chunks, end } = &sources[index];
        let own = std::iter::from_fn(|| rows.next_if(|row| row < end));
        let wanted: Vec<(usize, usize)> = own.map(|row| unpacked(places[row])).collect();
        let report = &report.sources[index];
        if !wanted.is_empty() && report.split == Split::Train {
            found.push(PartlyHeldOut { index, source, report, chunks, wanted });
        }
    }
    found
}

impl PartlyHeldOut<'_> {
    fn prompts(&self, request: &Request, prompts: &mut PromptSpool) -> Result<()> {
        let Stream { mut reader, mut feed, sure } = Reader::stream(self.source, self.report.split, request.seed)?;
        if !sure {
            // The first chunk then is what it was when the rows were counted.
            feed.first()?;
            reader.settle(self.report.shape)?;
        }
        let tokenizer = RowTokenizer::new(request, self.index, &self.source.path, reader);
        let path = feed.path().to_path_buf();
        in_order(
            &mut feed,
            |i, chunk| {
                let (start, wanted) = self.wanted_of(i);
                let rows = if wanted.is_empty() { Vec::new() } else { tokenizer.convert(&chunk.rows(&path)?)?.rows };
                let found = wanted.par_iter().filter_map(|(place, part)| Some((rows.get(place - start)?, *part)));
                found.map(|(row, part)| tokenizer.prompt_of(row, part)).collect::<Result<Vec<_>>>()
            },
            |_, found| found.iter().flatten().try_for_each(|prompt| prompts.push(prompt)),
        )
    }

    /// Where chunk `i` starts among the conversations, and what is wanted of it.
    fn wanted_of(&self, i: usize) -> (usize, &[(usize, usize)]) {
        let start = self.chunks.get(i).copied().unwrap_or(usize::MAX);
        let end = self.chunks.get(i + 1).copied().unwrap_or(0);
        let wanted = &self.wanted[self.wanted.partition_point(|w| w.0 < start)..];
        (start, &wanted[..wanted.partition_point(|w| w.0 < end)])
    }
}
