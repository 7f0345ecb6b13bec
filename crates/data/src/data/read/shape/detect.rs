//! Which shape a file has, from the columns of its rows.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::keys::{SHAPES, sets};
use super::{RawRow, Reader};
use crate::error::{Error, Result, nearest};
use crate::recipe::{Clean, FIELDS, Shape, Take};

pub(super) const KNOWN: &str = "known shapes: `messages`; `conversations`; `instruction` (`input`) `output`; `prompt` \
    `completion`; `text`; `chosen` `rejected` (`prompt`); `messages` `replies`; `messages` `label`; `Definition` `Instances`. \
    Map other names in the recipe, e.g. columns = { instruction = \"question\", output = \"answer\" }";

/// Columns that say of a text what it is, in the order in which one is meant.
const CLASSES: [&str; 6] = ["intent", "label", "labels", "category", "class", "sentiment"];

/// The columns that a shape reads; those that it reads in some rows only are noted row by row.
pub(super) fn used(shape: Shape) -> &'static [&'static str] {
    match shape {
        Shape::Messages => &["messages", "system", "tools"],
        Shape::ShareGpt => &["conversations", "system", "tools"],
        Shape::Alpaca => &["instruction", "input", "output", "system"],
        Shape::Completion => &["prompt", "completion", "system", "tools"],
        Shape::Text => &["text"],
        Shape::Preference => &["prompt", "messages", "conversations", "system", "tools", "chosen", "rejected", "replies"],
        Shape::Labelled => &["prompt", "completion", "messages", "conversations", "system", "tools", "label", "kto_tag"],
        Shape::Flan => &[],
        Shape::SuperNi => &["Definition", "Positive Examples", "Negative Examples", "Instances", "Categories"],
    }
}

/// The shape's name in recipes.
pub(crate) fn label(shape: Shape) -> &'static str {
    match shape {
        Shape::Messages => "messages",
        Shape::ShareGpt => "sharegpt",
        Shape::Alpaca => "alpaca",
        Shape::Completion => "completion",
        Shape::Text => "text",
        Shape::Preference => "preference",
        Shape::Labelled => "labelled",
        Shape::SuperNi => "superni",
        Shape::Flan => "flan",
    }
}

impl Reader<'_> {
    /// The shape that a file of these facts has; decides nothing yet.
    ///
    /// # Errors
    /// As [`Reader::new`].
    pub(crate) fn shape_of(&self, facts: &Facts) -> Result<Shape> {
        self.check_columns(facts)?;
        match self.source.shape {
            Some(shape) => self.check_all(shape, facts),
            None => self.detect(facts),
        }
    }

    pub(super) fn check_columns(&self, facts: &Facts) -> Result<()> {
        for (ours, theirs) in &self.source.columns {
            if !FIELDS.contains(&ours.as_str()) {
                let close = nearest(ours, FIELDS.iter().copied()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
                let why = format!("`columns` maps `{ours}`, which is not one of our fields");
                return Err(Error::data(self.path, None, why, format!("{close}fields: {}", FIELDS.join(", "))));
            }
            let inner = matches!(ours.as_str(), "role" | "content" | "from" | "value");
            if !inner && !facts.columns.contains(theirs) {
                let why = format!("no row has the column `{theirs}` that `columns` names for `{ours}`");
                return Err(Error::data(self.path, None, why, format!("columns of the file: {}", facts.seen())));
            }
        }
        Ok(())
    }

    fn check_all(&self, shape: Shape, facts: &Facts) -> Result<Shape> {
        let Some((line, keys)) = facts.lacking(shape) else { return Ok(shape) };
        let set = |set: &&[&str]| set.iter().map(|f| format!("`{}`", self.name(f))).collect::<Vec<_>>().join(" and ");
        let wanted: Vec<_> = sets(shape).iter().map(set).collect();
        let why = format!("shape `{}` needs {}, the row has {keys}", label(shape), wanted.join(", or "));
        Err(Error::data(self.path, Some(*line), why, KNOWN))
    }

    /// The rows that have the shape asked for or, without one, the shape that most have; the others are put down.
    pub(super) fn fitting(&mut self, facts: &Facts, rows: Vec<RawRow>) -> Result<Vec<RawRow>> {
        let most = || {
            SHAPES.iter().rev().map(|(s, _)| *s).max_by_key(|shape| rows.iter().filter(|r| facts.fits(self, r, *shape)).count())
        };
        let Some(shape) = self.source.shape.or_else(most) else { return Ok(rows) };
        let (fitting, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| facts.fits(self, row, shape));
        for row in others {
            let why = format!("the row has not the shape `{}`", label(shape));
            self.faults.put(self.fail(row.line, why, KNOWN))?;
        }
        Ok(fitting)
    }

    fn detect(&self, facts: &Facts) -> Result<Shape> {
        if let Some(shape) = facts.fitting() {
            return Ok(shape);
        }
        if let Some((line, keys)) = facts.unknown() {
            let why = format!("no known shape fits this row; its columns are {keys}; columns of the file: {}", facts.seen());
            return Err(Error::data(self.path, Some(*line), why, KNOWN));
        }
        let differing = facts.differing();
        let named = |i: usize| differing.get(i).map_or((0, "?"), |(line, shape)| (*line, shape.map_or("?", label)));
        let ((first, shape), (other, another)) = (named(0), named(1));
        let why = format!("rows of differing shapes: line {first} is `{shape}`, line {other} is `{another}`");
        let help = "put each shape into a file of its own and list both in the recipe, or map its columns to one shape";
        Err(Error::data(self.path, Some(other), why, help))
    }

    /// What to type for a table of texts and their classes, which is read as texts alone: how its rows become instructions.
    pub(crate) fn advice(&self, ignored: &BTreeMap<String, usize>) -> Option<String> {
        let plain = self.shape == Shape::Text && self.source.shape.is_none() && self.source.columns.is_empty();
        let class = CLASSES.into_iter().find(|class| plain && ignored.contains_key(*class))?;
        let path = self.path.display();
        Some(format!(
            "`text` is trained as plain text and `{class}` is not used; to train rows that answer a text with its {class}, write\n  \
             [[data.train]]\n  path = \"{path}\"\n  columns = {{ instruction = \"text\", output = \"{class}\" }}"
        ))
    }

    /// Keys of the source that mean nothing for the shape of this file.
    pub(super) fn check_keys(&self) -> Result<()> {
        let (source, shape) = (self.source, self.shape);
        let turns = matches!(shape, Shape::Messages | Shape::ShareGpt);
        let wrong = match () {
            () if source.ghost_attention && !turns => ("ghost_attention", "conversations"),
            () if source.clean == Some(Clean::Vicuna) && !turns => ("clean", "conversations"),
            () if source.positive_examples.or(source.negative_examples).is_some() && shape != Shape::SuperNi => {
                ("positive_examples` or `negative_examples", "shape `superni`")
            }
            () if source.templates.is_some() && shape != Shape::Flan => ("templates", "shape `flan`"),
            () if source.pairs.is_some() && shape != Shape::Preference => ("pairs", "shape `preference`"),
            () => match source.take {
                Some(Take::Chosen | Take::Rejected) if shape != Shape::Preference => ("take", "shape `preference`"),
                Some(Take::Desirable) if shape != Shape::Labelled => ("take = \"desirable\"", "shape `labelled`"),
                _ => return Ok(()),
            },
        };
        let why = format!("`{}` is for {}, and these rows have the shape `{}`", wrong.0, wrong.1, label(shape));
        Err(Error::data(self.path, None, why, "remove the key from the recipe's source, or name the shape that is meant"))
    }
}
