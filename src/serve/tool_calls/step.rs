//! What is known of a block of calls so far.

use super::call::{Call, NoCall};

/// What is known of a block after the text so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More text decides.
    More,
    /// It is none.
    Not(NoCall),
    /// Its calls, and where it ends.
    Calls(Vec<Call>, usize),
}
