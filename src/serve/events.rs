//! What a server tells whoever runs it.

use std::net::SocketAddr;
use std::sync::Arc;

/// Something that whoever runs the server should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServeEvent {
    /// It takes requests at this address.
    Listening(SocketAddr),
    /// So many assistants are there now.
    Reloaded(usize),
    /// Their file is wrong: those that were there stay.
    NotReloaded(String),
    /// A completed run answers under this name.
    Published {
        name: String,
        id: String,
        version: u64,
    },
    NotPublished(String, String),
    /// An adapter that could not be loaded at the start.
    Broken(String, String),
    /// No more requests are taken; so many are still answered.
    Ending(usize),
    /// The grace time is over: so many answers were cut.
    Cut(usize),
}

/// Whom it is told to.
pub type Tell = Arc<dyn Fn(ServeEvent) + Send + Sync>;
