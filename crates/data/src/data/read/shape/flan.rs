//! Tasks with several phrasings, as FLAN's (Wei et al. 2021, section 2.1): one TOML file a task.
//!
//! ```toml
//! name = "capitals"
//! cluster = "geography"
//! data = "rows/capitals.jsonl"      # or: rows = [{ country = "…", capital = "…" }, …]
//! options = ["yes", "no"]           # what {options} lists; a column `options` of the row goes first
//! examples = [{ country = "…", capital = "…" }]   # shown before every row, phrased as it is (few-shot)
//! [[templates]]
//! inputs = "What is the capital of {country}?"    # {{ and }} are braces
//! targets = "{capital}"
//! [[templates]]
//! inputs = "Which country has the capital {capital}?"
//! targets = "{country}"
//! invert = true                     # asks the other way round: never for held-out rows
//! ```

use std::path::{Path, PathBuf};

use crate::json::{Map, Value};
use serde::Deserialize;

use super::{Converted, Piece, RawRow, kind};
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::data::read::row::RowKind;
use crate::data::read::source;
use crate::data::read::source::Faults;
use crate::error::{Error, Result};
use crate::random;
use crate::recipe::Templates;

const TASK_HELP: &str = "a task has `name`, `cluster`, `data` (a file) or `rows`, `options`, `examples`, and [[templates]] of \
    `inputs`, `targets` and `invert`";
const FIELD_HELP: &str = "name a column of the rows, or write {{ and }} for braces";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    cluster: Option<String>,
    data: Option<PathBuf>,
    rows: Option<Vec<toml::Spanned<Map>>>,
    options: Option<Vec<String>>,
    #[serde(default)]
    examples: Vec<Map>,
    templates: Vec<toml::Spanned<WrittenTemplate>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTemplate {
    inputs: String,
    targets: String,
    #[serde(default)]
    invert: bool,
}

/// A task file.
#[derive(Debug)]
pub(super) struct Task {
    name: String,
    cluster: Option<String>,
    /// Where its rows lie: the file of rows, or the task's own.
    pub(super) data: PathBuf,
    rows: Option<Vec<RawRow>>,
    options: Option<Vec<String>>,
    examples: Vec<Map>,
    templates: Vec<Template>,
}

#[derive(Debug)]
struct Template {
    inputs: Vec<Part>,
    targets: Vec<Part>,
    invert: bool,
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Field(String),
}

impl Task {
    /// Whether a file is a task by its name.
    pub(super) fn is_at(path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"))
    }

    /// Reads and checks a task file; its rows are read by [`Task::rows`].
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] with the line of what is wrong.
    pub(super) fn read(path: &Path) -> Result<Task> {
        let text = source::read_text(path)?;
        let line = |at: usize| text.get(..at).map(|before| before.matches('\n').count() + 1);
        let written: Written = toml::from_str(&text)
            .map_err(|e| Error::data(path, e.span().and_then(|s| line(s.start)), e.message().to_string(), TASK_HELP))?;
        let wrong = |at: Option<usize>, why: &str| Error::data(path, at, why, TASK_HELP);
        if written.templates.iter().all(|t| t.get_ref().invert) {
            return Err(wrong(None, "the task needs at least one template that is not inverted"));
        }
        let mut templates = Vec::new();
        for template in written.templates {
            let at = line(template.span().start);
            let template = template.into_inner();
            let parts = |text: &str| parts(text).map_err(|why| Error::data(path, at, why, FIELD_HELP));
            let (inputs, targets) = (parts(&template.inputs)?, parts(&template.targets)?);
            templates.push(Template { inputs, targets, invert: template.invert });
        }
        let rows = written.rows.map(|rows| {
            rows.into_iter().map(|r| RawRow { line: line(r.span().start).unwrap_or(1), fields: r.into_inner() }).collect()
        });
        let data = match (&rows, written.data) {
            (Some(_), Some(_)) => return Err(wrong(None, "the task has both `data` and `rows`")),
            (None, None) => return Err(wrong(None, "the task has neither `data` nor `rows`")),
            (Some(_), None) => path.to_path_buf(),
            (None, Some(data)) => path.parent().unwrap_or(Path::new("")).join(data),
        };
        let (name, cluster, options, examples) = (written.name, written.cluster, written.options, written.examples);
        Ok(Task { name, cluster, data, rows, options, examples, templates })
    }

    /// Its name and its cluster's.
    pub(super) fn names(&self) -> Vec<String> {
        [Some(self.name.clone()), self.cluster.clone()].into_iter().flatten().collect()
    }

    /// The rows of the task.
    ///
    /// # Errors
    /// As reading any file of rows.
    pub(super) fn rows(&mut self, faults: &mut Faults) -> Result<Vec<RawRow>> {
        match self.rows.take() {
            Some(rows) => Ok(rows),
            None => source::read(&self.data, faults),
        }
    }

    /// A row in one phrasing, drawn by the seed and the row's place, or in all of them.
    pub(super) fn phrase(&self, row: &RawRow, which: Templates, split: Split, seed: u64) -> Result<Converted> {
        let usable: Vec<(usize, &Template)> =
            self.templates.iter().enumerate().filter(|(_, t)| split == Split::Train || !t.invert).collect();
        let name = u64::from_le_bytes(*blake3::hash(self.name.as_bytes()).as_bytes().first_chunk().unwrap_or(&[0; 8]));
        let drawn = (random::number(seed, "flan template", &[name, row.line as u64]) % usable.len().max(1) as u64) as usize;
        let chosen = match which {
            Templates::One => usable.get(drawn..=drawn).unwrap_or_default(),
            Templates::All => &usable[..],
        };
        let mut pieces: Vec<Piece> =
            chosen.iter().map(|(i, template)| self.piece(row, i + 1, template)).collect::<Result<_>>()?;
        pieces.iter_mut().skip(1).for_each(|piece| piece.again = true);
        Ok(Converted::Rows(pieces))
    }

    fn piece(&self, row: &RawRow, number: usize, template: &Template) -> Result<Piece> {
        let fill = |parts: &[Part], fields: &Map| {
            self.fill(parts, fields).map_err(|why| {
                Error::data(&self.data, Some(row.line), format!("template {number} of `{}`: {why}", self.name), FIELD_HELP)
            })
        };
        let mut prompt = String::new();
        for example in &self.examples {
            prompt += &format!("{}\n{}\n\n", fill(&template.inputs, example)?, fill(&template.targets, example)?);
        }
        prompt += &fill(&template.inputs, &row.fields)?;
        let completion = fill(&template.targets, &row.fields)?;
        let (task, cluster) = (Some(self.name.clone()), self.cluster.clone());
        let empty = completion.trim().is_empty();
        let became = if empty { Err(Reason::Empty) } else { Ok(RowKind::Completion { prompt, completion }) };
        let references = Vec::new();
        Ok(Piece { line: row.line, task, cluster, references, again: false, train_only: template.invert, became })
    }

    fn fill(&self, parts: &[Part], fields: &Map) -> std::result::Result<String, String> {
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(plain) => text += plain,
                Part::Field(name) if name == "options" => text += &self.listed(fields)?,
                Part::Field(name) => match fields.get(name) {
                    Some(Value::String(value)) => text += value,
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => text += &value.to_string(),
                    Some(other) => return Err(format!("`{name}` is {}, not a text or a number", kind(other))),
                    None => {
                        let known: Vec<_> = fields.keys().map(|k| format!("`{k}`")).collect();
                        return Err(format!("there is no `{name}` in the row, which has {}", known.join(", ")));
                    }
                },
            }
        }
        Ok(text)
    }

    /// FLAN's list of choices: `OPTIONS:` and a line each.
    fn listed(&self, fields: &Map) -> std::result::Result<String, String> {
        let own = fields.get("options").and_then(Value::as_array);
        let own = own.map(|list| list.iter().filter_map(|v| v.as_str().map(str::to_string)).collect::<Vec<_>>());
        let options =
            own.as_ref().or(self.options.as_ref()).ok_or("{options} is used, and neither the task nor the row has `options`")?;
        Ok(format!("OPTIONS:{}", options.iter().map(|o| format!("\n- {o}")).collect::<String>()))
    }
}

/// A template's text, cut at its fields.
fn parts(text: &str) -> std::result::Result<Vec<Part>, String> {
    let (mut parts, mut plain) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        plain += &rest[..at];
        let after = &rest[at..];
        if let Some(next) = after.strip_prefix("{{").or(after.strip_prefix("}}")) {
            plain.push_str(&after[..1]);
            rest = next;
            continue;
        }
        let inner = after.strip_prefix('{').ok_or_else(|| format!("a lone `}}` in \"{text}\""))?;
        let (name, next) = inner.split_once('}').ok_or_else(|| format!("`{{` without `}}` in \"{text}\""))?;
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
            return Err(format!("`{{{name}}}` is not a field's name, in \"{text}\""));
        }
        parts.push(Part::Text(std::mem::take(&mut plain)));
        parts.push(Part::Field(name.to_string()));
        rest = next;
    }
    plain += rest;
    parts.push(Part::Text(plain));
    parts.retain(|p| *p != Part::Text(String::new()));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = "name = \"capitals\"\ncluster = \"geography\"\noptions = [\"Paris\", \"Rome\"]\nrows = [\n  { country = \"France\", \
         capital = \"Paris\" },\n  { country = \"Italy\", capital = \"Rome\" },\n]\n[[templates]]\ninputs = \"Capital of {country}? {{x}}\
         \\n{options}\"\ntargets = \"{capital}\"\n[[templates]]\ninputs = \"Whose capital is {capital}?\"\ntargets = \"{country}\"\ninvert = true\n";

    fn read(text: &str) -> Result<(Task, Vec<RawRow>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task.toml");
        std::fs::write(&path, text).unwrap();
        let mut task = Task::read(&path)?;
        let rows = task.rows(&mut Faults::default())?;
        Ok((task, rows))
    }

    fn said(text: &str, which: Templates, split: Split, seed: u64) -> Result<Vec<(usize, String, String)>> {
        let (task, rows) = read(text)?;
        let mut all = Vec::new();
        for row in &rows {
            let Converted::Rows(pieces) = task.phrase(row, which, split, seed)? else { panic!() };
            for piece in pieces {
                assert_eq!((piece.task.as_deref(), piece.cluster.as_deref()), (Some("capitals"), Some("geography")));
                let Ok(RowKind::Completion { prompt, completion }) = piece.became else { panic!() };
                all.push((piece.line, prompt, completion));
            }
        }
        Ok(all)
    }

    #[test]
    fn every_phrasing_in_order_and_no_inverted_one_held_out() {
        let all = said(TASK, Templates::All, Split::Train, 0).unwrap();
        let first = "Capital of France? {x}\nOPTIONS:\n- Paris\n- Rome";
        assert_eq!(all[0], (5, first.to_string(), "Paris".to_string()));
        assert_eq!(all[1], (5, "Whose capital is Paris?".to_string(), "France".to_string()));
        assert_eq!((all.len(), all[2].0), (4, 6));
        for seed in 0..20 {
            let held = said(TASK, Templates::One, Split::Heldout, seed).unwrap();
            assert!(held.len() == 2 && held.iter().all(|(_, prompt, _)| prompt.starts_with("Capital of")));
        }
    }

    #[test]
    fn the_seed_draws_the_phrasing() {
        let drawn: Vec<_> = (0..40).map(|seed| said(TASK, Templates::One, Split::Train, seed).unwrap()).collect();
        assert_eq!(drawn[7], said(TASK, Templates::One, Split::Train, 7).unwrap());
        let inverted = drawn.iter().filter(|rows| rows[0].1.starts_with("Whose")).count();
        assert!((8..=32).contains(&inverted), "{inverted} of 40");
    }

    #[test]
    fn examples_stand_before_the_row() {
        let text = format!("examples = [{{ country = \"Spain\", capital = \"Madrid\" }}]\n{}", TASK.replace("\\n{options}", ""));
        let all = said(&text, Templates::All, Split::Heldout, 0).unwrap();
        assert_eq!(all[0].1, "Capital of Spain? {x}\nMadrid\n\nCapital of France? {x}");
    }

    #[test]
    fn malformed_tasks_name_the_line() {
        let table = [
            (TASK.replace("cluster", "clutser"), "task.toml:2: unknown field `clutser`"),
            (TASK.replace("invert", "inverse"), "unknown field `inverse`"),
            (TASK.replace("rows", "data = \"a.jsonl\"\nrows"), "the task has both `data` and `rows`"),
            ("name = \"a\"\n[[templates]]\ninputs = \"q\"\ntargets = \"a\"\n".into(), "neither `data` nor `rows`"),
            ("name = \"a\"\nrows = []\ntemplates = []\n".into(), "at least one template"),
            ("name = \"a\"\nrows = [".into(), "task.toml:2: "),
            (TASK.replace("{country}?", "{country?"), "task.toml:8: `{country? {{x}` is not a field's name"),
            (TASK.replace("{capital}?", "capital}?"), "task.toml:11: a lone `}` in"),
            (
                TASK.replace("{country}?", "{land}?"),
                "task.toml:5: template 1 of `capitals`: there is no `land` in the row, which has `capital`, `country`",
            ),
            (TASK.replace("options = [\"Paris\", \"Rome\"]\n", ""), "task.toml:4: template 1 of `capitals`: {options} is used"),
            (TASK.replace("\"France\"", "[1]"), "`country` is an array, not a text or a number"),
        ];
        for (text, expect) in table {
            let error = said(&text, Templates::All, Split::Train, 0).unwrap_err().to_string();
            assert!(error.contains(expect) && error.contains("help: "), "{expect}: {error}");
        }
    }
}
