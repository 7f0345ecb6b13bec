//! Tasks written by people, which the generator is shown: one JSON object a line with `id`, `instruction`,
//! `is_classification` and `instances` (`input`, which may be empty, and `output`).
//!
//! Refuses to know what becomes of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;

const HELP: &str = "a seed task is one line: {\"id\": \"s1\", \"instruction\": \"…\", \"instances\": [{\"input\": \"\", \
    \"output\": \"…\"}], \"is_classification\": false}";

/// One task of a person.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SeedTask {
    pub id: String,
    /// A few words for people.
    #[serde(default)]
    pub name: String,
    pub instruction: String,
    pub instances: Vec<Instance>,
    /// Its answers are a few fixed labels.
    pub is_classification: bool,
}

/// An input (empty where the task needs none) and the answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, serde::Serialize)]
pub struct Instance {
    #[serde(default)]
    pub input: String,
    pub output: String,
}

/// The seed tasks of a file, in its order.
#[derive(Debug, Clone)]
pub struct Seeds {
    pub tasks: Vec<SeedTask>,
    /// Of the file, as hex.
    pub sha256: String,
}

impl Seeds {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] with the line: not JSON, a field that is missing or empty, an id that occurs twice.
    pub fn read(path: &Path) -> Result<Seeds> {
        let text = files::read_text(path)?;
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let mut tasks = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let fail = |why: String| Error::data(path, Some(i + 1), why, HELP);
            let task: SeedTask = serde_json::from_str(line).map_err(|e| fail(explain(&e)))?;
            if let Some(why) = wrong(&task) {
                return Err(fail(why));
            }
            if let Some(first) = known.insert(task.id.clone(), i + 1) {
                return Err(fail(format!("the id `{}` is already that of line {first}", task.id)));
            }
            tasks.push(task);
        }
        if tasks.is_empty() {
            return Err(Error::data(path, None, "no seed task in it", HELP));
        }
        Ok(Seeds { tasks, sha256: files::sha256(text.as_bytes()) })
    }

    /// Numbers of the tasks that are classification, or that are not.
    pub(super) fn of_kind(&self, classification: bool) -> Vec<usize> {
        (0..self.tasks.len()).filter(|i| self.tasks[*i].is_classification == classification).collect()
    }
}

/// The library's message without its own place, which counts from the beginning of this line.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    format!("not a seed task: {} (column {})", text.split(" at line ").next().unwrap_or(&text), error.column())
}

fn wrong(task: &SeedTask) -> Option<String> {
    let empty = |what: &str| Some(format!("{what} is empty"));
    if task.id.trim().is_empty() {
        return empty("`id`");
    }
    if task.instruction.trim().is_empty() {
        return empty("`instruction`");
    }
    if task.instances.is_empty() {
        return empty("`instances`");
    }
    let answer = task.instances.iter().position(|i| i.output.trim().is_empty());
    answer.map(|i| format!("`output` of instance {} is empty", i + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Seeds> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seeds.jsonl");
        std::fs::write(&path, text).unwrap();
        Seeds::read(&path)
    }

    const GOOD: &str =
        r#"{"id": "a", "instruction": "Count to three.", "instances": [{"output": "1 2 3"}], "is_classification": false}"#;

    #[test]
    fn tasks_are_read_in_order() {
        let seeds = read(&format!("{GOOD}\n\n{}\n", GOOD.replace("\"a\"", "\"b\"").replace("false", "true"))).unwrap();
        assert_eq!(seeds.tasks.iter().map(|t| &*t.id).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((seeds.of_kind(true), seeds.of_kind(false)), (vec![1], vec![0]));
        assert_eq!(seeds.tasks[0].instances, [Instance { input: String::new(), output: "1 2 3".into() }]);
    }

    #[test]
    fn what_is_no_task_is_named_with_its_line() {
        let cases = [
            ("{".to_string(), "seeds.jsonl:1: not a seed task: EOF while parsing"),
            (format!("{GOOD}\n[1]"), "seeds.jsonl:2: not a seed task"),
            (GOOD.replace("\"id\": \"a\", ", ""), "missing field `id`"),
            (GOOD.replace(", \"is_classification\": false", ""), "missing field `is_classification`"),
            (GOOD.replace("Count to three.", " "), "`instruction` is empty"),
            (GOOD.replace("1 2 3", ""), "`output` of instance 1 is empty"),
            (GOOD.replace("{\"output\": \"1 2 3\"}", ""), "`instances` is empty"),
            (GOOD.replace("\"a\"", "\"\""), "`id` is empty"),
            (format!("{GOOD}\n{GOOD}"), "seeds.jsonl:2: the id `a` is already that of line 1"),
            ("\n\n".to_string(), "no seed task in it"),
        ];
        for (text, expected) in cases {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }
}
