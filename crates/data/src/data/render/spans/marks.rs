//! Private-use characters around what messages say: where these come out of a template is where it lies.
//!
//! Contents are marked, and of assistants their reasoning and the names and arguments of their calls, too. A template
//! that looks into what it writes (compares a name, counts characters) writes something else for marked texts; then
//! less is marked. Refuses to know turns.

use std::ops::Range;

use crate::data::render::template::{Chat, ChatMessage, GENERATION, Jinja, Said};
use minijinja::Value;

/// First of the private-use characters (plane 15) that are marks: two pairs a message.
const MARKS: u32 = 0xF_0000;
/// Messages that plane 15 has marks for, below those of others.
const MAX_MESSAGES: usize = 0x3FFC;

/// How much is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    All,
    /// Names of functions are not.
    NoNames,
    Contents,
}

/// Where the marks of each message came out.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    /// Places of the content, with the white space around it that the template kept.
    pub(super) contents: Vec<Vec<Range<usize>>>,
    /// Places of the rest of what an assistant says.
    pub(super) others: Vec<Vec<Range<usize>>>,
    /// Everything between a pair of marks, in the order of the text, and whose it is.
    said: Vec<(usize, Range<usize>)>,
    /// The second mark of a content alone: the template cut off its beginning (a reasoning block, usually).
    pub(super) ends: Vec<Option<usize>>,
    /// What `{% generation %}` encloses, in order.
    pub(super) generation: Vec<Range<usize>>,
    /// Some mark came out without its partner.
    pub(super) incomplete: bool,
    /// How much is marked; `None`: nothing.
    pub(super) depth: Option<Depth>,
}

impl Marks {
    pub(super) fn none(n: usize) -> Marks {
        let (contents, others) = (vec![Vec::new(); n], vec![Vec::new(); n]);
        Marks { contents, others, said: vec![], ends: vec![None; n], generation: vec![], incomplete: true, depth: None }
    }

    /// Where message `i` begins to say something.
    pub(super) fn first(&self, i: usize) -> Option<usize> {
        self.said.iter().find(|(of, _)| *of == i).map(|(_, place)| place.start)
    }

    /// Where message `i` has said everything, in `things` places (all, when `None`), without white space behind it.
    pub(super) fn last(&self, i: usize, things: Option<usize>) -> Option<usize> {
        let places = self.said.iter().filter(|(of, _)| *of == i).map(|(_, place)| place.end);
        places.take(things.unwrap_or(usize::MAX)).last().max(self.ends[i])
    }

    /// Where the first message after `i` begins to say something, at `from` or behind it.
    pub(super) fn next(&self, i: usize, from: usize) -> Option<usize> {
        self.said.iter().find(|(of, place)| *of > i && place.start >= from).map(|(_, place)| place.start)
    }

    /// The last message that says something, in how many places it does, and where it has said it.
    pub(super) fn speaker(&self) -> Option<(usize, usize, usize)> {
        let (speaker, place) = self.said.last()?;
        Some((*speaker, self.said.iter().filter(|(of, _)| of == speaker).count(), place.end))
    }
}

pub(super) fn is_mark(c: char) -> bool {
    (MARKS..0x10_0000).contains(&u32::from(c))
}

/// The places of what every message says; `None` when the template carries no marks through to the text `plain`.
pub(super) fn find(template: &Jinja, chat: &Chat, base: &Value, prompt: bool, plain: &str) -> Option<Marks> {
    if plain.chars().any(is_mark) {
        return None;
    }
    let simple = chat.messages.iter().all(ChatMessage::is_plain);
    let depths = [Depth::All, Depth::NoNames, Depth::Contents];
    let depths = if simple { &depths[2..] } else { &depths[..] };
    depths.iter().find_map(|depth| {
        let (text, mut marks) = marked(template, &chat.messages, base, prompt, *depth)?;
        if text != plain {
            return None;
        }
        for (places, message) in marks.contents.iter_mut().zip(&chat.messages) {
            widen(plain, message, places);
        }
        Some(marks)
    })
}

/// The text of messages, rendered with marks, and where these came out; contents are without white space around them.
pub(super) fn marked(
    template: &Jinja,
    messages: &[ChatMessage],
    base: &Value,
    prompt: bool,
    depth: Depth,
) -> Option<(String, Marks)> {
    if messages.len() > MAX_MESSAGES {
        return None;
    }
    let said = |i: usize, text: &str, said: Said| match said {
        Said::Content => wrap(text, 4 * i),
        Said::Name if depth != Depth::All => text.to_string(),
        _ if depth == Depth::Contents => text.to_string(),
        _ => wrap(text, 4 * i + 2),
    };
    let values = messages.iter().enumerate().map(|(i, m)| m.value_with_said(&|text, kind| said(i, text, kind))).collect();
    let rendered = template.render_chat(values, base, prompt, template.has_generation_tags()).ok()?;
    let (text, marks) = read(&rendered, messages.len())?;
    Some((text, Marks { depth: Some(depth), ..marks }))
}

/// What `{% generation %}` encloses, without other marks.
pub(super) fn generation(template: &Jinja, chat: &Chat, base: &Value, prompt: bool, plain: &str) -> Option<Vec<Range<usize>>> {
    let values = chat.messages.iter().map(ChatMessage::value).collect();
    let rendered = template.render_chat(values, base, prompt, true).ok()?;
    let (text, marks) = read(&rendered, 0)?;
    (text == plain).then_some(marks.generation)
}

/// Takes the marks out of a text; `None` when they are not in pairs.
fn read(rendered: &str, messages: usize) -> Option<(String, Marks)> {
    let mut marks = Marks::none(messages);
    // Of each message: where its content and where another of its texts began.
    let mut open: Vec<[Option<usize>; 2]> = vec![[None; 2]; messages];
    let mut generation = Vec::new();
    let mut text = String::with_capacity(rendered.len());
    for c in rendered.chars() {
        if !is_mark(c) {
            text.push(c);
        } else if c == GENERATION[0] {
            generation.push(text.len());
        } else if c == GENERATION[1] {
            marks.generation.push(generation.pop()?..text.len());
        } else {
            let mark = (u32::from(c) - MARKS) as usize;
            let (message, kind) = (mark / 4, mark / 2 % 2);
            match (mark % 2, open.get_mut(message)?[kind].take()) {
                (0, None) => open[message][kind] = Some(text.len()),
                (1, Some(start)) => {
                    let places = if kind == 0 { &mut marks.contents } else { &mut marks.others };
                    places[message].push(start..text.len());
                    marks.said.push((message, start..text.len()));
                }
                (1, None) if kind == 0 && marks.ends[message].is_none() => marks.ends[message] = Some(text.len()),
                _ => return None,
            }
        }
    }
    marks.incomplete = open.iter().flatten().any(Option::is_some) || marks.ends.iter().any(Option::is_some);
    Some((text, marks))
}

/// The text with marks inside the white space around it, so that a template that trims still trims.
fn wrap(text: &str, first: usize) -> String {
    let core = text.trim();
    if core.is_empty() {
        return text.to_string();
    }
    let before = text.len() - text.trim_start().len();
    let mark = |n: usize| char::from_u32(MARKS + n as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    format!("{}{}{core}{}{}", &text[..before], mark(first), mark(first + 1), &text[before + core.len()..])
}

/// Widens each place by the white space around the content, where the template kept it.
fn widen(text: &str, message: &ChatMessage, places: &mut [Range<usize>]) {
    let parts = message.content.iter().filter(|part| !part.trim().is_empty()).collect::<Vec<_>>();
    for (i, place) in places.iter_mut().enumerate() {
        let Some(content) = parts.get(if parts.len() == 1 { 0 } else { i }) else { return };
        let before = &content[..content.len() - content.trim_start().len()];
        let after = &content[content.trim_end().len()..];
        if text[..place.start].ends_with(before) {
            place.start -= before.len();
        }
        if text[place.end..].starts_with(after) {
            place.end += after.len();
        }
    }
}
