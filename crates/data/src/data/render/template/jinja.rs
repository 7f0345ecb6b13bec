//! A model's own chat template: Jinja as transformers sets it up, with bounds on what a template may burn.
//!
//! The template comes with a model and is not trusted: its length, its steps and its output are capped, and it
//! reaches nothing but the conversation. Refuses to know where messages lie in the text (`spans`).

use std::io;
use std::sync::Arc;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, State};
use regex::Regex;

use super::chat::ChatMessage;
use super::clock::Clock;
use super::python;
use super::python::JsonStyle;
use super::{builtins, methods, written};
use crate::data::read::row::Message;
use crate::error::{Error, Result};
use crate::tokenizer::Special;

/// Longest source of a template, in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Longest rendered conversation, in bytes: about a million tokens. Its tokens take a hundred times that in memory.
const MAX_OUTPUT: usize = 4 << 20;
/// Most instructions of the template engine in one rendering.
const FUEL: u64 = 5_000_000;
/// Written bytes of a value that count as one instruction more.
const BYTES_A_STEP: usize = 64;
/// Stack for a template that may nest values as deep as its instructions reach: they are dropped level by level.
const DEEP: usize = 512 << 20;

/// A compiled chat template; cloning shares it.
#[derive(Clone)]
pub struct Jinja {
    environment: Arc<Environment<'static>>,
    name: String,
    globals: Value,
    has_generation_tags: bool,
    /// It holds a namespace, through which alone values can be nested without bound.
    nests: bool,
}

impl Jinja {
    /// Compiles `source`; `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Template`] with the line when it does not parse or is too long.
    pub fn new(name: &str, source: &str, special: &Special, clock: Clock) -> Result<Jinja> {
        if source.len() > MAX_SOURCE {
            let why = format!("the source has {} bytes, at most {MAX_SOURCE} are read", source.len());
            return Err(Error::Template { name: name.into(), line: None, why, help: "use a shorter template".into() });
        }
        let mut environment = environment(clock);
        // As Jinja does: line breaks are one character each.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let (plain, has_generation_tags) = without_generation_tags(&source);
        let nests = plain.contains("namespace");
        environment.add_template_owned("chat", plain).map_err(|e| describe(name, &e))?;
        let token = |t: &Option<String>| t.as_deref().map_or(Value::UNDEFINED, Value::from);
        let globals = minijinja::context! {
            bos_token => token(&special.bos), eos_token => token(&special.eos),
            pad_token => token(&special.pad), unk_token => token(&special.unk),
        };
        Ok(Jinja { environment: Arc::new(environment), name: name.into(), globals, has_generation_tags, nests })
    }

    /// What errors call this template.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a conversation, without tools.
    ///
    /// # Errors
    /// [`Error::Template`] with the template's line: its own `raise_exception`, a failing expression, a bound reached.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages = messages.iter().map(|m| ChatMessage::of(m).value()).collect();
        self.render_chat(messages, &self.defaults(), add_generation_prompt, false)
    }

    /// The text of a context as JSON: `messages`, `add_generation_prompt`, and whatever else the template reads (`tools`).
    /// Only the fields given are set, beside the special tokens.
    ///
    /// # Errors
    /// As [`Jinja::render`].
    pub fn render_json(&self, context: &crate::json::Map) -> Result<String> {
        let fields = context.iter().map(|(k, v)| (k.as_str(), python::from_json(v)));
        let fields = Value::from_pairs(fields);
        self.render_context(minijinja::context! { ..fields, ..self.globals.clone() })
    }

    /// What transformers sets beside the messages: no tools, no documents, the special tokens.
    pub(crate) fn defaults(&self) -> Value {
        minijinja::context! { tools => Value::from(()), documents => Value::from(()), ..self.globals.clone() }
    }

    /// The special tokens.
    pub(crate) fn tokens(&self) -> Value {
        self.globals.clone()
    }

    /// Whether the template says itself what an assistant wrote.
    pub(crate) fn has_generation_tags(&self) -> bool {
        self.has_generation_tags
    }

    /// The text of messages in the context `base`; with `mark_generation`, [`GENERATION`] stand around what
    /// `{% generation %}` encloses.
    pub(crate) fn render_chat(
        &self,
        messages: Vec<Value>,
        base: &Value,
        add_generation_prompt: bool,
        mark_generation: bool,
    ) -> Result<String> {
        let context = minijinja::context! { messages, add_generation_prompt, ..base.clone() };
        match mark_generation {
            true => self.render_context(minijinja::context! { __mark_generation => true, ..context }),
            false => self.render_context(context),
        }
    }

    fn render_context(&self, context: Value) -> Result<String> {
        written::with_texts(context, |context| match self.nests {
            true => stacker::maybe_grow(DEEP, DEEP, || self.render_here(context)),
            false => self.render_here(context),
        })
    }

    fn render_here(&self, context: Value) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(|e| describe(&self.name, &e))?;
        let mut out = Bounded { bytes: Vec::new() };
        template.render_captured_to(context, &mut out).map_err(|e| describe(&self.name, &e))?;
        String::from_utf8(out.bytes).map_err(|e| Error::Template {
            name: self.name.clone(),
            line: None,
            why: format!("the output is not UTF-8: {e}"),
            help: "report this template".into(),
        })
    }
}

/// Private-use characters that stand around what `{% generation %}` encloses, when asked for.
pub(crate) const GENERATION: [char; 2] = ['\u{FFFFC}', '\u{FFFFD}'];

/// Output that ends with an error instead of growing without bound.
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("the output is longer than {MAX_OUTPUT} bytes")));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `trim_blocks`, `lstrip_blocks`, loop controls, Python's methods, `raise_exception`, `strftime_now`, `tojson`: what
/// transformers' `_compile_jinja_template` sets up.
fn environment(clock: Clock) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = env.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build();
    #[allow(clippy::unwrap_used, reason = "the delimiters are the defaults, which are valid")]
    env.set_syntax(syntax.unwrap());
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, state, value| {
        let text = python::print(value)?;
        burn(state, &text)?;
        out.write_str(&text).map_err(minijinja::Error::from)
    });
    env.add_function("raise_exception", |why: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{why}")))
    });
    env.add_function("strftime_now", move |format: String| clock.strftime(&format));
    env.add_filter("tojson", tojson);
    builtins::add(&mut env);
    env.add_function("__generation", generation);
    env
}

/// Marks an error that the template itself raised.
const RAISED: &str = "raised: ";

/// Counts what was written of a value as instructions: a value that doubles itself is as long as many.
fn burn(state: &State, text: &str) -> std::result::Result<(), minijinja::Error> {
    state.consume_fuel((text.len() / BYTES_A_STEP) as u64)
}

fn tojson(state: &State, value: Value, indent: Option<usize>, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent = match options.get::<Option<usize>>("indent")? {
        Some(width) => Some(width),
        None => indent,
    };
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?.unwrap_or_default();
    options.assert_all_used()?;
    let separators = match separators.as_slice() {
        [] => None,
        [item, key] => Some([item.clone(), key.clone()]),
        _ => return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "separators are two texts")),
    };
    let text = python::json(&value, &JsonStyle { indent, sort_keys, separators, ascii })?;
    burn(state, &text)?;
    Ok(text)
}

/// `{% generation %}` encloses what an assistant wrote; transformers makes of it a call block, and so do we.
fn without_generation_tags(source: &str) -> (String, bool) {
    #[allow(clippy::unwrap_used, reason = "the pattern is a constant and parses")]
    let tags = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").unwrap();
    let source = tags.replace_all(source, |c: &regex::Captures<'_>| {
        let word = if c.get(2).is_some() { "endcall" } else { "call __generation()" };
        format!("{{%{} {word} {}%}}", &c[1], &c[3])
    });
    let found = matches!(source, std::borrow::Cow::Owned(_));
    (source.into_owned(), found)
}

/// The body of a generation block, between marks when the rendering asks for them.
fn generation(state: &mut State, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let body = options.get::<Value>("caller")?.call(state, &[])?;
    let marked = state.lookup("__mark_generation").is_some_and(|v| v.is_true());
    Ok(if marked { Value::from(format!("{}{body}{}", GENERATION[0], GENERATION[1])) } else { body })
}

fn describe(name: &str, error: &minijinja::Error) -> Error {
    let detail = error.detail().map(str::to_string).unwrap_or_else(|| error.to_string());
    let cause = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    let (why, help) = match (error.kind(), detail.strip_prefix(RAISED)) {
        (_, Some(raised)) => {
            (format!("the template refuses the conversation: {raised}"), "change the row, or choose another template".to_string())
        }
        (ErrorKind::OutOfFuel, _) => {
            (format!("it does more than {FUEL} steps"), "a template that loops this long is broken; use another one".to_string())
        }
        (ErrorKind::SyntaxError, _) => (format!("syntax error: {detail}"), "correct the template".to_string()),
        (kind, _) => {
            (format!("{kind}: {detail}{cause}"), "choose another template (`template.kind`), or correct this one".to_string())
        }
    };
    Error::Template { name: name.into(), line: error.line(), why, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let special = Special { bos: Some("<s>".into()), ..Special::default() };
        let messages = [Message::new("user", "hi")];
        Jinja::new("test", source, &special, Clock::default())?.render(&messages, true)
    }

    #[test]
    fn a_template_gets_what_transformers_gives_it() {
        let table = [
            ("{{ bos_token }}{% if eos_token is defined %}x{% endif %}", "<s>"),
            ("{% if tools is none %}none{% endif %}", "none"),
            ("  {% if add_generation_prompt %}\n  yes\n  {% endif %}\n", "  yes\n"),
            ("{% for m in messages %}{{ m['content'].strip().upper() }}{% break %}{% endfor %}", "HI"),
            ("{{ strftime_now('%Y') }}", "2024"),
            ("{{ {'a': '<é>'} | tojson }}", "{\"a\": \"<é>\"}"),
            ("{{ [true, none] }}", "[True, None]"),
            ("a\n  {% generation -%}\n b\n{%- endgeneration %}\nc", "a\nbc"),
        ];
        for (source, expected) in table {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    /// What is dropped at the end is nested as deep: without the large stack the process dies.
    #[test]
    fn a_template_that_nests_values_without_bound_ends() {
        let nest = |times: &str, once: &str| {
            format!("{{% set n = namespace(x=[]) %}}{times}{once}{{% set n.x = [n.x] %}}{{% endfor %}}")
        };
        let loops = "{% for i in range(100000) %}";
        assert_eq!(render(&nest("", loops)).unwrap(), "");
        let many = nest("{% for j in range(100) %}", loops) + "{% endfor %}";
        assert!(render(&many).unwrap_err().to_string().contains("does more than 5000000 steps"));
    }

    #[test]
    fn a_template_that_burns_or_breaks_is_stopped_with_its_line() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        let huge = "{% set s = 'x' * 1000000 %}{% for a in range(1000) %}{{ s }}{% endfor %}";
        let doubled = "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}";
        let deep = "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson }}";
        let source = " ".repeat(MAX_SOURCE + 1);
        let table = [
            (loops, "does more than 5000000 steps"),
            (huge, "the output is longer than"),
            (source.as_str(), "the source has 1048577 bytes"),
            ("\n{% if %}", "line 2: syntax error"),
            ("\n\n{{ raise_exception('no system') }}", "line 3: the template refuses the conversation: no system"),
            ("{{ messages.nothing.more }}", "line 1: "),
            ("{% include 'secret' %}", "template not found"),
            ("{{ [1] | tojson(indent=18446744073709551615) }}", "the text of a value is longer than"),
            (doubled, "the text of a value is longer than"),
            (deep, "a value has more than 256 levels"),
        ];
        for (source, expected) in table {
            let error = render(source).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", &source[..source.len().min(60)]);
        }
    }
}
