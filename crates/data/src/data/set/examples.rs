//! Rows as tokens, many of them: laid end to end, so that they may lie in a mapped file as well as in memory.
//!
//! Refuses to know who reads them and where the file lies.

use std::sync::Arc;

use super::column::{Column, Lists, bit};
use super::column::{packed, unpacked};
use crate::data::render::example::{Example, Prompt};

/// The tokens of rows and what is known of each.
#[derive(Clone, Default)]
pub(crate) struct RowColumns {
    pub(crate) ids: Lists<u32>,
    /// One bit a token of `ids.values`: it carries loss.
    pub(crate) trained: Column<u8>,
    pub(crate) sources: Column<u32>,
    /// Line and part of each, packed.
    pub(crate) lines: Column<u64>,
    /// The folder of the columns' files, where it is to go with them (after them: it comes last).
    pub(crate) folder: Option<Arc<tempfile::TempDir>>,
}

impl RowColumns {
    /// Line of row `i` in its file, and which part of that line's row it is.
    pub(crate) fn line(&self, i: usize) -> (usize, usize) {
        unpacked(self.lines[i])
    }
}

/// Examples in their order; cheap to clone.
#[derive(Clone, Default)]
pub struct Examples {
    rows: Arc<RowColumns>,
    /// Which of the rows these are; `None`: all of them.
    chosen: Option<Arc<Column<u32>>>,
    len: usize,
}

/// One of [`Examples`], where it lies.
#[derive(Debug, Clone, Copy)]
pub struct ExampleRef<'a> {
    pub ids: &'a [u32],
    pub trained: Mask<'a>,
    pub source: usize,
    pub line: usize,
    /// Which part of the row it is, from 1, where a long row was split; 0: the row.
    pub part: usize,
}

/// Which tokens of an example carry loss as targets, a bit each.
#[derive(Clone, Copy)]
pub struct Mask<'a> {
    bits: &'a [u8],
    start: usize,
    len: usize,
}

impl Mask<'_> {
    /// Whether token `i` carries loss; false past the end.
    pub fn get(&self, i: usize) -> bool {
        i < self.len && bit(self.bits, self.start + i)
    }

    /// Of every token, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = bool> {
        let (bits, start) = (self.bits, self.start);
        (0..self.len).map(move |i| bit(bits, start + i))
    }

    /// Tokens that carry loss.
    pub fn count(&self) -> usize {
        self.iter().filter(|trained| *trained).count()
    }
}

impl std::fmt::Debug for Mask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl ExampleRef<'_> {
    /// As [`Example::targets`].
    pub fn targets(&self) -> usize {
        self.trained.iter().skip(1).filter(|trained| *trained).count()
    }

    /// A copy that stands alone.
    pub fn to_owned(&self) -> Example {
        Example { ids: self.ids.to_vec(), trained: self.trained.iter().collect(), source: self.source, line: self.line }
    }
}

impl Examples {
    /// The rows numbered `chosen`, in that order; all of them when it is `None`.
    pub(crate) fn of(rows: Arc<RowColumns>, chosen: Option<Column<u32>>) -> Examples {
        let len = chosen.as_ref().map_or(rows.ids.len(), |c| c.len());
        Examples { rows, chosen: chosen.map(Arc::new), len }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `n` of them, or all if there are fewer.
    #[must_use]
    pub fn first(&self, n: usize) -> Examples {
        Examples { len: self.len.min(n), ..self.clone() }
    }

    /// At most `n` of them, spread evenly over all.
    #[must_use]
    pub fn spread(&self, n: usize) -> Examples {
        if n >= self.len {
            return self.clone();
        }
        let rows = (0..n).map(|i| self.row(i * self.len / n) as u32).collect();
        Examples::of(Arc::clone(&self.rows), Some(Column::Owned(rows)))
    }

    /// Example `i`, which must be below [`Examples::len`].
    pub fn get(&self, i: usize) -> ExampleRef<'_> {
        let row = self.row(i);
        let place = self.rows.ids.place(row);
        let trained = Mask { bits: &self.rows.trained, start: place.start, len: place.len() };
        let ids = &self.rows.ids.values[place];
        let (line, part) = self.rows.line(row);
        ExampleRef { ids, trained, source: self.rows.sources[row] as usize, line, part }
    }

    /// Tokens of example `i`.
    pub fn length(&self, i: usize) -> usize {
        self.rows.ids.place(self.row(i)).len()
    }

    /// Index into [`crate::data::Report::sources`] of example `i`.
    pub fn source(&self, i: usize) -> usize {
        self.rows.sources[self.row(i)] as usize
    }

    /// Line of example `i` in its file.
    pub fn line(&self, i: usize) -> usize {
        self.rows.line(self.row(i)).0
    }

    /// Tokens of example `i` that carry loss as targets.
    pub fn targets(&self, i: usize) -> usize {
        self.get(i).targets()
    }

    /// Tokens of each.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len).map(|i| self.length(i)).collect()
    }

    /// Every example, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ExampleRef<'_>> + Clone {
        (0..self.len).map(|i| self.get(i))
    }

    fn row(&self, i: usize) -> usize {
        assert!(i < self.len, "example {i} of {}", self.len);
        self.chosen.as_ref().map_or(i, |chosen| chosen[i] as usize)
    }
}

impl std::fmt::Debug for Examples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Examples({})", self.len)
    }
}

/// Rows of one source, end to end.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<u32>,
    pub(crate) lengths: Vec<u32>,
    /// One bit a token.
    pub(crate) trained: Vec<u8>,
    /// Line and part of each, packed.
    pub(crate) lines: Vec<u64>,
}

impl Batch {
    pub(crate) fn push(&mut self, ids: &[u32], trained: &[bool], line: usize, part: usize) {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.trained.resize(self.ids.len().div_ceil(8), 0);
        for (i, _) in trained.iter().enumerate().filter(|(_, trained)| **trained) {
            self.trained[(start + i) / 8] |= 1 << ((start + i) % 8);
        }
        self.lengths.push(ids.len() as u32);
        self.lines.push(packed(line, part));
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }
}

impl FromIterator<Example> for Examples {
    fn from_iter<I: IntoIterator<Item = Example>>(examples: I) -> Examples {
        let (mut batch, mut sources) = (Batch::default(), Vec::new());
        for example in examples {
            batch.push(&example.ids, &example.trained, example.line, 0);
            sources.push(example.source as u32);
        }
        let mut end = 0;
        let ends = batch.lengths.iter().map(|length| {
            end += u64::from(*length);
            end
        });
        let ends = Column::Owned(ends.collect());
        let rows = RowColumns {
            ids: Lists { values: Column::Owned(batch.ids), ends },
            trained: Column::Owned(batch.trained),
            sources: Column::Owned(sources),
            lines: Column::Owned(batch.lines),
            folder: None,
        };
        Examples::of(Arc::new(rows), None)
    }
}

impl From<Vec<Example>> for Examples {
    fn from(examples: Vec<Example>) -> Examples {
        examples.into_iter().collect()
    }
}

/// Prompts in their order; cheap to clone.
#[derive(Clone, Default)]
pub struct Prompts {
    store: Arc<PromptColumns>,
    len: usize,
}

/// What [`Prompts`] hold.
#[derive(Clone, Default)]
pub(crate) struct PromptColumns {
    pub(crate) ids: Lists<u32>,
    /// Of each prompt: its task and its cluster (empty, or `=` and the name), the reference, and all references.
    pub(crate) texts: Lists<u8>,
    /// Texts up to the end of each prompt's.
    pub(crate) ends: Column<u64>,
    pub(crate) sources: Column<u32>,
    pub(crate) lines: Column<u64>,
    /// The folder of the columns' files, where it is to go with them (after them: it comes last).
    pub(crate) folder: Option<Arc<tempfile::TempDir>>,
}

impl Prompts {
    pub(crate) fn of(store: PromptColumns) -> Prompts {
        Prompts { len: store.ids.len(), store: Arc::new(store) }
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `n` of them, or all if there are fewer.
    #[must_use]
    pub fn first(&self, n: usize) -> Prompts {
        Prompts { len: self.len.min(n), ..self.clone() }
    }

    /// Prompt `i`, which must be below [`Prompts::len`].
    pub fn get(&self, i: usize) -> Prompt {
        assert!(i < self.len, "prompt {i} of {}", self.len);
        let s = &self.store;
        let start = if i == 0 { 0 } else { s.ends[i - 1] as usize };
        let mut texts = (start..s.ends[i] as usize).map(|t| String::from_utf8_lossy(s.texts.get(t)).into_owned());
        let mut name = || texts.next().and_then(|t| t.strip_prefix('=').map(str::to_string));
        let (task, cluster) = (name(), name());
        let reference = texts.next().unwrap_or_default();
        Prompt {
            ids: s.ids.get(i).to_vec(),
            reference,
            references: texts.collect(),
            task,
            cluster,
            source: s.sources[i] as usize,
            line: s.lines[i] as usize,
        }
    }

    /// Source and line of prompt `i`, which must be below [`Prompts::len`].
    pub fn place(&self, i: usize) -> (usize, usize) {
        (self.store.sources[i] as usize, self.store.lines[i] as usize)
    }

    /// Every prompt, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Prompt> {
        (0..self.len).map(|i| self.get(i))
    }
}

impl Prompt {
    /// Its texts as [`PromptColumns`] lay them out.
    pub(crate) fn texts(&self) -> Vec<String> {
        let name = |name: &Option<String>| name.as_ref().map(|t| format!("={t}")).unwrap_or_default();
        [name(&self.task), name(&self.cluster), self.reference.clone()]
            .into_iter()
            .chain(self.references.iter().cloned())
            .collect()
    }
}

impl std::fmt::Debug for Prompts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prompts({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::spool::PromptSpool;
    use super::*;

    fn examples() -> Vec<Example> {
        let of = |n: usize| Example {
            ids: (0..n as u32).collect(),
            trained: (0..n).map(|i| (i + n).is_multiple_of(3)).collect(),
            source: n % 2,
            line: n * 7,
        };
        vec![of(5), of(0), of(9), of(1), of(16)]
    }

    #[test]
    fn examples_come_out_as_they_went_in() {
        let all: Examples = examples().into();
        assert_eq!(all.iter().map(|e| e.to_owned()).collect::<Vec<_>>(), examples());
        assert_eq!(all.lengths(), [5, 0, 9, 1, 16]);
        for (i, example) in examples().iter().enumerate() {
            assert_eq!((all.targets(i), all.source(i), all.line(i)), (example.targets(), example.source, example.line));
            assert_eq!(all.get(i).trained.count(), example.trained.iter().filter(|t| **t).count());
            assert!(!all.get(i).trained.get(example.ids.len()));
        }
    }

    #[test]
    fn some_of_the_rows_in_another_order_are_examples_too() {
        let all: Examples = examples().into();
        let some = Examples::of(Arc::clone(&all.rows), Some(Column::Owned(vec![4, 0, 2])));
        assert_eq!(some.lengths(), [16, 5, 9]);
        assert_eq!(some.first(2).iter().map(|e| e.line).collect::<Vec<_>>(), [112, 35]);
        assert_eq!((some.first(9).len(), Examples::default().len()), (3, 0));
    }

    #[test]
    fn prompts_come_out_as_they_went_in() {
        let prompt = |ids: &[u32], references: &[&str], task: Option<&str>| Prompt {
            ids: ids.to_vec(),
            reference: references[0].into(),
            references: references.iter().map(ToString::to_string).collect(),
            task: task.map(str::to_string),
            cluster: task.map(|_| "c".to_string()),
            source: 1,
            line: ids.len(),
        };
        let written = vec![prompt(&[1, 2], &["é", ""], Some("")), prompt(&[], &[""], None), prompt(&[3], &["a", "b"], Some("t"))];
        let dir = tempfile::tempdir().unwrap();
        let mut spool = PromptSpool::new(dir.path());
        written.iter().for_each(|prompt| spool.push(prompt).unwrap());
        let prompts = Prompts::of(spool.finish(false).unwrap());
        assert_eq!(prompts.iter().collect::<Vec<_>>(), written);
        assert_eq!(prompts.first(1).iter().collect::<Vec<_>>(), written[..1]);
    }
}
