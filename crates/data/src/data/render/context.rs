//! A context as JSON, as a template gets it, made text with its trained places: what `lorakit data render` shows.
//!
//! Refuses to know tokenizers: special tokens are known by their shape, and by the names in the context.

use std::ops::Range;

use crate::json::{Map, Value as Json};
use minijinja::Value;

use super::loss_mask::Choice;
use super::spans::Spans;
use super::template::{Chat, ChatMessage, Jinja, from_json};
use crate::data::read::loss;
use crate::data::read::row::Message;
use crate::error::{Error, Result};
use crate::recipe::Template;

/// A context as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    pub text: String,
    /// What carries loss: ranges of bytes of the text, ascending, ends of turns included.
    pub spans: Vec<Range<usize>>,
    /// Messages (from 1) of assistants whose place in the text cannot be told.
    pub not_found: Vec<usize>,
    /// Messages (from 1) of assistants whose calls of tools the template does not write.
    pub unwritten: Vec<usize>,
}

/// Renders a context: `messages`, `tools`, `add_generation_prompt`, `bos_token` and whatever else the template reads.
/// What carries loss follows `rules` and the messages' own `train`, `weight` and `train_detail`.
///
/// # Errors
/// [`Error::Template`]: the template refuses the context. [`Error::Usage`]: a message's own keys for the loss are wrong.
pub fn render_context(template: &Jinja, context: &Map, rules: &Template) -> Result<Rendered> {
    let text = template.render_json(context)?;
    let Some((chat, losses)) = conversation(context)? else { return Ok(Rendered { text, ..Rendered::default() }) };
    let others = context.iter().filter(|(key, _)| !matches!(key.as_str(), "messages" | "tools" | "add_generation_prompt"));
    let others = Value::from_pairs(others.map(|(key, value)| (key.as_str(), from_json(value))));
    let prompt = context.get("add_generation_prompt").is_some_and(|v| from_json(v).is_true());
    let spans = Spans::new(template.clone(), minijinja::context! { ..others, ..template.tokens() });
    let (mut rendering, lost) = spans.find(&chat, prompt)?;
    let mut not_found: Vec<usize> = lost.into_iter().map(|i| i + 1).collect();
    if rendering.text != text {
        // The template tells a generation prompt that is not asked for from one that is not spoken of.
        not_found = (1..=chat.messages.len()).filter(|n| chat.messages[n - 1].role == "assistant").collect();
        return Ok(Rendered { text, not_found, ..Rendered::default() });
    }
    Choice::of(rules).apply(&mut rendering, &losses)?;
    let eos = context.get("eos_token").and_then(Json::as_str).filter(|eos| !eos.is_empty());
    let mut trained: Vec<Range<usize>> = Vec::new();
    for turn in &mut rendering.turns {
        if let (true, Some(last), Some(eos)) = (turn.seeks_end, turn.trained.last_mut(), eos)
            && text[last.end..].starts_with(eos)
        {
            last.end += eos.len();
        }
        trained.append(&mut turn.trained);
    }
    trained.sort_by_key(|range| range.start);
    let unwritten = rendering.unwritten.iter().map(|i| i + 1).collect();
    Ok(Rendered { text, spans: trained, not_found, unwritten })
}

/// The messages of a context and what they say of the loss; `None` when `messages` is no list of objects.
fn conversation(context: &Map) -> Result<Option<(Chat, Vec<Message>)>> {
    let Some(Json::Array(list)) = context.get("messages") else { return Ok(None) };
    let Some(messages) = list.iter().map(ChatMessage::from_json).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let mut losses = Vec::with_capacity(list.len());
    for (i, (value, message)) in list.iter().zip(&messages).enumerate() {
        let fields = value.as_object().cloned().unwrap_or_default();
        let loss = loss::read(&fields).map_err(|(why, help)| Error::usage(format!("message {}", i + 1), why, help))?;
        losses.push(Message { loss, ..Message::new(message.role.as_str(), message.content.concat()) });
    }
    Ok(Some((Chat { messages, tools: context.get("tools").map(from_json) }, losses)))
}
