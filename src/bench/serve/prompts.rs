//! What the server is asked: rows of a file in their order, or made-up words.

use std::path::Path;

use rand::Rng;
use serde_json::{Value, json};

use super::target::Api;
use crate::error::{Error, Result};
use crate::{files, random};

/// Common words; with a space before it each is one token of most vocabularies.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The load point, from 1; 0 is the warm-up.
    pub(super) point: usize,
    /// Among the requests of the load point.
    pub(super) index: usize,
}

/// Where prompts come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompts {
    /// Made-up texts of this many words, about as many tokens; no two are alike.
    MadeUp { words: usize },
    /// Members of a request's body, each `prompt` or `messages`.
    Rows(Vec<Value>),
}

impl Prompts {
    /// Rows of a JSON Lines file: `{"prompt": "…"}`, for chat also `{"messages": […]}`; other keys are passed over.
    ///
    /// # Errors
    /// When the file cannot be read, has no rows, or a row is none of these.
    pub fn read(path: &Path, api: Api) -> Result<Prompts> {
        let text = files::read_text(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let rows = lines.map(|(i, line)| row(line, api).map_err(|why| refused(path, Some(i + 1), why)));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        if rows.is_empty() { Err(refused(path, None, "it has no rows".into())) } else { Ok(Prompts::Rows(rows)) }
    }

    /// Key and value of the body's member that holds the prompt of a request. As many requests as there are `models` share a
    /// row one after the other, so that every model is asked every row.
    pub(super) fn member(&self, api: Api, seed: u64, place: Place, models: usize) -> (&'static str, Value) {
        match self {
            Prompts::MadeUp { words } => asked(api, &made_up(*words, seed, place)),
            Prompts::Rows(rows) => match &rows[place.index / models % rows.len()] {
                Value::String(text) => asked(api, text),
                messages => ("messages", messages.clone()),
            },
        }
    }
}

fn refused(path: &Path, line: Option<usize>, why: String) -> Error {
    let help =
        "write a row a line: {\"prompt\": \"…\"}, or with --api chat {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}]}";
    Error::Data { file: path.to_path_buf(), line, why, help: help.into() }
}

/// The text of a prompt as a string, messages as an array.
fn row(line: &str, api: Api) -> std::result::Result<Value, String> {
    let row: Value = serde_json::from_str(line).map_err(|e| format!("it is not JSON: {e}"))?;
    match (&row["prompt"], &row["messages"]) {
        (Value::String(_), _) => Ok(row["prompt"].clone()),
        (_, Value::Array(messages)) if !messages.is_empty() => match api {
            Api::Chat => Ok(row["messages"].clone()),
            Api::Completions => Err("it has `messages`, which /v1/completions does not take".into()),
        },
        _ => Err("it has neither `prompt`, a text, nor `messages`, an array".into()),
    }
}

fn asked(api: Api, text: &str) -> (&'static str, Value) {
    match api {
        Api::Completions => ("prompt", json!(text)),
        Api::Chat => ("messages", json!([{"role": "user", "content": text}])),
    }
}

fn made_up(words: usize, seed: u64, place: Place) -> String {
    let mut rng = random::stream(seed, "bench serve prompt", &[place.point as u64, place.index as u64]);
    (0..words).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(point: usize, index: usize) -> Place {
        Place { point, index }
    }

    fn read(text: &str, api: Api) -> std::result::Result<Prompts, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        Prompts::read(&path, api).map_err(|e| e.to_string())
    }

    #[test]
    fn made_up_prompts_depend_on_seed_and_place_only() {
        let prompts = Prompts::MadeUp { words: 12 };
        let text = |seed, place| prompts.member(Api::Completions, seed, place, 1).1.as_str().unwrap().to_string();
        assert_eq!(text(1, at(1, 2)), text(1, at(1, 2)));
        assert!([text(2, at(1, 2)), text(1, at(2, 2)), text(1, at(1, 3))].iter().all(|other| *other != text(1, at(1, 2))));
        assert_eq!(text(1, at(1, 2)).split(' ').count(), 12);
    }

    #[test]
    fn every_model_is_asked_every_row_in_turn() {
        let prompts = read("{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\", \"x\": 1}\n", Api::Completions).unwrap();
        let texts: Vec<Value> = (0..6).map(|i| prompts.member(Api::Completions, 0, at(1, i), 2).1).collect();
        assert_eq!(texts, ["a", "a", "b", "b", "a", "a"]);
        let (key, messages) = prompts.member(Api::Chat, 0, at(2, 2), 2);
        assert_eq!((key, messages), ("messages", json!([{"role": "user", "content": "b"}])));
    }

    #[test]
    fn a_row_that_cannot_be_asked_is_named() {
        let messages = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
        assert_eq!(read(messages, Api::Chat).unwrap().member(Api::Chat, 0, at(1, 0), 1).1[0]["content"], "a");
        for (text, api, phrase) in [
            (messages, Api::Completions, ":1: it has `messages`"),
            ("{\"prompt\": \"a\"}\n{\"text\": 1}", Api::Chat, ":2: it has neither"),
            ("nothing", Api::Chat, "it is not JSON"),
            ("\n", Api::Chat, "it has no rows"),
        ] {
            let why = read(text, api).unwrap_err();
            assert!(why.contains(phrase), "{why}");
        }
    }
}
