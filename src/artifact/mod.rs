//! Files that others can read: merged models, cards, traces, loss curves, checkpoints. Refuses to know: how training
//! works, HTTP.

pub mod card;
pub mod checkpoints;
pub mod inputs;
pub mod curve;
pub mod merge;
pub mod svg;
