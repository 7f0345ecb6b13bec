//! Which versions names have had, in a small file that survives a restart.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// Digits of a generation's id: enough that no two of a server are the same.
const ID_DIGITS: usize = 16;

/// What a name stood for at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// SHA-256 over the adapter's files.
    pub(super) hash: String,
    /// Counted by name, from 1.
    pub(super) version: u64,
    /// Seconds since 1970.
    pub(super) published: u64,
}

impl Version {
    /// What clients call it by.
    pub(super) fn id(&self) -> &str {
        self.hash.get(..ID_DIGITS).unwrap_or(&self.hash)
    }
}

/// A name in the file of what was done at run time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The folder that it was read from.
    pub(super) folder: String,
    /// What `GET /lora-adapters` calls it by, for good.
    pub(super) index: u64,
    /// Hash of the folder of this name, when it was last read.
    pub(super) seen: Option<String>,
    /// The version that answers; none where the name was unloaded.
    pub(super) current: Option<u64>,
    /// Oldest first.
    pub(super) versions: Vec<Version>,
}

/// All names.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) adapters: BTreeMap<String, Record>,
}

impl State {
    /// As it was written; empty where it is not there.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(super) fn read(path: &Path) -> Result<State> {
        match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
            Err(e) => Err(Error::io("read", path)(e)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::usage(
                    path.display().to_string(),
                    format!("it is damaged: {e}"),
                    "repair it, or move it away to begin with the folders as they are",
                )
            }),
        }
    }

    /// Writes it, as a whole or not at all.
    ///
    /// # Errors
    /// When that fails.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|e| Error::usage("state.json", e.to_string(), "report this as a bug"))?;
        files::write_atomic(path, &text)
    }
}
