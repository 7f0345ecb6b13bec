//! What the rows of a file say about its shape, gathered from its parts.
//!
//! A column that is null in every row is as if it were not there: that is how files of differing columns are put into one.
//! Refuses to know which shape it is (`detect`).

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{SHAPES, TELLING, keys, sets};
use super::preference::says;
use super::{RawRow, Reader};
use crate::recipe::Shape;

/// Some of the columns in [`TELLING`], a bit each; and [`LABEL`].
type Columns = u32;

/// The row has no label that is something else than yes or no.
const LABEL: Columns = 1 << 31;

/// Of rows of one file; lines are those of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(super) columns: BTreeSet<String>,
    /// Columns that some row has a value in.
    filled: Columns,
    /// Line and columns (for a message) of the first row of each kind.
    kinds: BTreeMap<Columns, (usize, String)>,
}

impl Facts {
    /// Of `rows`, which `reader` is to read.
    pub(crate) fn of(reader: &Reader, rows: &[RawRow]) -> Facts {
        let mut facts = Facts::default();
        for row in rows {
            for key in row.fields.keys() {
                if !facts.columns.contains(key) {
                    facts.columns.insert(key.clone());
                }
            }
            let kind = kind(reader, row);
            facts.filled |= bits(|column| reader.given(row, column).is_some());
            facts.kinds.entry(kind).or_insert_with(|| (row.line, keys(&row.fields)));
        }
        facts
    }

    /// Adds the facts of the rows that come next in the file.
    pub(crate) fn and(&mut self, next: Facts) {
        self.columns.extend(next.columns);
        self.filled |= next.filled;
        next.kinds.into_iter().for_each(|(kind, row)| _ = self.kinds.entry(kind).or_insert(row));
    }

    /// Whether a row has the columns of `shape`; a label that is no yes or no is not a label of ours.
    pub(super) fn fits(&self, reader: &Reader, row: &RawRow, shape: Shape) -> bool {
        self.fit(kind(reader, row), shape)
    }

    fn fit(&self, kind: Columns, shape: Shape) -> bool {
        self.has(kind, shape) && (shape != Shape::Labelled || kind & LABEL != 0)
    }

    fn has(&self, kind: Columns, shape: Shape) -> bool {
        let there = kind & self.filled;
        sets(shape).iter().map(|set| bits(|column| set.contains(&column))).any(|set| there & set == set)
    }

    fn shape(&self, kind: Columns) -> Option<Shape> {
        SHAPES.iter().map(|(shape, _)| *shape).find(|shape| self.fit(kind, *shape))
    }

    /// Kinds of rows and the first row of each, by line.
    fn in_order(&self) -> Vec<(Columns, &(usize, String))> {
        let mut all: Vec<_> = self.kinds.iter().map(|(kind, row)| (*kind, row)).collect();
        all.sort_by_key(|(_, (line, _))| *line);
        all
    }

    /// The most telling shape that all rows fit.
    pub(super) fn fitting(&self) -> Option<Shape> {
        SHAPES.iter().map(|(shape, _)| *shape).find(|shape| self.kinds.keys().all(|kind| self.fit(*kind, *shape)))
    }

    /// Line and columns of the first row that no shape fits.
    pub(super) fn unknown(&self) -> Option<&(usize, String)> {
        self.in_order().into_iter().find(|(kind, _)| self.shape(*kind).is_none()).map(|(_, row)| row)
    }

    /// Line and columns of the first row that lacks columns of `shape`.
    pub(super) fn lacking(&self, shape: Shape) -> Option<&(usize, String)> {
        self.in_order().into_iter().find(|(kind, _)| !self.has(*kind, shape)).map(|(_, row)| row)
    }

    /// Line and shape of the first row, and of the first row whose shape is another.
    pub(super) fn differing(&self) -> Vec<(usize, Option<Shape>)> {
        let mut all: Vec<_> = self.in_order().into_iter().map(|(kind, (line, _))| (*line, self.shape(kind))).collect();
        all.dedup_by_key(|(_, shape)| *shape);
        all.truncate(2);
        all
    }

    /// Up to twenty columns, for a message.
    pub(super) fn seen(&self) -> String {
        self.columns.iter().take(20).map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
    }
}

fn bits(has: impl Fn(&str) -> bool) -> Columns {
    TELLING.iter().enumerate().map(|(i, column)| Columns::from(has(column)) << i).sum()
}

fn kind(reader: &Reader, row: &RawRow) -> Columns {
    let label = ["label", "kto_tag"].iter().find_map(|l| reader.given(row, l)).is_none_or(says);
    bits(|column| reader.get(row, column).is_some()) | if label { LABEL } else { 0 }
}
