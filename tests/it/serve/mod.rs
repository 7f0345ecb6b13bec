//! `lorakit serve` over the wire: the program as it is, a random llama of a few kilobytes and adapters on it.
//!
//! What adapters answer is computed apart, in this process, so that no answer is compared with another of the same server.

mod adapters;
mod assistants;
mod client;
mod details;
mod ending;
mod harness;
mod identity;
mod lifecycle;
mod limits;
mod oracle;
mod security;
mod streams;
mod swarm;
mod tools;
mod watch;
