//! Tables: a header that names the columns, then rows of strings. The rules for quotes are those of Python's `csv` module
//! (`strict=False`), which pandas and `datasets` read by as well: a quote is a quote at the beginning of a field only, a doubled
//! one within quotes is a letter, and what follows a closing quote belongs to the field.
//!
//! A table is cut between records, so that it can be read a part at a time. Refuses to know what the columns mean.

use std::path::Path;

use crate::json::{Map, Value};

use super::{Faults, RawRow};
use crate::error::{Error, Result};

const HELP: &str = "the first line names the columns; a field with separators, quotes or line breaks stands in double quotes, \
    a quote in it is doubled";
const NAME_HELP: &str = "name the column in the first line; only a first column of whole numbers (the index that pandas writes \
    without `index=False`) and columns without any value may go without a name";

/// What may part fields where the separator of the file's name does not.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Every row of a table whose name says `own` for a separator.
///
/// # Errors
/// [`Error::Data`] with the line: a column named twice, or without a name and with values; a row of another width; a quote
/// without end.
pub(super) fn read(path: &Path, text: &str, own: u8, faults: &mut Faults) -> Result<Vec<RawRow>> {
    let separator = separator(own, text.as_bytes());
    faults.notes.extend(other_separator(own, separator));
    let mut ends = Ends::new(separator);
    ends.last(text.as_bytes());
    ends.all_closed(path)?;
    match Header::of(path, text, 1, separator)? {
        Some((header, start, line)) => header.rows(path, line, &text[start..], faults),
        None => Ok(Vec::new()),
    }
}

/// What parts the fields of a table that begins so: what its name says (`own`) or, where the header has none of that, another
/// usual separator that it has, as Python's `csv.Sniffer` finds out.
pub(super) fn separator(own: u8, start: &[u8]) -> u8 {
    let blank = start.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let line = start[blank..].split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
    let mut quoted = false;
    let mut times = |separator: u8| {
        let outside = |b: &&u8| {
            quoted ^= **b == b'"';
            **b == separator && !quoted
        };
        line.iter().filter(outside).count()
    };
    if times(own) > 0 {
        return own;
    }
    // The first of those that the line has most of.
    let most = SEPARATORS.into_iter().rev().map(|s| (times(s), s)).max_by_key(|(n, _)| *n);
    most.filter(|(n, _)| *n > 0).map_or(own, |(_, separator)| separator)
}

/// What is told of a table that is parted otherwise than its name says.
pub(super) fn other_separator(own: u8, found: u8) -> Option<String> {
    let named = |b: u8| if b == b'\t' { "tabs".to_string() } else { format!("`{}`", char::from(b)) };
    (own != found).then(|| format!("the header has no {}, so fields are parted by {}", named(own), named(found)))
}

/// Where a walk through the bytes of a table is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within quotes, which closes them unless another follows.
    Closed,
}

/// The ends of a table's records, looked for from its first byte to its last.
pub(super) struct Ends {
    separator: u8,
    place: Place,
    line: usize,
    /// Line of the last opening quote.
    opened: usize,
    after_return: bool,
}

impl Ends {
    pub(super) fn new(separator: u8) -> Ends {
        Ends { separator, place: Place::FieldStart, line: 1, opened: 0, after_return: false }
    }

    /// Where in the next bytes of the table the last record ends that does (with `\n`).
    pub(super) fn last(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut end = None;
        for (i, byte) in bytes.iter().enumerate() {
            self.line += usize::from(*byte == b'\r' || (*byte == b'\n' && !self.after_return));
            self.after_return = *byte == b'\r';
            self.place = match (self.place, *byte) {
                (Place::Quoted, b'"') => Place::Closed,
                (Place::Quoted, _) | (Place::Closed, b'"') => Place::Quoted,
                (Place::FieldStart, b'"') => {
                    self.opened = self.line;
                    Place::Quoted
                }
                (_, b'\n') => {
                    end = Some(i + 1);
                    Place::FieldStart
                }
                (_, b'\r') => Place::FieldStart,
                (_, other) if other == self.separator => Place::FieldStart,
                _ => Place::Plain,
            };
        }
        end
    }

    /// Asked at the end of the table. Python would take everything after an open quote as one field: that is never meant.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a quote that does not end.
    pub(super) fn all_closed(&self, path: &Path) -> Result<()> {
        if self.place != Place::Quoted {
            return Ok(());
        }
        let lines = self.line - self.opened + 1;
        let why = format!("the quote that begins here does not end: it takes in the last {lines} lines of the file");
        let help = "close the quote; a field that only begins with a quote is written \"\"\"so\"\" it is meant\"";
        Err(Error::data(path, Some(self.opened), why, help))
    }
}

/// How many lines end in the text; `\r`, `\n` and both together end one.
pub(super) fn line_ends(text: &[u8]) -> usize {
    let lone = text.iter().zip(text.iter().skip(1).chain([&0])).filter(|(a, b)| **a == b'\r' && **b != b'\n').count();
    lone + text.iter().filter(|b| **b == b'\n').count()
}

/// The columns of a table, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    separator: u8,
    columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq)]
struct Column {
    name: String,
    /// It has no name of its own and is called as pandas calls it (`Unnamed: 0`).
    unnamed: bool,
}

impl Header {
    /// The header of a table that begins with `text` on line `line`, and where and on which line the rows begin; `None` where
    /// there are blank lines only.
    ///
    /// # Errors
    /// [`Error::Data`]: a column named twice, no column with a name.
    pub(super) fn of(path: &Path, text: &str, line: usize, separator: u8) -> Result<Option<(Header, usize, usize)>> {
        let mut reader = reader(text, separator);
        let mut record = csv::StringRecord::new();
        if !reader.read_record(&mut record).map_err(|e| no_table(path, &e))? {
            return Ok(None);
        }
        let blank = text.len() - text.trim_start_matches(['\r', '\n']).len();
        let end = reader.position().byte() as usize;
        let end = end + usize::from(text[..end].ends_with('\r') && text[end..].starts_with('\n'));
        let own = line + line_ends(&text.as_bytes()[..blank]);
        let mut columns: Vec<Column> = Vec::new();
        for (i, name) in record.iter().map(str::trim).enumerate() {
            let unnamed = name.is_empty();
            let name = if unnamed { format!("Unnamed: {i}") } else { name.to_string() };
            if columns.iter().any(|c| c.name == name) {
                return Err(Error::data(path, Some(own), format!("column `{name}` is named twice"), HELP));
            }
            columns.push(Column { name, unnamed });
        }
        if columns.iter().all(|c| c.unnamed) {
            return Err(Error::data(path, Some(own), "no column has a name", HELP));
        }
        let rows = line + line_ends(&text.as_bytes()[..end]);
        Ok(Some((Header { separator, columns }, end, rows)))
    }

    /// The rows of whole records that begin on line `first`.
    ///
    /// # Errors
    /// [`Error::Data`] with the line: a row of another width, a value without a column's name.
    pub(super) fn rows(&self, path: &Path, first: usize, text: &str, faults: &mut Faults) -> Result<Vec<RawRow>> {
        let (mut reader, mut record) = (reader(text, self.separator), csv::StringRecord::new());
        let (mut rows, mut counted, mut line) = (Vec::new(), 0, first);
        loop {
            let start = reader.position().byte() as usize;
            if !reader.read_record(&mut record).map_err(|e| no_table(path, &e))? {
                return Ok(rows);
            }
            // Blank lines before a row belong to its position.
            let start = start + text[start..].len() - text[start..].trim_start_matches(['\r', '\n']).len();
            line += line_ends(&text.as_bytes()[counted..start]);
            counted = start;
            let raw = || text[start..reader.position().byte() as usize].trim_end_matches(['\r', '\n']);
            match self.fields(&record) {
                Ok(Some(fields)) => rows.push(RawRow { line, fields }),
                Ok(None) => {}
                Err((why, help)) => faults.put(Error::data(path, Some(line), why + &reaching(line, raw()), help))?,
            }
        }
    }

    /// A record by its columns; `None` of a line of white space.
    fn fields(&self, record: &csv::StringRecord) -> std::result::Result<Option<Map>, (String, &'static str)> {
        if record.len() != self.columns.len() {
            // pandas skips lines of white space as it does blank ones.
            if record.len() == 1 && record.iter().all(|field| field.trim().is_empty()) {
                return Ok(None);
            }
            return Err((format!("{} fields, the header has {}", record.len(), self.columns.len()), HELP));
        }
        let mut fields = Map::new();
        for (i, (column, value)) in self.columns.iter().zip(record).enumerate() {
            if column.unnamed && value.trim().is_empty() {
                continue;
            }
            let index = || i == 0 && value.trim().bytes().all(|b| b.is_ascii_digit());
            if column.unnamed && !index() {
                let start: String = value.chars().take(40).collect();
                return Err((format!("column {} has no name and holds \"{start}\"", i + 1), NAME_HELP));
            }
            fields.insert(column.name.clone(), Value::from(value));
        }
        Ok(Some(fields))
    }
}

/// What is said of a faulty row that goes over several lines: a quote that is none may be why.
fn reaching(line: usize, raw: &str) -> String {
    match line_ends(raw.as_bytes()) {
        0 => String::new(),
        more => format!("; within quotes it goes on to line {}", line + more),
    }
}

fn reader(text: &str, separator: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().delimiter(separator).flexible(true).has_headers(false).from_reader(text.as_bytes())
}

fn no_table(path: &Path, e: &csv::Error) -> Error {
    Error::data(path, None, format!("not a table: {e}"), HELP)
}

#[cfg(test)]
mod tests {
    use super::super::Feed;
    use super::*;

    fn table(name: &str, text: &str) -> Result<Vec<(usize, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let whole = super::super::read(&path, &mut Faults::default());
        let streamed = (|| {
            let (mut feed, mut rows) = (Feed::open(&path)?, Vec::new());
            feed.first()?;
            while let Some(chunk) = feed.chunk()? {
                rows.extend(chunk.rows(&path)?.into_owned());
            }
            Ok(rows)
        })();
        assert_eq!(whole.as_ref().map_err(|e: &Error| e.to_string()), streamed.as_ref().map_err(|e: &Error| e.to_string()));
        whole.map(|rows| rows.into_iter().map(|r| (r.line, Value::Object(r.fields).to_string())).collect())
    }

    /// Expected values are those of Python's `csv.DictReader`.
    #[test]
    fn quotes_are_read_as_python_does() {
        let table_of = [
            (
                "a,b\nHow wide?,5\" across\nHow tall?,\"6 feet\"",
                vec![r#"{"a":"How wide?","b":"5\" across"}"#, r#"{"a":"How tall?","b":"6 feet"}"#],
            ),
            (
                "a,b\nHow tall?,6 feet\nHow wide?,5\" across",
                vec![r#"{"a":"How tall?","b":"6 feet"}"#, r#"{"a":"How wide?","b":"5\" across"}"#],
            ),
            ("a,b\n\"x\"y,\"p\"\"q\"\n", vec![r#"{"a":"xy","b":"p\"q"}"#]),
            ("a,b\n\"x\"y\"z, \"1\"\n", vec![r#"{"a":"xy\"z","b":" \"1\""}"#]),
            ("a,b\r\n\"1\r\n2\",3\r\n\"\",\"\"\"\"\r\n", vec![r#"{"a":"1\r\n2","b":"3"}"#, r#"{"a":"","b":"\""}"#]),
            ("\u{feff}\"a\",b\n1,\"\n\n2\"\n", vec![r#"{"a":"1","b":"\n\n2"}"#]),
            ("a,b\r1,2\r3,4", vec![r#"{"a":"1","b":"2"}"#, r#"{"a":"3","b":"4"}"#]),
        ];
        for (text, expected) in table_of {
            let rows = table("a.csv", text).unwrap();
            assert_eq!(rows.iter().map(|r| r.1.as_str()).collect::<Vec<_>>(), expected, "{text:?}");
            let rows = table("a.tsv", &text.replace(',', "\t")).unwrap();
            assert_eq!(rows.iter().map(|r| r.1.as_str()).collect::<Vec<_>>(), expected, "{text:?} with tabs");
        }
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        let text = "\n\na,b\n\"1\n\n2\",x\n\n  \n3,y\r\n\r\n4,z\n";
        assert_eq!(table("a.csv", text).unwrap().iter().map(|r| r.0).collect::<Vec<_>>(), [4, 9, 11]);
        assert_eq!(table("a.csv", "a,b\r1,2\r\r3,4").unwrap().iter().map(|r| r.0).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn the_index_of_pandas_and_empty_columns_need_no_name() {
        let rows = table("a.csv", ",q,a\n0,x,y\n17,z,w\n").unwrap();
        assert_eq!(rows[1].1, r#"{"Unnamed: 0":"17","q":"z","a":"w"}"#);
        assert_eq!(table("a.csv", "q,a,\nx,y,\n").unwrap()[0].1, r#"{"q":"x","a":"y"}"#);
        for (text, expect) in [
            (",q\n0,x\nCarl,y\n", "a.csv:3: column 1 has no name and holds \"Carl\""),
            ("q,\nx,3\n", "a.csv:2: column 2 has no name and holds \"3\""),
            ("\n,\n1,2\n", "a.csv:2: no column has a name"),
        ] {
            let error = table("a.csv", text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn another_separator_is_found_and_told() {
        let expected = [(2, r#"{"a":"x, y","b":"1;2"}"#.to_string())];
        for text in ["a;b\nx, y;\"1;2\"\n", "\"a\"|b\nx, y|1;2\n", "a\tb\nx, y\t1;2\n"] {
            assert_eq!(table("a.csv", text).unwrap(), expected, "{text:?}");
        }
        let told = |name: u8, text: &str| other_separator(name, separator(name, text.as_bytes()));
        assert_eq!(told(b',', "a;b\n").unwrap(), "the header has no `,`, so fields are parted by `;`");
        assert_eq!(told(b'\t', "a,b;c,d\n").unwrap(), "the header has no tabs, so fields are parted by `,`");
        assert_eq!([told(b',', "a,b;c;d\n"), told(b',', "text\n"), told(b',', "\"a;b\"\n")], [None, None, None]);
    }

    #[test]
    fn faulty_rows_name_their_line_and_how_far_they_reach() {
        for (text, expect) in [
            ("a,b\n1,2\n3\n", "a.csv:3: 1 fields, the header has 2\n"),
            ("a,b\n1,2\n\"3\n4,5\n\",6,7\n", "a.csv:3: 3 fields, the header has 2; within quotes it goes on to line 5\n"),
            ("a,b\n1,2\n3,\"4\n5,6\n7,8\n", "a.csv:3: the quote that begins here does not end: it takes in the last 4 lines"),
        ] {
            let error = table("a.csv", text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }

    /// Chunks are cut between records, not between lines; a table of 3 MB is read in several.
    #[test]
    fn chunks_of_a_table_make_up_the_file() {
        let row = |i: usize| format!("\"{i}\nsaid \"\"{}\"\",\",b{i}\n", "x\n".repeat(i % 300));
        let text = format!("a,b\n{}", (0..9000).map(row).collect::<String>());
        let rows = table("a.csv", &text).unwrap();
        assert_eq!((rows.len(), rows[8999].0), (9000, 2 + (0..8999).map(|i| 2 + i % 300).sum::<usize>()));
    }
}
