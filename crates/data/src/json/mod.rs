//! JSON whose numbers keep the text that they were written with: `1.50`, `1e3`, integers of any length.
//!
//! What is JSON is decided by `serde_json`, with its messages and its limit of 128 levels; of a key that stands twice the last
//! value counts, at the first one's place. Refuses to know what rows are.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `text` | the strings, floats and lines of JSON text |
//! | 1 | `number` | a number and its text |
//! | 2 | `value` | a value, an object |
//! | 3 | `parse` | from text to values |

mod text;
mod number;
mod value;
mod parse;

pub use number::Number;
pub(crate) use number::float_text;
pub use parse::parse;
pub(crate) use parse::parse_first;
pub(crate) use text::{items, map_strings, one_line, place_of, with_entry};
pub use value::{Map, Value};

#[cfg(test)]
mod tests;
