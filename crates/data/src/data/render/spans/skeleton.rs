//! Conversations of the same roles are mostly the same text with other contents in it.
//!
//! What a template writes around contents is learnt once for each sequence of roles. A text is then explained by it
//! when it is those pieces and the contents, byte for byte; the places follow, and nothing else need be rendered.
//! Refuses to know how the places were found the first time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use crate::data::read::row::Message;
use crate::data::render::template::{Chat, ChatMessage, RenderedTurn, Rendering};

/// Sequences of roles that are remembered.
const MOST: usize = 4096;
/// Messages of a conversation that is worth remembering.
const LONGEST: usize = 256;

/// What is known, by roles; `None` where it is known that nothing can be learnt.
#[derive(Default)]
pub(super) struct Skeletons {
    known: RwLock<HashMap<String, Option<Arc<Skeleton>>>>,
}

impl Skeletons {
    pub(super) fn get_or_learn(&self, key: String, learn: impl FnOnce() -> Option<(Chat, Rendering)>) -> Option<Arc<Skeleton>> {
        // A writer that panicked left the map whole: it only ever inserts.
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let learnt = learn().and_then(|(chat, rendering)| Skeleton::of(&chat, &rendering)).map(Arc::new);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST {
            known.insert(key, learnt.clone());
        }
        learnt
    }
}

/// Whether a conversation may be nothing but roles and texts: a skeleton that explains every byte says that no other field of a
/// message was written, which is not enough where the template itself says (`enclosed`) what an answer is.
pub(super) fn covers(chat: &Chat, enclosed: bool) -> bool {
    let simple = if enclosed { ChatMessage::is_plain } else { ChatMessage::is_text };
    chat.tools.is_none() && chat.messages.len() <= LONGEST && chat.messages.iter().all(simple)
}

/// What conversations have in common that share a skeleton.
pub(super) fn key(chat: &Chat, prompt: bool) -> String {
    let mut key = String::from(if prompt { "prompt" } else { "" });
    for message in &chat.messages {
        key.push('\n');
        key.push_str(&message.role);
        if message.content.iter().all(|text| text.trim().is_empty()) {
            key.push_str(" blank");
        }
    }
    key
}

/// A conversation of the same roles whose contents are white space around words that no template holds.
pub(super) fn sentinels(chat: &Chat) -> Chat {
    let sentinel = |(i, m): (usize, &ChatMessage)| {
        let blank = m.content.iter().all(|text| text.trim().is_empty());
        let text = if blank { String::new() } else { format!(" \n word {i}q \n ") };
        ChatMessage::of(&Message::new(m.role.as_str(), text))
    };
    Chat { messages: chat.messages.iter().enumerate().map(sentinel).collect(), tools: None }
}

/// What a template writes around the contents of a sequence of roles.
#[derive(Debug)]
pub(super) struct Skeleton {
    /// Fixed text before each slot, and after the last.
    fixed: Vec<String>,
    slots: Vec<Slot>,
    turns: Vec<Shape>,
}

/// A place of a content.
#[derive(Debug, Clone, Copy)]
struct Slot {
    message: usize,
    trim: Trim,
}

#[derive(Debug, Clone, Copy)]
enum Trim {
    None,
    Start,
    End,
    Both,
}

impl Trim {
    fn of(self, text: &str) -> &str {
        match self {
            Trim::None => text,
            Trim::Start => text.trim_start(),
            Trim::End => text.trim_end(),
            Trim::Both => text.trim(),
        }
    }
}

/// Where the parts of a turn lie.
#[derive(Debug)]
struct Shape {
    answer: Vec<[Anchor; 2]>,
    end: Option<[Anchor; 2]>,
}

/// A position: so many bytes after the first `slots` slots.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    slots: usize,
    bytes: usize,
}

impl Skeleton {
    /// From a rendering whose places are known; `None` when a place cuts a content.
    fn of(chat: &Chat, rendering: &Rendering) -> Option<Skeleton> {
        let mut places: Vec<(Range<usize>, usize)> = Vec::new();
        for (message, turn) in rendering.turns.iter().enumerate() {
            places.extend(turn.content.iter().map(|place| (place.clone(), message)));
        }
        places.sort_by_key(|(place, _)| place.start);
        let (mut fixed, mut slots, mut at) = (Vec::new(), Vec::new(), 0);
        for (place, message) in &places {
            let content = chat.messages[*message].content.first()?;
            let trim = [Trim::None, Trim::Start, Trim::End, Trim::Both];
            let trim = trim.into_iter().find(|t| t.of(content) == &rendering.text[place.clone()])?;
            fixed.push(rendering.text.get(at..place.start)?.to_string());
            slots.push(Slot { message: *message, trim });
            at = place.end;
        }
        fixed.push(rendering.text[at..].to_string());
        let anchor = |at: usize| {
            let slots = places.partition_point(|(place, _)| place.end <= at);
            let inside = places.get(slots).is_some_and(|(place, _)| place.start < at);
            let from = slots.checked_sub(1).map_or(0, |last| places[last].0.end);
            (!inside).then_some(Anchor { slots, bytes: at - from })
        };
        let both = |range: &Range<usize>| Some([anchor(range.start)?, anchor(range.end)?]);
        let shape = |turn: &RenderedTurn| {
            let end = match &turn.end {
                Some(end) => Some(both(end)?),
                None => None,
            };
            Some(Shape { answer: turn.answer.iter().map(both).collect::<Option<_>>()?, end })
        };
        Some(Skeleton { fixed, slots, turns: rendering.turns.iter().map(shape).collect::<Option<_>>()? })
    }

    /// The turns of `text`, when it is this skeleton filled with the contents of `chat`.
    pub(super) fn fit(&self, chat: &Chat, text: &str) -> Option<Vec<RenderedTurn>> {
        let mut turns: Vec<RenderedTurn> =
            chat.messages.iter().map(|m| RenderedTurn { role: m.role.clone(), ..RenderedTurn::default() }).collect();
        let mut ends = Vec::with_capacity(self.slots.len() + 1);
        ends.push(0);
        let mut at = 0;
        for (fixed, slot) in self.fixed.iter().zip(&self.slots) {
            let content = slot.trim.of(chat.messages[slot.message].content.first()?);
            let start = at + fixed.len();
            at = start + content.len();
            let here = text.as_bytes().get(start - fixed.len()..at)?;
            if here[..fixed.len()] != *fixed.as_bytes() || here[fixed.len()..] != *content.as_bytes() {
                return None;
            }
            turns[slot.message].content.push(start..at);
            ends.push(at);
        }
        if text.as_bytes()[at..] != *self.fixed.last()?.as_bytes() {
            return None;
        }
        let place = |[from, to]: &[Anchor; 2]| ends[from.slots] + from.bytes..ends[to.slots] + to.bytes;
        for (turn, shape) in turns.iter_mut().zip(&self.turns) {
            turn.answer = shape.answer.iter().map(place).collect();
            turn.end = shape.end.as_ref().map(place);
        }
        Some(turns)
    }
}
