//! A model's own chat templates by name, where its files hold them, and which of them a conversation gets.
//!
//! As transformers has it (`PreTrainedTokenizerBase._from_pretrained` and `get_chat_template`): files beside the tokenizer
//! count before `tokenizer_config.json`, and one called `tool_use` is for conversations with tools. Refuses to know Jinja.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files;

/// The file of the template that is called `default`.
const FILE: &str = "chat_template.jinja";
/// The folder of the others, `NAME.jinja` each.
const FOLDER: &str = "additional_chat_templates";
/// The template of a conversation without tools, and of one with tools where there is no other for these.
const DEFAULT: &str = "default";
/// The template of a conversation with tools.
const TOOL_USE: &str = "tool_use";

/// The Jinja sources of a model's chat templates.
#[derive(Debug, Clone, Default)]
pub struct ChatTemplates {
    named: BTreeMap<String, String>,
    /// What errors call them.
    origin: Option<String>,
}

/// Two are equal when they are the same templates, wherever they come from.
impl PartialEq for ChatTemplates {
    fn eq(&self, other: &ChatTemplates) -> bool {
        self.named == other.named
    }
}

impl From<Option<String>> for ChatTemplates {
    fn from(source: Option<String>) -> ChatTemplates {
        ChatTemplates::named(source.map(|source| (DEFAULT.to_string(), source)))
    }
}

impl ChatTemplates {
    /// From names and sources; of two with one name the later one counts.
    pub fn named(templates: impl IntoIterator<Item = (String, String)>) -> ChatTemplates {
        ChatTemplates { named: templates.into_iter().collect(), origin: None }
    }

    /// `chat_template` of `tokenizer_config.json`: a source, a list of `{"name", "template"}`, or an object of sources by name.
    /// The error says what is wrong with it.
    pub(crate) fn of_config(value: &Value) -> std::result::Result<ChatTemplates, String> {
        let text = |value: &Value, what: &str| value.as_str().map(str::to_string).ok_or(format!("{what} is not a text"));
        let named: Vec<(String, String)> = match value {
            Value::Null => Vec::new(),
            Value::String(source) => vec![(DEFAULT.to_string(), source.clone())],
            Value::Array(list) => {
                let one = |(i, t): (usize, &Value)| {
                    let what = |key: &str| format!("`{key}` of template {}", i + 1);
                    Ok((text(&t["name"], &what("name"))?, text(&t["template"], &what("template"))?))
                };
                list.iter().enumerate().map(one).collect::<std::result::Result<_, String>>()?
            }
            Value::Object(map) => {
                let one = |(name, t): (&String, &Value)| Ok((name.clone(), text(t, &format!("template `{name}`"))?));
                map.iter().map(one).collect::<std::result::Result<_, String>>()?
            }
            _ => return Err("`chat_template` is neither a text nor a list of {\"name\", \"template\"}".to_string()),
        };
        Ok(ChatTemplates::named(named))
    }

    /// The one in a Jinja file, for all conversations.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub fn of_file(path: &Path) -> Result<ChatTemplates> {
        Ok(ChatTemplates::from(Some(files::read_text(path)?)).called(Some(path.display().to_string())))
    }

    /// Those in files of `dir`: `chat_template.jinja` and `additional_chat_templates/NAME.jinja`; none where there are no such.
    ///
    /// # Errors
    /// [`Error::Io`] when one cannot be read.
    pub fn in_dir(dir: &Path) -> Result<ChatTemplates> {
        let mut named = BTreeMap::new();
        let file = dir.join(FILE);
        if file.is_file() {
            named.insert(DEFAULT.to_string(), files::read_text(&file)?);
        }
        for path in additional(dir)? {
            if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
                named.insert(name.to_string(), files::read_text(&path)?);
            }
        }
        Ok(ChatTemplates { named, origin: Some(format!("in {}", dir.display())) })
    }

    /// The same, which errors call `origin`; without one they are the model's own.
    pub(crate) fn called(self, origin: Option<String>) -> ChatTemplates {
        ChatTemplates { origin, ..self }
    }

    /// Writes them into `dir` as [`ChatTemplates::in_dir`] reads them; others that are there go.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written or removed; [`Error::Usage`] for a name that cannot be a file's.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let place = |name: &str| match name {
            DEFAULT => dir.join(FILE),
            name => dir.join(FOLDER).join(format!("{name}.jinja")),
        };
        for (name, source) in &self.named {
            if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
                let help = "rename it in the base's tokenizer_config.json";
                return Err(Error::usage(format!("chat template {name:?}"), "its name cannot be a file's", help));
            }
            if name != DEFAULT {
                std::fs::create_dir_all(dir.join(FOLDER)).map_err(Error::io("create", &dir.join(FOLDER)))?;
            }
            files::write_atomic(&place(name), source.as_bytes())?;
        }
        let kept: Vec<PathBuf> = self.named.keys().map(|name| place(name)).collect();
        for path in additional(dir)?.into_iter().chain([dir.join(FILE)]) {
            if path.is_file() && !kept.contains(&path) {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// As `chat_template` of `tokenizer_config.json`.
    pub fn to_config(&self) -> Value {
        match (self.named.get(DEFAULT), self.named.len()) {
            (_, 0) => Value::Null,
            (Some(source), 1) => json!(source),
            _ => self.named.iter().map(|(name, source)| json!({"name": name, "template": source})).collect(),
        }
    }

    /// Puts them into a `tokenizer_config.json`, in place of what it says of templates.
    pub fn put_into(&self, config: &mut Map<String, Value>) {
        match self.to_config() {
            Value::Null => config.remove("chat_template"),
            templates => config.insert("chat_template".into(), templates),
        };
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Names and sources, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, source)| (name.as_str(), source.as_str()))
    }

    /// The source for a conversation with or without tools; `None` where there are templates, but none for it.
    pub fn source(&self, tools: bool) -> Option<&str> {
        let tool_use = self.named.get(TOOL_USE).filter(|_| tools);
        tool_use.or_else(|| self.named.get(DEFAULT)).map(String::as_str)
    }

    /// What errors call the template for a conversation with or without tools.
    pub fn name(&self, tools: bool) -> String {
        let origin = self.origin.as_deref().unwrap_or("of the model");
        if tools && self.has_own_for_tools() { format!("{TOOL_USE} {origin}") } else { origin.to_string() }
    }

    /// Whether conversations with tools have a template of their own.
    pub(crate) fn has_own_for_tools(&self) -> bool {
        self.named.contains_key(TOOL_USE)
    }

    /// Why there is none for a conversation.
    ///
    /// transformers: "This model has multiple chat templates with no default specified!"
    pub fn none_for(&self, tools: bool) -> Error {
        let names: Vec<&str> = self.named.keys().map(String::as_str).collect();
        let wanted = if tools { "neither `tool_use` nor `default`" } else { "no `default`" };
        Error::Template {
            name: self.name(false),
            line: None,
            why: format!("the model has several chat templates and {wanted} among them; there are: {}", names.join(", ")),
            help: "save the one to use as a Jinja file and set `template.kind` to it".into(),
        }
    }

    /// Each source changed by `change`.
    pub fn map(&self, change: impl Fn(&str) -> String) -> ChatTemplates {
        ChatTemplates::named(self.named.iter().map(|(name, source)| (name.clone(), change(source))))
    }
}

/// The files of the folder of further templates, by name.
fn additional(dir: &Path) -> Result<Vec<PathBuf>> {
    let folder = dir.join(FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
    let paths = entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.map_err(Error::io("read", &folder))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "jinja") && path.is_file());
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_for_tools_is_chosen_as_transformers_does() {
        let of = |names: &[&str]| ChatTemplates::named(names.iter().map(|n| (n.to_string(), n.to_uppercase())));
        let table = [
            (&["default", "tool_use", "rag"][..], Some("DEFAULT"), Some("TOOL_USE")),
            (&["default", "rag"], Some("DEFAULT"), Some("DEFAULT")),
            (&["tool_use"], None, Some("TOOL_USE")),
            (&["rag"], None, None),
        ];
        for (names, plain, tools) in table {
            assert_eq!((of(names).source(false), of(names).source(true)), (plain, tools), "{names:?}");
        }
        let error = of(&["rag", "a"]).none_for(true).to_string();
        assert!(error.contains("neither `tool_use` nor `default`") && error.contains("there are: a, rag"), "{error}");
    }

    #[test]
    fn a_config_names_templates_in_three_ways() {
        let read = |value: Value| ChatTemplates::of_config(&value);
        let two = ChatTemplates::named([("default".into(), "D".into()), ("tool_use".into(), "T".into())]);
        let list = json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
        assert_eq!(read(list), Ok(two.clone()));
        assert_eq!(read(json!({"default": "D", "tool_use": "T"})), Ok(two.clone()));
        assert_eq!(read(json!("D")).unwrap(), ChatTemplates::from(Some("D".to_string())));
        assert!(read(Value::Null).unwrap().is_empty());
        for (bad, why) in [(json!(5), "neither a text"), (json!([{"name": "x"}]), "`template` of template 1 is not a text")] {
            assert!(read(bad).unwrap_err().contains(why));
        }
        assert_eq!(read(two.to_config()), Ok(two));
        assert_eq!(ChatTemplates::from(Some("D".to_string())).to_config(), json!("D"));
    }

    #[test]
    fn files_say_the_same_as_they_were_written_with() {
        let dir = tempfile::tempdir().unwrap();
        let many = ChatTemplates::named([("default".into(), "D\n".into()), ("tool_use".into(), "T".into())]);
        many.write(dir.path()).unwrap();
        assert_eq!(ChatTemplates::in_dir(dir.path()).unwrap(), many);
        let one = ChatTemplates::named([("rag".into(), "R".into())]);
        one.write(dir.path()).unwrap();
        assert_eq!(ChatTemplates::in_dir(dir.path()).unwrap(), one);
        let bad = ChatTemplates::named([("../x".into(), "R".into())]);
        assert!(bad.write(dir.path()).unwrap_err().to_string().contains("cannot be a file's"));
        ChatTemplates::default().write(dir.path()).unwrap();
        assert!(ChatTemplates::in_dir(dir.path()).unwrap().is_empty());
    }
}
