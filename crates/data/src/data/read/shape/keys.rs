//! Which columns tell a shape, and the columns of a row for a message.
//!
//! Refuses to know how rows are read.

use crate::json::{Map, Value};
use crate::recipe::Shape;

/// The shapes, the most telling first: a file whose rows all fit several has the first of them. Each with the sets of
/// columns of which one must be there whole.
pub(super) const SHAPES: [(Shape, &[&[&str]]); 8] = [
    (Shape::SuperNi, &[&["Definition", "Instances"]]),
    (Shape::Preference, &[&["chosen", "rejected"], &["messages", "replies"], &["prompt", "replies"]]),
    (
        Shape::Labelled,
        &[&["messages", "label"], &["messages", "kto_tag"], &["conversations", "kto_tag"], &["prompt", "completion", "label"]],
    ),
    (Shape::Messages, &[&["messages"]]),
    (Shape::ShareGpt, &[&["conversations"]]),
    (Shape::Alpaca, &[&["instruction", "output"]]),
    (Shape::Completion, &[&["prompt", "completion"]]),
    (Shape::Text, &[&["text"]]),
];

/// All columns of [`SHAPES`].
pub(super) const TELLING: [&str; 14] = [
    "Definition",
    "Instances",
    "chosen",
    "rejected",
    "messages",
    "replies",
    "prompt",
    "label",
    "kto_tag",
    "conversations",
    "completion",
    "instruction",
    "output",
    "text",
];

/// The sets of columns of which a row of `shape` has one.
pub(super) fn sets(shape: Shape) -> &'static [&'static [&'static str]] {
    SHAPES.iter().find(|(s, _)| *s == shape).map_or(&[], |(_, sets)| sets)
}

/// The columns of a row, for a message.
pub(super) fn keys(fields: &Map) -> String {
    let named = |(name, value): (&String, &Value)| if value.is_null() { format!("`{name}` (null)") } else { format!("`{name}`") };
    fields.iter().map(named).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_a_shape_is_among_the_telling_ones() {
        assert!(SHAPES.iter().flat_map(|(_, sets)| sets.iter()).flat_map(|set| set.iter()).all(|c| TELLING.contains(c)));
    }
}
