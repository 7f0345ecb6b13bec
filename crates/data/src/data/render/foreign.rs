//! Special tokens that someone wrote where a template shows more than contents: arguments of tool calls, reasoning,
//! descriptions of tools.
//!
//! Only rows that hold such a text are looked at: they are rendered once more with private-use characters around each
//! special token (as transformers' `mark_control_tokens`), and where these come out is where it stands. Refuses to know
//! what becomes of these places.

use std::ops::Range;

use minijinja::Value;

use super::spans::Spans;
use super::template::{Chat, Rendering, texts, with_texts};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Private-use characters before and after a special token.
const MARKS: [char; 2] = ['\u{FFFF0}', '\u{FFFF1}'];

/// Adds the places of special tokens that contents do not cover to `rendering.foreign`.
///
/// # Errors
/// [`Error::Template`] when such a token cannot be told from the template's own.
pub(crate) fn find(spans: &Spans, chat: &Chat, prompt: bool, tokenizer: &Tokenizer, rendering: &mut Rendering) -> Result<()> {
    let (mut in_texts, mut in_keys) = (false, false);
    let mut look = |text: &str, key: bool| {
        let holds = tokenizer.holds_control(text);
        in_texts |= holds && !key;
        in_keys |= holds && key;
    };
    if rendering.guessed {
        chat.messages.iter().flat_map(|m| &m.content).for_each(|text| look(text, false));
    }
    if !chat.messages.iter().all(|m| m.is_plain()) || chat.tools.is_some() {
        chat.messages.iter().for_each(|m| m.other_texts(&mut look));
        chat.tools.iter().for_each(|tools| texts(tools, &mut look));
    }
    if in_keys {
        return Err(refuse(spans, "a name in a tool call or a tool's description holds a special token's text"));
    }
    if in_texts {
        let places = marked(spans, chat, prompt, tokenizer, &rendering.text);
        let why = "a message holds a special token's text, and the template rewrites messages, so the two cannot be told apart";
        rendering.foreign.extend(places.ok_or_else(|| refuse(spans, why))?);
    }
    Ok(())
}

fn refuse(spans: &Spans, why: &str) -> Error {
    Error::Template {
        name: spans.template().name().into(),
        line: None,
        why: why.into(),
        help: "remove the special token from the row, or choose another template".into(),
    }
}

/// The places between marks; `None` when the template does not carry them through to the text `plain`.
fn marked(spans: &Spans, chat: &Chat, prompt: bool, tokenizer: &Tokenizer, plain: &str) -> Option<Vec<Range<usize>>> {
    let mark = |text: &str| tokenizer.around_controls(text, MARKS);
    let values: Vec<Value> = chat.messages.iter().map(|m| m.value_with_texts(&mark)).collect();
    let tools = chat.tools.as_ref().map(|tools| with_texts(tools, &mark));
    let rendered = spans.values(values, tools, prompt)?;
    let (mut text, mut places, mut open) = (String::with_capacity(plain.len()), Vec::new(), None);
    for c in rendered.chars() {
        match c {
            c if c == MARKS[0] => open = Some(text.len()),
            c if c == MARKS[1] => places.push(open.take()?..text.len()),
            c => text.push(c),
        }
    }
    (text == plain).then_some(places)
}
