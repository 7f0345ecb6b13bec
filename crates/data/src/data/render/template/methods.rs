//! Methods of Python's strings, lists and mappings that minijinja-contrib's `pycompat` lacks or answers otherwise.
//!
//! Methods that change a value are refused, as in transformers' sandbox. Refuses to know templates.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// Calls a method of a value: one of ours, else one of `pycompat`'s.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let ours = match value.kind() {
        ValueKind::String => of_string(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map if method == "copy" => from_args::<()>(args).map(|()| Some(value.clone()))?,
        ValueKind::Seq => of_list(value, method, args)?,
        _ => None,
    };
    match ours {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => from_args::<()>(args).map(|()| list.clone())?,
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|item| item == *wanted);
            Value::from(at.ok_or_else(|| wrong(format!("{wanted} is not in the list")))?)
        }
        _ => return Ok(None),
    }))
}

fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let unchanged = |()| text;
    Ok(Some(match method {
        "casefold" => from_args(args).map(unchanged)?.to_lowercase().replace('ß', "ss").into(),
        "swapcase" => from_args(args).map(unchanged)?.chars().flat_map(swapped).collect::<String>().into(),
        "title" => titled(from_args(args).map(unchanged)?).into(),
        "removeprefix" => from_args(args).map(|(prefix,): (&str,)| text.strip_prefix(prefix).unwrap_or(text))?.into(),
        "removesuffix" => from_args(args).map(|(suffix,): (&str,)| text.strip_suffix(suffix).unwrap_or(text))?.into(),
        "partition" | "rpartition" => from_args(args).map(|(at,): (&str,)| parted(text, at, method == "rpartition"))?,
        "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(wanted) } else { text.rfind(wanted) };
            let at = at.ok_or_else(|| wrong("substring not found".into()))?;
            Value::from(text[..at].chars().count())
        }
        "split" => {
            let (separator, most, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let named = options.get::<Option<String>>("sep")?;
            let most = options.get::<Option<i64>>("maxsplit")?.or(most);
            options.assert_all_used()?;
            split(text, separator.or(named.as_deref()), most)?
        }
        "rsplit" => {
            let (separator, most, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let most = options.get::<Option<i64>>("maxsplit")?.or(most);
            options.assert_all_used()?;
            rsplit(text, separator, most)?
        }
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = options.get::<Option<bool>>("keepends")?.or(keep).unwrap_or(false);
            options.assert_all_used()?;
            texts(lines(text, keep))
        }
        "zfill" | "center" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            padded(text, method, width, fill.unwrap_or(" "))?.into()
        }
        _ => return Ok(None),
    }))
}

fn wrong(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// Letters after anything that is no letter in upper case, the others in lower case.
fn titled(text: &str) -> String {
    let mut inside = false;
    let letter = |c: char| {
        let cased = c.is_alphabetic();
        let out: Vec<char> = if inside { c.to_lowercase().collect() } else { c.to_uppercase().collect() };
        inside = cased;
        if cased { out } else { vec![c] }
    };
    text.chars().flat_map(letter).collect()
}

fn texts(pieces: Vec<&str>) -> Value {
    pieces.into_iter().map(Value::from).collect()
}

fn parted(text: &str, separator: &str, from_end: bool) -> Value {
    let cut = if from_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    texts(match cut {
        Some((before, after)) => vec![before, separator, after],
        None if from_end => vec!["", "", text],
        None => vec![text, "", ""],
    })
}

/// Python's `split`; without a separator, at runs of white space. A negative `most` is no bound.
fn split(text: &str, separator: Option<&str>, most: Option<i64>) -> Result<Value, Error> {
    let most = most.and_then(|n| usize::try_from(n).ok());
    Ok(texts(match separator {
        Some("") => return Err(wrong("empty separator".into())),
        Some(separator) => text.splitn(most.map_or(usize::MAX, |n| n.saturating_add(1)), separator).collect::<Vec<_>>(),
        None => {
            let (mut words, mut rest) = (Vec::new(), text.trim_start());
            while !rest.is_empty() {
                if most.is_some_and(|most| words.len() >= most) {
                    words.push(rest);
                    break;
                }
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(&rest[..end]);
                rest = rest[end..].trim_start();
            }
            words
        }
    }))
}

/// Lines, ended by any of the characters that Python knows as line boundaries.
fn lines(text: &str, keep: bool) -> Vec<&str> {
    const ENDS: [char; 10] = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ENDS) {
        let end = if rest[at..].starts_with("\r\n") { "\r\n".len() } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn rsplit(text: &str, separator: Option<&str>, most: Option<i64>) -> Result<Value, Error> {
    let Some(most) = most.and_then(|n| usize::try_from(n).ok()) else { return split(text, separator, None) };
    let mut pieces: Vec<&str> = match separator {
        Some("") => return Err(wrong("empty separator".into())),
        Some(separator) => text.rsplitn(most.saturating_add(1), separator).collect(),
        None => {
            let (mut words, mut rest) = (Vec::new(), text.trim_end());
            while !rest.is_empty() {
                if words.len() >= most {
                    words.push(rest);
                    break;
                }
                let start = rest.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8());
                words.push(&rest[start..]);
                rest = rest[..start].trim_end();
            }
            words
        }
    };
    pieces.reverse();
    Ok(texts(pieces))
}

/// The text filled up to `width` characters: with zeros behind a sign, or with `fill` on the side that the method says.
pub(super) fn padded(text: &str, method: &str, width: usize, fill: &str) -> Result<String, Error> {
    if fill.chars().count() != 1 {
        return Err(wrong("the fill character must be exactly one character long".into()));
    }
    let missing = width.saturating_sub(text.chars().count());
    if missing > 1 << 20 {
        return Err(wrong(format!("a width of {width} is too much")));
    }
    // Python puts the odd one before the text when the width is odd.
    let before = match method {
        "center" => missing / 2 + (missing & width & 1),
        "ljust" => 0,
        _ => missing,
    };
    if method == "zfill" {
        let sign = text.len() - text.strip_prefix(['+', '-']).unwrap_or(text).len();
        return Ok(format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]));
    }
    Ok(format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before)))
}
