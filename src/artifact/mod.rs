//! Files that others can read: merged models, cards, traces, curves. Refuses to know: how training works, HTTP.

pub mod merge;
