//! Contexts of chat templates as lines of JSON: a context read, and its rendering written with where the loss falls.
//!
//! Refuses to know where the lines and the template come from.

use std::path::Path;

use serde_json::{Value, json};

use crate::data::{Jinja, render_context};
use crate::error::{Error, Result};
use crate::json;
use crate::json::Map;
use crate::recipe;

/// The context on a line.
///
/// # Errors
/// [`Error::Data`] for a line that is no JSON object.
pub(super) fn context(path: &Path, line: usize, bytes: &[u8]) -> Result<Map> {
    const HELP: &str = "a context is one JSON object on one line: {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}], …}";
    let no_utf8 = |_| serde_json::from_slice::<Value>(bytes).map(json::Value::from);
    match std::str::from_utf8(bytes).map_or_else(no_utf8, json::parse) {
        Ok(json::Value::Object(context)) => Ok(context),
        Ok(_) => Err(Error::data(path, Some(line), "the line is JSON, but not an object", HELP)),
        Err(error) => {
            let error = error.to_string();
            let why = error.split(" at line ").next().unwrap_or(&error);
            let column = error.rsplit("column ").next().unwrap_or_default();
            Err(Error::data(path, Some(line), format!("not JSON: {why} (column {column})"), HELP))
        }
    }
}

/// What becomes of a context: its text and the spans that are trained, or why the template refuses it.
pub(super) fn rendered(template: &Jinja, context: &Map, rules: &recipe::Template) -> Value {
    match render_context(template, context, rules) {
        Err(error) => json!({"error": error.to_string().lines().next().unwrap_or_default()}),
        Ok(rendered) => {
            let spans: Vec<_> = rendered.spans.iter().map(|s| [s.start, s.end]).collect();
            let mut out = json!({"text": rendered.text, "spans": spans});
            for (key, messages) in [("not_found", rendered.not_found), ("unwritten", rendered.unwritten)] {
                if !messages.is_empty() {
                    out[key] = json!(messages);
                }
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Clock, Special};

    #[test]
    fn a_context_becomes_text_and_spans_or_an_error() {
        let source = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\n' }}{% endfor %}{% if stop %}{{ raise_exception('stop') }}{% endif %}";
        let template = Jinja::new("test", source, &Special::default(), Clock::default()).unwrap();
        let of = |line: &str| {
            let context = context(Path::new("c.jsonl"), 3, line.as_bytes()).unwrap();
            rendered(&template, &context, &recipe::Template::default())
        };
        let messages = r#""messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "yes"}]"#;
        let expected = json!({"text": "<|user|>é<|end|>\n<|assistant|>yes<|end|>\n", "spans": [[31, 41]]});
        assert_eq!(of(&format!("{{{messages}}}")), expected);
        let error = of(&format!("{{{messages}, \"stop\": true}}"));
        assert!(error["error"].as_str().unwrap().contains("stop"), "{error}");
        assert_eq!(of(r#"{"messages": "no list"}"#)["error"].as_str().map(|e| e.contains("template")), Some(true));
    }

    #[test]
    fn a_line_that_is_no_context_is_named() {
        for (line, why) in [("{\"messages\": [}", "not JSON"), ("[1]", "not an object"), ("\u{0}", "not JSON")] {
            let error = context(Path::new("c.jsonl"), 7, line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("c.jsonl:7: ") && error.contains(why), "{error}");
        }
    }
}
