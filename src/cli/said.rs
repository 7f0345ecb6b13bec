//! An answer on its way to the reader.

use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::generate::TextStream;

/// Turns tokens into text, shows it as it comes, and keeps it.
pub(super) struct Said<'o> {
    stream: TextStream,
    text: String,
    out: Option<&'o mut dyn Write>,
    /// What ended the answer early.
    failed: Option<Error>,
}

impl<'o> Said<'o> {
    /// Without `out` the text is only kept.
    pub(super) fn new(stream: TextStream, out: Option<&'o mut dyn Write>) -> Said<'o> {
        Said { stream, text: String::new(), out, failed: None }
    }

    /// Takes a token; false when there is no point in another one.
    pub(super) fn token(&mut self, id: u32) -> bool {
        match self.stream.push(id).and_then(|piece| self.show(&piece)) {
            Ok(goes_on) => goes_on,
            Err(error) => {
                self.failed = Some(error);
                false
            }
        }
    }

    /// The whole text.
    ///
    /// # Errors
    /// When a token could not be decoded or shown.
    pub(super) fn finish(mut self) -> Result<String> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let rest = self.stream.finish()?;
        self.show(&rest)?;
        Ok(self.text)
    }

    /// False when the reader went away, which is not an error.
    fn show(&mut self, piece: &str) -> Result<bool> {
        self.text += piece;
        let Some(out) = &mut self.out else { return Ok(true) };
        match out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            outcome => outcome.map(|()| true).map_err(Error::io("write", Path::new("standard output"))),
        }
    }
}
