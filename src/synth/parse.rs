//! From what a generator wrote to instructions, a yes or no, inputs and outputs.
//!
//! Lenient about form (brackets, bold type, a repeated cue), strict about parts: what is cut off or lacks a part is named
//! as such and not kept. Refuses to know what is good.

use std::sync::LazyLock;

use regex::Regex;

use super::filter::RejectReason;
use super::prompts::{NO_INPUT, one_line};
use super::seeds::Instance;

/// A regex that is known to be one; `None` never happens, and then nothing is found.
type LazyRegex = LazyLock<Option<Regex>>;

static NUMBER: LazyRegex = LazyLock::new(|| Regex::new(r"(?m)^[ \t]*(?:[Tt]ask )?\d{1,3}[ \t]*[.):][ \t]*").ok());
static PART: LazyRegex = LazyLock::new(|| Regex::new(r"(?mi)^[ \t*#]*(instruction|input|output)[ \t*]*:[ \t*]*").ok());
static TASK: LazyRegex = LazyLock::new(|| Regex::new(r"(?mi)^[ \t*#]*task[ \t]*\d{1,3}[ \t*.:)]*$").ok());

/// An item of a reply, or why it is none.
type Item<T> = Result<T, (T, RejectReason)>;

/// The instructions of a list whose first number stood in the prompt. What an unfinished reply ends with is not whole.
pub(super) fn instructions(reply: &str, cue: &str, whole: bool) -> Vec<Item<String>> {
    let items: Vec<String> = split(&NUMBER, from(reply, cue)).into_iter().map(tidy).collect();
    let last = items.len().saturating_sub(1);
    let judge = |(i, text): (usize, String)| if i == last && !whole { Err((text, RejectReason::Truncated)) } else { Ok(text) };
    items.into_iter().enumerate().filter(|(i, t)| !t.is_empty() || (*i == last && !whole)).map(judge).collect()
}

/// Whether a reply says yes.
pub(super) fn yes(reply: &str, cue: &str) -> bool {
    let text = without(reply, cue).trim_start_matches(|c: char| !c.is_alphanumeric());
    text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("yes"))
}

/// Instances of a task, input or output first, whose first label stood in the prompt.
pub(super) fn instances(reply: &str, cue: &str, whole: bool) -> Vec<Item<Instance>> {
    let first = cue.trim_end_matches(':');
    pairs(&format!("{cue} {}", without(reply, cue)), first, whole).into_iter().map(|(_, item)| item).collect()
}

/// Whole tasks of Alpaca's kind: instruction and instance.
pub(super) fn tasks(reply: &str, cue: &str, whole: bool) -> Vec<(String, Item<Instance>)> {
    let text = format!("Instruction: {}", from(reply, cue));
    let tasks: Vec<&str> = split(&TASK, &text).into_iter().filter(|t| !t.trim().is_empty()).collect();
    let last = tasks.len().saturating_sub(1);
    tasks.into_iter().enumerate().flat_map(|(i, task)| pairs(task, "Instruction", whole || i != last)).collect()
}

/// Runs of parts that begin with `first`: the instruction in each, and its instance.
fn pairs(text: &str, first: &str, whole: bool) -> Vec<(String, Item<Instance>)> {
    let Some(part) = PART.as_ref() else { return Vec::new() };
    let found: Vec<_> = part.captures_iter(text).filter_map(|c| Some((c.get(0)?, c.get(1)?.as_str().to_lowercase()))).collect();
    let mut groups: Vec<[Option<String>; 3]> = Vec::new();
    for (i, (label, name)) in found.iter().enumerate() {
        let end = found.get(i + 1).map_or(text.len(), |(next, _)| next.start());
        let slot = ["instruction", "input", "output"].iter().position(|n| n == name).unwrap_or_default();
        let begins = name.eq_ignore_ascii_case(first);
        match groups.last_mut() {
            Some(group) if !begins && group[slot].is_none() => group[slot] = Some(text[label.end()..end].trim().to_string()),
            // A part that is there already, or one before the first label: a run of its own that lacks something.
            _ => {
                let mut group = [None, None, None];
                group[slot] = Some(text[label.end()..end].trim().to_string());
                groups.push(group);
            }
        }
    }
    let last = groups.len().saturating_sub(1);
    groups.into_iter().enumerate().map(|(i, group)| judge(group, whole || i != last)).collect()
}

fn judge([instruction, input, output]: [Option<String>; 3], whole: bool) -> (String, Item<Instance>) {
    let complete = output.is_some() && (input.is_some() || instruction.is_some());
    let instance = Instance { input: given(&input.unwrap_or_default()), output: output.unwrap_or_default() };
    let item = match (whole, complete) {
        (false, _) => Err((instance, RejectReason::Truncated)),
        (true, false) => Err((instance, RejectReason::Malformed)),
        (true, true) => Ok(instance),
    };
    (tidy(&instruction.unwrap_or_default()), item)
}

/// An input, empty where the reply says that there is none.
fn given(input: &str) -> String {
    let bare = input.trim_matches(|c: char| c.is_whitespace() || "()<>[].*\"'".contains(c)).to_lowercase();
    let none = input == NO_INPUT || matches!(&*bare, "" | "none" | "noinput" | "no input" | "n/a");
    if none { String::new() } else { input.to_string() }
}

fn split<'a>(pattern: &LazyRegex, text: &'a str) -> Vec<&'a str> {
    pattern.as_ref().map_or_else(|| vec![text], |p| p.split(text).collect())
}

/// The reply without the cue, where it repeats it.
fn without<'a>(reply: &'a str, cue: &str) -> &'a str {
    let text = reply.trim();
    text.strip_prefix(cue).unwrap_or(text).trim()
}

/// As [`without`], where nothing before a cue that is repeated can be part of the answer ("Sure, here they are").
fn from<'a>(reply: &'a str, cue: &str) -> &'a str {
    match reply.find(&format!("\n{cue}")) {
        Some(at) => without(&reply[at..], cue),
        None => without(reply, cue),
    }
}

/// One line that begins with a capital letter, without bold type and without quotes around all of it.
fn tidy(text: &str) -> String {
    let text = one_line(&text.replace("**", ""));
    let quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"') && text.matches('"').count() == 2;
    let text = if quoted { &text[1..text.len() - 1] } else { &text };
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart() {
        let ok = |texts: &[&str]| texts.iter().map(|t| Ok(t.to_string())).collect::<Vec<_>>();
        let cases = [
            (" name  it.\n10. Say\n  it.\n 11) Two", ok(&["Name it.", "Say it.", "Two"])),
            ("9. name it.\n10: **Say** it.\n\n11.\n12. \"Quoted text\"", ok(&["Name it.", "Say it.", "Quoted text"])),
            ("Add 3. and 4. in the middle", ok(&["Add 3. and 4. in the middle"])),
            ("Sure! Here are more:\n\n9. Say\n10. Do", ok(&["Say", "Do"])),
            ("", ok(&[])),
            (" \n ", ok(&[])),
            ("Task 9: a\nTask 10: b", ok(&["A", "B"])),
        ];
        for (reply, expected) in cases {
            assert_eq!(instructions(reply, "9.", true), expected, "{reply:?}");
        }
        let cut = instructions(" a b c d\n10. e f", "9.", false);
        assert_eq!(cut, [Ok("A b c d".to_string()), Err(("E f".to_string(), RejectReason::Truncated))]);
        assert_eq!(instructions("", "9.", false), [Err((String::new(), RejectReason::Truncated))]);
    }

    #[test]
    fn yes_is_the_first_word() {
        for (reply, expected) in [
            (" Yes", true),
            ("yes.", true),
            ("**Yes**", true),
            ("Fixed answers: Yes", true),
            ("No", false),
            ("", false),
            ("é", false),
        ] {
            assert_eq!(yes(reply, "Fixed answers:"), expected, "{reply}");
        }
    }

    fn pair(input: &str, output: &str) -> Instance {
        Instance { input: input.into(), output: output.into() }
    }

    #[test]
    fn instances_have_two_parts() {
        let input_first = |reply: &str, whole| instances(reply, "Input:", whole);
        assert_eq!(input_first(" a\nb\nOutput: c\nd", true), [Ok(pair("a\nb", "c\nd"))]);
        assert_eq!(input_first("(none)\nOutput: c", true), [Ok(pair("", "c"))]);
        assert_eq!(input_first("Input: x: y\n**Output:** c", true), [Ok(pair("x: y", "c"))]);
        let two = input_first(" a\nOutput: b\nInput: c\nOutput: d", false);
        assert_eq!(two, [Ok(pair("a", "b")), Err((pair("c", "d"), RejectReason::Truncated))]);
        assert_eq!(input_first("only this", true), [Err((pair("only this", ""), RejectReason::Malformed))]);
        assert_eq!(input_first("", true), [Err((pair("", ""), RejectReason::Malformed))]);
        let twice = input_first("a\nOutput: b\nOutput: c", true);
        assert_eq!(twice, [Ok(pair("a", "b")), Err((pair("", "c"), RejectReason::Malformed))]);
        let output_first = instances(" yes\nInput: a\nOutput: no\nInput: b", "Output:", true);
        assert_eq!(output_first, [Ok(pair("a", "yes")), Ok(pair("b", "no"))]);
    }

    #[test]
    fn tasks_have_three_parts() {
        let reply = " count to x.\nInput: 3\nOutput: 1 2 3\n\nTask 5\nInstruction: Greet.\nInput: <noinput>\nOutput: Hi\n\n\
                     ## Task 6\nInstruction: Part.\nOutput: alone\n\nTask 7\nInstruction: Nothing\n\nTask 8\nInstruction: cut";
        let expected = [
            ("Count to x.".to_string(), Ok(pair("3", "1 2 3"))),
            ("Greet.".to_string(), Ok(pair("", "Hi"))),
            ("Part.".to_string(), Ok(pair("", "alone"))),
            ("Nothing".to_string(), Err((pair("", ""), RejectReason::Malformed))),
            ("Cut".to_string(), Err((pair("", ""), RejectReason::Truncated))),
        ];
        assert_eq!(tasks(reply, "Task 4\nInstruction:", false), expected);
        assert_eq!(tasks(&format!("Task 4\nInstruction:{reply}"), "Task 4\nInstruction:", false), expected);
    }
}
