//! Assistants: an adapter (or the base) with a system prompt, sampling and limits of its own, under a name; from TOML files.
//!
//! ```toml
//! [[assistant]]
//! name = "units"
//! adapter = "unit-notes"
//! system = "You help {{ company }}. Today is {{ date }}."
//! greeting = "Send me a note."
//! temperature = 0.2
//! max_tokens = 200
//! variables = { company = "Acme" }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Environment, UndefinedBehavior};
use serde::Deserialize;
use toml::Spanned;

use crate::adapter::inspect::check_name;
use crate::error::{Error, Result};
use crate::generate::{Sampling, StopStrings};

/// Most assistants of a server.
const MOST: usize = 1024;
/// Longest system prompt in bytes.
const LONGEST_SYSTEM: usize = 64 << 10;

/// One assistant as its file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assistant {
    /// What requests name it by.
    pub name: String,
    /// The base where it is not given.
    pub adapter: Option<String>,
    /// Stands before the conversation; a template over `variables`, `date` and `language`. Without it: as the adapter was trained.
    pub system: Option<String>,
    /// A request's own system message is refused.
    #[serde(default)]
    pub system_locked: bool,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// For people who choose.
    pub description: Option<String>,
    /// Shown before the first message; the model never reads it.
    pub greeting: Option<String>,
    /// In which it answers: `{{ language }}` of its prompt.
    pub language: Option<String>,
    /// Sampling where a request says nothing else; see [`Sampling`].
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<usize>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub seed: Option<i64>,
    #[serde(default)]
    pub stop: Vec<String>,
    /// Longest answer, and what is taken where a request does not say.
    pub max_tokens: Option<usize>,
    /// Requests at once.
    pub max_requests: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    assistant: Vec<Spanned<Assistant>>,
}

/// All of a server's, by name.
#[derive(Debug, Default)]
pub struct Assistants {
    by_name: BTreeMap<String, Assistant>,
}

impl Assistants {
    /// Of a file, or of all `.toml` files of a folder.
    ///
    /// # Errors
    /// [`Error::Data`] with file and line, for the first that is wrong.
    pub fn load(path: &Path) -> Result<Assistants> {
        let mut all = Assistants::default();
        for file in files(path)? {
            let text = crate::files::read_text(&file)?;
            all.add(&file, &text)?;
        }
        Ok(all)
    }

    fn add(&mut self, file: &Path, text: &str) -> Result<()> {
        let line = |at: usize| Some(1 + text[..at.min(text.len())].matches('\n').count());
        let fix = "mend it; the assistants stay as they were";
        let parsed: File = toml::from_str(text)
            .map_err(|e| Error::data(file, line(e.span().map_or(0, |s| s.start)), e.message().to_string(), fix))?;
        for assistant in parsed.assistant {
            let at = line(assistant.span().start);
            let assistant = assistant.into_inner();
            assistant.check().map_err(|why| Error::data(file, at, format!("assistant `{}`: {why}", assistant.name), fix))?;
            let name = assistant.name.clone();
            if self.by_name.len() >= MOST {
                return Err(Error::data(file, at, format!("there are more than {MOST} assistants"), fix));
            }
            if self.by_name.insert(name.clone(), assistant).is_some() {
                return Err(Error::data(file, at, format!("there are two assistants named `{name}`"), fix));
            }
        }
        Ok(())
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<&Assistant> {
        self.by_name.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Assistant> {
        self.by_name.values()
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(Error::io("read", path))?.path();
        if file.extension().is_some_and(|e| e == "toml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

impl Assistant {
    /// What is impossible by itself; whether its adapter is there is asked when it answers, as adapters come and go.
    fn check(&self) -> std::result::Result<(), String> {
        check_name(&self.name)
            .map_err(|_| "its name is not 1 to 128 letters, digits, dots, dashes and underscores".to_string())?;
        if self.name == "base" {
            return Err("`base` is the name of the base itself".into());
        }
        if self.system.as_ref().is_some_and(|s| s.len() > LONGEST_SYSTEM) {
            return Err(format!("its system prompt is longer than {LONGEST_SYSTEM} bytes"));
        }
        let within = |what: &str, value: Option<f64>, least: f64, most: f64| match value {
            Some(x) if !(x >= least && x <= most) => Err(format!("{what} must be from {least} to {most}")),
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, f64::MIN_POSITIVE, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 10.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if self.max_tokens == Some(0) || self.max_requests == Some(0) || self.top_k == Some(0) {
            return Err("max_tokens, max_requests and top_k must be at least 1".into());
        }
        StopStrings::new(self.stop.clone()).map_err(|e| e.to_string())?;
        self.system("2026-01-01").map(|_| ()).map_err(|e| e.to_string())
    }

    /// Its own settings of sampling over `other` ones.
    pub fn sampling(&self, other: &Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(other.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(other.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(other.frequency_penalty),
            seed: self.seed.map_or(other.seed, |seed| seed as u64),
            bias: other.bias.clone(),
        }
    }

    /// The system prompt on a day (`YYYY-MM-DD`).
    ///
    /// # Errors
    /// [`Error::Usage`] where it reads a variable that is not there.
    pub fn system(&self, date: &str) -> Result<Option<String>> {
        let Some(system) = &self.system else { return Ok(None) };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(50_000));
        let mut known = self.variables.clone();
        known.entry("date".into()).or_insert_with(|| date.to_string());
        known.extend(self.language.clone().map(|language| ("language".to_string(), language)));
        let text = environment.render_str(system, known).map_err(|e| {
            let names: Vec<&str> = self.variables.keys().map(String::as_str).chain(["date", "language"]).collect();
            Error::usage("its system prompt", e.to_string(), format!("variables that there are: {}", names.join(", ")))
        })?;
        Ok(Some(text))
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The day, `YYYY-MM-DD`, in UTC.
pub fn today() -> String {
    let now = jiff::Timestamp::from_second(i64::try_from(unix_time()).unwrap_or(0)).unwrap_or_default();
    now.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[assistant]]\nname = \"a\"\nadapter = \"x\"\nsystem = \"For {{ who }} on {{ date }}.\"\nvariables = { who = \"us\" }\n\n[[assistant]]\nname = \"b\"\n";

    #[test]
    fn a_system_prompt_is_filled_in() {
        let mut all = Assistants::default();
        all.add(Path::new("f.toml"), GOOD).unwrap();
        assert_eq!(all.get("a").unwrap().system("2026-11-29").unwrap().unwrap(), "For us on 2026-11-29.");
        assert_eq!(all.get("b").unwrap().system("2026-11-29").unwrap(), None);
        assert_eq!(all.iter().count(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line() {
        let cases = [
            ("[[assistant]]\nname = \"a\"\ntemprature = 1\n", 3),
            ("\n[[assistant]]\nname = \"a\"\ntemperature = 7.0\n", 2),
            ("[[assistant]]\nname = \"../a\"\n", 1),
            ("[[assistant]]\nname = \"base\"\n", 1),
            ("[[assistant]]\nname = \"a\"\n[[assistant]]\nname = \"a\"\n", 3),
            ("[[assistant]]\nname = \"a\"\nsystem = \"{{ nobody }}\"\n", 1),
            ("[[assistant]]\nname = \"a\"\nmax_tokens = 0\n", 1),
            ("[[assistant]]\nname = 3\n", 2),
            ("[[assistant]\n", 1),
        ];
        for (text, line) in cases {
            let error = Assistants::default().add(Path::new("f.toml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("f.toml:{line}: ")), "{text}: {error}");
        }
    }
}
