//! Columns of plain numbers, and lists of different lengths laid end to end in them.
//!
//! Refuses to know what the numbers mean.

use std::ops::{Deref, Range};

use bytemuck::Pod;

/// Numbers that are read where they lie.
#[derive(Clone)]
pub(super) enum Column<T> {
    Owned(Vec<T>),
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
        }
    }
}

/// Lists of `T` one after the other, and where each ends.
#[derive(Clone)]
pub(super) struct Lists<T> {
    pub(super) values: Column<T>,
    pub(super) ends: Column<u64>,
}

impl<T> Default for Lists<T> {
    fn default() -> Lists<T> {
        Lists { values: Column::default(), ends: Column::default() }
    }
}

impl<T: Pod> Lists<T> {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Where list `i` lies in `values`.
    pub(super) fn place(&self, i: usize) -> Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        start..self.ends[i] as usize
    }

    pub(super) fn get(&self, i: usize) -> &[T] {
        &self.values[self.place(i)]
    }
}

/// `bits[i]` of a run of bits, the lowest of a byte first.
pub(super) fn bit(bits: &[u8], i: usize) -> bool {
    bits[i / 8] >> (i % 8) & 1 == 1
}
