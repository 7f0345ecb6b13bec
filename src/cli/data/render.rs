//! `lorakit data render`: contexts through a chat template, and where in the text the loss falls.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::data::{Clock, Jinja, Special, Tokenizer, render_context};
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::{self, Recipe, TemplateKind};

/// Render contexts with a chat template and say which bytes are trained, one JSON object a line.
#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// Jinja file of the template
    #[arg(long, value_name = "T.jinja", required_unless_present = "template_of")]
    template: Option<PathBuf>,
    /// Recipe whose template (and special tokens) to use
    #[arg(long, value_name = "RECIPE", conflicts_with = "template")]
    template_of: Option<PathBuf>,
    /// JSON lines, each a context as the template gets it: `messages`, `tools`, `add_generation_prompt`, `bos_token` …;
    /// - reads standard input
    #[arg(long, value_name = "C.jsonl")]
    contexts: PathBuf,
    /// What a template is told when it asks for the time, e.g. 2025-07-10 or 2025-07-10T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = Clock::parse, default_value = "2024-07-26")]
    now: Clock,
}

/// Runs the verb; `open` finds the tokenizer of a recipe's base model.
///
/// # Errors
/// What is wrong with the template or a line of the contexts; writing failed. What a template refuses is a line of the output.
pub(super) fn run(args: &RenderArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<()> {
    let (template, rules) = template(args, open)?;
    let path = &args.contexts;
    let reader: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
        Box::new(BufReader::new(file))
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = |source| Error::Io { action: "write", path: "standard output".into(), source };
    for (i, line) in reader.split(b'\n').enumerate() {
        let line = line.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let context = context(path, i + 1, &line)?;
        writeln!(out, "{}", rendered(&template, &context, &rules)).map_err(written)?;
    }
    out.flush().map_err(written)
}

fn template(args: &RenderArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<(Jinja, recipe::Template)> {
    let file =
        |path: &Path, special: &Special| Jinja::new(&path.display().to_string(), &files::read_text(path)?, special, args.now);
    match (&args.template, &args.template_of) {
        (Some(path), _) => Ok((file(path, &Special::default())?, recipe::Template::default())),
        (None, Some(path)) => {
            let recipe = Recipe::load(path, &[])?;
            let tokenizer = open(&recipe)?;
            let template = match (&recipe.template.kind, tokenizer.chat_template()) {
                (TemplateKind::File(path), _) => file(path, tokenizer.special())?,
                (TemplateKind::Model, Some(source)) => Jinja::new("of the model", source, tokenizer.special(), args.now)?,
                _ => {
                    let why = "its template is not Jinja";
                    return Err(Error::usage(path.display().to_string(), why, "give a Jinja file with --template"));
                }
            };
            Ok((template, recipe.template))
        }
        (None, None) => Err(Error::usage("--template", "no template is given", "e.g. --template chat.jinja")),
    }
}

fn context(path: &Path, line: usize, bytes: &[u8]) -> Result<Map<String, Value>> {
    const HELP: &str = "a context is one JSON object on one line: {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}], …}";
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(context)) => Ok(context),
        Ok(_) => Err(Error::data(path, Some(line), "the line is JSON, but not an object", HELP)),
        Err(error) => {
            let error = error.to_string();
            let why = error.split(" at line ").next().unwrap_or(&error);
            let column = error.rsplit("column ").next().unwrap_or_default();
            Err(Error::data(path, Some(line), format!("not JSON: {why} (column {column})"), HELP))
        }
    }
}

fn rendered(template: &Jinja, context: &Map<String, Value>, rules: &recipe::Template) -> Value {
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
