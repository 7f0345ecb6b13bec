//! Private-use characters around contents: where these come out of a template is where the contents lie.
//!
//! Refuses to know turns.

use std::ops::Range;

use crate::data::template::{Chat, ChatMessage, GENERATION, Jinja};
use minijinja::Value;

/// First of the private-use characters (plane 15) that mark contents: two a message.
const MARKS: u32 = 0xF_0000;
/// Messages that plane 15 has marks for.
const MAX_MESSAGES: usize = 0x7FFD;

/// Where the marks of each message came out.
#[derive(Debug)]
pub(super) struct Marks {
    /// Places between a pair of marks.
    pub(super) contents: Vec<Vec<Range<usize>>>,
    /// The second mark alone: the template cut off the content's beginning (a reasoning block, usually).
    pub(super) ends: Vec<Option<usize>>,
    /// What `{% generation %}` encloses, in order.
    pub(super) generation: Vec<Range<usize>>,
    /// Some mark came out without its partner.
    pub(super) incomplete: bool,
}

impl Marks {
    pub(super) fn none(n: usize) -> Marks {
        Marks { contents: vec![Vec::new(); n], ends: vec![None; n], generation: Vec::new(), incomplete: true }
    }
}

pub(super) fn is_mark(c: char) -> bool {
    (MARKS..0x10_0000).contains(&u32::from(c))
}

/// The places of every content; `None` when the template does not carry the marks through to the text `plain`.
pub(super) fn contents(template: &Jinja, chat: &Chat, base: &Value, prompt: bool, plain: &str) -> Option<Marks> {
    if chat.messages.len() > MAX_MESSAGES || plain.chars().any(is_mark) {
        return None;
    }
    let wrapped = chat.messages.iter().enumerate().map(|(i, m)| m.value_with_content(&|text| wrap(text, i))).collect();
    let rendered = template.render_chat(wrapped, base, prompt, template.has_generation_tags()).ok()?;
    let (text, mut marks) = read(&rendered, chat.messages.len())?;
    if text != plain {
        return None;
    }
    for (places, message) in marks.contents.iter_mut().zip(&chat.messages) {
        widen(plain, message, places);
    }
    Some(marks)
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
    let mut open: Vec<Option<usize>> = vec![None; messages];
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
            let message = mark / 2;
            match (mark % 2, open.get_mut(message)?.take()) {
                (0, None) => open[message] = Some(text.len()),
                (1, Some(start)) => marks.contents[message].push(start..text.len()),
                (1, None) if marks.ends[message].is_none() => marks.ends[message] = Some(text.len()),
                _ => return None,
            }
        }
    }
    marks.incomplete = open.iter().any(Option::is_some) || marks.ends.iter().any(Option::is_some);
    Some((text, marks))
}

/// The content with its marks inside the white space around it, so that a template that trims still trims.
fn wrap(content: &str, i: usize) -> String {
    let core = content.trim();
    if core.is_empty() {
        return content.to_string();
    }
    let before = content.len() - content.trim_start().len();
    let mark = |n: usize| char::from_u32(MARKS + n as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    format!("{}{}{core}{}{}", &content[..before], mark(2 * i), mark(2 * i + 1), &content[before + core.len()..])
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
