//! Where each message lies in the text that a chat template made of a conversation.
//!
//! Found from the rendering itself, never from markers such as `<|assistant|>`. Contents: the conversation is rendered
//! once plainly and once with every content between a pair of private-use characters; when removing these gives the
//! plain text byte for byte, their places are the places of the contents ([`marks`]). An answer begins where the
//! generation prompt ends, and ends with what the template writes after an answer ([`habits`]), or, where the turn is
//! more than its content (calls of tools) or was rewritten, where the rendering of the conversation up to it ends. A
//! template with `{% generation %}` says itself what an answer is. What was learnt of one conversation serves the next
//! of the same roles, as long as it explains the text to the last byte ([`skeleton`]). Refuses to know tokens.

mod habits;
mod marks;
mod pieces;
mod skeleton;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use minijinja::Value;

use self::habits::Habits;
use self::marks::Marks;
use self::pieces::{common_start, trailing_special};
use self::skeleton::Skeletons;
use super::template::{Chat, ChatMessage, Jinja, Rendering, Turn};
use crate::error::{Error, Result};

/// A template and what has been learnt about it; cloning shares it.
#[derive(Clone)]
pub(super) struct Spans {
    template: Jinja,
    /// What the template reads beside messages and tools.
    base: Value,
    learnt: Arc<Learnt>,
}

#[derive(Default)]
struct Learnt {
    habits: OnceLock<Habits>,
    skeletons: Skeletons,
}

impl Spans {
    pub(super) fn new(template: Jinja, base: Value) -> Spans {
        Spans { template, base, learnt: Arc::default() }
    }

    pub(super) fn template(&self) -> &Jinja {
        &self.template
    }

    fn habits(&self) -> &Habits {
        self.learnt.habits.get_or_init(|| Habits::learn(&self.template, &self.base))
    }

    /// The text alone.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refuses the conversation.
    pub(super) fn text(&self, chat: &Chat, prompt: bool) -> Result<String> {
        let values = chat.messages.iter().map(ChatMessage::value).collect();
        self.template.render_chat(values, &self.context(chat), prompt, false)
    }

    /// The text of messages as a template sees them; `None` when it refuses them.
    pub(super) fn values(&self, messages: Vec<Value>, tools: Option<Value>, prompt: bool) -> Option<String> {
        let context = self.context(&Chat { messages: Vec::new(), tools });
        self.template.render_chat(messages, &context, prompt, false).ok()
    }

    fn context(&self, chat: &Chat) -> Value {
        match &chat.tools {
            Some(tools) => minijinja::context! { tools, ..self.base.clone() },
            None => self.base.clone(),
        }
    }

    /// Renders a conversation and finds every content and every answer; with `prompt` it ends in a generation prompt.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refuses the conversation, or its answers cannot be found.
    pub(super) fn render(&self, chat: &Chat, prompt: bool) -> Result<Rendering> {
        let (rendering, lost) = self.find(chat, prompt)?;
        match lost.first() {
            Some(i) if !prompt => Err(not_found(&self.template, *i)),
            _ => Ok(rendering),
        }
    }

    /// As [`Spans::render`], with the messages whose answers cannot be found instead of an error about them.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refuses the conversation.
    pub(super) fn find(&self, chat: &Chat, prompt: bool) -> Result<(Rendering, Vec<usize>)> {
        let text = self.text(chat, prompt)?;
        if !skeleton::covers(chat) {
            return Ok(self.search(chat, text, prompt));
        }
        let key = skeleton::key(chat, prompt);
        let learn = || {
            let like = skeleton::sentinels(chat);
            let text = self.text(&like, prompt).ok()?;
            let (rendering, lost) = self.search(&like, text, prompt);
            (lost.is_empty() && !rendering.guessed).then_some((like, rendering))
        };
        let known = self.learnt.skeletons.get_or_learn(key, learn);
        match known.and_then(|skeleton| skeleton.fit(chat, &text)) {
            Some(turns) => {
                let enclosed = self.template.has_generation_tags();
                Ok((Rendering { text, turns, enclosed, ..Rendering::default() }, Vec::new()))
            }
            None => Ok(self.search(chat, text, prompt)),
        }
    }

    /// Finds everything from renderings of this very conversation.
    fn search(&self, chat: &Chat, text: String, prompt: bool) -> (Rendering, Vec<usize>) {
        let base = self.context(chat);
        let marks = marks::contents(&self.template, chat, &base, prompt, &text);
        let guessed = marks.as_ref().is_none_or(|m| m.incomplete);
        let mut marks = marks.unwrap_or_else(|| Marks::none(chat.messages.len()));
        if guessed && self.template.has_generation_tags() {
            marks.generation = marks::generation(&self.template, chat, &base, prompt, &text).unwrap_or_default();
        }
        let search = Search { spans: self, chat, base, text: &text, prompt, marks: &marks, beginnings: Beginnings::of(chat) };
        let (mut turns, mut lost) = (Vec::with_capacity(chat.messages.len()), Vec::new());
        for (i, message) in chat.messages.iter().enumerate() {
            let known = !guessed || !marks.contents[i].is_empty();
            let content = if known { marks.contents[i].clone() } else { verbatim(&text, message) };
            let mut turn = Turn { role: message.role.clone(), content, ..Turn::default() };
            if message.role != "assistant" {
                turn.end = turn.content.last().and_then(|c| search.end_at(i, c.end));
            } else if self.template.has_generation_tags() {
                turn.answer = search.enclosed(i);
            } else if let Some((answer, end)) = search.answer(i) {
                (turn.answer, turn.end) = (vec![answer], end);
            } else {
                lost.push(i);
            }
            turns.push(turn);
        }
        (Rendering { text, turns, guessed, enclosed: self.template.has_generation_tags(), foreign: Vec::new() }, lost)
    }
}

fn not_found(template: &Jinja, i: usize) -> Error {
    Error::Template {
        name: template.name().into(),
        line: None,
        why: format!("message {} (assistant) cannot be found in the rendering: the template rewrites it, or renders it differently when more messages follow", i + 1),
        help: "change the row (for instance remove its reasoning block), split it so that this is its last message, or choose another template".into(),
    }
}

/// Every place where the content stands word for word.
fn verbatim(text: &str, message: &ChatMessage) -> Vec<Range<usize>> {
    let cores = message.content.iter().map(|part| part.trim()).filter(|core| !core.is_empty());
    cores.flat_map(|core| text.match_indices(core).map(|(at, found)| at..at + found.len())).collect()
}

/// Renderings of the conversation's beginnings, each made when asked for.
struct Beginnings {
    bare: Vec<OnceCell<Option<String>>>,
    prompted: Vec<OnceCell<Option<String>>>,
}

impl Beginnings {
    fn of(chat: &Chat) -> Beginnings {
        let cells = || (0..=chat.messages.len()).map(|_| OnceCell::new()).collect();
        Beginnings { bare: cells(), prompted: cells() }
    }
}

/// The looking for answers in one text.
struct Search<'a> {
    spans: &'a Spans,
    chat: &'a Chat,
    base: Value,
    text: &'a str,
    prompt: bool,
    marks: &'a Marks,
    beginnings: Beginnings,
}

impl Search<'_> {
    /// The text of the first `n` messages; `None` when the template refuses them.
    fn beginning(&self, n: usize, prompt: bool) -> Option<&str> {
        let cells = if prompt { &self.beginnings.prompted } else { &self.beginnings.bare };
        let render = || {
            let values = self.chat.messages[..n].iter().map(ChatMessage::value).collect();
            self.spans.template.render_chat(values, &self.base, prompt, false).ok()
        };
        cells[n].get_or_init(render).as_deref()
    }

    /// What `{% generation %}` encloses of turn `i`: the blocks that hold its content, or, where no content tells, the
    /// blocks in their order.
    fn enclosed(&self, i: usize) -> Vec<Range<usize>> {
        let blocks = &self.marks.generation;
        let holds = |block: &&Range<usize>| self.marks.contents[i].iter().any(|c| block.start <= c.start && c.end <= block.end);
        let held: Vec<_> = blocks.iter().filter(holds).cloned().collect();
        if !held.is_empty() {
            return held;
        }
        let assistants: Vec<_> = (0..self.chat.messages.len()).filter(|k| self.chat.messages[*k].role == "assistant").collect();
        let number = assistants.iter().position(|k| *k == i);
        match number {
            Some(number) if assistants.len() == blocks.len() => vec![blocks[number].clone()],
            // One message alone: all that is enclosed is its.
            Some(_) if assistants.len() == 1 => blocks.clone(),
            _ => Vec::new(),
        }
    }

    /// The content of message `i` where it stands in one piece (or in parts that follow one another).
    fn content(&self, i: usize) -> Option<Range<usize>> {
        let places = &self.marks.contents[i];
        let parts = self.chat.messages[i].content.iter().filter(|part| !part.trim().is_empty()).count();
        (places.len() == parts).then(|| Some(places.first()?.start..places.last()?.end)).flatten()
    }

    /// Answer `i` and the end of its turn.
    fn answer(&self, i: usize) -> Option<(Range<usize>, Option<Range<usize>>)> {
        let content = self.content(i);
        let limit = content.as_ref().map(|c| c.start).or(self.marks.ends[i]);
        let start = self.start(i, limit).or(content.as_ref().map(|c| c.start))?;
        let from = content.map(|c| c.end).or(self.marks.ends[i]);
        if let Some(at) = from.filter(|_| !self.chat.messages[i].calls_tools()) {
            if let Some(end) = self.end_at(i, at) {
                return Some((start..at, Some(end)));
            }
            if self.expected(i).is_empty() {
                return Some((start..at, None));
            }
        }
        let border = self.border(i, start.max(from.unwrap_or(0)))?;
        let (answer, end) = self.within(i, start, from, border);
        // Something was to be written, and between here and where the renderings part nothing was.
        let missing = from.is_none() && answer.is_empty() && self.chat.messages[i].content.iter().any(|t| !t.trim().is_empty());
        (!missing).then_some((answer, end))
    }

    /// Where the model begins to write in turn `i`, at `limit` at most: where the generation prompt ends.
    fn start(&self, i: usize, limit: Option<usize>) -> Option<usize> {
        let text = self.text;
        let most = limit.unwrap_or(text.len());
        let earlier =
            (0..i).flat_map(|j| self.marks.contents[j].last()).map(|c| c.end).filter(|end| *end <= most).max().unwrap_or(0);
        let (prompted, bare) = (self.beginning(i, true), self.beginning(i, false));
        if let Some(prompted) = prompted {
            let at = common_start(text, prompted);
            let honoured = bare.is_some_and(|bare| bare != prompted && common_start(text, bare) < at);
            let blank = limit.is_some_and(|limit| at <= limit && text[at..limit].trim().is_empty());
            // The same opening, spaced differently.
            let rest = prompted[at..].trim();
            let again = limit.filter(|limit| at <= *limit && !rest.is_empty()).and_then(|limit| text[at..limit].rfind(rest));
            if let Some(again) = again.filter(|_| at >= earlier) {
                return Some(at + again + rest.len());
            }
            if at >= earlier && at <= most && (honoured || (blank && at == prompted.len())) {
                return Some(at);
            }
        }
        let opening = self.spans.habits().opening.as_str();
        let found = match limit {
            _ if opening.trim().is_empty() => None,
            Some(limit) => text[earlier..limit].rfind(opening),
            None => text[earlier..].find(opening),
        };
        found.map(|at| earlier + at + opening.len())
    }

    /// What is expected to end turn `i`.
    fn expected(&self, i: usize) -> &str {
        let habits = self.spans.habits();
        if i + 1 == self.chat.messages.len() && !self.prompt { &habits.last_end } else { &habits.end }
    }

    /// The end of turn that stands at `at`.
    fn end_at(&self, i: usize, at: usize) -> Option<Range<usize>> {
        end_at(self.text, at, self.expected(i))
    }

    /// Up to where turn `i` reaches: the end of the conversation rendered so far, as far as this text begins with it.
    fn border(&self, i: usize, from: usize) -> Option<usize> {
        if i + 1 == self.chat.messages.len() && !self.prompt {
            return Some(self.text.len());
        }
        let upto = self.beginning(i + 1, false).unwrap_or_default();
        let common = common_start(self.text, upto);
        if common == upto.len() && common >= from {
            return Some(common);
        }
        // The next message begins somewhere before its content; the last end of turn before that is this turn's.
        let next = self.marks.contents[i + 1..].iter().flatten().map(|c| c.start).filter(|start| *start >= from).min();
        let end = self.spans.habits().end.trim();
        let found = next.filter(|_| !end.is_empty()).and_then(|next| self.text[from..next].rfind(end));
        found.map(|at| from + at + end.len()).or_else(|| (common > from).then_some(common))
    }

    /// Answer and end of turn in a turn that reaches to `border` and of whose content only the end is known, or nothing.
    fn within(&self, i: usize, start: usize, from: Option<usize>, border: usize) -> (Range<usize>, Option<Range<usize>>) {
        let first = start.max(from.unwrap_or(0)).min(border);
        let region = &self.text[first..border];
        let expected = self.expected(i);
        for end in [expected, expected.trim_start()].into_iter().filter(|e| !e.is_empty()) {
            if let Some(at) = region.rfind(end) {
                return (start..first + at, Some(first + at..first + at + end.len()));
            }
        }
        let written = first + region.trim_end().len();
        let end = trailing_special(&self.text[first..written]).map(|e| first + e.start..first + e.end);
        (start.min(written)..end.as_ref().map_or(written, |e| e.start).max(start.min(written)), end)
    }
}

/// The text `expected` where it stands at `at`.
fn end_at(text: &str, at: usize, expected: &str) -> Option<Range<usize>> {
    (!expected.is_empty() && text[at..].starts_with(expected)).then(|| at..at + expected.len())
}
