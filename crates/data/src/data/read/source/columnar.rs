//! Parquet files, as most public data sets have: rows some at a time, whatever the size of the file's row groups.
//!
//! Refuses to know which columns there are.

use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::TypePtr;

use super::{RawRow, cell};
use crate::error::{Error, Result};

const HELP: &str = "copy the file anew, or write it again as Parquet, or as JSON Lines";
const BYTES_HELP: &str = "write the column as text in UTF-8, or write the file again without it: drop_columns([…]) of a table, \
    remove_columns([…]) of a data set";

/// The rows of a Parquet file that are left.
pub(super) struct Table {
    rows: RowIter<'static>,
    schema: TypePtr,
    /// Rows read, and how many there are.
    pub(super) read: usize,
    pub(super) all: usize,
}

impl Table {
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] when it is no Parquet file or a damaged one.
    pub(super) fn open(path: &Path) -> Result<Table> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        guarded(path, None, || {
            let reader = SerializedFileReader::new(file)?;
            let all = usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
            let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
            let rows = RowIter::from_file_into(Box::new(reader));
            Ok(Table { rows, schema, read: 0, all })
        })
    }

    /// The next rows, at most `most`; none at the end. The line of a row is its number from 1.
    ///
    /// # Errors
    /// [`Error::Data`] with the row that a damaged file cannot be read at.
    pub(super) fn next(&mut self, path: &Path, most: usize) -> Result<Vec<RawRow>> {
        let mut rows = Vec::new();
        while rows.len() < most && self.read < self.all {
            let line = self.read + 1;
            let row = guarded(path, Some(line), || {
                let row = self.rows.next().transpose()?;
                Ok(row.map(|row| cell::columns(row, &self.schema)))
            })?;
            let Some(row) = row else {
                let why = format!("the file says it has {} rows, this is where they end", self.all);
                return Err(Error::data(path, Some(line), why, HELP));
            };
            let fields = row.map_err(|unsaid| {
                let why = format!("the column `{}` holds {}", unsaid.column, unsaid.why);
                Error::data(path, Some(line), why, BYTES_HELP)
            })?;
            rows.push(RawRow { line, fields });
            self.read = line;
        }
        Ok(rows)
    }
}

thread_local! {
    /// A panic of this thread will be told as an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}
static QUIET: Once = Once::new();

/// What a damaged file makes of the library, as an error of ours: it may also panic, which is not to be seen then.
fn guarded<T>(path: &Path, line: Option<usize>, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let fail = |why: String| Error::data(path, line, format!("not a Parquet file, or a damaged one: {why}"), HELP);
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                loud(info)
            }
        }));
    });
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    match done {
        Ok(done) => done.map_err(|e| fail(e.to_string())),
        Err(_) => Err(fail("its structure contradicts itself".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;

    use super::super::{Faults, Feed, read};
    use super::*;
    use crate::json::Value;

    const SCHEMA: &str =
        "message row { required binary instruction (STRING); optional binary output (STRING); required double score;
        optional group messages (LIST) { repeated group list { optional group element {
            optional binary role (STRING); optional binary content (STRING); } } }
        optional int64 id; }";

    /// `rows` rows in groups of at most 700: no output in every third, two messages in each but every fifth.
    fn written(path: &Path, rows: usize, compression: Compression) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let all: Vec<usize> = (0..rows).collect();
        for group in all.chunks(700) {
            let mut columns = file.next_row_group().unwrap();
            let text = |i: &usize, what: &str| ByteArray::from(format!("{what} {i} ä").as_str());
            let filled: Vec<&usize> = group.iter().filter(|i| *i % 3 != 0).collect();
            let mut column = columns.next_column().unwrap().unwrap();
            let values: Vec<_> = group.iter().map(|i| text(i, "do")).collect();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
            let mut column = columns.next_column().unwrap().unwrap();
            let (values, levels): (Vec<_>, Vec<i16>) =
                (filled.iter().map(|i| text(i, "done")).collect(), group.iter().map(|i| i16::from(i % 3 != 0)).collect());
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
            let mut column = columns.next_column().unwrap().unwrap();
            let values: Vec<f64> = group.iter().map(|i| *i as f64 / 2.0).collect();
            column.typed::<DoubleType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
            // Definition 4: a value; 0: no list. Repetition 1: a further element.
            let levels: Vec<(i16, i16)> =
                group.iter().flat_map(|i| if i % 5 == 0 { vec![(0, 0)] } else { vec![(4, 0), (4, 1)] }).collect();
            let (definition, repetition): (Vec<i16>, Vec<i16>) = levels.into_iter().unzip();
            for key in ["role", "content"] {
                let mut column = columns.next_column().unwrap().unwrap();
                let say = |i: &usize| match key {
                    "role" => vec![ByteArray::from("user"), ByteArray::from("assistant")],
                    _ => vec![text(i, "q"), text(i, "a")],
                };
                let values: Vec<_> = group.iter().filter(|i| *i % 5 != 0).flat_map(say).collect();
                column.typed::<ByteArrayType>().write_batch(&values, Some(&definition), Some(&repetition)).unwrap();
                column.close().unwrap();
            }
            let mut column = columns.next_column().unwrap().unwrap();
            let values: Vec<i64> = group.iter().map(|i| *i as i64).collect();
            column.typed::<Int64Type>().write_batch(&values, Some(&vec![1; group.len()]), None).unwrap();
            column.close().unwrap();
            columns.close().unwrap();
        }
        file.close().unwrap();
    }

    #[test]
    fn rows_come_out_as_they_were_written_whatever_the_compression() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.parquet");
        let zstd = Compression::ZSTD(ZstdLevel::default());
        for compression in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default()), zstd, Compression::LZ4_RAW]
        {
            written(&path, 2500, compression);
            let rows = read(&path, &mut Faults::default()).unwrap();
            assert_eq!((rows.len(), rows[2499].line), (2500, 2500));
            let expected = json!({"instruction": "do 1 ä", "output": "done 1 ä", "score": 0.5, "messages":
                [{"role": "user", "content": "q 1 ä"}, {"role": "assistant", "content": "a 1 ä"}], "id": 1});
            assert_eq!(Value::Object(rows[1].fields.clone()), Value::from(expected));
            assert_eq!((&rows[0].fields["output"], &rows[0].fields["messages"]), (&Value::Null, &Value::Null));
            let mut feed = Feed::open(&path).unwrap();
            assert_eq!(feed.first().unwrap()[..], rows[..1024]);
            let mut again = Vec::new();
            while let Some(chunk) = feed.chunk().unwrap() {
                again.extend(chunk.rows(&path).unwrap().into_owned());
            }
            assert!(again == rows && feed.bytes() == std::fs::metadata(&path).unwrap().len());
        }
    }

    /// Text without the mark of text, as some writers leave it, and bytes that are none.
    #[test]
    fn bytes_are_text_or_their_column_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let schema = Arc::new(parse_message_type("message row { required group turn { required binary text; } }").unwrap());
        let written = |values: &[&[u8]]| {
            let mut file =
                SerializedFileWriter::new(File::create(&path).unwrap(), Arc::clone(&schema), Default::default()).unwrap();
            let mut columns = file.next_row_group().unwrap();
            let mut column = columns.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = values.iter().map(|bytes| ByteArray::from(bytes.to_vec())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
            columns.close().unwrap();
            file.close().unwrap();
            read(&path, &mut Faults::default())
        };
        let rows = written(&["Teal ä".as_bytes(), b""]).unwrap();
        assert_eq!((&rows[0].fields["turn"]["text"], &rows[1].fields["turn"]["text"]), (&"Teal ä".into(), &"".into()));
        let error = written(&[b"a", b"\xff\xd8"]).unwrap_err().to_string();
        assert!(error.contains(":2: the column `turn.text` holds bytes that are not text in UTF-8"), "{error}");
    }

    #[test]
    fn what_pyarrow_wrote_is_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/parquet");
        let rows = read(&dir.join("rows.parquet"), &mut Faults::default()).unwrap();
        assert_eq!(rows, read(&dir.join("rows.jsonl"), &mut Faults::default()).unwrap());
    }

    #[test]
    fn a_damaged_file_is_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        written(&path, 900, Compression::SNAPPY);
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for i in 0..400 {
            let mut bytes = whole.clone();
            match i {
                0 => bytes.clear(),
                1..50 => bytes.truncate(bytes.len() * i / 50),
                _ => {
                    let at = (crate::random::indexed(5, i as u64) % bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << (i % 8);
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            // A flipped bit may be in a text, where nothing tells.
            if let Err(error) = read(&path, &mut Faults::default()) {
                refused += 1;
                assert!(matches!(error, Error::Data { .. }) && error.to_string().contains("a.parquet"), "{error}");
            }
        }
        assert!(refused >= 50, "{refused} of 400");
        std::fs::write(&path, "instruction,output\n").unwrap();
        assert!(read(&path, &mut Faults::default()).unwrap_err().to_string().contains("not a Parquet file"));
    }

    /// Found by fuzzing: the library reserved room for as many elements as the footer says there are.
    #[test]
    fn a_footer_that_claims_two_billion_columns_is_refused_before_there_is_room_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        // Thrift's compact protocol: field 1, a number; field 2, a list of structures with its length after it.
        let footer = [0x15, 0x04, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07];
        let mut bytes = b"PAR1".to_vec();
        bytes.extend(footer);
        bytes.extend((footer.len() as u32).to_le_bytes());
        bytes.extend(b"PAR1");
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path, &mut Faults::default()).unwrap_err();
        assert!(matches!(error, Error::Data { .. }) && error.to_string().contains("not a Parquet file"), "{error}");
    }
}
