//! What a grammar that somebody sent may cost before any of it is compiled: texts, patterns, choices.

use crate::error::{Error, Result};

/// Greatest schema, Lark grammar or list of choices, in bytes.
pub(super) const TEXT: usize = 64 << 10;
/// Greatest regular expression, in bytes.
pub(super) const PATTERN: usize = 4 << 10;
/// Greatest count in a repetition of a regular expression.
const REPETITIONS: u64 = 10_000;
/// Most Unicode classes (`\p`, `\w`, `\d`, `\s` and their opposites) in one grammar: each has hundreds of ranges.
const CLASSES: usize = 256;
/// Most choices.
const CHOICES: usize = 1024;

/// A refusal: what of the request, why, and what to do.
pub(super) fn refused(at: &str, why: impl Into<String>, help: &str) -> Error {
    Error::usage(at, why, help)
}

/// Refuses what is longer than `most` bytes.
pub(super) fn length(at: &str, text: &str, most: usize) -> Result<()> {
    if text.len() <= most {
        return Ok(());
    }
    Err(refused(at, format!("{} bytes are more than {most}", text.len()), "ask for less in one answer"))
}

/// A regular expression: its length, its repetitions, its classes.
///
/// # Errors
/// [`Error::Usage`] naming `at`.
pub(super) fn pattern(at: &str, text: &str) -> Result<()> {
    length(at, text, PATTERN)?;
    repetitions(at, text)?;
    classes(at, text)
}

/// Counts in braces, wherever they stand: whether they repeat something is not asked.
pub(super) fn repetitions(at: &str, text: &str) -> Result<()> {
    for braces in text.split('{').skip(1) {
        let inside = braces.split('}').next().unwrap_or_default();
        for number in inside.split(',') {
            let digits = number.trim();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            if digits.parse::<u64>().map_or(true, |n| n > REPETITIONS) {
                let why = format!("it repeats something more than {REPETITIONS} times");
                return Err(refused(at, why, "repeat less, or without a bound (`*`, `+`)"));
            }
        }
    }
    Ok(())
}

/// Classes of characters of the whole of Unicode.
pub(super) fn classes(at: &str, text: &str) -> Result<()> {
    let class = |pair: &[u8]| pair[0] == b'\\' && matches!(pair[1], b'p' | b'P' | b'w' | b'W' | b'd' | b'D' | b's' | b'S');
    if text.as_bytes().windows(2).filter(|pair| class(pair)).count() > CLASSES {
        let why = format!("more than {CLASSES} classes such as \\w or \\p{{L}}");
        return Err(refused(at, why, "write ASCII classes ([0-9A-Za-z_]) or repeat one class"));
    }
    Ok(())
}

/// The regular expression that matches exactly one of `choices`.
///
/// # Errors
/// [`Error::Usage`] when there are none, too many, or they are too long.
pub(super) fn choice(choices: &[String]) -> Result<String> {
    let at = "choice";
    if choices.is_empty() {
        return Err(refused(at, "there is nothing to choose from", "give at least one choice"));
    }
    if choices.len() > CHOICES {
        return Err(refused(at, format!("{} choices are more than {CHOICES}", choices.len()), "give fewer choices"));
    }
    let all: usize = choices.iter().map(String::len).sum();
    if all > TEXT {
        return Err(refused(at, format!("{all} bytes of choices are more than {TEXT}"), "shorten the choices"));
    }
    let escaped: Vec<String> = choices.iter().map(|choice| regex::escape(choice)).collect();
    Ok(escaped.join("|"))
}
