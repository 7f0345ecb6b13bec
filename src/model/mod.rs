//! The frozen base model: where it is found, how its files are read, and the one decoder.

pub mod checkpoint;
pub mod resolve;
