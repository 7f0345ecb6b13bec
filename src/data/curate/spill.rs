//! The words of all rows in a temporary file, so that memory does not grow with the text.
//!
//! The file has no name outside this process's folder of temporary files and goes when this value does. Refuses to know words.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::words::Word;
use crate::error::{Error, Result};
use crate::files::Mapped;

/// Words of rows, being written in order.
pub(super) struct Writer {
    out: BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
    /// Where each row's words begin, in words.
    starts: Vec<u64>,
}

/// Words of rows, each to be had by its number.
pub(super) struct Spilled {
    map: Option<Mapped>,
    starts: Vec<u64>,
    _file: tempfile::NamedTempFile,
}

impl Writer {
    /// # Errors
    /// [`Error::Io`] when there is no room for temporary files.
    pub(super) fn new() -> Result<Writer> {
        let dir = std::env::temp_dir();
        let file = tempfile::Builder::new().prefix(".lorakit-words-").tempfile_in(&dir).map_err(Error::io("write", &dir))?;
        let path = file.path().to_path_buf();
        Ok(Writer { out: BufWriter::with_capacity(1 << 20, file), path, starts: vec![0] })
    }

    /// # Errors
    /// [`Error::Io`] when the disk is full.
    pub(super) fn push(&mut self, words: &[Word]) -> Result<()> {
        for word in words {
            self.out.write_all(&word.0.to_le_bytes()).map_err(Error::io("write", &self.path))?;
        }
        self.starts.push(self.starts.last().copied().unwrap_or(0) + words.len() as u64);
        Ok(())
    }

    /// # Errors
    /// [`Error::Io`] when the disk is full or the file cannot be mapped.
    pub(super) fn finish(self) -> Result<Spilled> {
        let path: &Path = &self.path;
        let file = self.out.into_inner().map_err(|e| Error::io("write", path)(e.into_error()))?;
        let empty = self.starts.last() == Some(&0);
        let map = if empty { None } else { Some(Mapped::open(path)?) };
        Ok(Spilled { map, starts: self.starts, _file: file })
    }
}

impl Spilled {
    /// Rows written.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether row `i` has no words.
    pub(super) fn is_empty(&self, i: usize) -> bool {
        self.starts[i] == self.starts[i + 1]
    }

    /// The words of row `i`.
    pub(super) fn words(&self, i: usize) -> Vec<Word> {
        let (from, to) = (self.starts[i] as usize * 4, self.starts[i + 1] as usize * 4);
        let bytes = self.map.as_ref().and_then(|m| m.bytes().get(from..to)).unwrap_or_default();
        bytes.chunks_exact(4).map(|b| Word(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_went() {
        let mut writer = Writer::new().unwrap();
        let rows = [vec![Word(1), Word(u32::MAX)], vec![], vec![Word(7)]];
        rows.iter().for_each(|r| writer.push(r).unwrap());
        let spilled = writer.finish().unwrap();
        assert_eq!(spilled.len(), 3);
        assert_eq!((0..3).map(|i| spilled.words(i)).collect::<Vec<_>>(), rows);
    }

    #[test]
    fn no_words_at_all_are_no_error() {
        let mut writer = Writer::new().unwrap();
        writer.push(&[]).unwrap();
        assert_eq!(writer.finish().unwrap().words(0), []);
    }
}
