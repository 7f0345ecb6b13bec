//! How a template opens and ends an assistant's turn, learnt by rendering conversations made up for it.
//!
//! Refuses to know rows.

use super::marks;
use super::pieces::{common_start, leading_specials, trailing_special, without_common_end};
use crate::data::read::row::Message;
use crate::data::render::template::{Chat, ChatMessage, Jinja};
use minijinja::Value;

/// What a template writes around an assistant's turn. A text that it does not write is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Habits {
    /// Before an answer, up to the end of the generation prompt.
    pub(super) opening: String,
    /// After an answer that others follow.
    pub(super) end: String,
    /// After the last answer.
    pub(super) last_end: String,
    /// The generation prompt, or its end, where the template writes one unasked, even behind an answer.
    pub(super) unasked: String,
}

impl Habits {
    /// Tries made-up conversations until one is rendered with its contents in it.
    pub(super) fn learn(template: &Jinja, base: &Value) -> Habits {
        let probes: [&[(&str, &str)]; 3] = [
            &[("user", "alpha"), ("assistant", "beta"), ("user", "gamma"), ("assistant", "delta")],
            &[("system", "omega"), ("user", "alpha"), ("assistant", "beta"), ("user", "gamma"), ("assistant", "delta")],
            &[("user", "alpha"), ("assistant", "beta")],
        ];
        probes.iter().find_map(|probe| Habits::of(template, base, probe)).unwrap_or_default()
    }

    fn of(template: &Jinja, base: &Value, probe: &[(&str, &str)]) -> Option<Habits> {
        let messages: Vec<_> = probe.iter().map(|(role, text)| ChatMessage::of(&Message::new(*role, *text))).collect();
        let chat = Chat { messages, tools: None };
        let render = |n: usize, prompt: bool| {
            template.render_chat(chat.messages[..n].iter().map(ChatMessage::value).collect(), base, prompt, false).ok()
        };
        let text = render(probe.len(), false)?;
        let marks = marks::find(template, &chat, base, false, &text)?;
        let place = |i: usize| match marks.contents[i].as_slice() {
            [place] => Some(place.clone()),
            _ => None,
        };
        let first = probe.iter().position(|(role, _)| *role == "assistant")?;
        let (user, answer, last) = (place(first - 1)?, place(first)?, place(probe.len() - 1)?);
        let tail = &text[last.end..];
        let bare = render(first, false);
        let (end, last_end, rest) = match probe.len() - 1 > first {
            true => {
                let gap = &text[answer.end..place(first + 1)?.start];
                let (end, last_end) = ends(tail, gap, &text[..user.start]);
                (end, last_end, &tail[common_start(tail, gap)..])
            }
            false => (leading_specials(tail, usize::MAX).to_string(), leading_specials(tail, usize::MAX).to_string(), ""),
        };
        let unasked = !rest.trim().is_empty() && bare.as_ref().is_some_and(|bare| bare.ends_with(rest));
        let known = bare.filter(|_| !unasked).map_or(user.end, |bare| common_start(&text, &bare));
        let from = known.max(user.end).min(answer.start);
        let until = render(first, true).map_or(answer.start, |prompt| common_start(&text, &prompt));
        let until = if until <= from { answer.start } else { until.min(answer.start) };
        let unasked = if unasked { rest } else { "" }.to_string();
        Some(Habits { opening: text[from..until].to_string(), end, last_end, unasked })
    }
}

/// The end of a turn, between turns and of the last one: what follows both (`tail`: the last answer; `gap`: one before
/// a user's turn), or else the special tokens there that are not the next turn's opening (`before`: what leads to the
/// first user's turn).
fn ends(tail: &str, gap: &str, before: &str) -> (String, String) {
    let both = without_openers(tail[..common_start(tail, gap)].trim_end(), leading_specials(before, usize::MAX)).trim_end();
    if !both.trim().is_empty() {
        return (both.to_string(), both.to_string());
    }
    let own = without_common_end(gap, before);
    (leading_specials(own, 1).to_string(), leading_specials(tail, usize::MAX).to_string())
}

/// `end` without special tokens behind it that a text may begin with: these open the next turn. One that ends a turn
/// alone stays (some models have one token for both).
fn without_openers<'a>(end: &'a str, openers: &str) -> &'a str {
    let mut end = end;
    while let Some(last) = trailing_special(end) {
        if last.start == 0 || end[..last.start].trim().is_empty() || !openers.contains(&end[last.clone()]) {
            break;
        }
        end = end[..last.start].trim_end();
    }
    end
}
