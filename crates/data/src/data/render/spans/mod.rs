//! Where each message lies in the text that a chat template made of a conversation.
//!
//! Found from the rendering itself, never from markers such as `<|assistant|>`. What the messages say: the conversation
//! is rendered once plainly and once with every content (and reasoning, and call of a tool) between private-use
//! characters; when removing these gives the plain text byte for byte, their places are the places of what was said
//! ([`marks`]). Between two places stands what the template wrote of itself, and the rule there is:
//!
//! - An answer begins where the generation prompt ends: as far as the text behind the message before agrees with the
//!   rendering of a prompt, it is given to the model; the rest, white space too, the model must write.
//! - It ends with what the template writes behind answers ([`habits`]), looked for behind the last thing that the
//!   message says; where nothing of it is there, where the rendering of the conversation up to it ends.
//!
//! A template with `{% generation %}` says itself what an answer is. What was learnt of one conversation serves the next
//! of the same roles, as long as it explains the text to the last byte ([`skeleton`]). Refuses to know tokens.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `marks`, `pieces`, `skeleton` | places found by marks; pieces of texts; a rendering learnt of another of the same roles |
//! | 1 | `habits` | what a template writes behind answers |

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
use self::pieces::{common_start, ends_at_specials, trailing_special};
use self::skeleton::Skeletons;
use super::template::{Chat, ChatMessage, Jinja, RenderedTurn, Rendering};
use crate::error::{Error, Result};

/// A template and what has been learnt about it; cloning shares it.
#[derive(Clone)]
pub(crate) struct Spans {
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
    pub(crate) fn new(template: Jinja, base: Value) -> Spans {
        Spans { template, base, learnt: Arc::default() }
    }

    pub(crate) fn template(&self) -> &Jinja {
        &self.template
    }

    fn habits(&self) -> &Habits {
        self.learnt.habits.get_or_init(|| Habits::learn(&self.template, &self.base))
    }

    /// The text alone.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refuses the conversation.
    pub(crate) fn text(&self, chat: &Chat, prompt: bool) -> Result<String> {
        let values = chat.messages.iter().map(ChatMessage::value).collect();
        self.template.render_chat(values, &self.context(chat), prompt, false)
    }

    /// The text of messages as a template sees them; `None` when it refuses them.
    pub(crate) fn values(&self, messages: Vec<Value>, tools: Option<Value>, prompt: bool) -> Option<String> {
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
    pub(crate) fn render(&self, chat: &Chat, prompt: bool) -> Result<Rendering> {
        let (rendering, lost) = self.find(chat, prompt)?;
        match (lost.first(), rendering.unwritten.first()) {
            (Some(i), _) if !prompt => Err(not_found(&self.template, *i)),
            (None, Some(i)) if !prompt => Err(not_written(&self.template, *i)),
            _ => Ok(rendering),
        }
    }

    /// As [`Spans::render`], with the messages whose answers cannot be found instead of an error about them.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refuses the conversation.
    pub(crate) fn find(&self, chat: &Chat, prompt: bool) -> Result<(Rendering, Vec<usize>)> {
        let text = self.text(chat, prompt)?;
        if !skeleton::covers(chat, self.template.has_generation_tags()) {
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
        let marks = marks::find(&self.template, chat, &base, prompt, &text);
        let guessed = marks.as_ref().is_none_or(|m| m.incomplete);
        let mut marks = marks.unwrap_or_else(|| Marks::none(chat.messages.len()));
        let enclosed = self.template.has_generation_tags();
        if guessed && enclosed {
            marks.generation = marks::generation(&self.template, chat, &base, prompt, &text).unwrap_or_default();
        }
        let search = Search { spans: self, chat, base, text: &text, prompt, marks: &marks, beginnings: Beginnings::of(chat) };
        let (mut turns, mut lost, mut unwritten) = (Vec::with_capacity(chat.messages.len()), Vec::new(), Vec::new());
        for (i, message) in chat.messages.iter().enumerate() {
            let known = !guessed || !marks.contents[i].is_empty();
            let content = if known { marks.contents[i].clone() } else { verbatim(&text, message) };
            let mut turn = RenderedTurn { role: message.role.clone(), content, ..RenderedTurn::default() };
            if message.role != "assistant" {
                turn.end = turn.content.last().and_then(|c| search.end_at(i, c.end));
            } else if enclosed {
                (turn.answer, turn.end) = search.enclosed(i);
            } else if let Some((answer, end)) = search.answer(i) {
                (turn.answer, turn.end) = (vec![answer], end);
            } else {
                lost.push(i);
            }
            let written = |name: &String| turn.answer.iter().any(|answer| text[answer.clone()].contains(name.as_str()));
            if message.role == "assistant" && !lost.contains(&i) && !message.called().iter().all(written) {
                unwritten.push(i);
            }
            turns.push(turn);
        }
        let foreign = marks.others.into_iter().flatten().collect();
        (Rendering { text, turns, guessed, enclosed, foreign, unwritten }, lost)
    }
}

fn not_written(template: &Jinja, i: usize) -> Error {
    Error::Template {
        name: template.name().into(),
        line: None,
        why: format!("the template does not write the calls of tools of message {} (assistant)", i + 1),
        help: "choose a template that does (some want `\"content\": null` beside calls), or write the calls into the content"
            .into(),
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

/// The end of a rendering of the conversation's beginning: what the template wrote behind the last thing said in it.
struct Tail {
    text: String,
    /// Whose that thing is, and in how many places that message says something so far; `None`: the text is the whole
    /// rendering. (Later on more may be written of it: the name of a function with the function's answer.)
    behind: Option<(usize, usize)>,
}

/// Tails of the conversation's beginnings, each made when asked for.
struct Beginnings {
    bare: Vec<OnceCell<Option<Tail>>>,
    prompted: Vec<OnceCell<Option<Tail>>>,
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
    /// The tail of the first `n` messages; `None` when the template refuses them.
    fn tail(&self, n: usize, prompt: bool) -> Option<&Tail> {
        let cells = if prompt { &self.beginnings.prompted } else { &self.beginnings.bare };
        let (template, messages) = (&self.spans.template, &self.chat.messages[..n]);
        let render = || {
            let marked = self.marks.depth.and_then(|depth| marks::marked(template, messages, &self.base, prompt, depth));
            if let Some((text, marks)) = marked.filter(|(_, marks)| !marks.incomplete) {
                let speaker = marks.speaker();
                let at = speaker.map_or(0, |(_, _, at)| at);
                return Some(Tail { text: text[at..].to_string(), behind: speaker.map(|(i, things, _)| (i, things)) });
            }
            let values = messages.iter().map(ChatMessage::value).collect();
            let text = template.render_chat(values, &self.base, prompt, false).ok()?;
            Some(Tail { text, behind: None })
        };
        cells[n].get_or_init(render).as_ref()
    }

    /// Where in the text the thing was said that a tail comes behind.
    fn place_of(&self, tail: &Tail) -> Option<usize> {
        tail.behind.map_or(Some(0), |(i, things)| self.marks.last(i, Some(things)))
    }

    /// What `{% generation %}` encloses of turn `i`, and the end of the turn where it encloses that, too. White space
    /// behind such an end is the template's: a model stops before it.
    fn enclosed(&self, i: usize) -> (Vec<Range<usize>>, Option<Range<usize>>) {
        let mut blocks = self.blocks(i);
        let Some(block) = blocks.last_mut() else { return (blocks, None) };
        let said = self.marks.last(i, None).into_iter().chain(self.marks.contents[i].last().map(|place| place.end));
        let from = said.filter(|at| *at <= block.end).fold(block.start, usize::max);
        let written = &self.text[from..block.end];
        let end = trailing_special(written.trim_end()).map(|end| from + end.start..from + end.end);
        if let Some(end) = &end {
            block.end = end.start;
        }
        (blocks, end)
    }

    /// The generation blocks of turn `i`: those that hold something it says, or, where nothing tells, in their order.
    fn blocks(&self, i: usize) -> Vec<Range<usize>> {
        let blocks = &self.marks.generation;
        let said = || self.marks.contents[i].iter().chain(&self.marks.others[i]);
        let holds = |block: &&Range<usize>| said().any(|place| block.start <= place.start && place.end <= block.end);
        let held: Vec<_> = blocks.iter().filter(holds).cloned().collect();
        if !held.is_empty() {
            return held;
        }
        let assistants: Vec<_> = (0..self.chat.messages.len()).filter(|k| self.chat.messages[*k].role == "assistant").collect();
        match assistants.iter().position(|k| *k == i) {
            Some(number) if assistants.len() == blocks.len() => vec![blocks[number].clone()],
            // One message alone: all that is enclosed is its.
            Some(_) if assistants.len() == 1 => blocks.clone(),
            _ => Vec::new(),
        }
    }

    /// Answer `i` and the end of its turn.
    fn answer(&self, i: usize) -> Option<(Range<usize>, Option<Range<usize>>)> {
        let content = self.marks.contents[i].last().map(|place| place.end);
        let calls = self.chat.messages[i].calls_tools();
        let things = self.tail(i + 1, false).filter(|_| calls).and_then(|tail| tail.behind);
        let things = things.filter(|(of, _)| *of == i).map(|(_, things)| things);
        let (first, last) = (self.marks.first(i), self.marks.last(i, things).max(content));
        let start = self.start(i, first.or(last))?;
        if let Some(at) = last.filter(|_| !calls) {
            if let Some(end) = self.end_at(i, at) {
                return Some((start..at, Some(end)));
            }
            if self.expected(i).is_empty() {
                return Some((start..at, None));
            }
        }
        let (answer, end) = self.stop(i, start, last)?;
        // Something was to be written, and between here and where the renderings part nothing was.
        let said = |text: &String| !text.trim().is_empty();
        let missing = last.is_none() && answer.is_empty() && self.chat.messages[i].content.iter().any(said);
        (!missing).then_some((answer, end))
    }

    /// Where the model begins to write in turn `i`, the first thing of which stands at `first`: where the generation
    /// prompt ends.
    fn start(&self, i: usize, first: Option<usize>) -> Option<usize> {
        let opening = self.spans.habits().opening.as_str();
        let limit = first.unwrap_or(self.text.len());
        let mut earlier = 0;
        if let Some(prompted) = self.tail(i, true)
            && let Some(from) = self.place_of(prompted)
            && let Some(gap) = self.text.get(from..limit)
        {
            earlier = from;
            let at = common_start(gap, &prompted.text);
            let plain = self.tail(i, false).filter(|plain| plain.text != prompted.text && plain.behind == prompted.behind);
            let honoured =
                plain.is_some_and(|plain| common_start(gap, &plain.text) < at) || !self.spans.habits().unasked.is_empty();
            // The same opening, spaced differently.
            let rest = prompted.text[at..].trim_start();
            let again =
                Some(rest.trim_end()).filter(|rest| first.is_some() && !rest.is_empty()).and_then(|rest| gap[at..].rfind(rest));
            let blank = || first.is_some() && at == prompted.text.len() && gap[at..].trim().is_empty();
            if let Some(again) = again {
                return Some(from + at + again + common_start(&gap[at + again..], rest));
            }
            // No header stands before answers: what is behind the prompt is the answer.
            let headless = || at == prompted.text.len() && opening.trim().is_empty();
            if honoured || blank() || headless() {
                return Some(from + at);
            }
        }
        let found = match first {
            _ if opening.trim().is_empty() => None,
            Some(first) => self.text[earlier..first].rfind(opening),
            None => self.text[earlier..].find(opening),
        };
        found.map(|at| earlier + at + opening.len()).or(self.marks.first(i))
    }

    /// What is expected to end turn `i`.
    fn expected(&self, i: usize) -> &str {
        let habits = self.spans.habits();
        if self.is_last(i) { &habits.last_end } else { &habits.end }
    }

    fn is_last(&self, i: usize) -> bool {
        i + 1 == self.chat.messages.len() && !self.prompt
    }

    /// The end of turn that stands at `at`.
    fn end_at(&self, i: usize, at: usize) -> Option<Range<usize>> {
        end_at(self.text, at, self.expected(i))
    }

    /// Answer and end of turn of turn `i`, which has said everything at `last`, if that is known.
    fn stop(&self, i: usize, start: usize, last: Option<usize>) -> Option<(Range<usize>, Option<Range<usize>>)> {
        let from = last.unwrap_or(start).max(start);
        let next = self.marks.next(i, from).unwrap_or(self.text.len());
        let border = self.border(i, from, next);
        for end in ends_at_specials(self.expected(i)) {
            // Behind everything said there is nothing but the template's; in what is not known, the end may be spoken of.
            let found = match last {
                Some(_) => self.text[from..next].find(end),
                // Or only a turn that others follow is ended: then it stands where the renderings part.
                None => border.and_then(|border| {
                    let before = self.text[from..border].rfind(end);
                    before.or_else(|| self.text[border..next].starts_with(end).then_some(border - from))
                }),
            };
            if let Some(at) = found {
                return Some((start..from + at, Some(from + at..from + at + end.len())));
            }
        }
        let border = border.or(last)?;
        let written = from + self.text[from..border].trim_end().len();
        let end = trailing_special(&self.text[from..written]).map(|e| from + e.start..from + e.end);
        Some((start..end.as_ref().map_or(written, |end| end.start), end))
    }

    /// Up to where turn `i` reaches, between `from` and `next`: as far as the text agrees with the rendering of the
    /// conversation up to it.
    fn border(&self, i: usize, from: usize, next: usize) -> Option<usize> {
        if self.is_last(i) {
            let unasked = self.spans.habits().unasked.as_str();
            return Some(self.text.strip_suffix(unasked).map_or(self.text.len(), str::len).max(from));
        }
        let tail = self.tail(i + 1, false)?;
        let place = self.place_of(tail).filter(|place| *place <= next)?;
        Some(place + common_start(&self.text[place..next], &tail.text)).filter(|border| *border >= from)
    }
}

/// The text `expected` where it stands at `at`.
fn end_at(text: &str, at: usize, expected: &str) -> Option<Range<usize>> {
    (!expected.is_empty() && text[at..].starts_with(expected)).then(|| at..at + expected.len())
}
