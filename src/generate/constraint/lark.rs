//! What a Lark grammar may cost and reach, asked before it is read.

use serde_json::Value;

use super::bounds::{self, refused};
use super::schema;
use crate::error::Result;

/// Most opening brackets of a Lark grammar: its reader calls itself for each that is inside another.
const BRACKETS: usize = 4096;

/// A Lark grammar: its size, its brackets, what in it would reach past the text of an answer, the schemas in it. `special` tells
/// a special token's text that stands in it; one of our `own` may name tokens by id and
/// say how JSON is spaced.
///
/// # Errors
/// [`crate::error::Error::Usage`] saying what is refused.
pub(super) fn check(text: &str, own: bool, special: impl Fn(&str) -> Option<String>) -> Result<()> {
    let at = "grammar";
    bounds::length(at, text, bounds::TEXT)?;
    bounds::repetitions(at, text)?;
    bounds::classes(at, text)?;
    if text.bytes().filter(|b| matches!(b, b'(' | b'[' | b'{')).count() > BRACKETS {
        return Err(refused(at, format!("more than {BRACKETS} opening brackets"), "split it into more rules with fewer groups"));
    }
    if text.contains("%llguidance") {
        return Err(refused(at, "`%llguidance` sets options of the server", "remove the directive"));
    }
    if !own && text.contains("<[") {
        return Err(refused(at, "`<[` names tokens by id", "name the text instead; in a pattern write `<\\[`"));
    }
    if let Some(token) = special(text) {
        return Err(refused(at, format!("it names the special token {token}"), "a grammar describes text alone: remove it"));
    }
    for (place, _) in text.match_indices("%json") {
        // What does not parse is not read as a schema either: a comment, a string, or an error to come.
        let mut values = serde_json::Deserializer::from_str(&text[place + "%json".len()..]).into_iter::<Value>();
        if let Some(Ok(mut value)) = values.next() {
            if let (true, Value::Object(schema)) = (own, &mut value) {
                schema.remove("x-guidance");
            }
            schema::check(&value, &format!("{at}, byte {place}: "))?;
        }
    }
    Ok(())
}
