//! The lines a person types, or a pipe brings. Refuses to know what they mean.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use rustyline::error::ReadlineError;

use crate::error::{Error, Result};

/// Where lines come from.
pub(super) enum InputLines {
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl InputLines {
    /// The editor on a terminal, else the pipe.
    ///
    /// # Errors
    /// When the terminal is not usable.
    pub(super) fn open() -> Result<InputLines> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(InputLines::Pipe(stdin.lock().lines()));
        }
        let editor = rustyline::DefaultEditor::new().map_err(|e| broken(&e.to_string()))?;
        Ok(InputLines::Terminal(Box::new(editor)))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, InputLines::Terminal(_))
    }

    /// The next line, or `None` at the end of the input.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn next(&mut self, prompt: &str) -> Result<Option<String>> {
        match self {
            InputLines::Pipe(lines) => lines.next().transpose().map_err(Error::io("read", Path::new("standard input"))),
            InputLines::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => {
                    // Only the arrow keys lose by a line that is not remembered.
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(e) => Err(broken(&e.to_string())),
            },
        }
    }
}

fn broken(why: &str) -> Error {
    Error::usage("terminal", why, "pipe the messages in instead, one a line")
}
