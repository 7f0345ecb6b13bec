//! JSON as text: its floats, its strings, where a value ends, without line breaks.
//!
//! Refuses to know whether the text is valid: that has been found, or will be.

use std::borrow::Cow;
use std::ops::Range;

/// The numbers of a text that are no integers of 64 bits, in their order: what `serde_json` reads as floats.
pub(super) struct Floats<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Floats<'t> {
    pub(super) fn of(text: &'t str) -> Floats<'t> {
        Floats { text, at: 0 }
    }
}

impl<'t> Iterator for Floats<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        loop {
            let place = number_from(self.text, self.at)?;
            self.at = place.end;
            let text = &self.text[place];
            if text == "-0" || (text.parse::<u64>().is_err() && text.parse::<i64>().is_err()) {
                return Some(text);
            }
        }
    }
}

/// The next number from `at` on, which is not inside a string.
fn number_from(text: &str, mut at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    loop {
        match bytes.get(at)? {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let long = bytes[at..].iter().take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
                return Some(at..at + long);
            }
            _ => at += 1,
        }
    }
}

/// Where the string that begins at `at` ends, its quote included.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where the value that a text begins with ends: the whole text where it does not.
pub(super) fn end_of_value(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'[' | b'{' => (at, depth) = (at + 1, depth + 1),
            b']' | b'}' => (at, depth) = (at + 1, depth.saturating_sub(1)),
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b',' | b':' => at += 1,
            _ => at += bytes[at..].iter().take_while(|b| !b" \t\r\n,:[]{}\"".contains(b)).count(),
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Whether a text is a number of JSON.
pub(super) fn is_number(text: &str) -> bool {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.starts_with('0')) {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let long = digits(fraction);
        if long == 0 {
            return false;
        }
        rest = &fraction[long..];
    }
    match rest.strip_prefix(['e', 'E']) {
        None => rest.is_empty(),
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
    }
}

/// The text with a small number, as long, in the place of each that is larger than any float.
pub(super) fn without_size(text: &str) -> Cow<'_, str> {
    let (mut out, mut done) = (String::new(), 0);
    for float in Floats::of(text) {
        if is_number(float) && float.parse::<f64>().is_ok_and(f64::is_infinite) {
            // Such a number has an exponent of three digits at least, or hundreds before a point.
            let start = float.as_ptr() as usize - text.as_ptr() as usize;
            out += &text[done..start];
            out += "0.5";
            out.extend(std::iter::repeat_n('0', float.len() - 3));
            done = start + float.len();
        }
    }
    match done {
        0 => Cow::Borrowed(text),
        _ => Cow::Owned(out + &text[done..]),
    }
}

/// A valid text with every string in it (keys excepted) changed by `change`, which says `None` for one that stays as it is.
pub(crate) fn map_strings(text: &str, mut change: impl FnMut(&str) -> Option<String>) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut done, mut at) = (String::with_capacity(text.len()), 0, 0);
    while let Some(found) = bytes[at..].iter().position(|b| *b == b'"') {
        let start = at + found;
        at = end_of_string(bytes, start);
        let is_key = text[at..].trim_start().starts_with(':');
        let old: Option<String> = Some(&text[start..at]).filter(|_| !is_key).and_then(|quoted| serde_json::from_str(quoted).ok());
        if let Some(new) = old.and_then(|old| change(&old)) {
            out += &text[done..start];
            out += &serde_json::Value::from(new).to_string();
            done = at;
        }
    }
    out + &text[done..]
}

/// A valid text on one line: runs of white space that break lines become a space, or nothing beside a bracket.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if !text.contains(['\n', '\r']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'"' => end_of_string(bytes, at),
            b' ' | b'\t' | b'\r' | b'\n' => {
                let space = text.len() - at - text[at..].trim_start_matches([' ', '\t', '\r', '\n']).len();
                if !text[at..at + space].contains(['\n', '\r']) {
                    out += &text[at..at + space];
                } else if !out.ends_with(['{', '[']) && !text[at + space..].starts_with(['}', ']']) {
                    out.push(' ');
                }
                at += space;
                continue;
            }
            _ => at + bytes[at..].iter().take_while(|b| !b" \t\r\n\"".contains(b)).count(),
        };
        out += &text[at..end];
        at = end;
    }
    Cow::Owned(out)
}

/// Where the value of a key of a valid object stands, the last one of several.
pub(crate) fn place_of(text: &str, key: &str) -> Option<Range<usize>> {
    let mut found = None;
    let mut at = text.find('{')? + 1;
    loop {
        at = next(text, at);
        if !text[at..].starts_with('"') {
            return found;
        }
        let end = end_of_string(text.as_bytes(), at);
        let name: Option<String> = serde_json::from_str(&text[at..end]).ok();
        let start = next(text, end);
        at = start + end_of_value(&text[start..]);
        if name.as_deref() == Some(key) {
            found = Some(start..at);
        }
    }
}

/// Where the items of a valid array stand.
pub(crate) fn items(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let Some(open) = text.find('[') else { return found };
    let mut at = next(text, open + 1);
    while at < text.len() && !text[at..].starts_with(']') {
        let end = at + end_of_value(&text[at..]);
        found.push(at..end);
        at = next(text, end);
    }
    found
}

/// Past white space and what separates values.
fn next(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start_matches([' ', '\t', '\r', '\n', ',', ':']).len()
}

/// A valid object with the value of a key, which is at the place of the old one, or comes last.
pub(crate) fn with_entry(text: &str, key: &str, value: &str) -> String {
    if let Some(place) = place_of(text, key) {
        return format!("{}{value}{}", &text[..place.start], &text[place.end..]);
    }
    let Some(end) = text.rfind('}') else { return text.into() };
    let head = text[..end].trim_end();
    let comma = if head.ends_with('{') { "" } else { "," };
    format!("{head}{comma}{}:{value}{}", serde_json::Value::from(key), &text[head.len()..])
}
