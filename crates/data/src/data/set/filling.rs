//! The columns of a load, as chunk after chunk fills them.
//!
//! Refuses to know the files of the rows, and which rows are held out.

use std::path::Path;

use super::counts::index_of;
use super::spool::{ListSpool, PromptSpool, RowSpool, Spool};
use super::tokenize::TokenizedRows;
use crate::error::{Error, Result};

/// Files of columns that are needed while loading alone.
const SCRATCH: [&str; 4] = ["kin", "places", "tallies", "tallies-ends"];

/// Columns that are being filled.
pub(crate) struct Filling {
    pub(crate) rows: RowSpool,
    /// Which of its source's conversations each row is, and which part of it, packed.
    pub(crate) places: Spool<u64>,
    /// As [`TokenizedRows::grouping`].
    pub(crate) grouping: Spool<u8>,
    /// As [`super::counts::TokenCounts`], with the numbers of `roles`.
    pub(crate) token_counts: ListSpool<u32>,
    pub(crate) roles: Vec<String>,
    pub(crate) prompts: PromptSpool,
}

impl Filling {
    /// Nothing yet; what does not fit into memory goes to files in `folder`.
    pub(crate) fn new(folder: &Path) -> Filling {
        Filling {
            rows: RowSpool::new(folder),
            places: Spool::new(folder, "places"),
            grouping: Spool::new(folder, "kin"),
            token_counts: ListSpool::new(folder, "tallies"),
            roles: Vec::new(),
            prompts: PromptSpool::new(folder),
        }
    }

    /// Takes the next rows of a source, of whose conversations theirs are those from number `start` on.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub(crate) fn put(&mut self, source: usize, start: usize, done: &mut TokenizedRows) -> Result<()> {
        let places: Vec<u64> = done.places.iter().map(|place| start as u64 + place).collect();
        self.places.extend(&places)?;
        self.grouping.extend(&done.grouping)?;
        let numbers: Vec<u32> = done.token_counts.roles.iter().map(|role| index_of(&mut self.roles, role)).collect();
        let mut at = 0;
        for length in &done.token_counts.lengths {
            let counts = &mut done.token_counts.values[at..at + *length as usize];
            counts.iter_mut().skip(1).step_by(2).for_each(|role| *role = numbers[*role as usize]);
            at += counts.len();
        }
        self.token_counts.extend(&done.token_counts.values, done.token_counts.lengths.iter().map(|n| *n as usize))?;
        self.rows.extend(source, &done.batch)?;
        done.prompts.iter().try_for_each(|prompt| self.prompts.push(prompt))
    }
}

/// Removes from `folder` the files of columns that are needed while loading alone.
///
/// # Errors
/// [`Error::Io`] when one cannot be removed.
pub(crate) fn remove_scratch(folder: &Path) -> Result<()> {
    for name in SCRATCH {
        let path = folder.join(format!("{name}.bin"));
        if path.exists() {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}
