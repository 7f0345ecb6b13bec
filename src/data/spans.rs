//! Where each message lies in the text that a chat template made of a conversation.
//!
//! Found from the rendering itself, never from markers such as `<|assistant|>`: the conversation is rendered once
//! plainly and once with every content between a pair of private-use characters. When removing these gives the plain
//! text byte for byte, their places are the places of the contents. A template that inspects or rewrites its contents
//! fails that test; then the answers are the differences of renderings of the conversation's beginnings; and when
//! these do not fit either, it is an error. Refuses to know tokens.

use std::ops::Range;

use super::Message;
use super::template::{Answer, Jinja, Rendering, Turn};
use crate::error::{Error, Result};

/// First of the private-use characters (plane 15) that mark contents: two a message.
const MARKS: u32 = 0xF_0000;
/// Messages that plane 15 has marks for.
const MAX_MESSAGES: usize = 0x7FFE;

/// Renders `messages` and finds every content and every answer.
///
/// # Errors
/// [`Error::Template`]: the template refuses the conversation, or its answers cannot be found.
pub(super) fn render(template: &Jinja, messages: &[Message], prompt: bool) -> Result<Rendering> {
    let text = template.render(messages, prompt)?;
    let marks = marked(template, messages, prompt, &text);
    let guessed = marks.as_ref().is_none_or(|m| m.incomplete);
    let marks = marks.unwrap_or_else(|| Marks::none(messages.len()));
    let mut turns = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let known = !guessed || !marks.contents[i].is_empty();
        let content = if known { marks.contents[i].clone() } else { verbatim(&text, &message.content) };
        let answer = match message.role == "assistant" && !prompt {
            true => Some(answer(template, messages, i, &text, &marks).ok_or_else(|| not_found(template, i))?),
            false => None,
        };
        turns.push(Turn { role: message.role.clone(), content, answer });
    }
    Ok(Rendering { text, turns, guessed })
}

/// Answer `i`: around its content, up to its known end, or as a difference; the first that can be found.
fn answer(template: &Jinja, messages: &[Message], i: usize, text: &str, marks: &Marks) -> Option<Answer> {
    match (marks.contents[i].as_slice(), marks.ends[i]) {
        ([content], None) => {
            let start = prompt_end(template, messages, i, text, content.start).unwrap_or(content.start);
            Some(Answer { span: start..content.end, until: turn_end(template, messages, i, text, content.end, marks) })
        }
        ([], Some(end)) => {
            let start = prompt_end(template, messages, i, text, end)?;
            Some(Answer { span: start..end, until: turn_end(template, messages, i, text, end, marks) })
        }
        _ => by_difference(template, messages, i, text),
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

/// Where the marks of each message came out.
struct Marks {
    /// Places between a pair of marks.
    contents: Vec<Vec<Range<usize>>>,
    /// The second mark alone: the template cut off the content's beginning (a reasoning block, usually).
    ends: Vec<Option<usize>>,
    /// Some mark came out without its partner.
    incomplete: bool,
}

impl Marks {
    fn none(n: usize) -> Marks {
        Marks { contents: vec![Vec::new(); n], ends: vec![None; n], incomplete: true }
    }
}

/// The places of every content, by marks; `None` when the template does not carry them through unchanged.
fn marked(template: &Jinja, messages: &[Message], prompt: bool, plain: &str) -> Option<Marks> {
    let is_mark = |c: char| u32::from(c) >= MARKS && u32::from(c) < 0x10_0000;
    if messages.len() > MAX_MESSAGES || plain.chars().any(is_mark) {
        return None;
    }
    let wrapped: Vec<Message> = messages.iter().enumerate().map(|(i, m)| m.with_content(wrap(&m.content, i))).collect();
    let rendered = template.render(&wrapped, prompt).ok()?;
    let mut marks = Marks::none(messages.len());
    let mut open: Vec<Option<usize>> = vec![None; messages.len()];
    let mut text = String::with_capacity(plain.len());
    for c in rendered.chars() {
        if !is_mark(c) {
            text.push(c);
            continue;
        }
        let mark = (u32::from(c) - MARKS) as usize;
        let message = mark / 2;
        match (mark % 2, open.get_mut(message)?.take()) {
            (0, None) => open[message] = Some(text.len()),
            (1, Some(start)) => marks.contents[message].push(start..text.len()),
            (1, None) if marks.ends[message].is_none() => marks.ends[message] = Some(text.len()),
            _ => return None,
        }
    }
    if text != plain {
        return None;
    }
    marks.incomplete = open.iter().any(Option::is_some) || marks.ends.iter().any(Option::is_some);
    marks.contents = with_spaces(plain, messages, marks.contents);
    Some(marks)
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
fn with_spaces(text: &str, messages: &[Message], contents: Vec<Vec<Range<usize>>>) -> Vec<Vec<Range<usize>>> {
    let widen = |range: Range<usize>, content: &str| {
        let before = &content[..content.len() - content.trim_start().len()];
        let after = &content[content.trim_end().len()..];
        let start = if text[..range.start].ends_with(before) { range.start - before.len() } else { range.start };
        let end = if text[range.end..].starts_with(after) { range.end + after.len() } else { range.end };
        start..end
    };
    contents.into_iter().zip(messages).map(|(places, m)| places.into_iter().map(|r| widen(r, &m.content)).collect()).collect()
}

/// Every place where the content stands word for word.
fn verbatim(text: &str, content: &str) -> Vec<Range<usize>> {
    let core = content.trim();
    if core.is_empty() {
        return Vec::new();
    }
    text.match_indices(core).map(|(at, found)| at..at + found.len()).collect()
}

/// Up to where the end of turn `i` is looked for: the end of the conversation rendered so far, or the next content.
fn turn_end(template: &Jinja, messages: &[Message], i: usize, text: &str, from: usize, marks: &Marks) -> usize {
    let upto = template.render(&messages[..=i], false).ok().filter(|t| text.starts_with(t.as_str()) && t.len() >= from);
    let next = || marks.contents[i + 1..].iter().flatten().map(|r| r.start).filter(|s| *s >= from).min();
    upto.map(|t| t.len()).or_else(next).unwrap_or(text.len())
}

/// Where the model begins to write: the end of the generation prompt, when that is the beginning of this rendering
/// and the template's own (or only white space lies between it and the content).
fn prompt_end(template: &Jinja, messages: &[Message], i: usize, text: &str, content: usize) -> Option<usize> {
    let prompt = template.render(&messages[..i], true).ok()?;
    if prompt.len() > content || !text.starts_with(&prompt) {
        return None;
    }
    let blank = text[prompt.len()..content].trim().is_empty();
    let honoured = blank || template.render(&messages[..i], false).is_ok_and(|without| without != prompt);
    honoured.then_some(prompt.len())
}

/// The answer as the difference of two beginnings of the conversation.
fn by_difference(template: &Jinja, messages: &[Message], i: usize, text: &str) -> Option<Answer> {
    let before = template.render(&messages[..i], true).ok()?;
    let upto = template.render(&messages[..=i], false).ok()?;
    if !text.starts_with(&upto) || !upto.starts_with(&before) {
        return None;
    }
    let written = &upto[before.len()..];
    let core = messages[i].content.trim();
    let end = match written.rfind(core) {
        Some(at) => before.len() + at + core.len(),
        // The content was rewritten: all of it but the template's white space at the end.
        None => before.len() + written.trim_end().len(),
    };
    (end > before.len()).then_some(Answer { span: before.len()..end, until: upto.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::template::Clock;
    use crate::data::tokenizer::Special;

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(r, c)| Message::new(*r, *c)).collect()
    }

    fn template(source: &str) -> Jinja {
        Jinja::new("test", source, &Special::default(), Clock::default()).unwrap()
    }

    /// Each answer as the text it covers, `|` before what may still belong to the end of the turn.
    fn answers(source: &str, turns: &[(&str, &str)]) -> Vec<String> {
        let r = render(&template(source), &chat(turns), false).unwrap();
        let show = |a: &Answer| format!("{}|{}", &r.text[a.span.clone()], &r.text[a.span.end..a.until]);
        r.turns.iter().filter_map(|t| t.answer.as_ref()).map(show).collect()
    }

    const CHATML: &str = "{% for m in messages %}{{ '<' + m.role + '>\n' + m.content + '</>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}";

    #[test]
    fn every_answer_is_found_with_its_end() {
        let turns = [("user", "a"), ("assistant", " yes\n"), ("user", "yes"), ("assistant", "no")];
        assert_eq!(answers(CHATML, &turns), [" yes\n|</>\n", "no|</>\n"]);
    }

    #[test]
    fn a_template_that_trims_is_followed() {
        let source = CHATML.replace("m.content", "m.content|trim");
        assert_eq!(answers(&source, &[("user", "a"), ("assistant", " yes\n")]), ["yes|</>\n"]);
    }

    #[test]
    fn what_the_template_adds_after_the_prompt_belongs_to_the_answer() {
        // As Qwen3 does: an empty reasoning block before the answer, not part of the generation prompt.
        let source = CHATML.replace("m.content", "('<think></think>' if m.role == 'assistant' else '') + m.content");
        assert_eq!(answers(&source, &[("user", "a"), ("assistant", "b")]), ["<think></think>b|</>\n"]);
    }

    #[test]
    fn a_template_without_a_generation_prompt_keeps_its_header_out_of_the_answer() {
        let source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}";
        assert_eq!(answers(source, &[("user", "a"), ("assistant", "b")]), ["b|\n"]);
        let source = "{% for m in messages %}{{ '[' + m.content + '] ' }}{% endfor %}";
        assert_eq!(
            answers(source, &[("user", "a"), ("assistant", "b")]),
            ["[b|] "].map(|s| s.trim_start_matches('[').to_string())
        );
    }

    #[test]
    fn a_template_that_inspects_contents_falls_back_to_differences() {
        // The first character is read, so a mark in front of it changes the text.
        let source = CHATML.replace("m.content", "(m.content[0]|upper) + m.content[1:]");
        assert_eq!(answers(&source, &[("user", "a"), ("assistant", "hello")]), ["Hello</>|\n"]);
    }

    #[test]
    fn a_turn_that_depends_on_what_follows_is_refused() {
        let source = "{% for m in messages %}{{ m.role }}:{% if loop.last or m.role == 'user' %}{{ m.content[0] + m.content[1:] }}{% else %}-{% endif %};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
        let turns = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
        let error = render(&template(source), &turns, false).unwrap_err().to_string();
        assert!(error.contains("message 2 (assistant) cannot be found"), "{error}");
    }

    #[test]
    fn a_reasoning_block_that_the_template_cuts_from_earlier_turns() {
        let source = CHATML.replace("m.content", "(m.content if loop.last else m.content.split('</think>')[-1])");
        let turns = [("user", "a"), ("assistant", "<think>x</think>b"), ("user", "c"), ("assistant", "<think>y</think>d")];
        assert_eq!(answers(&source, &turns), ["b|</>\n<user>\n", "<think>y</think>d|</>\n"]);
    }

    #[test]
    fn a_content_of_private_characters_is_still_found() {
        assert_eq!(answers(CHATML, &[("user", "a"), ("assistant", "\u{F0001}b")]), ["\u{F0001}b|</>\n"]);
    }
}
