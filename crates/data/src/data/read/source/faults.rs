//! What becomes of a row that cannot be used: it ends the reading, or it is left out and its line put down.
//!
//! Refuses to know formats and shapes.

use crate::error::{Error, Result};
use crate::recipe::Malformed;

/// The malformed rows of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    what: Malformed,
    /// Lines of the rows that are left out.
    pub(crate) lines: Vec<usize>,
    /// What else is to be told of the file.
    pub(crate) notes: Vec<String>,
}

impl Faults {
    pub(crate) fn new(what: Malformed) -> Faults {
        Faults { what, ..Faults::default() }
    }

    /// Whether rows are left out.
    pub(crate) fn drops(&self) -> bool {
        self.what == Malformed::Drop
    }

    /// Puts a row's error down.
    ///
    /// # Errors
    /// The error itself, where rows are not left out or it is not one row's.
    pub(crate) fn put(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Data { line: Some(line), .. } if self.drops() => {
                self.lines.push(line);
                Ok(())
            }
            other => Err(other),
        }
    }
}
