//! Which turns of a rendering carry loss, and which ends of turns: as the rows say, and else as the recipe says.
//!
//! The words mean what they mean in axolotl (`prompt_strategies/chat_template.py`). Refuses to know how turns were
//! found.

use std::ops::Range;

use super::template::{RenderedTurn, Rendering};
use crate::data::read::row::{Loss, Message};
use crate::error::{Error, Result};
use crate::recipe::{Template, TrainOnEos, TrainTurns};

/// What a recipe says of the loss.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    roles: Vec<String>,
    on_eos: TrainOnEos,
    turns: TrainTurns,
}

impl Choice {
    pub(crate) fn of(template: &Template) -> Choice {
        Choice { roles: template.roles_to_train.clone(), on_eos: template.train_on_eos, turns: template.train_turns }
    }

    /// Sets what is trained of every turn; `messages` are those of the turns, or none where a row has none.
    ///
    /// # Errors
    /// [`Error::Usage`]: a row trains characters of a content that the template did not write as it is.
    pub(crate) fn apply(&self, rendering: &mut Rendering, messages: &[Message]) -> Result<()> {
        let turns = &mut rendering.turns;
        let by_role = |turn: &RenderedTurn| turn.role == "text" || self.roles.contains(&turn.role);
        let only = match self.turns {
            TrainTurns::All => None,
            TrainTurns::Last => turns.iter().rposition(by_role),
        };
        let last_end = turns.iter().rposition(|turn| turn.end.is_some());
        for (i, turn) in turns.iter_mut().enumerate() {
            let loss = messages.get(i).map_or(&Loss::ByRole, |message| &message.loss);
            let carries = match loss {
                Loss::Yes => true,
                Loss::No => false,
                Loss::Spans(spans) => !spans.is_empty(),
                Loss::ByRole => by_role(turn) && only.is_none_or(|only| only == i),
            };
            let mut trained = match loss {
                Loss::Spans(spans) => {
                    characters(&rendering.text, turn, &messages[i].content, spans).ok_or_else(|| not_there(i))?
                }
                _ if carries => written(turn),
                _ => Vec::new(),
            };
            let with_end = match self.on_eos {
                TrainOnEos::Turn => carries,
                TrainOnEos::All => true,
                TrainOnEos::Last => last_end == Some(i),
                TrainOnEos::None => false,
            };
            let has_end = turn.end.is_some() || rendering.enclosed;
            turn.seeks_end = carries && with_end && !has_end && !turn.answer.is_empty();
            trained.extend(turn.end.clone().filter(|_| with_end));
            turn.trained = joined(trained);
        }
        Ok(())
    }
}

/// What someone wrote in a turn: the model's answer, or the content.
fn written(turn: &RenderedTurn) -> Vec<Range<usize>> {
    if turn.role == "assistant" || turn.role == "text" { turn.answer.clone() } else { turn.content.clone() }
}

/// Ranges of characters of a content as ranges of the text; `None` when the content does not stand there as it is.
fn characters(text: &str, turn: &RenderedTurn, content: &str, spans: &[Range<usize>]) -> Option<Vec<Range<usize>>> {
    let [place] = turn.content.as_slice() else { return None };
    let there = &text[place.clone()];
    // The template may have cut the white space around the content.
    let cut = if there == content { 0 } else { content.len() - content.trim_start().len() };
    if !content[cut..].starts_with(there) {
        return None;
    }
    let byte = |n: usize| content.char_indices().nth(n).map_or(content.len(), |(at, _)| at);
    let within = |at: usize| place.start + at.saturating_sub(cut).min(there.len());
    let ranges = spans.iter().map(|span| within(byte(span.start))..within(byte(span.end)));
    Some(ranges.filter(|range| !range.is_empty()).collect())
}

fn not_there(i: usize) -> Error {
    Error::usage(
        format!("`train_detail` of message {}", i + 1),
        "the template does not write this content as it is, so its characters cannot be found",
        "use `train` for the whole message, or choose another template",
    )
}

/// Ranges that touch become one.
fn joined(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range),
        }
    }
    out
}
