//! Tools of a chat: which there are, whether one must be called, and calls in an answer.

use serde_json::{Value, json};

use super::answer::Piece;
use super::app::App;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field};
use super::tool_calls::{self, Call, Event, Forced, Form, Parsed, Tool, ToolCallStream};
use crate::data::{Renderer, Tokenizer};
use crate::generate::Grammar;
use crate::json;

pub(super) const FIELDS: [Field; 2] = [
    field(
        "tools",
        Kind::List(128),
        "Functions that the answer may call: `{\"type\": \"function\", \"function\": {name, description, parameters}}`.",
    ),
    field(
        "tool_choice",
        Kind::TextOrObject(16),
        "`auto`, `none`, `required`, or `{\"type\": \"function\", \"function\": {\"name\": …}}`.",
    ),
];

/// What must be called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Must {
    Nothing,
    Any,
    This(String),
}

/// Tools of a chat.
pub(super) struct Tools {
    /// As the template gets them.
    pub(super) listed: Vec<json::Value>,
    known: Vec<Tool>,
    form: Option<Form>,
    must: Must,
    parallel: bool,
}

impl Tools {
    /// # Errors
    /// 400, naming the field, for tools that are none, and where the model's template writes calls in no form that is known.
    pub(super) fn of(fields: &Fields, renderer: &Renderer) -> Result<Tools, ApiError> {
        let list = fields.list("tools");
        let must = must(fields, list)?;
        let parallel = fields.bool("parallel_tool_calls").unwrap_or(true);
        let none = Tools { listed: Vec::new(), known: Vec::new(), form: None, must: Must::Nothing, parallel };
        let Some(must) = must.filter(|_| !list.is_empty()) else { return Ok(none) };
        let listed: Vec<json::Value> = list.iter().map(json::Value::from).collect();
        let known: Option<Vec<Tool>> = listed.iter().map(Tool::of).collect();
        let Some(known) = known else {
            return Err(ApiError::field(
                "tools",
                "`tools`: each is {\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": …}}",
            ));
        };
        // Where the template does not read tools, they are written into the system message in the form of Hermes, as in training.
        let form = match renderer.reads_tools() {
            true => renderer.chat_templates().iter().find_map(|(_, source)| Form::of_template(source)),
            false => Some(Form::Hermes),
        };
        if form.is_none() {
            return Err(ApiError::unsupported(
                "tools",
                "the model's chat template writes calls of tools in no form that is known here",
            ));
        }
        Ok(Tools { listed, known, form, must, parallel })
    }

    /// What the answer must be where it must call a tool.
    ///
    /// # Errors
    /// 400 where a call cannot be forced in the model's form.
    pub(super) fn forced(&self, tokenizer: &Tokenizer) -> Result<Option<Grammar>, ApiError> {
        let (Some(form), must) = (self.form, &self.must) else { return Ok(None) };
        let tool = match must {
            Must::Nothing => return Ok(None),
            Must::Any => None,
            Must::This(name) => Some(name.as_str()),
        };
        let forced = Forced { tool, parallel: self.parallel };
        let control = |text: &str| tokenizer.inner().token_to_id(text).filter(|id| tokenizer.is_control(*id));
        let grammar = tool_calls::grammar(form, &self.known, forced, control);
        let cannot = || ApiError::unsupported("tool_choice", "a call cannot be forced in the form of the model's template");
        grammar.map(|lark| Some(Grammar::OwnLark(lark))).ok_or_else(cannot)
    }

    /// Calls of a whole answer; none where it has none.
    pub(super) fn parse(&self, text: &str) -> Option<Parsed> {
        let parsed = tool_calls::parse(self.form?, text, &self.known);
        (!parsed.calls.is_empty()).then_some(parsed)
    }

    /// Whether an answer may have calls, whose markers then are part of its text.
    pub(super) fn any(&self) -> bool {
        self.form.is_some()
    }

    /// For an answer as it comes.
    pub(super) fn stream(&self) -> ToolDeltas {
        ToolDeltas { stream: self.form.map(|form| ToolCallStream::new(form, &self.known)), calls: 0 }
    }
}

/// What must be called; none where nothing may be.
fn must(fields: &Fields, tools: &[Value]) -> Result<Option<Must>, ApiError> {
    let bad = |why: &str| Err(ApiError::field("tool_choice", format!("`tool_choice`: {why}")));
    let must = match fields.value("tool_choice") {
        None => return Ok(Some(Must::Nothing)),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => return Ok(None),
            "auto" => Must::Nothing,
            "required" => Must::Any,
            _ => return bad("it is auto, none, required, or names a function"),
        },
        Some(choice) => {
            let name = choice.get("function").and_then(|f| f.get("name")).or_else(|| choice.get("name")).and_then(Value::as_str);
            match name.filter(|_| choice.get("type").and_then(Value::as_str) == Some("function")) {
                Some(name) => Must::This(name.into()),
                None => return bad("it is auto, none, required, or {\"type\": \"function\", \"function\": {\"name\": …}}"),
            }
        }
    };
    if must != Must::Nothing && tools.is_empty() {
        return bad("there are no tools");
    }
    if let Must::This(name) = &must {
        let named = |tool: &Value| tool.get("function").and_then(|f| f.get("name")).and_then(Value::as_str) == Some(name);
        if !tools.iter().any(named) {
            return bad(&format!("there is no tool `{name}`"));
        }
    }
    Ok(Some(must))
}

/// A call as OpenAI spells it.
pub(super) fn call(app: &App, call: &Call) -> Value {
    json!({"id": app.new_id("call"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

/// Deltas of an answer that may call tools.
pub(super) struct ToolDeltas {
    stream: Option<ToolCallStream>,
    calls: usize,
}

impl ToolDeltas {
    /// What is told of a piece of the answer.
    pub(super) fn push(&mut self, app: &App, piece: &Piece) -> Vec<Value> {
        let Some(stream) = &mut self.stream else {
            return if piece.text.is_empty() { Vec::new() } else { vec![json!({"content": piece.text})] };
        };
        let mut events = stream.push(&piece.text);
        if piece.finish.is_some()
            && let Some(stream) = self.stream.take()
        {
            events.extend(stream.finish().0);
        }
        events.into_iter().map(|event| self.delta(app, event)).collect()
    }

    fn delta(&mut self, app: &App, event: Event) -> Value {
        match event {
            Event::Content(text) => json!({"content": text}),
            Event::Call { index, call: made } => {
                let mut entry = call(app, &made);
                entry["index"] = json!(index);
                self.calls += 1;
                json!({"tool_calls": [entry]})
            }
        }
    }

    /// Whether the answer called any.
    pub(super) fn called(&self) -> bool {
        self.calls > 0
    }
}
