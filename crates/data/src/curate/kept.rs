//! The rows that were kept, as files: each as it was written, with where it comes from.
//!
//! Refuses to know why rows are kept.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{CurateOut, KeepChoice, Raw, ScanSettings, mask_row, raw_rows};
use crate::data::Split;
use crate::error::{Error, Result};
use crate::files;
use crate::json;
use crate::recipe::origin;

/// The column that says where a kept row comes from.
const FROM: &str = "curated_from";

/// Where rows go, and who hears how many of a source are written; its error ends the work.
struct Sink<'a> {
    path: &'a Path,
    file: &'a mut dyn Write,
    tick: &'a mut dyn FnMut(usize) -> Result<()>,
}

/// What is written.
pub struct KeptRows<'a> {
    pub settings: &'a ScanSettings,
    pub choice: &'a KeepChoice,
    /// Whether personal data is masked.
    pub mask: bool,
}

impl KeptRows<'_> {
    /// Writes all rows into one file, or a file a source into a folder, and says how many places were masked. A crash or a stop
    /// leaves what was there before. `tick` hears how many rows of a source are written.
    ///
    /// # Errors
    /// No row is left; a source has changed since it was looked at; writing failed; what `tick` returns.
    pub fn write(&self, out: &CurateOut, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<usize> {
        self.some(&out.path)?;
        let path = &out.path;
        if !out.folder() {
            return files::write_atomic_with(path, |file| {
                let mut sink = Sink { path, file, tick };
                (0..self.settings.sources.len()).map(|index| self.source(index, &mut sink)).sum()
            });
        }
        let mut masked = 0;
        files::write_dir_atomic(path, |dir| {
            for (index, name) in names(self.settings).iter().enumerate() {
                // A file whose rows are all gone would be refused when it is read.
                if self.choice.kept[index].contains(&true) {
                    let path = &dir.join(name);
                    masked += files::write_atomic_with(path, |file| self.source(index, &mut Sink { path, file, tick }))?;
                }
            }
            Ok(())
        })?;
        Ok(masked)
    }

    fn some(&self, out: &Path) -> Result<()> {
        if self.choice.rows_kept() > 0 {
            return Ok(());
        }
        let counts: Vec<_> = self.choice.by_reason().into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let why = format!("no row would be left: {}", counts.join(", "));
        Err(Error::usage(out.display().to_string(), why, "ask for less to be dropped"))
    }

    fn source(&self, index: usize, sink: &mut Sink<'_>) -> Result<usize> {
        let (source, kept) = (&self.settings.sources[index], &self.choice.kept[index]);
        let (mut seen, mut masked, mut written) = (0, 0, 0);
        let keep = |i: usize| {
            seen = seen.max(i + 1);
            kept.get(i).copied().unwrap_or(false)
        };
        raw_rows(source, Split::Train, keep, |mut row| {
            if self.mask {
                masked += mask_row(&mut row);
            }
            writeln!(sink.file, "{}", line(&source.path, &row)).map_err(Error::io("write", sink.path))?;
            written += 1;
            if written % 1024 == 0 { (sink.tick)(written) } else { Ok(()) }
        })?;
        if seen != kept.len() {
            let why = format!("the file had {} rows at first and has {seen} now", kept.len());
            return Err(Error::data(&source.path, None, why, "leave the files alone while they are read, and run this again"));
        }
        Ok(masked)
    }
}

/// The row with where it comes from; where a row that was curated before came from stays inside.
fn line(path: &Path, row: &Raw) -> String {
    let file = origin(path).map_or_else(|| serde_json::json!(path), Json::String);
    let mut from = format!("{{\"file\":{file},\"line\":{}", row.line);
    if let Some(instances) = &row.instances {
        from += &format!(",\"instances\":{}", serde_json::json!(instances));
    }
    if let Some(before) = json::place_of(&row.text, FROM) {
        from += &format!(",\"before\":{}", &row.text[before]);
    }
    json::with_entry(&row.text, FROM, &(from + "}"))
}

/// The names of the files in a folder, one a source.
fn names(settings: &ScanSettings) -> Vec<String> {
    let mut taken = HashSet::new();
    let name = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let inner = files::unpacked_name(&name);
        let stem = inner.rsplit_once('.').map_or(inner, |(stem, _)| stem).to_string();
        let mut tries = std::iter::once(format!("{stem}.jsonl")).chain((2..).map(|i| format!("{stem}-{i}.jsonl")));
        tries.find(|name| taken.insert(name.clone())).unwrap_or_default()
    };
    settings.sources.iter().map(|s| &s.path).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Source;

    #[test]
    fn files_of_one_name_do_not_overwrite_each_other() {
        let source = |path: &str| Source { path: path.into(), ..Source::default() };
        let sources = ["a/x.jsonl", "b/x.json.gz", "c/y.csv", "d/x"].map(source).to_vec();
        let settings = ScanSettings { sources, ..ScanSettings::default() };
        assert_eq!(names(&settings), ["x.jsonl", "x-2.jsonl", "y.jsonl", "x-3.jsonl"]);
    }

    #[test]
    fn masks_change_nothing_else() {
        let text = r#"{"a": ["x@firma.se",  1.50, "\u00e9"], "x@firma.se": {"c": "\u00e9 93.184.216.34"}}"#;
        let mut row = Raw { line: 1, instances: None, text: text.into() };
        assert_eq!(mask_row(&mut row), 2);
        assert_eq!(row.text, r#"{"a": ["[EMAIL]",  1.50, "\u00e9"], "x@firma.se": {"c": "é [IP]"}}"#);
    }

    #[test]
    fn where_a_row_came_from_first_is_not_forgotten() {
        let table = [
            (
                r#"{"text": "a", "curated_from": {"file": "old.jsonl", "line": 9}, "n": 1.50}"#,
                r#"{"text": "a", "curated_from": {"file":"new.jsonl","line":3,"before":{"file": "old.jsonl", "line": 9}}, "n": 1.50}"#,
            ),
            (
                r#" { "text": "\u00e9", "n": 1e3 } "#,
                r#" { "text": "\u00e9", "n": 1e3,"curated_from":{"file":"new.jsonl","line":3} } "#,
            ),
            ("{}", r#"{"curated_from":{"file":"new.jsonl","line":3}}"#),
        ];
        for (text, expected) in table {
            let row = Raw { line: 3, instances: None, text: text.into() };
            assert_eq!(line(Path::new("new.jsonl"), &row), expected);
        }
    }
}
