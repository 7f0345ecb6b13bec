//! One error type, divided by what the person at the keyboard can fix.
//!
//! Every variant that a user can cause carries four things: *what* and *where* (file, line, key or tensor),
//! *why*, and *what to do next* (`help`). The command line turns all of them into exit code 2.

use std::path::{Path, PathBuf};

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, by what must be changed to make it right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of a recipe.
    #[error("{}: `{key}`: {why}\n  help: {help}", at(file, *line))]
    Recipe { file: PathBuf, line: Option<usize>, key: String, why: String, help: String },
    /// A row or a file of training data.
    #[error("{}: {why}\n  help: {help}", at(file, *line))]
    Data { file: PathBuf, line: Option<usize>, why: String, help: String },
    /// A chat template.
    #[error("chat template {name}{}: {why}\n  help: {help}", line.map(|l| format!(" line {l}")).unwrap_or_default())]
    Template { name: String, line: Option<usize>, why: String, help: String },
    /// A base model's files; `what` names the tensor, key or file.
    #[error("model {}: {what}: {why}\n  help: {help}", path.display())]
    Model { path: PathBuf, what: String, why: String, help: String },
    /// An adapter's files; `what` names the tensor, key or file.
    #[error("adapter {}: {what}: {why}\n  help: {help}", path.display())]
    Adapter { path: PathBuf, what: String, why: String, help: String },
    /// A model or adapter that is well-formed but asks for something that is not implemented.
    #[error("{}: {what}: {why}\n  help: {help}", path.display())]
    Unsupported { path: PathBuf, what: String, why: String, help: String },
    /// Something that should have been fetched.
    #[error("{what}: {why}\n  help: {help}")]
    Fetch { what: String, why: String, help: String },
    /// An argument of the command line or of a library call.
    #[error("{what}: {why}\n  help: {help}")]
    Usage { what: String, why: String, help: String },
    /// Reading or writing a file failed.
    #[error("cannot {action} {}: {source}\n  help: check that the path exists, is of the expected kind, and that its permissions and the free space allow it", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// The loss or a gradient stopped being a number.
    #[error("step {step}: {why}\n  help: {help}")]
    NonFinite { step: usize, why: String, help: String },
    /// The user asked to stop.
    #[error("interrupted: {what}")]
    Interrupted { what: String },
    /// The system asked to stop (SIGTERM); the work can go on later.
    #[error("terminated: {what}")]
    Terminated { what: String },
    /// A tensor operation failed: shapes or devices disagree. A bug here unless a custom model caused it.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An input/output failure with the path it happened at.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// An argument that cannot be used.
    pub fn usage(what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Usage { what: what.into(), why: why.into(), help: help.into() }
    }

    /// A part of a base model that cannot be used.
    pub fn model(path: &Path, what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Model { path: path.to_path_buf(), what: what.into(), why: why.into(), help: help.into() }
    }

    /// A part of an adapter that cannot be used.
    pub fn adapter(path: &Path, what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Adapter { path: path.to_path_buf(), what: what.into(), why: why.into(), help: help.into() }
    }

    /// A model or adapter that needs what is not implemented.
    pub fn unsupported(path: &Path, what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Unsupported { path: path.to_path_buf(), what: what.into(), why: why.into(), help: help.into() }
    }

    /// A data file (and line) that cannot be used.
    pub fn data(file: &Path, line: Option<usize>, why: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Data { file: file.to_path_buf(), line, why: why.into(), help: help.into() }
    }

    /// The exit code of the command line: 2 for what a user can fix, 130 for an interrupt, 75 (`EX_TEMPFAIL`: go on
    /// later) for a termination, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Interrupted { .. } => 130,
            Error::Terminated { .. } => 75,
            Error::Tensor(_) | Error::NonFinite { .. } => 1,
            _ => 2,
        }
    }
}

fn at(file: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    }
}

/// The candidate closest to `wrong`, if one is close enough to be worth offering.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::normalized_damerau_levenshtein(wrong, c), c))
        .filter(|(score, c)| *score >= 0.5 || c.starts_with(wrong) || wrong.starts_with(c))
        .max_by(|x, y| x.0.total_cmp(&y.0))
        .map(|(_, c)| c)
}
