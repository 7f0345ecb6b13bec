//! The rows of a file, some at a time: JSON Lines, tables and Parquet are read as they are needed, rows of other formats are
//! there already.
//!
//! Refuses to know the columns of rows.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::columnar::Table;
use super::packed;
use super::packed::Packing;
use super::table::{self, Ends, Header};
use super::{Faults, RawRow, is_lines, is_parquet, lines, no_rows, separator};
use crate::error::{Error, Result};

/// Bytes of lines in a chunk; a longer line is a chunk of its own.
const BYTES: usize = 512 << 10;
/// Rows in a chunk of a file that is read whole.
const ROWS: usize = 1024;

/// A file of rows, from its beginning to its end.
pub(crate) struct Feed {
    path: PathBuf,
    from: From,
    /// A chunk that was looked at and is handed out next.
    next: Option<Chunk>,
}

enum From {
    Lines(Lines),
    /// `size`: bytes of the file.
    Table {
        table: Table,
        size: u64,
    },
    /// `size`: bytes of the file.
    Whole {
        rows: Arc<Vec<RawRow>>,
        at: usize,
        size: u64,
    },
}

/// Some rows of a file, one after the other.
pub(crate) enum Chunk {
    Lines {
        first: usize,
        bytes: Vec<u8>,
    },
    /// Whole records of a table with this header.
    Records {
        header: Arc<Header>,
        first: usize,
        bytes: Vec<u8>,
    },
    Rows {
        rows: Arc<Vec<RawRow>>,
        place: Range<usize>,
    },
}

impl Chunk {
    /// The rows; of lines they are parsed here.
    ///
    /// # Errors
    /// [`Error::Data`] with the line that is no row.
    pub(crate) fn rows(&self, path: &Path) -> Result<Cow<'_, [RawRow]>> {
        match self {
            Chunk::Rows { rows, place } => Ok(Cow::Borrowed(&rows[place.clone()])),
            Chunk::Lines { first, bytes } => {
                let text = std::str::from_utf8(bytes).map_err(|e| packed::no_utf8(path, *first, bytes, e))?;
                Ok(Cow::Owned(lines::read_lines_from(path, *first, text, &mut Faults::default())?))
            }
            Chunk::Records { header, first, bytes } => {
                let text = std::str::from_utf8(bytes).map_err(|e| packed::no_utf8(path, *first, bytes, e))?;
                Ok(Cow::Owned(header.rows(path, *first, text, &mut Faults::default())?))
            }
        }
    }

    /// The lines as they are, and the number of the first; `None` where rows are no lines of JSON.
    pub(crate) fn lines(&self) -> Option<(usize, Vec<&str>)> {
        match self {
            Chunk::Rows { .. } | Chunk::Records { .. } => None,
            Chunk::Lines { first, bytes } => Some((*first, std::str::from_utf8(bytes).ok()?.lines().collect())),
        }
    }
}

impl Feed {
    /// Whether a file can be read a part at a time.
    pub(crate) fn is_of(path: &Path) -> bool {
        is_lines(path) || is_parquet(path) || separator(path).is_some()
    }

    /// The rows of a file of JSON Lines, of a table, or of Parquet.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] when it is not what its name says.
    pub(crate) fn open(path: &Path) -> Result<Feed> {
        let from = match is_parquet(path) {
            true => From::Table { table: Table::open(path)?, size: size_of_file(path) },
            false => From::Lines(Lines::open(path)?),
        };
        Ok(Feed { path: path.into(), from, next: None })
    }

    /// Rows that are there already.
    pub(crate) fn whole(path: &Path, rows: Vec<RawRow>) -> Feed {
        let size = size_of_file(path);
        Feed { path: path.into(), from: From::Whole { rows: Arc::new(rows), at: 0, size }, next: None }
    }

    /// The same rows from the beginning.
    ///
    /// # Errors
    /// As [`Feed::open`].
    pub(crate) fn again(&self) -> Result<Feed> {
        match &self.from {
            From::Lines(_) | From::Table { .. } => Feed::open(&self.path),
            From::Whole { rows, size, .. } => {
                let from = From::Whole { rows: Arc::clone(rows), at: 0, size: *size };
                Ok(Feed { path: self.path.clone(), from, next: None })
            }
        }
    }

    /// Whether all rows are there already.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.from, From::Whole { .. })
    }

    /// What is to be told of the file, as far as it was read.
    pub(crate) fn note(&self) -> Option<String> {
        match &self.from {
            From::Lines(Lines { records: Some(records), .. }) => table::other_separator(records.own, records.found?),
            _ => None,
        }
    }

    /// Where the rows lie.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file that were read.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.from {
            From::Lines(lines) => lines.read.load(Ordering::Relaxed),
            From::Table { table, size } => size * table.read as u64 / (table.all as u64).max(1),
            From::Whole { rows, at, size } => size * *at as u64 / (rows.len() as u64).max(1),
        }
    }

    /// The first rows, which are handed out again by [`Feed::chunk`].
    ///
    /// # Errors
    /// As [`Feed::chunk`] and [`Chunk::rows`]; also when the file has no row.
    pub(crate) fn first(&mut self) -> Result<Arc<Vec<RawRow>>> {
        loop {
            let chunk = self.chunk()?.ok_or_else(|| no_rows(&self.path))?;
            let rows = chunk.rows(&self.path)?;
            if rows.is_empty() {
                continue;
            }
            let rows = Arc::new(rows.into_owned());
            self.next = Some(Chunk::Rows { rows: Arc::clone(&rows), place: 0..rows.len() });
            return Ok(rows);
        }
    }

    /// The next rows, `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] when what the file is packed with is damaged.
    pub(crate) fn chunk(&mut self) -> Result<Option<Chunk>> {
        if let Some(chunk) = self.next.take() {
            return Ok(Some(chunk));
        }
        match &mut self.from {
            From::Lines(lines) => lines.chunk(&self.path),
            From::Table { table, .. } => {
                let rows = table.next(&self.path, ROWS)?;
                let place = 0..rows.len();
                Ok((!place.is_empty()).then(|| Chunk::Rows { rows: Arc::new(rows), place }))
            }
            From::Whole { rows, at, .. } => {
                let place = *at..(*at + ROWS).min(rows.len());
                *at = place.end;
                Ok((!place.is_empty()).then(|| Chunk::Rows { rows: Arc::clone(rows), place }))
            }
        }
    }
}

fn size_of_file(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// The lines of a file, or the records of a table.
struct Lines {
    reader: Box<dyn Read + Send>,
    packing: Packing,
    /// Bytes after the last chunk's end.
    left: Vec<u8>,
    /// Number of the line that comes next.
    line: usize,
    done: bool,
    /// Bytes read from the file.
    read: Arc<AtomicU64>,
    /// Of a table.
    records: Option<Records>,
}

/// What is known of a table's records.
struct Records {
    /// The separator that the file's name says.
    own: u8,
    /// The one that it has.
    found: Option<u8>,
    ends: Option<Ends>,
    header: Option<Arc<Header>>,
}

impl Records {
    /// Where in `bytes` the last record ends that does; the bytes before `start` were asked about already.
    fn last_end(&mut self, bytes: &[u8], start: usize) -> Option<usize> {
        let found = *self.found.get_or_insert_with(|| table::separator(self.own, bytes));
        let ends = self.ends.get_or_insert_with(|| Ends::new(found));
        ends.last(&bytes[start..]).map(|at| start + at)
    }

    /// A chunk of whole records, of which the first may be the header.
    fn chunk(&mut self, path: &Path, mut first: usize, mut bytes: Vec<u8>) -> Result<Chunk> {
        let header = match &self.header {
            Some(header) => Arc::clone(header),
            None => {
                let text = std::str::from_utf8(&bytes).map_err(|e| packed::no_utf8(path, first, &bytes, e))?;
                let Some((header, start, line)) = Header::of(path, text, first, self.found.unwrap_or(self.own))? else {
                    return Ok(Chunk::Rows { rows: Arc::default(), place: 0..0 });
                };
                bytes.drain(..start);
                first = line;
                Arc::clone(self.header.insert(Arc::new(header)))
            }
        };
        Ok(Chunk::Records { header, first, bytes })
    }
}

/// Counts what is read.
struct Counted(File, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        let read = Arc::new(AtomicU64::new(0));
        let file = File::open(path).map_err(Error::io("read", path))?;
        let (reader, packing) = packed::unpacked(path, Counted(file, Arc::clone(&read)))?;
        let records = separator(path).map(|own| Records { own, found: None, ends: None, header: None });
        Ok(Lines { reader, packing, left: Vec::new(), line: 1, done: false, read, records })
    }

    fn chunk(&mut self, path: &Path) -> Result<Option<Chunk>> {
        let mut bytes = std::mem::take(&mut self.left);
        let mut end = None;
        while !self.done && end.is_none() {
            let start = bytes.len();
            let more = (&mut self.reader).take(BYTES as u64).read_to_end(&mut bytes);
            let read = more.map_err(|e| {
                let line = self.line - 1 + packed::line_at_end(&bytes);
                packed::cannot(path, self.packing, (self.line > 1 || !bytes.is_empty()).then_some(line), e)
            })?;
            self.done = read < BYTES;
            if self.line == 1 && start == 0 && bytes.starts_with("\u{feff}".as_bytes()) {
                bytes.drain(..3);
            }
            end = match &mut self.records {
                Some(records) => records.last_end(&bytes, start),
                None => bytes[start..].iter().rposition(|b| *b == b'\n').map(|at| start + at + 1),
            };
        }
        if let Some(end) = end.filter(|_| !self.done) {
            self.left = bytes[end..].to_vec();
            bytes.truncate(end);
        }
        let first = self.line;
        self.line += match self.records {
            Some(_) => table::line_ends(&bytes),
            None => packed::line_at_end(&bytes) - 1,
        };
        match &mut self.records {
            _ if bytes.is_empty() => Ok(None),
            None => Ok(Some(Chunk::Lines { first, bytes })),
            Some(records) => {
                if let Some(ends) = records.ends.as_ref().filter(|_| self.done) {
                    ends.all_closed(path)?;
                }
                records.chunk(path, first, bytes).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_lines_make_up_the_file_and_know_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let long = "y".repeat(3 * BYTES);
        let line = |i: usize| match i {
            7 => format!("{{\"text\": \"{long}\"}}"),
            i if i % 5 == 4 => String::new(),
            i => format!("{{\"text\": \"{i} {}\"}}", "x".repeat(i % 700)),
        };
        let text = (0..9000).map(line).collect::<Vec<_>>().join("\n");
        let expected = lines::read_lines("a".as_ref(), &text, &mut Faults::default()).unwrap();
        for (name, bytes) in [
            ("a.jsonl", text.clone().into_bytes()),
            ("b.jsonl", format!("\u{feff}{text}\n").into_bytes()),
            ("c.jsonl.zst", zstd::encode_all(text.as_bytes(), 0).unwrap()),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            let mut feed = Feed::open(&path).unwrap();
            feed.first().unwrap();
            let (mut rows, mut chunks) = (Vec::new(), 0);
            while let Some(chunk) = feed.chunk().unwrap() {
                rows.extend(chunk.rows(&path).unwrap().into_owned());
                chunks += 1;
            }
            assert!(rows == expected && chunks > 3, "{name}: {} rows in {chunks} chunks", rows.len());
            assert_eq!(feed.bytes(), bytes.len() as u64);
        }
    }

    #[test]
    fn what_is_wrong_far_into_a_file_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut bytes = "{\"text\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}\n".repeat(30_000).into_bytes();
        bytes.extend(b"{\"text\": \"\xff\"}\n");
        std::fs::write(&path, &bytes).unwrap();
        let mut feed = Feed::open(&path).unwrap();
        let error = loop {
            if let Err(e) = feed.chunk().unwrap().unwrap().rows(&path) {
                break e.to_string();
            }
        };
        assert!(error.contains(":30001: the text is not UTF-8"), "{error}");
    }
}
