//! What was made of each of a model's templates, and which of them a conversation gets: [`ChatTemplates`] compiled.
//!
//! A template for tools that does not parse is an error of the first conversation with tools, as in transformers, which
//! compiles a template when it is used. Refuses to know what is made of a template.

use crate::error::{Error, Result};
use crate::tokenizer::ChatTemplates;

/// One thing for conversations without tools, perhaps another for those with tools.
#[derive(Debug, Clone)]
pub struct ByTools<T> {
    templates: ChatTemplates,
    plain: Option<T>,
    /// `None`: as `plain`.
    tools: Option<std::result::Result<T, Refusal>>,
}

/// An [`Error::Template`] that can be told more than once.
#[derive(Debug, Clone)]
struct Refusal {
    name: String,
    line: Option<usize>,
    why: String,
    help: String,
}

impl<T> ByTools<T> {
    /// Of a model's templates, each made by `make` from what errors call it and its source.
    ///
    /// # Errors
    /// What `make` returns for the template of conversations without tools.
    pub fn of(templates: &ChatTemplates, make: impl Fn(&str, &str) -> Result<T>) -> Result<ByTools<T>> {
        let made = |tools: bool| templates.source(tools).map(|source| make(&templates.name(tools), source));
        let tools = match made(true).filter(|_| templates.has_own_for_tools()) {
            None => None,
            Some(Ok(made)) => Some(Ok(made)),
            Some(Err(Error::Template { name, line, why, help })) => Some(Err(Refusal { name, line, why, help })),
            Some(Err(other)) => return Err(other),
        };
        Ok(ByTools { templates: templates.clone(), plain: made(false).transpose()?, tools })
    }

    /// The one for a conversation with or without tools.
    ///
    /// # Errors
    /// [`Error::Template`]: the model has templates, but none for it; or that template does not parse.
    pub fn choose(&self, tools: bool) -> Result<&T> {
        match (&self.tools, &self.plain) {
            (Some(Ok(made)), _) if tools => Ok(made),
            (Some(Err(Refusal { name, line, why, help })), _) if tools => {
                Err(Error::Template { name: name.clone(), line: *line, why: why.clone(), help: help.clone() })
            }
            (_, Some(made)) => Ok(made),
            (_, None) => Err(self.templates.none_for(tools)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Result<ByTools<String>> {
        let templates = ChatTemplates::named(names.iter().map(|n| (n.to_string(), format!("source of {n}"))));
        ByTools::of(&templates, |name, source| match source {
            "source of broken" => Err(Error::usage(name, "broken", "mend it")),
            _ => Ok(source.to_string()),
        })
    }

    #[test]
    fn one_template_serves_for_both_and_two_for_one_each() {
        let both = |names: &[&str]| {
            let made = of(names).unwrap();
            [false, true].map(|tools| made.choose(tools).cloned().map_err(|e| e.to_string()))
        };
        assert_eq!(both(&["default"]), [Ok("source of default".into()), Ok("source of default".into())]);
        assert_eq!(both(&["default", "tool_use"]), [Ok("source of default".into()), Ok("source of tool_use".into())]);
        let [plain, tools] = both(&["tool_use", "rag"]);
        assert!(plain.unwrap_err().contains("no `default` among them; there are: rag, tool_use"));
        assert_eq!(tools, Ok("source of tool_use".into()));
    }

    #[test]
    fn a_broken_template_for_tools_is_told_when_it_is_used() {
        let templates = ChatTemplates::named([("default".into(), "D".into()), ("tool_use".into(), "T".into())]);
        let broken = |name: &str, source: &str| match source {
            "T" => Err(Error::Template { name: name.into(), line: Some(3), why: "syntax".into(), help: "mend it".into() }),
            _ => Ok(source.to_string()),
        };
        let made = ByTools::of(&templates, broken).unwrap();
        assert_eq!(made.choose(false).unwrap(), "D");
        for _ in 0..2 {
            assert!(made.choose(true).unwrap_err().to_string().contains("tool_use of the model"));
        }
    }
}
