//! From a rendering to tokens with their loss mask.
//!
//! The whole text is tokenised at once, so the ids are those of the text; offsets say which token lies in which turn.
//! Special tokens that someone wrote into a content stay text. Refuses to know templates and files.

use std::ops::Range;

use super::template::{RenderedTurn, Rendering};
use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, Tokens};

/// Tokens of a rendering.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    pub(crate) trained: Vec<bool>,
    /// The turn that each token belongs to; `None` for text of the template.
    pub(crate) turn: Vec<Option<usize>>,
    /// Special tokens found inside contents, once for each time.
    pub(crate) injected: Vec<String>,
    /// Answers that no special token ends: a model trained on them alone does not learn to stop.
    pub(crate) open_answers: usize,
}

/// Tokenises `rendering`. `bos`: it must begin with BOS, once, whether the text has it or not. With `allow`, special
/// tokens in contents are read as such.
///
/// # Errors
/// [`Error::Usage`] when the tokenizer refuses the text or cannot write a special token as text.
pub(crate) fn encode(tokenizer: &Tokenizer, rendering: &Rendering, bos: bool, allow: bool) -> Result<Encoded> {
    let contents = contents(rendering);
    let (mut tokens, injected) = guarded(tokenizer, &rendering.text, &contents, allow)?;
    close_gaps(&mut tokens.offsets);
    let mut out =
        Encoded { turn: vec![None; tokens.ids.len()], trained: vec![false; tokens.ids.len()], injected, ..Encoded::default() };
    for (i, turn) in rendering.turns.iter().enumerate() {
        for place in turn.content.iter().chain(&turn.answer) {
            mark(&tokens.offsets, place, |t| out.turn[t] = Some(i));
        }
        for place in &turn.trained {
            mark(&tokens.offsets, place, |t| (out.trained[t], out.turn[t]) = (true, Some(i)));
        }
        let at = turn.answer.last().filter(|_| turn.seeks_end).map(|answer| answer.end);
        if let Some(t) = at.and_then(|at| end_of_turn(tokenizer, &tokens, at)) {
            (out.trained[t], out.turn[t]) = (true, Some(i));
        }
        out.open_answers += usize::from(is_open(tokenizer, &tokens, &out, i, turn));
    }
    out.ids = tokens.ids;
    begin(tokenizer, bos, &mut out);
    Ok(out)
}

/// Whether the answer of turn `i` is trained and its last trained token does not end anything.
fn is_open(tokenizer: &Tokenizer, tokens: &Tokens, out: &Encoded, i: usize, turn: &RenderedTurn) -> bool {
    let last = (0..tokens.ids.len()).rfind(|t| out.trained[*t] && out.turn[*t] == Some(i));
    !turn.answer.is_empty() && last.is_some_and(|t| !tokenizer.is_control(tokens.ids[t]))
}

/// Every content's place, ascending.
fn contents(rendering: &Rendering) -> Vec<Range<usize>> {
    let places = rendering.turns.iter().flat_map(|t| &t.content).chain(&rendering.foreign);
    let mut all: Vec<_> = places.cloned().collect();
    all.sort_by_key(|r| (r.start, r.end));
    all
}

/// Tokens of `text` in which no special token stems from a content, unless `allow`; and those found in contents.
fn guarded(tokenizer: &Tokenizer, text: &str, contents: &[Range<usize>], allow: bool) -> Result<(Tokens, Vec<String>)> {
    let tokens = tokenizer.tokens(text)?;
    let (inside, outside) = controls(tokenizer, text, &tokens, contents);
    if inside.is_empty() {
        return Ok((tokens, Vec::new()));
    }
    let found = inside.iter().map(|(_, id)| tokenizer.control_text(*id).unwrap_or_default().to_string()).collect();
    if allow {
        return Ok((tokens, found));
    }
    let tokens = tokenizer.tokens_guarded(text, &outside)?;
    let (left, _) = controls(tokenizer, text, &tokens, contents);
    if let Some((_, id)) = left.first() {
        let token = tokenizer.control_text(*id).unwrap_or_default();
        let why = "this tokenizer cannot write it as ordinary text";
        return Err(Error::usage(format!("special token `{token}` inside a message"), why, "remove it from the row"));
    }
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

/// The end of turn right after the byte `at` (templates in which the next speaker's token ends the turn).
fn end_of_turn(tokenizer: &Tokenizer, tokens: &Tokens, at: usize) -> Option<usize> {
    let t = tokens.offsets.partition_point(|o| o.start < at);
    tokens.ids.get(t).filter(|id| tokenizer.eos_ids().contains(id)).map(|_| t)
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
