//! Texts compared by pieces: a special token's text is never cut in the middle.
//!
//! What a special token looks like is known by its shape alone (`<|…|>`, `<｜…｜>`, `</s>`, `<end_of_turn>`, `[INST]`), so
//! that this serves where there is no tokenizer, too.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

#[allow(clippy::unwrap_used, reason = "the pattern is a constant and parses")]
static SPECIAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<[^<>\s]{1,80}>|\[/?[A-Z_]{2,40}\]").unwrap());

/// The longest common beginning that cuts no special token, in bytes.
pub(super) fn common_start(a: &str, b: &str) -> usize {
    let mut same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    while !a.is_char_boundary(same) || !b.is_char_boundary(same) {
        same -= 1;
    }
    let inside = |text: &str| around(text, same).map(|token| token.start);
    [inside(a), inside(b)].into_iter().flatten().min().unwrap_or(same)
}

/// The special token in whose middle `at` lies.
fn around(text: &str, at: usize) -> Option<Range<usize>> {
    // No special token is longer than this; looking from the text's beginning would take a time that grows with it.
    let mut from = at.saturating_sub(400);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    SPECIAL.find_iter(&text[from..]).map(|m| m.start() + from..m.end() + from).take_while(|m| m.start < at).find(|m| at < m.end)
}

/// `text` without the longest end that it has in common with `other`, cutting no special token.
pub(super) fn without_common_end<'a>(text: &'a str, other: &str) -> &'a str {
    let mut same = text.bytes().rev().zip(other.bytes().rev()).take_while(|(x, y)| x == y).count();
    while !text.is_char_boundary(text.len() - same) {
        same -= 1;
    }
    let at = text.len() - same;
    &text[..around(text, at).map_or(at, |token| token.end)]
}

/// The special tokens that `text` begins with (after white space), with it; empty when there are none.
pub(super) fn leading_specials(text: &str, most: usize) -> &str {
    let mut end = text.len() - text.trim_start().len();
    let mut found = 0;
    for token in SPECIAL.find_iter(text) {
        if token.start() != end || found == most {
            break;
        }
        (end, found) = (token.end(), found + 1);
    }
    if found > 0 { &text[..end] } else { "" }
}

/// The special token that `text` ends with; no closing tag, of reasoning or a call.
pub(super) fn trailing_special(text: &str) -> Option<Range<usize>> {
    let closes = |tag: &str| tag.starts_with("</") && tag != "</s>";
    SPECIAL.find_iter(text).last().filter(|m| m.end() == text.len() && !closes(m.as_str())).map(|m| m.range())
}

/// `text` and its shorter ends that begin with a special token, longest first; none is blank.
pub(super) fn ends_at_specials(text: &str) -> Vec<&str> {
    let mut all = vec![text, text.trim_start()];
    all.extend(SPECIAL.find_iter(text).map(|token| &text[token.start()..]));
    all.retain(|end| !end.trim().is_empty());
    all.dedup();
    all
}
