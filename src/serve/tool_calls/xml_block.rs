//! From `<tool_call>` to the end of the one call in XML that it holds.

use super::call::{Call, known, of_text};
use super::form::END_OF_TOOL_CALL;
use super::step::Step;
use super::tool::Tool;
use crate::json::{Map, Value};

const FUNCTION: &str = "<function=";
const END_OF_FUNCTION: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const END_OF_PARAMETER: &str = "</parameter>";
/// Names are no longer than this, in bytes.
const LONGEST_NAME: usize = 256;

/// A block that began in a text; the text grows between two looks at it.
pub(super) struct XmlBlock {
    /// What has been read, in bytes.
    at: usize,
    /// From where the end of a value is sought.
    from: usize,
    name: Option<String>,
    arguments: Map,
    /// The function has ended.
    whole: bool,
}

/// The next thing in the text: more of it decides, or something else stands there.
enum Next<T> {
    Is(T),
    More,
    Other,
}

impl XmlBlock {
    /// A block whose marker ends at `at`.
    pub(super) fn new(at: usize) -> XmlBlock {
        XmlBlock { at, from: 0, name: None, arguments: Map::new(), whole: false }
    }

    /// Reads on; `ended`: nothing comes after this text.
    pub(super) fn read(&mut self, text: &str, ended: bool, tools: &[Tool]) -> Step {
        loop {
            let next = match &self.name {
                None => self.function(text),
                Some(_) if self.whole => return self.close(text, ended),
                Some(name) => match known(name, tools) {
                    Ok(tool) => self.part(text, tool),
                    Err(why) => return Step::Not(why),
                },
            };
            match next {
                Next::Is(()) => {}
                Next::More if !ended => return Step::More,
                Next::More => return Step::Not(Some("a call is cut off".into())),
                Next::Other => return Step::Not(Some("`<tool_call>` is not followed by a call".into())),
            }
        }
    }

    fn function(&mut self, text: &str) -> Next<()> {
        match tag(text, self.at, FUNCTION) {
            Next::Is((name, end)) => {
                (self.at, self.name) = (end, Some(name.to_string()));
                Next::Is(())
            }
            Next::More => Next::More,
            Next::Other => Next::Other,
        }
    }

    /// A parameter, or the end of the function.
    fn part(&mut self, text: &str, tool: &Tool) -> Next<()> {
        let rest = text[self.at..].trim_start();
        if rest.starts_with(END_OF_FUNCTION) {
            (self.at, self.whole) = (text.len() - rest.len() + END_OF_FUNCTION.len(), true);
            return Next::Is(());
        }
        let (key, start) = match tag(text, self.at, PARAMETER) {
            Next::Is(found) => found,
            Next::Other if !END_OF_FUNCTION.starts_with(rest) => return Next::Other,
            _ => return Next::More,
        };
        self.from = self.from.max(start);
        while let Some(found) = text[self.from..].find(END_OF_PARAMETER) {
            let (end, after) = (self.from + found, self.from + found + END_OF_PARAMETER.len());
            let next = text[after..].trim_start();
            if next.starts_with(PARAMETER) || next.starts_with(END_OF_FUNCTION) {
                let value = &text[start..end];
                let value = value.strip_prefix('\n').unwrap_or(value);
                let value = value.strip_suffix('\n').unwrap_or(value);
                self.arguments.insert(key.to_string(), of_text(tool, key, value));
                self.at = after;
                return Next::Is(());
            }
            if PARAMETER.starts_with(next) || END_OF_FUNCTION.starts_with(next) {
                self.from = end;
                return Next::More;
            }
            // It stands in the value.
            self.from = after;
        }
        let tail = text.len().saturating_sub(END_OF_PARAMETER.len() - 1).max(self.from);
        self.from = (tail..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        Next::More
    }

    fn close(&mut self, text: &str, ended: bool) -> Step {
        let rest = text[self.at..].trim_start();
        let end = match (rest.starts_with(END_OF_TOOL_CALL), END_OF_TOOL_CALL.starts_with(rest)) {
            (true, _) => text.len() - rest.len() + END_OF_TOOL_CALL.len(),
            (false, true) if ended => text.len(),
            (false, true) => return Step::More,
            (false, false) => return Step::Not(Some("a call's `</function>` is followed by other text".into())),
        };
        let arguments = Value::Object(std::mem::take(&mut self.arguments)).to_string();
        Step::Calls(vec![Call { name: self.name.take().unwrap_or_default(), arguments }], end)
    }
}

/// The name in a tag (`<function=name>`) after white space, and where the tag ends.
fn tag<'t>(text: &'t str, at: usize, open: &str) -> Next<(&'t str, usize)> {
    let rest = text[at..].trim_start();
    let Some(named) = rest.strip_prefix(open) else {
        return if open.starts_with(rest) { Next::More } else { Next::Other };
    };
    match named.find(['>', '<', '\n']) {
        Some(long) if long > 0 && named[long..].starts_with('>') => {
            Next::Is((&named[..long], text.len() - named.len() + long + 1))
        }
        None if named.len() <= LONGEST_NAME => Next::More,
        _ => Next::Other,
    }
}
