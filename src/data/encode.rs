//! From a rendering to tokens with their loss mask.
//!
//! The whole text is tokenised at once, so the ids are those of the text; offsets say which token lies in which turn.
//! Special tokens that someone wrote into a content stay text. Refuses to know templates and files.

use std::ops::Range;

use super::template::{Answer, Rendering};
use super::tokenizer::{Tokenizer, Tokens};
use crate::error::{Error, Result};

/// Tokens of a rendering.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    pub(super) trained: Vec<bool>,
    /// The turn that each token belongs to; `None` for text of the template.
    pub(super) turn: Vec<Option<usize>>,
    /// Special tokens found inside contents, once for each time.
    pub(super) injected: Vec<String>,
    /// Answers that no special token ends: a model trained on them alone does not learn to stop.
    pub(super) open_answers: usize,
}

/// Tokenises `rendering`. `bos`: it must begin with BOS, once, whether the text has it or not.
///
/// # Errors
/// [`Error::Usage`] when the tokenizer refuses the text or cannot write a special token as text.
pub(super) fn encode(tokenizer: &Tokenizer, rendering: &Rendering, bos: bool) -> Result<Encoded> {
    let contents = contents(rendering);
    let (mut tokens, injected) = guarded(tokenizer, &rendering.text, &contents)?;
    close_gaps(&mut tokens.offsets);
    let mut out =
        Encoded { turn: vec![None; tokens.ids.len()], trained: vec![false; tokens.ids.len()], injected, ..Encoded::default() };
    for (i, turn) in rendering.turns.iter().enumerate() {
        for place in &turn.content {
            mark(&tokens.offsets, place, |t| out.turn[t] = Some(i));
        }
        if let Some(answer) = &turn.answer {
            let end = end_of_turn(tokenizer, &tokens, answer);
            mark(&tokens.offsets, &answer.span, |t| (out.trained[t], out.turn[t]) = (true, Some(i)));
            match end {
                Some(end) => {
                    let first = tokens.offsets.partition_point(|o| o.start < answer.span.end).min(end);
                    out.trained[first..=end].fill(true);
                    out.turn[first..=end].fill(Some(i));
                }
                None if ends_with_control(tokenizer, &tokens, &out.trained, answer) => {}
                None => out.open_answers += 1,
            }
        }
    }
    out.ids = tokens.ids;
    begin(tokenizer, bos, &mut out);
    Ok(out)
}

/// Every content's place, ascending.
fn contents(rendering: &Rendering) -> Vec<Range<usize>> {
    let mut all: Vec<_> = rendering.turns.iter().flat_map(|t| t.content.iter().cloned()).collect();
    all.sort_by_key(|r| (r.start, r.end));
    all
}

/// Tokens of `text` in which no special token stems from a content.
fn guarded(tokenizer: &Tokenizer, text: &str, contents: &[Range<usize>]) -> Result<(Tokens, Vec<String>)> {
    let tokens = tokenizer.tokens(text)?;
    let (inside, outside) = controls(tokenizer, text, &tokens, contents);
    if inside.is_empty() {
        return Ok((tokens, Vec::new()));
    }
    let tokens = tokenizer.tokens_guarded(text, &outside)?;
    let (left, _) = controls(tokenizer, text, &tokens, contents);
    if let Some((_, id)) = left.first() {
        let token = tokenizer.control_text(*id).unwrap_or_default();
        let why = "this tokenizer cannot write it as ordinary text";
        return Err(Error::usage(format!("special token `{token}` inside a message"), why, "remove it from the row"));
    }
    let found = inside.iter().map(|(_, id)| tokenizer.control_text(*id).unwrap_or_default().to_string()).collect();
    Ok((tokens, found))
}

type Places = Vec<(Range<usize>, u32)>;

/// The special tokens of a text: those that touch a content, and the template's.
fn controls(tokenizer: &Tokenizer, text: &str, tokens: &Tokens, contents: &[Range<usize>]) -> (Places, Places) {
    let found = tokens.ids.iter().zip(&tokens.offsets).filter_map(|(id, offsets)| {
        let written = tokenizer.control_text(*id)?;
        // A token that strips the white space beside it covers that too: look for the token itself.
        let at = text[offsets.clone()].find(written).map(|at| offsets.start + at..offsets.start + at + written.len());
        Some((at.unwrap_or(offsets.clone()), *id))
    });
    found.partition(|(place, _)| contents.iter().any(|c| c.start < place.end && place.start < c.end))
}

/// Gives text that no token covers (white space that the tokenizer leaves out of its offsets) to the token after it.
fn close_gaps(offsets: &mut [Range<usize>]) {
    let mut covered = 0;
    for o in offsets {
        o.start = if o.start > covered { covered } else { o.start };
        covered = covered.max(o.end);
    }
}

/// Calls `f` with each token that covers some of `place`.
fn mark(offsets: &[Range<usize>], place: &Range<usize>, mut f: impl FnMut(usize)) {
    let first = offsets.partition_point(|o| o.end < place.start);
    for (t, o) in offsets.iter().enumerate().skip(first).take_while(|(_, o)| o.start < place.end) {
        let empty = o.is_empty() && o.start >= place.start;
        if empty || o.end > place.start {
            f(t);
        }
    }
}

/// The token that ends the turn of `answer`: the first special one after the content, up to where the turn ends, or an
/// end of turn right there (templates in which the next speaker's token ends the turn).
fn end_of_turn(tokenizer: &Tokenizer, tokens: &Tokens, answer: &Answer) -> Option<usize> {
    let first = tokens.offsets.partition_point(|o| o.start < answer.span.end);
    for (t, id) in tokens.ids.iter().enumerate().skip(first) {
        let inside = tokens.offsets[t].start < answer.until;
        if inside && tokenizer.is_control(*id) {
            return Some(t);
        }
        if !inside {
            return tokenizer.eos_ids().contains(id).then_some(t);
        }
    }
    None
}

/// Whether the answer's last trained token is a special one: the template rewrote the content, and all of the turn is
/// trained.
fn ends_with_control(tokenizer: &Tokenizer, tokens: &Tokens, trained: &[bool], answer: &Answer) -> bool {
    let after = tokens.offsets.partition_point(|o| o.start < answer.span.end);
    after.checked_sub(1).is_some_and(|t| trained[t] && tokenizer.is_control(tokens.ids[t]))
}

fn begin(tokenizer: &Tokenizer, bos: bool, out: &mut Encoded) {
    if let Some(id) = tokenizer.bos_id().filter(|id| bos && out.ids.first() != Some(id)) {
        out.ids.insert(0, id);
        out.trained.insert(0, false);
        out.turn.insert(0, None);
    }
    // Nothing comes before the first token, so nothing predicts it.
    if let Some(first) = out.trained.first_mut() {
        *first = false;
    }
}
