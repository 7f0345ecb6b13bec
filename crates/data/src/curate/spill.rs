//! The words of all rows in a temporary file, so that memory does not grow with the text.
//!
//! The file lies in a temporary folder of its own, which goes when this value does. Refuses to know words.

use super::words::Word;
use crate::data::set::column::Lists;
use crate::data::set::spool::ListSpool;
use crate::error::{Error, Result};

/// Words of rows, being written in order.
pub(super) struct Writer {
    lists: ListSpool<u32>,
    folder: tempfile::TempDir,
}

/// Words of rows, each to be had by its number.
pub(super) struct Spilled {
    lists: Lists<u32>,
    _folder: tempfile::TempDir,
}

impl Writer {
    /// # Errors
    /// [`Error::Io`] when there is no room for temporary files.
    pub(super) fn new() -> Result<Writer> {
        let folder = tempfile::tempdir().map_err(Error::io("write", &std::env::temp_dir()))?;
        Ok(Writer { lists: ListSpool::new(folder.path(), "words"), folder })
    }

    /// # Errors
    /// [`Error::Io`] when the disk is full.
    pub(super) fn push(&mut self, words: &[Word]) -> Result<()> {
        self.lists.push(&words.iter().map(|word| word.0).collect::<Vec<u32>>())
    }

    /// # Errors
    /// [`Error::Io`] when the disk is full or the file cannot be mapped.
    pub(super) fn finish(self) -> Result<Spilled> {
        Ok(Spilled { lists: self.lists.finish(false)?, _folder: self.folder })
    }
}

impl Spilled {
    /// Rows written.
    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether row `i` has no words.
    pub(super) fn is_empty(&self, i: usize) -> bool {
        self.lists.place(i).is_empty()
    }

    /// The words of row `i`.
    pub(super) fn words(&self, i: usize) -> Vec<Word> {
        self.lists.get(i).iter().map(|word| Word(*word)).collect()
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
