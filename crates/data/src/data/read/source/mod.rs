//! Reading a file of rows: JSON Lines or one JSON value, CSV or TSV, plain text, with gzip or Zstandard around any of these; Parquet.
//! Each row comes with the line it starts on (of Parquet: with its number).
//!
//! Refuses to know what the columns of a row mean.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `cell`, `faults`, `packed` | a value of Parquet; rows that cannot be used; gzip and Zstandard |
//! | 1 | `columnar`, `lines`, `table`, `text` | Parquet; JSON; CSV and TSV; plain text |
//! | 2 | `feed` | a file, some rows at a time |

mod cell;
mod columnar;
mod faults;
mod feed;
mod lines;
mod packed;
mod table;
mod text;

use std::path::Path;

use crate::json::{Map, Value};
pub(crate) use faults::Faults;
pub(crate) use feed::{Chunk, Feed};
pub(crate) use packed::read_text;

use crate::error::{Error, Result};
use crate::files::unpacked_name;

/// One row as written: an object and the line (from 1) it starts on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RawRow {
    pub(crate) line: usize,
    pub(crate) fields: Map,
}

/// Every row of `path`, in order; blank lines and a byte-order mark are skipped, malformed rows as `faults` says.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] with the line when it is not rows of its format or has none.
pub(crate) fn read(path: &Path, faults: &mut Faults) -> Result<Vec<RawRow>> {
    if is_parquet(path) {
        let mut table = columnar::Table::open(path)?;
        let rows = table.next(path, usize::MAX)?;
        return if rows.is_empty() { Err(no_rows(path)) } else { Ok(rows) };
    }
    let text = read_text(path)?;
    let rows = format(path)?(path, text.strip_prefix('\u{feff}').unwrap_or(&text), faults)?;
    if rows.is_empty() && faults.lines.is_empty() { Err(no_rows(path)) } else { Ok(rows) }
}

/// The very text of every row of a file of JSON, on one line, with the line that it starts on; `None` for other formats.
/// Rows that cannot be used may be among them.
///
/// # Errors
/// As [`read`].
pub(crate) fn texts(path: &Path, faults: &mut Faults) -> Result<Option<Vec<(usize, String)>>> {
    type TextsOf = fn(&Path, &str, &mut Faults) -> Result<Vec<(usize, String)>>;
    let of: TextsOf = match ending(path).as_str() {
        "jsonl" | "ndjson" => |_, text, _| Ok(lines::texts_of_lines(text)),
        "json" => lines::texts_of_json,
        _ => return Ok(None),
    };
    let text = read_text(path)?;
    of(path, text.strip_prefix('\u{feff}').unwrap_or(&text), faults).map(Some)
}

type Format = fn(&Path, &str, &mut Faults) -> Result<Vec<RawRow>>;

/// How the text of a file is read, by its name.
fn format(path: &Path) -> Result<Format> {
    Ok(match ending(path).as_str() {
        "jsonl" | "ndjson" => lines::read_lines,
        "json" => lines::read_json,
        "csv" => |path, text, faults| table::read(path, text, COMMA, faults),
        "tsv" => |path, text, faults| table::read(path, text, TAB, faults),
        "txt" | "md" => text::read,
        other => {
            return Err(Error::data(path, None, format!("files ending in `.{other}` are not read"), FORMATS_HELP));
        }
    })
}

const COMMA: u8 = b',';
const TAB: u8 = b'\t';

/// What parts the fields of a table, by the file's name; `None` for other files.
fn separator(path: &Path) -> Option<u8> {
    match ending(path).as_str() {
        "csv" => Some(COMMA),
        "tsv" => Some(TAB),
        _ => None,
    }
}

/// Whether a file has a row a line, so that it can be cut anywhere between lines.
fn is_lines(path: &Path) -> bool {
    matches!(ending(path).as_str(), "jsonl" | "ndjson")
}

fn is_parquet(path: &Path) -> bool {
    ending(path) == "parquet"
}

/// What a file's name ends in, apart from what it is packed with; in lower case and without the dot.
fn ending(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    unpacked_name(&name).rsplit_once('.').map(|(_, ending)| ending.to_string()).unwrap_or_default()
}

fn no_rows(path: &Path) -> Error {
    Error::data(path, None, "the file has no rows", "put at least one row into it, or remove it from the recipe")
}

const FORMATS_HELP: &str = "convert it to JSON Lines (`.jsonl`, one object a line); also read: .json, .csv, .tsv, .txt, .md, \
    .gz or .zst of these, and .parquet";

/// The name of a JSON type, with its article.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> Result<Vec<RawRow>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        strictly(&path)
    }

    fn strictly(path: &Path) -> Result<Vec<RawRow>> {
        read(path, &mut Faults::default())
    }

    fn lines(rows: &[RawRow]) -> Vec<usize> {
        rows.iter().map(|r| r.line).collect()
    }

    #[test]
    fn json_lines_keep_their_numbers_past_blanks_and_a_bom() {
        let rows = written("a.jsonl", "\u{feff}{\"text\":\"a\"}\n\n  \n{\"text\":\"b\"}\r\n").unwrap();
        assert_eq!(lines(&rows), [1, 4]);
    }

    #[test]
    fn arrays_know_the_line_of_every_row() {
        let rows = written("a.json", "[\n {\"text\":\n  \"a\"},\n\n {\"text\":\"b\"}, {\"text\":\"c\"}\n]").unwrap();
        assert_eq!(lines(&rows), [2, 5, 5]);
        let rows = written("b.json", "{\"version\": 1,\n\"data\": [\n{\"text\":\"a\"}\n]}").unwrap();
        assert_eq!(lines(&rows), [3]);
        let rows = written("c.json", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n").unwrap();
        assert_eq!(lines(&rows), [1, 2]);
    }

    #[test]
    fn broken_files_name_the_line() {
        let table = [
            ("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\n", ":2: malformed JSON"),
            ("a.jsonl", "[1]\n", ":1: a row must be an object, this is an array"),
            ("a.jsonl", "\n\n", "no rows"),
            ("a.json", "[]", "no rows"),
            ("a.json", "", "no rows"),
            ("a.json", "[{\"text\":\"a\"},\n{\"text\" \"b\"}]", ":2: malformed JSON"),
            ("a.json", "[{\"text\":\"a\"}\n{\"text\":\"b\"}]", ":2: malformed JSON: `,` or `]`"),
            ("a.json", "[{\"text\":\"a\"}", "malformed JSON: `,` or `]`"),
            ("a.json", "[{\"text\":\"a\"}] x", "after the end"),
            ("a.json", "hello", "neither `[` nor `{`"),
            ("a.xlsx", "a,b", "`.xlsx` are not read"),
            ("a.csv", "a,b\n", "no rows"),
            ("a.csv", "a,b\n1,2\n3\n", ":3: 1 fields, the header has 2"),
            ("a.csv", "a,a\n1,2\n", "column `a` is named twice"),
            ("a.csv", "a,b\n1,\"x\n", ":2: the quote that begins here does not end: it takes in the last 2 lines"),
            ("a.tsv", "a\t\n1\t2\n", "column 2 has no name"),
            ("a.txt", " \n\n", "no rows"),
            ("a.jsonl.gz", "{}", "not a gzip file, or a damaged one"),
            ("a.jsonl.zst", "{}", "not a Zstandard file, or a damaged one"),
        ];
        for (name, text, expect) in table {
            let error = written(name, text).unwrap_err().to_string();
            assert!(error.contains(expect), "{text:?}: {error}");
        }
    }

    fn texts(rows: &[RawRow]) -> Vec<&str> {
        rows.iter().map(|r| r.fields["text"].as_str().unwrap()).collect()
    }

    #[test]
    fn tables_have_a_header_and_lines() {
        let rows = written("a.csv", "\u{feff}question,answer\n\"a, \"\"b\"\"\nc\",d\r\n\ne,\n").unwrap();
        assert_eq!(lines(&rows), [2, 5]);
        assert_eq!((rows[0].fields["question"].as_str(), rows[0].fields["answer"].as_str()), (Some("a, \"b\"\nc"), Some("d")));
        assert_eq!(rows[1].fields["answer"], "");
        let rows = written("a.tsv", "text\tn\na \"b\t1\n").unwrap();
        assert_eq!(texts(&rows), ["a \"b"]);
    }

    #[test]
    fn plain_text_is_cut_between_paragraphs() {
        let long = "word ".repeat(300);
        let rows = written("a.txt", &format!("{long}\n\n\n{long}\nsame paragraph\n\n short \n")).unwrap();
        assert_eq!(lines(&rows), [1, 4, 7]);
        assert_eq!(texts(&rows)[2], "short");
        let rows = written("b.md", "# one\n\ntwo\n").unwrap();
        assert_eq!((lines(&rows), texts(&rows)), (vec![1], vec!["# one\n\ntwo"]));
    }

    #[test]
    fn packed_files_give_the_rows_of_what_is_in_them() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
        let gz = dir.path().join("a.jsonl.gz");
        let mut packer = flate2::write::GzEncoder::new(std::fs::File::create(&gz).unwrap(), flate2::Compression::default());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap();
        assert_eq!(texts(&strictly(&gz).unwrap()), ["a", "b"]);
        let zst = dir.path().join("a.jsonl.zst");
        let packed = zstd::encode_all(text.as_bytes(), 0).unwrap();
        std::fs::write(&zst, &packed).unwrap();
        assert_eq!(texts(&strictly(&zst).unwrap()), ["a", "b"]);
        std::fs::write(&zst, &packed[..packed.len() - 3]).unwrap();
        assert!(strictly(&zst).unwrap_err().to_string().contains("damaged"));
    }
}
