//! From files to rows: what a source says, whatever its format and its shape.
//!
//! Refuses to know templates and tokens.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 1 | [`reason`] | why a row is not used |
//! | 1 | [`row`] | conversations, instructions, texts, preferences |
//! | 1 | [`tasks`] | tasks held out whole |
//! | 2 | [`loss`] | what a message says of its own loss |
//! | 2 | [`source`] | formats: files to rows of columns |
//! | 3 | [`shape`] | shapes: columns to conversations |

pub(crate) mod reason;
pub(crate) mod row;
pub(crate) mod tasks;
pub(crate) mod loss;
pub(crate) mod source;
pub(crate) mod shape;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Heldout,
}
