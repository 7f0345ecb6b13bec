//! Which columns tell a shape, and the columns of a row for a message.
//!
//! Refuses to know how rows are read.

use crate::json::Map;
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

/// The columns of a row, for a message.
pub(super) fn keys(fields: &Map) -> String {
    fields.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
}
