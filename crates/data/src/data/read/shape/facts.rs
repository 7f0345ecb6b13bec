//! What the rows of a file say about its shape, gathered from its parts.
//!
//! Refuses to know which shape it is (`detect`).

use std::collections::BTreeSet;

use super::keys::{SHAPES, keys};
use super::{RawRow, Reader};
use crate::recipe::Shape;

/// Of rows of one file; lines are those of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(super) columns: BTreeSet<String>,
    /// Line and shape of the first row.
    pub(super) first: Option<(usize, Option<Shape>)>,
    /// Line and shape of the first row whose shape is another.
    pub(super) other: Option<(usize, Option<Shape>)>,
    /// Line and columns of the first row that no shape fits.
    pub(super) unknown: Option<(usize, String)>,
    /// Line and columns of the first row that lacks columns of the shape that the recipe says.
    pub(super) lacking: Option<(usize, String)>,
    /// Which of [`SHAPES`] some row does not fit.
    misfits: [bool; SHAPES.len()],
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
            let fits = SHAPES.map(|(shape, _)| reader.fits(row, shape));
            let shape = fits.iter().position(|fit| *fit).map(|at| SHAPES[at].0);
            facts.misfits.iter_mut().zip(fits).for_each(|(misfit, fit)| *misfit |= !fit);
            facts.meet((row.line, shape));
            if shape.is_none() {
                facts.unknown.get_or_insert_with(|| (row.line, keys(&row.fields)));
            }
            if reader.source.shape.is_some_and(|shape| !reader.has(row, shape)) {
                facts.lacking.get_or_insert_with(|| (row.line, keys(&row.fields)));
            }
        }
        facts
    }

    fn meet(&mut self, row: (usize, Option<Shape>)) {
        match &self.first {
            None => self.first = Some(row),
            Some(first) if first.1 != row.1 => _ = self.other.get_or_insert(row),
            Some(_) => {}
        }
    }

    /// Adds the facts of the rows that come next in the file.
    pub(crate) fn and(&mut self, next: Facts) {
        self.columns.extend(next.columns);
        next.first.into_iter().chain(next.other).for_each(|row| self.meet(row));
        self.unknown = self.unknown.take().or(next.unknown);
        self.lacking = self.lacking.take().or(next.lacking);
        self.misfits.iter_mut().zip(next.misfits).for_each(|(misfit, more)| *misfit |= more);
    }

    /// The most telling shape that all rows fit.
    pub(super) fn fitting(&self) -> Option<Shape> {
        self.misfits.iter().position(|misfit| !misfit).map(|at| SHAPES[at].0)
    }

    /// Up to twenty columns, for a message.
    pub(super) fn seen(&self) -> String {
        self.columns.iter().take(20).map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
    }
}
