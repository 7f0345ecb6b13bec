//! From a marker to the end of the JSON that its calls are. Every byte is looked at once, however the text comes.

use super::call::{self, Call, known};
use super::form::{ARGS, CALL_ID, END_OF_TOOL_CALL, Form};
use super::step::Step;
use super::tool::Tool;

/// The keys that a call in JSON may begin with.
const KEYS: [&str; 6] = ["\"name\"", "\"type\"", "\"function\"", "\"parameters\"", "\"arguments\"", "\"id\""];

/// A block that began in a text; the text grows between two looks at it.
pub(super) struct JsonBlock {
    form: Form,
    /// What has been read, in bytes.
    at: usize,
    value: Option<Extent>,
    /// Of the function, where it stands before its arguments.
    name: Option<String>,
    calls: Vec<Call>,
}

impl JsonBlock {
    /// A block whose marker ends at `at`.
    pub(super) fn new(form: Form, at: usize) -> JsonBlock {
        JsonBlock { form, at, value: None, name: None, calls: Vec::new() }
    }

    /// Reads on; `ended`: nothing comes after this text.
    pub(super) fn read(&mut self, text: &str, ended: bool, tools: &[Tool]) -> Step {
        loop {
            let step = match &mut self.value {
                Some(value) => match value.end(text) {
                    None => Some(Step::More),
                    Some(end) => self.ends(text, end, tools),
                },
                None => self.between(text, ended, tools),
            };
            match step {
                None => {}
                Some(Step::More) if ended => return Step::Not(Some("a call is cut off".into())),
                Some(step) => return step,
            }
        }
    }

    /// A value has been read.
    fn ends(&mut self, text: &str, end: usize, tools: &[Tool]) -> Option<Step> {
        let written = &text[self.value.take()?.start..end];
        let calls = match &self.name {
            Some(name) => call::of_arguments(name, written).map(|call| vec![call]),
            None => call::of_json(written, tools, self.form == Form::Llama),
        };
        match calls {
            Err(why) => return Some(Step::Not(why)),
            Ok(calls) => self.calls.extend(calls),
        }
        self.at = end;
        let closed = matches!(self.form, Form::Hermes | Form::HermesList);
        (!closed).then(|| Step::Calls(std::mem::take(&mut self.calls), end))
    }

    /// Before a value, or after one.
    fn between(&mut self, text: &str, ended: bool, tools: &[Tool]) -> Option<Step> {
        let rest = text[self.at..].trim_start();
        let start = text.len() - rest.len();
        if rest.starts_with(['{', '[']) {
            match begins_call(rest) {
                _ if self.form != Form::Llama => {}
                Some(true) => {}
                Some(false) => return Some(Step::Not(None)),
                None => return Some(Step::More),
            }
            self.value = Some(Extent::new(start));
            return None;
        }
        match self.form {
            Form::Hermes | Form::HermesList if !self.calls.is_empty() => {
                if rest.starts_with(END_OF_TOOL_CALL) {
                    return Some(Step::Calls(std::mem::take(&mut self.calls), start + END_OF_TOOL_CALL.len()));
                }
                // Some models end their answer without the closing marker.
                match (END_OF_TOOL_CALL.starts_with(rest), ended) {
                    (true, true) => Some(Step::Calls(std::mem::take(&mut self.calls), text.len())),
                    (true, false) => Some(Step::More),
                    (false, _) => Some(Step::Not(Some("a call's JSON is followed by other text".into()))),
                }
            }
            _ if rest.is_empty() => Some(Step::More),
            Form::MistralList | Form::MistralNamed if self.name.is_none() => self.head(rest, start, tools),
            form => Some(Step::Not(Some(format!("`{}` is not followed by a call", form.marker())))),
        }
    }

    /// The function's name before its arguments.
    fn head(&mut self, rest: &str, start: usize, tools: &[Tool]) -> Option<Step> {
        let long = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b)).count();
        let (name, tail) = rest.split_at(long);
        let between = match tail.find(ARGS) {
            Some(at) if at == 0 || tail.starts_with(CALL_ID) => at + ARGS.len(),
            _ if tail.starts_with('{') => 0,
            _ if tail.starts_with(CALL_ID) || CALL_ID.starts_with(tail) || ARGS.starts_with(tail) => return Some(Step::More),
            _ => return Some(Step::Not(Some(format!("`{}` is not followed by a call", self.form.marker())))),
        };
        if let Err(why) = known(name, tools) {
            return Some(Step::Not(why));
        }
        self.name = Some(name.to_string());
        self.at = start + long + between;
        None
    }
}

/// Whether an object's first key is one of a call's, as far as it has come: other JSON is not held back.
fn begins_call(object: &str) -> Option<bool> {
    let key = object[1..].trim_start();
    let any = |fits: &dyn Fn(&str) -> bool| KEYS.into_iter().any(fits);
    match any(&|known| key.starts_with(known)) {
        true => Some(true),
        false if any(&|known| known.starts_with(key)) => None,
        false => Some(false),
    }
}

/// Where an object or array ends.
struct Extent {
    start: usize,
    at: usize,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Extent {
    fn new(start: usize) -> Extent {
        Extent { start, at: start, depth: 0, quoted: false, escaped: false }
    }

    /// Where it ends; `None` when that is not in the text so far.
    fn end(&mut self, text: &str) -> Option<usize> {
        while let Some(byte) = text.as_bytes().get(self.at) {
            self.at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                b'{' | b'[' if !self.quoted => self.depth += 1,
                b'}' | b']' if !self.quoted => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                return Some(self.at);
            }
        }
        None
    }
}
