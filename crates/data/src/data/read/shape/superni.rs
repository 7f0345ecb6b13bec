//! Task files of Super-NaturalInstructions (Wang et al. 2022): one JSON object a file.
//!
//! A row an instance, prompted as Tk-Instruct's collator does (`ni_collator.py` of the Tk-Instruct repository):
//! definition, positive and negative examples, then the instance. Its first output is trained; all of them are
//! references. Explanations are not used. Examples are never left out for length: `over_long` decides about the row.

use crate::json::Value;

use super::{Converted, Piece, RawRow, Reader, RowKind, kind};
use crate::data::read::reason::Reason;
use crate::error::Result;

const INSTANCE_HELP: &str = "an instance is {\"input\": \"…\", \"output\": [\"…\", …]}";
const EXAMPLE_HELP: &str = "an example is {\"input\": \"…\", \"output\": \"…\"}";

impl Reader<'_> {
    /// A row an instance of the task.
    pub(super) fn instances(&mut self, row: &RawRow) -> Result<Converted> {
        let definition = self.definition(row)?;
        let (positive, negative) = (self.source.positive_examples.unwrap_or(2), self.source.negative_examples.unwrap_or(0));
        let mut before = format!("Definition: {}\n\n", ended(&definition));
        before += &self.examples(row, "Positive Example", positive)?;
        before += &self.examples(row, "Negative Example", negative)?;
        let Some(Value::Array(instances)) = row.fields.get("Instances") else {
            let found = row.fields.get("Instances").map_or("missing", kind);
            return Err(self.fail(row.line, format!("`Instances` must be an array, this is {found}"), INSTANCE_HELP));
        };
        let task = self.own_name();
        let cluster = first(row.fields.get("Categories"));
        let mut pieces = Vec::with_capacity(instances.len());
        for (i, instance) in instances.iter().enumerate() {
            let fail = |why: &str| self.fail(row.line, format!("instance {}: {why}", i + 1), INSTANCE_HELP);
            let input = instance.get("input").and_then(Value::as_str).ok_or_else(|| fail("`input` is not a string"))?;
            let outputs =
                outputs(instance.get("output")).ok_or_else(|| fail("`output` is neither a string nor a list of strings"))?;
            let answer = outputs.first().cloned().unwrap_or_default();
            let prompt = format!("{before}Now complete the following example -\nInput: {}\nOutput:", ended(input));
            let kind = RowKind::Completion { prompt, completion: answer.clone() };
            pieces.push(Piece {
                line: i + 1,
                task: task.clone(),
                cluster: cluster.clone(),
                references: outputs,
                again: false,
                train_only: false,
                became: if answer.trim().is_empty() { Err(Reason::Empty) } else { Ok(kind) },
            });
        }
        Ok(Converted::Rows(pieces))
    }

    /// The task's name, which is its file's, and its first category.
    pub(super) fn task_and_category(&self, rows: &[RawRow]) -> Vec<String> {
        let category = rows.first().and_then(|row| first(row.fields.get("Categories")));
        self.own_name().into_iter().chain(category).collect()
    }

    fn own_name(&self) -> Option<String> {
        self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
    }

    fn definition(&self, row: &RawRow) -> Result<String> {
        first(row.fields.get("Definition")).filter(|d| !d.trim().is_empty()).ok_or_else(|| {
            let why = "`Definition` must be a text, or a list that begins with one";
            self.fail(row.line, why, "give the task its instruction: \"Definition\": [\"…\"]")
        })
    }

    /// Up to `count` examples under the title, numbered from 1.
    fn examples(&self, row: &RawRow, title: &str, count: usize) -> Result<String> {
        let list = match row.fields.get(&format!("{title}s")) {
            None | Some(Value::Null) => return Ok(String::new()),
            Some(Value::Array(list)) => list,
            Some(other) => {
                return Err(self.fail(row.line, format!("`{title}s` must be an array, this is {}", kind(other)), EXAMPLE_HELP));
            }
        };
        let mut text = String::new();
        for (i, example) in list.iter().take(count).enumerate() {
            let part = |key: &str| match example.get(key) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(list @ Value::Array(_)) => Ok(first(Some(list)).unwrap_or_default()),
                _ => Err(self.fail(row.line, format!("`{title}s` number {}: `{key}` is not a string", i + 1), EXAMPLE_HELP)),
            };
            let (input, output) = (part("input")?, part("output")?);
            text += &format!(" {title} {} -\nInput: {}\n Output: {}\n\n", i + 1, ended(&input), ended(&output));
        }
        Ok(text)
    }
}

/// The text with a full stop where no punctuation (Python's `string.punctuation`) ends it.
fn ended(text: &str) -> String {
    let text = text.trim();
    let stop = if text.ends_with(|c: char| c.is_ascii_punctuation()) { "" } else { "." };
    format!("{text}{stop}")
}

fn first(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list.first()?.as_str().map(str::to_string),
        _ => None,
    }
}

fn outputs(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}
