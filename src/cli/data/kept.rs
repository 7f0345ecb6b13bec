//! The rows that were kept, as files: each as it was written, with where it comes from.
//!
//! Refuses to know why rows are kept.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::progress::{Progress, Unit};
use crate::cli::stop;
use crate::curate::{self, Choice, File, Raw, Settings};
use crate::data::Split;
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::origin;

/// The column that says where a kept row comes from.
pub(super) const FROM: &str = "curated_from";

/// Where it goes: the name of the file, and the file.
type To<'a> = (&'a Path, &'a mut dyn Write);

/// What is written.
pub(super) struct Kept<'a> {
    pub(super) settings: &'a Settings,
    pub(super) choice: &'a Choice,
    /// Whether personal data is masked.
    pub(super) mask: bool,
}

impl Kept<'_> {
    /// Writes all rows into one file, or a file a source into a folder, and says how many places were masked. A crash or a stop
    /// leaves what was there before.
    ///
    /// # Errors
    /// A source has changed since it was looked at; writing failed; the user asked to stop.
    pub(super) fn write(&self, out: &Path, folder: bool) -> Result<usize> {
        let mut progress = Progress::new("writing", self.choice.rows_kept() as u64, Unit::Items);
        let mut tick = |rows: usize| {
            progress.set(rows as u64, "");
            stop::go_on()
        };
        if !folder {
            return files::write_atomic_with(out, |file| self.all((out, file), &mut tick));
        }
        let mut masked = 0;
        files::write_dir_atomic(out, |dir| {
            for (index, name) in names(self.settings).iter().enumerate() {
                // A file whose rows are all gone would be refused when it is read.
                if self.choice.kept[index].contains(&true) {
                    let path = dir.join(name);
                    masked += files::write_atomic_with(&path, |file| self.source(index, (&path, file), &mut tick))?;
                }
            }
            Ok(())
        })?;
        Ok(masked)
    }

    fn all(&self, (path, out): To<'_>, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<usize> {
        (0..self.settings.sources.len()).map(|index| self.source(index, (path, &mut *out), tick)).sum()
    }

    fn source(&self, index: usize, (path, out): To<'_>, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<usize> {
        let (source, kept) = (&self.settings.sources[index], &self.choice.kept[index]);
        let (mut seen, mut masked, mut written) = (0, 0, 0);
        let keep = |i: usize| {
            seen = seen.max(i + 1);
            kept.get(i).copied().unwrap_or(false)
        };
        curate::raw_rows(source, Split::Train, keep, |mut row| {
            if self.mask {
                masked += curate::mask_row(&mut row);
            }
            writeln!(out, "{}", line(&source.path, row)).map_err(Error::io("write", path))?;
            written += 1;
            if written % 1024 == 0 { tick(written) } else { Ok(()) }
        })?;
        if seen != kept.len() {
            let why = format!("the file had {} rows at first and has {seen} now", kept.len());
            return Err(Error::data(&source.path, None, why, "leave the files alone while they are read, and run this again"));
        }
        Ok(masked)
    }
}

/// The row with where it comes from; where a row that was curated before came from stays inside.
fn line(path: &Path, row: Raw) -> Value {
    let mut fields = row.fields;
    let file = origin(path).map_or_else(|| json!(path), Value::String);
    let mut from = json!({ "file": file, "line": row.line });
    if let Some(instances) = row.instances {
        from["instances"] = instances.into();
    }
    if let Some(before) = fields.remove(FROM) {
        from["before"] = before;
    }
    fields.insert(FROM.into(), from);
    Value::Object(fields)
}

/// The names of the files in a folder, one a source.
fn names(settings: &Settings) -> Vec<String> {
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

/// Rows of differing shapes do not go into one file: it would not be read again.
///
/// # Errors
/// Two sources that differ, named.
pub(super) fn one_shape(out: &Path, files: &[File], settings: &Settings) -> Result<()> {
    let Some((first, source)) = files.first().zip(settings.sources.first()) else { return Ok(()) };
    let differs = |(file, s): &(&File, &crate::recipe::Source)| file.shape != first.shape || s.columns != source.columns;
    match files.iter().zip(&settings.sources).find(differs) {
        None => Ok(()),
        Some((other, _)) => {
            let (a, b) = (first.path.display(), other.path.display());
            let why = format!("{a} and {b} have differing shapes or columns and cannot be one file");
            Err(Error::usage(
                out.display().to_string(),
                why,
                "name a folder with --out (a name without an ending): it gets a file each",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Source;

    #[test]
    fn files_of_one_name_do_not_overwrite_each_other() {
        let source = |path: &str| Source { path: path.into(), ..Source::default() };
        let sources = ["a/x.jsonl", "b/x.json.gz", "c/y.csv", "d/x"].map(source).to_vec();
        let settings = Settings { sources, ..Settings::default() };
        assert_eq!(names(&settings), ["x.jsonl", "x-2.jsonl", "y.jsonl", "x-3.jsonl"]);
    }

    #[test]
    fn where_a_row_came_from_first_is_not_forgotten() {
        let fields = json!({"text": "a", "curated_from": {"file": "old.jsonl", "line": 9}});
        let Value::Object(fields) = fields else { return };
        let row = Raw { line: 3, instances: None, fields };
        let expect =
            json!({"text": "a", "curated_from": {"file": "new.jsonl", "line": 3, "before": {"file": "old.jsonl", "line": 9}}});
        assert_eq!(line(Path::new("new.jsonl"), row), expect);
    }
}
