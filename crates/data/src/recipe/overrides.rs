//! `--set a.b=v`: one value of the recipe replaced from the command line.
//!
//! Refuses to know: which keys there are; a wrong one is refused where the file's own keys are.

use serde_json::{Map, Value};
use toml_edit::Key;

use super::locate::{Written, WrittenAt, join};
use crate::error::{Error, Result};

const FORM: &str =
    "write --set KEY=VALUE with a dotted key, e.g. --set train.lr=1e-4 or --set 'adapter.targets=[\"q_proj\", \"v_proj\"]'";

impl Written {
    /// Replaces (or adds) what `argument` names. The value is read as TOML; what is not TOML is a text.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the argument when it is not `key=value` or its key goes through a value.
    pub(super) fn set(&mut self, argument: &str) -> Result<()> {
        let (left, right) = argument.split_once('=').ok_or_else(|| refuse(argument, argument, "there is no `=` in it"))?;
        let path = Key::parse(left.trim()).map_err(|_| refuse(argument, left.trim(), "this is not a dotted key"))?;
        let names: Vec<&str> = path.iter().map(Key::get).collect();
        let key = names.iter().fold(String::new(), |parent, name| join(&parent, name));
        self.forget(&key);
        self.places.insert(key.clone(), WrittenAt::Set(argument.to_string()));
        let value = self.typed(argument, &key, right.trim())?;
        // `Key::parse` yields at least one name.
        let Some((last, parents)) = names.split_last() else { return Ok(()) };
        let Some(table) = descend(&mut self.tree, parents) else {
            return Err(refuse(argument, &key, "what stands there is a single value or a list, not a table"));
        };
        table.insert((*last).to_string(), value);
        Ok(())
    }

    fn typed(&mut self, argument: &str, key: &str, text: &str) -> Result<Value> {
        match text.parse::<toml_edit::Value>() {
            Ok(toml_edit::Value::Datetime(_)) => Ok(Value::from(text)),
            Ok(value) => {
                let value = self.value(&value, key, text);
                self.forget_below(key);
                value
            }
            Err(_) if lost_quotes(text) => Err(refuse(
                argument,
                key,
                "the value looks like a list, a table or a quoted text, but is not valid TOML (shells take quotes away)",
            )),
            Err(_) => Ok(Value::from(text)),
        }
    }

    fn forget(&mut self, key: &str) {
        self.places.remove(key);
        self.forget_below(key);
    }

    fn forget_below(&mut self, key: &str) {
        self.places.retain(|place, _| !place.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '['])));
    }
}

fn descend<'a>(tree: &'a mut Map<String, Value>, names: &[&str]) -> Option<&'a mut Map<String, Value>> {
    names.iter().try_fold(tree, |table, name| {
        table.entry((*name).to_string()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
    })
}

fn lost_quotes(text: &str) -> bool {
    let between = |open, close| text.starts_with(open) && text.ends_with(close);
    between('[', ']') || between('{', '}') || text.starts_with(['"', '\''])
}

fn refuse(argument: &str, key: &str, why: &str) -> Error {
    let file = format!("--set {argument}").into();
    Error::Recipe { file, line: None, key: key.to_string(), why: why.to_string(), help: FORM.to_string() }
}
