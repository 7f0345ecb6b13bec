//! What may be called.

use crate::json::Value;

/// A tool that an answer may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tool {
    pub name: String,
    /// JSON schema of its arguments, an object; null where there is none.
    pub parameters: Value,
}

impl Tool {
    /// A tool as the OpenAI API describes it, `{"type": "function", "function": {"name": …, "parameters": …}}`, or its
    /// function alone; `None` for what has no name.
    pub(crate) fn of(description: &Value) -> Option<Tool> {
        let function = description.get("function").filter(|f| f.is_object()).unwrap_or(description);
        let name = function["name"].as_str().filter(|name| !name.is_empty())?;
        Some(Tool { name: name.to_string(), parameters: function["parameters"].clone() })
    }

    /// The tool of a name.
    pub(super) fn find<'t>(tools: &'t [Tool], name: &str) -> Option<&'t Tool> {
        tools.iter().find(|tool| tool.name == name)
    }
}

/// Whether the `type` of a schema is this, or a list with this in it.
pub(super) fn may_be(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|k| *k == kind),
        one => *one == kind,
    }
}
