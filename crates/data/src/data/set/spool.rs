//! Columns as they are filled: in memory while they are short, in files that are mapped when they are full.
//!
//! Refuses to know what the numbers mean and who keeps the folder.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytemuck::Pod;

use super::column::{Column, Lists};
use super::examples::{Batch, PromptColumns, RowColumns};
use crate::data::render::example::Prompt;
use crate::error::{Error, Result};

/// Bytes of a column that are held back before they are written.
const HELD: usize = 4 << 20;

/// A column that grows.
pub(crate) struct Spool<T> {
    path: PathBuf,
    held: Vec<T>,
    file: Option<File>,
    /// Values written and held.
    pub(crate) len: usize,
}

impl<T: Pod> Spool<T> {
    /// Nothing yet; what does not fit into memory goes to the file `name` in `folder`.
    pub(crate) fn new(folder: &Path, name: &str) -> Spool<T> {
        Spool { path: folder.join(format!("{name}.bin")), held: Vec::new(), file: None, len: 0 }
    }

    pub(crate) fn push(&mut self, value: T) -> Result<()> {
        self.extend(&[value])
    }

    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub(crate) fn extend(&mut self, values: &[T]) -> Result<()> {
        self.held.extend_from_slice(values);
        self.len += values.len();
        if self.held.len() * size_of::<T>() >= HELD { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::create(&self.path).map_err(Error::io("write", &self.path))?),
        };
        file.write_all(bytemuck::cast_slice(&self.held)).map_err(Error::io("write", &self.path))?;
        self.held.clear();
        Ok(())
    }

    /// The whole column. With `keep` it lies in its file however short it is.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written or mapped.
    pub(crate) fn finish(mut self, keep: bool) -> Result<Column<T>> {
        if self.file.is_none() && !keep {
            return Ok(Column::Owned(self.held));
        }
        self.write()?;
        Column::open(&self.path)
    }
}

/// Lists that grow in number.
pub(crate) struct ListSpool<T> {
    values: Spool<T>,
    ends: Spool<u64>,
}

impl<T: Pod> ListSpool<T> {
    pub(crate) fn new(folder: &Path, name: &str) -> ListSpool<T> {
        ListSpool { values: Spool::new(folder, name), ends: Spool::new(folder, &format!("{name}-ends")) }
    }

    pub(crate) fn push(&mut self, list: &[T]) -> Result<()> {
        self.values.extend(list)?;
        self.ends.push(self.values.len as u64)
    }

    /// Lists that lie one after the other in `values` and are `lengths` long.
    pub(crate) fn extend(&mut self, values: &[T], lengths: impl IntoIterator<Item = usize>) -> Result<()> {
        let mut end = self.values.len;
        for length in lengths {
            end += length;
            self.ends.push(end as u64)?;
        }
        self.values.extend(values)
    }

    pub(crate) fn finish(self, keep: bool) -> Result<Lists<T>> {
        Ok(Lists { values: self.values.finish(keep)?, ends: self.ends.finish(keep)? })
    }
}

/// Bits that grow in number, the lowest of a byte first.
struct BitSpool {
    bytes: Spool<u8>,
    /// Bits that do not fill a byte yet.
    rest: u8,
    len: usize,
}

impl BitSpool {
    /// The first `n` bits of `bits`, in which those after them are 0.
    fn extend(&mut self, bits: &[u8], n: usize) -> Result<()> {
        let shift = self.len % 8;
        self.len += n;
        if shift == 0 {
            let whole = n / 8;
            self.bytes.extend(&bits[..whole])?;
            self.rest = if n.is_multiple_of(8) { 0 } else { bits[whole] };
            return Ok(());
        }
        let mut out = Vec::with_capacity(bits.len());
        let mut left = n + shift;
        for byte in &bits[..n.div_ceil(8)] {
            self.rest |= byte << shift;
            if left >= 8 {
                out.push(self.rest);
                self.rest = byte >> (8 - shift);
                left -= 8;
            }
        }
        self.bytes.extend(&out)
    }

    fn finish(mut self, keep: bool) -> Result<Column<u8>> {
        if !self.len.is_multiple_of(8) {
            self.bytes.push(self.rest)?;
        }
        self.bytes.finish(keep)
    }
}

/// Rows that grow in number.
pub(crate) struct RowSpool {
    ids: ListSpool<u32>,
    trained: BitSpool,
    sources: Spool<u32>,
    lines: Spool<u64>,
}

impl RowSpool {
    pub(crate) fn new(folder: &Path) -> RowSpool {
        RowSpool {
            ids: ListSpool::new(folder, "ids"),
            trained: BitSpool { bytes: Spool::new(folder, "trained"), rest: 0, len: 0 },
            sources: Spool::new(folder, "sources"),
            lines: Spool::new(folder, "lines"),
        }
    }

    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub(crate) fn extend(&mut self, source: usize, batch: &Batch) -> Result<()> {
        self.ids.extend(&batch.ids, batch.lengths.iter().map(|n| *n as usize))?;
        self.trained.extend(&batch.trained, batch.ids.len())?;
        self.sources.extend(&vec![source as u32; batch.len()])?;
        self.lines.extend(&batch.lines)
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.lines.len
    }

    pub(crate) fn finish(self, keep: bool) -> Result<RowColumns> {
        let (ids, trained) = (self.ids.finish(keep)?, self.trained.finish(keep)?);
        Ok(RowColumns { ids, trained, sources: self.sources.finish(keep)?, lines: self.lines.finish(keep)?, folder: None })
    }
}

/// Prompts that grow in number.
pub(crate) struct PromptSpool {
    ids: ListSpool<u32>,
    texts: ListSpool<u8>,
    ends: Spool<u64>,
    sources: Spool<u32>,
    lines: Spool<u64>,
}

impl PromptSpool {
    pub(crate) fn new(folder: &Path) -> PromptSpool {
        PromptSpool {
            ids: ListSpool::new(folder, "prompt-ids"),
            texts: ListSpool::new(folder, "prompt-texts"),
            ends: Spool::new(folder, "prompt-ends"),
            sources: Spool::new(folder, "prompt-sources"),
            lines: Spool::new(folder, "prompt-lines"),
        }
    }

    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub(crate) fn push(&mut self, prompt: &Prompt) -> Result<()> {
        self.ids.push(&prompt.ids)?;
        for text in prompt.texts() {
            self.texts.push(text.as_bytes())?;
        }
        self.ends.push(self.texts.ends.len as u64)?;
        self.sources.push(prompt.source as u32)?;
        self.lines.push(prompt.line as u64)
    }

    pub(crate) fn finish(self, keep: bool) -> Result<PromptColumns> {
        let (ids, texts, ends) = (self.ids.finish(keep)?, self.texts.finish(keep)?, self.ends.finish(keep)?);
        Ok(PromptColumns { ids, texts, ends, sources: self.sources.finish(keep)?, lines: self.lines.finish(keep)?, folder: None })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::examples::Examples;
    use super::*;
    use crate::data::render::example::Example;

    /// Rows in batches of different sizes, some of them past what is held in memory.
    #[test]
    fn rows_come_out_of_memory_and_of_files_as_they_went_in() {
        for (rows, width) in [(50, 13), (3000, 900)] {
            let example = |i: usize| Example {
                ids: (0..(i * 7 % width) as u32).collect(),
                trained: (0..i * 7 % width).map(|t| (t + i).is_multiple_of(3)).collect(),
                source: i % 2,
                line: i,
            };
            for keep in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let mut spool = RowSpool::new(dir.path());
                for i in 0..rows {
                    let (mut batch, example) = (Batch::default(), example(i));
                    batch.push(&example.ids, &example.trained, i, 0);
                    spool.extend(example.source, &batch).unwrap();
                }
                let written = spool.finish(keep).unwrap();
                assert_eq!(matches!(written.lines, Column::Mapped(..)), keep);
                assert_eq!(matches!(written.ids.values, Column::Mapped(..)), keep || width > 100);
                let examples = Examples::of(Arc::new(written), None);
                assert_eq!(examples.len(), rows);
                assert!(examples.iter().enumerate().all(|(i, e)| e.to_owned() == example(i)));
            }
        }
    }
}
