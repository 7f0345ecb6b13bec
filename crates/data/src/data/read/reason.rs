//! Why a row is not used.

use serde::{Deserialize, Serialize};

/// Why a row is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// More tokens than `train.max_length`.
    OverLong { tokens: usize },
    /// Not to be read, and the source says `malformed = "drop"`.
    Malformed,
    /// An answer without a visible character.
    Empty,
    /// No token would carry loss (after cutting, for instance).
    NoTrainedToken,
    /// Another form of a row that is held out, which may not be held out itself (a template with `invert`).
    HeldOutElsewhere,
    /// The label is not the one that `take` asks for.
    NotTaken,
    /// No two differing answers to prefer one of.
    NoPair,
    /// Cleaning left fewer than two turns.
    TooShort,
    /// User and assistant do not take turns.
    Alternation,
    /// An answer is a message of the web page (too many requests, for instance) or names the page's own model.
    Blocked,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::OverLong { tokens } => write!(f, "over-long ({tokens} tokens)"),
            Reason::Malformed => f.write_str("malformed"),
            Reason::Empty => f.write_str("empty answer"),
            Reason::NoTrainedToken => f.write_str("no trained token"),
            Reason::HeldOutElsewhere => f.write_str("another form of a held-out row"),
            Reason::NotTaken => f.write_str("label not taken"),
            Reason::NoPair => f.write_str("no two differing answers"),
            Reason::TooShort => f.write_str("fewer than two turns left"),
            Reason::Alternation => f.write_str("roles do not alternate"),
            Reason::Blocked => f.write_str("blocked words"),
        }
    }
}
