//! Grammars that admit calls of tools and nothing else, in the Lark syntax of llguidance.
//!
//! JSON stands as chat templates write it, `, ` and `: ` between its parts.

use std::fmt::Write as _;

use super::form::{ARGS, END_OF_TOOL_CALL, Form, TOOL_CALL, TOOL_CALLS};
use super::tool::{Tool, may_be};
use crate::json::{Map, Value};

/// What an answer must call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forced<'a> {
    /// This tool; `None`: any of them.
    pub tool: Option<&'a str>,
    /// Several calls in one answer are admitted, where the form has them: Llama's templates take one alone.
    pub parallel: bool,
}

/// A grammar of answers that call tools, for a model that writes `form`; `None` where no tool is there to be called.
///
/// `control` is the id of a marker that is a control token of the tokenizer: such a token is admitted by its id, for its
/// text is not what the model writes.
pub(crate) fn grammar(form: Form, tools: &[Tool], forced: Forced<'_>, control: impl Fn(&str) -> Option<u32>) -> Option<String> {
    let tools: Vec<&Tool> = tools.iter().filter(|t| forced.tool.is_none_or(|name| name == t.name)).collect();
    if tools.is_empty() {
        return None;
    }
    let mark = |marker: &str| control(marker).map_or_else(|| literal(marker), |id| format!("<[{id}]>"));
    let more = |separator: &str| match forced.parallel {
        true => format!(" ({} call)*", literal(separator)),
        false => String::new(),
    };
    let (open, close) = (mark(TOOL_CALL), mark(END_OF_TOOL_CALL));
    let start = match form {
        Form::Hermes | Form::QwenXml => format!("call{}", more("\n")),
        Form::HermesList => format!("{open} \"[\" call{} \"]\" {close}", more(", ")),
        Form::Llama => "call".to_string(),
        Form::MistralList => format!("{} \" \"? \"[\" call{} \"]\"", mark(TOOL_CALLS), more(", ")),
        Form::MistralNamed => match forced.parallel {
            true => "call+".to_string(),
            false => "call".to_string(),
        },
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    let mut text = format!("start: {start}\ncall: {}\n", names.join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        let object = |key: &str| literal(&format!("{{\"name\": {}, \"{key}\": ", Value::from(tool.name.as_str())));
        let (before, after) = match form {
            Form::QwenXml => {
                let (parts, rules) = xml(i, tool);
                let _ = writeln!(text, "call_{i}: {open} \"\\n\" {parts} {close}{rules}");
                continue;
            }
            Form::Hermes => (format!("{open} \"\\n\" {}", object("arguments")), format!("\"}}\\n\" {close}")),
            Form::HermesList | Form::MistralList => (object("arguments"), "\"}\"".to_string()),
            Form::Llama => (object("parameters"), "\"}\"".to_string()),
            Form::MistralNamed => (format!("{} {} {}", mark(TOOL_CALLS), literal(&tool.name), mark(ARGS)), String::new()),
        };
        let schema = json(arguments(&tool.parameters));
        let _ = writeln!(text, "call_{i}: {before} args_{i} {after}\nargs_{i}: {schema}");
    }
    Some(text)
}

/// A function in XML, its parameters in the schema's order and those that are not required perhaps left out; and the rules
/// of these.
fn xml(i: usize, tool: &Tool) -> (String, String) {
    let required = |key: &str| tool.parameters["required"].as_array().is_some_and(|keys| keys.iter().any(|k| *k == key));
    let mut parts = literal(&format!("<function={}>\n", tool.name));
    let mut rules = String::new();
    for (j, (key, schema)) in tool.parameters["properties"].as_object().into_iter().flatten().enumerate() {
        let _ = write!(parts, " param_{i}_{j}{}", if required(key) { "" } else { "?" });
        let (head, end) = (literal(&format!("<parameter={key}>\n")), literal("\n</parameter>\n"));
        let _ = write!(rules, "\nparam_{i}_{j}: {head} value_{i}_{j}\n");
        let texts = schema["enum"].as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let _ = match texts.filter(|texts| !texts.is_empty()) {
            Some(texts) => {
                let texts: Vec<String> = texts.into_iter().map(literal).collect();
                write!(rules, "value_{i}_{j}: ({}) {end}", texts.join(" | "))
            }
            None if !schema.is_object() || may_be(schema, "string") => {
                write!(rules, "value_{i}_{j}[suffix={end}]: /(.|\\n)*/")
            }
            None => {
                let schema = json(within(&tool.parameters, schema));
                write!(rules, "value_{i}_{j}: json_{i}_{j} {end}\njson_{i}_{j}: {schema}")
            }
        };
    }
    (format!("{parts} \"</function>\\n\""), rules)
}

/// The schema of arguments: an object, whatever else the tool says of them.
fn arguments(parameters: &Value) -> Map {
    let mut schema = parameters.as_object().cloned().unwrap_or_default();
    if !schema.contains_key("type") {
        schema.insert("type".into(), "object".into());
    }
    schema
}

/// The schema of one parameter, with the definitions that it may refer to.
fn within(parameters: &Value, schema: &Value) -> Map {
    let mut schema = schema.as_object().cloned().unwrap_or_default();
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = parameters.get(key).filter(|_| !schema.contains_key(key)) {
            schema.insert(key.into(), definitions.clone());
        }
    }
    schema
}

/// A rule's body for values of a schema.
fn json(mut schema: Map) -> String {
    let spaced = [("whitespace_flexible", false.into()), ("item_separator", ", ".into()), ("key_separator", ": ".into())];
    schema.insert("x-guidance".into(), Value::from(spaced));
    format!("%json {}", Value::Object(schema))
}

/// A text as Lark writes it, which is JSON's way.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
