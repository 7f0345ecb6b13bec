//! Columns of plain numbers, and lists of different lengths laid end to end in them.
//!
//! Refuses to know what the numbers mean.

use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::path::Path;

use bytemuck::Pod;

use crate::error::{Error, Result};
use crate::files::Mapped;

/// Numbers that are read where they lie.
#[derive(Clone)]
pub(crate) enum Column<T> {
    Owned(Vec<T>),
    Mapped(Mapped, PhantomData<T>),
}

impl<T: Pod> Column<T> {
    /// The numbers that a file holds, as this machine writes them.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be mapped, [`Error::Data`] when its length is no whole number of values.
    pub(crate) fn open(path: &Path) -> Result<Column<T>> {
        if std::fs::metadata(path).map_err(Error::io("read", path))?.len() == 0 {
            return Ok(Column::default());
        }
        let mapped = Mapped::open(path)?;
        match bytemuck::try_cast_slice::<u8, T>(mapped.bytes()) {
            Ok(_) => Ok(Column::Mapped(mapped, PhantomData)),
            Err(e) => Err(Error::data(path, None, format!("damaged: {e}"), "remove the file")),
        }
    }
}

impl<T> Default for Column<T> {
    fn default() -> Column<T> {
        Column::Owned(Vec::new())
    }
}

impl<T: Pod> Deref for Column<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Column::Owned(values) => values,
            Column::Mapped(mapped, _) => bytemuck::cast_slice(mapped.bytes()),
        }
    }
}

/// Lists of `T` one after the other, and where each ends.
#[derive(Clone)]
pub(crate) struct Lists<T> {
    pub(crate) values: Column<T>,
    pub(crate) ends: Column<u64>,
}

impl<T> Default for Lists<T> {
    fn default() -> Lists<T> {
        Lists { values: Column::default(), ends: Column::default() }
    }
}

impl<T: Pod> Lists<T> {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Where list `i` lies in `values`.
    pub(crate) fn place(&self, i: usize) -> Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        start..self.ends[i] as usize
    }

    pub(crate) fn get(&self, i: usize) -> &[T] {
        &self.values[self.place(i)]
    }
}

/// `bits[i]` of a run of bits, the lowest of a byte first.
pub(crate) fn bit(bits: &[u8], i: usize) -> bool {
    bits[i / 8] >> (i % 8) & 1 == 1
}

/// Bits of a number that also holds a part.
const PLACE: u32 = 44;

/// A place (a line, the number of a row) and a part of it in one number; 0 is the whole.
pub(crate) fn packed(place: usize, part: usize) -> u64 {
    place as u64 | (part as u64) << PLACE
}

/// What [`packed`] holds.
pub(crate) fn unpacked(packed: u64) -> (usize, usize) {
    ((packed & ((1 << PLACE) - 1)) as usize, (packed >> PLACE) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_parts_are_packed() {
        for (place, part) in [(0, 0), (1, 3), ((1 << 44) - 1, (1 << 20) - 1)] {
            assert_eq!(unpacked(packed(place, part)), (place, part));
        }
    }
}
