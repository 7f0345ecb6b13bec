//! An answer as its text comes: what is content, what is a call.
//!
//! White space between calls, and between calls and text that begins or ends the answer, is dropped; all else of the text
//! comes out. However the text is cut into pieces, the same comes out in the end.

use super::call::Call;
use super::form::{Form, PYTHON_TAG};
use super::json_block::JsonBlock;
use super::step::Step;
use super::tool::Tool;
use super::xml_block::XmlBlock;

/// Something that is certain of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// More of its text.
    Content(String),
    /// A whole call; the first one's `index` is 0.
    Call { index: usize, call: Call },
}

/// An answer, its calls apart from its text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Parsed {
    /// `None`: it is calls alone, or empty.
    pub content: Option<String>,
    pub calls: Vec<Call>,
    /// Why something that looks like a call was left in the text: the first such thing.
    pub remark: Option<String>,
}

/// The calls in a whole answer. `text` holds the form's markers, so it is decoded with its special tokens, the end of the
/// turn excepted.
pub(crate) fn parse(form: Form, text: &str, tools: &[Tool]) -> Parsed {
    let mut stream = ToolCallStream::new(form, tools);
    let mut events = stream.push(text);
    let (last, remark) = stream.finish();
    events.extend(last);
    let (mut content, mut calls) = (String::new(), Vec::new());
    for event in events {
        match event {
            Event::Content(text) => content += &text,
            Event::Call { call, .. } => calls.push(call),
        }
    }
    Parsed { content: Some(content).filter(|content| !content.is_empty()), calls, remark }
}

/// An answer's text as it comes. Held back is what may yet belong to a call, and white space that may stand before one.
pub(crate) struct ToolCallStream {
    form: Form,
    tools: Vec<Tool>,
    /// What is not yet known to be content or call.
    held: String,
    /// The block that `held` begins with.
    block: Option<Block>,
    /// White space that is content where text follows.
    gap: String,
    /// Some content has come out.
    spoken: bool,
    calls: usize,
    /// A call may stand here without a marker: at the answer's beginning, or after a call.
    fresh: bool,
    remark: Option<String>,
    events: Vec<Event>,
}

struct Block {
    /// What stands before its calls, in bytes.
    lead: usize,
    body: Body,
}

enum Body {
    Json(JsonBlock),
    Xml(XmlBlock),
}

/// Where the next block begins.
enum Opening {
    /// Its place, and where its calls begin.
    At(usize, usize),
    /// From here on it may be one.
    Perhaps(usize),
    No,
}

impl ToolCallStream {
    /// An answer that has not begun.
    pub(crate) fn new(form: Form, tools: &[Tool]) -> ToolCallStream {
        ToolCallStream {
            form,
            tools: tools.to_vec(),
            held: String::new(),
            block: None,
            gap: String::new(),
            spoken: false,
            calls: 0,
            fresh: true,
            remark: None,
            events: Vec::new(),
        }
    }

    /// What is certain after more text.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Event> {
        self.held += text;
        self.advance(false);
        std::mem::take(&mut self.events)
    }

    /// What is certain when no more comes, and [`Parsed::remark`].
    pub(crate) fn finish(mut self) -> (Vec<Event>, Option<String>) {
        self.advance(true);
        if self.calls == 0 {
            let gap = std::mem::take(&mut self.gap);
            self.emit(&gap);
        }
        (self.events, self.remark)
    }

    fn advance(&mut self, ended: bool) {
        while !self.held.is_empty() {
            let Some(block) = &mut self.block else {
                match self.opening() {
                    Opening::At(start, lead) => {
                        self.say(start);
                        self.block = Some(Block::new(self.form, lead - start));
                        continue;
                    }
                    Opening::Perhaps(start) if !ended => self.say(start),
                    Opening::Perhaps(_) | Opening::No => self.say(self.held.len()),
                }
                return;
            };
            let (lead, step) = (block.lead, block.read(&self.held, ended, &self.tools));
            match step {
                Step::More => return,
                Step::Not(why) => {
                    self.remark = self.remark.take().or(why);
                    self.fresh = false;
                    self.say(lead);
                }
                Step::Calls(calls, end) => {
                    for call in calls {
                        self.events.push(Event::Call { index: self.calls, call });
                        self.calls += 1;
                    }
                    self.held.drain(..end);
                    self.fresh = true;
                }
            }
            self.block = None;
        }
    }

    /// Where in what is held the next block begins.
    fn opening(&self) -> Opening {
        if self.form == Form::Llama && self.fresh {
            let rest = self.held.trim_start();
            let rest = rest.strip_prefix(';').filter(|_| self.calls > 0).map_or(rest, str::trim_start);
            let lead = self.held.len() - rest.len();
            match rest {
                _ if rest.starts_with('{') => return Opening::At(0, lead),
                _ if rest.starts_with(PYTHON_TAG) => return Opening::At(0, lead + PYTHON_TAG.len()),
                _ if PYTHON_TAG.starts_with(rest) => return Opening::Perhaps(0),
                _ => {}
            }
        }
        let marker = self.form.marker();
        if let Some(start) = self.held.find(marker) {
            return Opening::At(start, start + marker.len());
        }
        let begun = (1..marker.len()).rev().find(|long| self.held.ends_with(&marker[..*long]));
        begun.map_or(Opening::No, |long| Opening::Perhaps(self.held.len() - long))
    }

    /// The first `end` bytes of what is held are content.
    fn say(&mut self, end: usize) {
        let text: String = self.held.drain(..end).collect();
        let said = text.trim_start();
        self.gap += &text[..text.len() - said.len()];
        if said.is_empty() {
            return;
        }
        self.fresh = false;
        let gap = std::mem::take(&mut self.gap);
        if self.spoken || self.calls == 0 {
            self.emit(&gap);
        }
        let end = said.trim_end().len();
        self.emit(&said[..end]);
        self.gap += &said[end..];
    }

    fn emit(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.spoken = true;
        match self.events.last_mut() {
            Some(Event::Content(before)) => *before += text,
            _ => self.events.push(Event::Content(text.to_string())),
        }
    }
}

impl Block {
    fn new(form: Form, lead: usize) -> Block {
        let body = match form {
            Form::QwenXml => Body::Xml(XmlBlock::new(lead)),
            form => Body::Json(JsonBlock::new(form, lead)),
        };
        Block { lead, body }
    }

    fn read(&mut self, text: &str, ended: bool, tools: &[Tool]) -> Step {
        match &mut self.body {
            Body::Json(json) => json.read(text, ended, tools),
            Body::Xml(xml) => xml.read(text, ended, tools),
        }
    }
}
