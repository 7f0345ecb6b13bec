//! What is not kept, and why: the heuristics of Self-Instruct (`bootstrap_instructions.py`, `prepare_for_finetuning.py`)
//! and of Alpaca (`generate_instruction.py`), and one of our own for generators that fall into a loop.
//!
//! Refuses to know how texts were made.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::seeds::Instance;
use super::settings::Variant;

/// Fewer or more words in an instruction are too few or too many.
const WORDS: std::ops::RangeInclusive<usize> = 4..=150;
/// A text of at least this many words whose runs of four words are mostly repeats is a loop.
const LOOP_FROM: usize = 24;
const LOOP_SHARE: f64 = 0.5;

/// Why a candidate was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// An instruction of three words or fewer.
    TooShort,
    /// An instruction of more than 150 words.
    TooLong,
    /// It needs what a text cannot give: an image, a file, a map …
    Keyword,
    /// "Write a program …": the answer would be anything.
    Program,
    /// It begins with a punctuation mark.
    Punctuation,
    /// It begins with a character outside ASCII.
    NotAscii,
    /// ROUGE-L of at least the threshold with an instruction of the pool.
    Similar,
    /// The reply was cut off in the middle of it.
    Truncated,
    /// The reply has not the parts that were asked for.
    Malformed,
    /// No output, or one without a visible character.
    NoOutput,
    /// The output is the input.
    InputIsOutput,
    /// The output is the instruction.
    InstructionIsOutput,
    /// Input or output ends with a colon: what should follow is missing.
    EndsWithColon,
    /// The same input and output again.
    Duplicate,
    /// The same input with another output.
    Contradiction,
    /// The same words over and over.
    Loop,
}

impl RejectReason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            RejectReason::TooShort => "three words or fewer",
            RejectReason::TooLong => "more than 150 words",
            RejectReason::Keyword => "asks for what is not text (image, file, map …)",
            RejectReason::Program => "\"write a program\"",
            RejectReason::Punctuation => "begins with punctuation",
            RejectReason::NotAscii => "begins outside ASCII",
            RejectReason::Similar => "too similar to an instruction of the pool",
            RejectReason::Truncated => "reply cut off in it",
            RejectReason::Malformed => "reply without the parts asked for",
            RejectReason::NoOutput => "no output",
            RejectReason::InputIsOutput => "output is the input",
            RejectReason::InstructionIsOutput => "output is the instruction",
            RejectReason::EndsWithColon => "ends with a colon",
            RejectReason::Duplicate => "same instance again",
            RejectReason::Contradiction => "same input, another output",
            RejectReason::Loop => "repeats itself",
        }
    }
}

/// Words of Self-Instruct's list, then those that Alpaca adds.
static SELF_INSTRUCT: LazyLock<Option<Regex>> =
    LazyLock::new(|| words("image|images|graph|graphs|picture|pictures|file|files|map|maps|draw|plot|go to"));
static ALPACA: LazyLock<Option<Regex>> = LazyLock::new(|| {
    words("image|images|graph|graphs|picture|pictures|file|files|map|maps|draw|plot|go to|video|audio|music|flowchart|diagram")
});

fn words(list: &str) -> Option<Regex> {
    Regex::new(&format!(r"(?i)\b(?:{list})\b")).ok()
}

/// What is wrong with an instruction by itself.
pub(super) fn instruction(text: &str, variant: Variant) -> Option<RejectReason> {
    let count = text.split_whitespace().count();
    if count < *WORDS.start() {
        return Some(RejectReason::TooShort);
    }
    if count > *WORDS.end() {
        return Some(RejectReason::TooLong);
    }
    let keywords = if variant == Variant::Alpaca { &ALPACA } else { &SELF_INSTRUCT };
    if keywords.as_ref().is_some_and(|list| list.is_match(text)) {
        return Some(RejectReason::Keyword);
    }
    if text.get(..15).is_some_and(|start| start.eq_ignore_ascii_case("write a program")) {
        return Some(RejectReason::Program);
    }
    match text.chars().next() {
        Some(c) if c.is_ascii_punctuation() => return Some(RejectReason::Punctuation),
        Some(c) if !c.is_ascii() => return Some(RejectReason::NotAscii),
        _ => {}
    }
    loops(text).then_some(RejectReason::Loop)
}

/// What is wrong with an input and its output.
pub(super) fn instance(instruction: &str, instance: &Instance) -> Option<RejectReason> {
    let (input, output) = (instance.input.trim(), instance.output.trim());
    if !output.chars().any(|c| !c.is_whitespace() && !c.is_control()) {
        return Some(RejectReason::NoOutput);
    }
    if input == output {
        return Some(RejectReason::InputIsOutput);
    }
    if instruction.trim() == output {
        return Some(RejectReason::InstructionIsOutput);
    }
    if input.ends_with(':') || output.ends_with(':') {
        return Some(RejectReason::EndsWithColon);
    }
    (loops(input) || loops(output)).then_some(RejectReason::Loop)
}

/// For each instance of one instruction: is it one again, or does it contradict another? As in Self-Instruct, all that
/// contradict each other go, since nobody knows which is right.
pub(super) fn among(instances: &[Instance]) -> Vec<Option<RejectReason>> {
    let mut outputs: HashMap<&str, HashSet<&str>> = HashMap::new();
    for i in instances.iter().filter(|i| !i.input.trim().is_empty()) {
        outputs.entry(i.input.trim()).or_default().insert(i.output.trim());
    }
    let mut seen = HashSet::new();
    let judge = |i: &Instance| {
        if outputs.get(i.input.trim()).is_some_and(|all| all.len() > 1) {
            return Some(RejectReason::Contradiction);
        }
        (!seen.insert((i.input.trim().to_string(), i.output.trim().to_string()))).then_some(RejectReason::Duplicate)
    };
    instances.iter().map(judge).collect()
}

/// Whether a text says the same again and again.
fn loops(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() < LOOP_FROM {
        return false;
    }
    let distinct: HashSet<&[&str]> = words.windows(4).collect();
    (distinct.len() as f64) < LOOP_SHARE * (words.len() - 3) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_judged_by_the_table() {
        use RejectReason::*;
        let long = "word ".repeat(151);
        let fits: String = (0..150).map(|i| format!("word{i} ")).collect();
        let again = "Tell me the time of day please. ".repeat(6);
        let both: [(&str, Option<RejectReason>); 22] = [
            ("Name three rivers of Africa.", None),
            ("Name three rivers.", Some(TooShort)),
            ("Name three big rivers.", None),
            ("", Some(TooShort)),
            (&long, Some(TooLong)),
            (&fits, None),
            ("Describe the image in one sentence.", Some(Keyword)),
            ("Describe this Picture in one sentence.", Some(Keyword)),
            ("Sort the files by their size.", Some(Keyword)),
            ("Explain what a profile is for.", None),
            ("Explain how to imagine a scene.", None),
            ("Plot the values of y.", Some(Keyword)),
            ("Say where to go to buy bread.", Some(Keyword)),
            ("Say what is good to buy.", None),
            ("Write a program that adds two numbers.", Some(Program)),
            ("write a Program that adds two numbers.", Some(Program)),
            ("Write a function that adds two numbers.", None),
            ("\"Quote\" is what kind of word?", Some(Punctuation)),
            ("- Name three rivers of Africa.", Some(Punctuation)),
            ("Écris une phrase en français.", Some(NotAscii)),
            ("Translate 'café' into English please.", None),
            (&again, Some(Loop)),
        ];
        for (text, expected) in both {
            assert_eq!(instruction(text, Variant::SelfInstruct), expected, "{text}");
            assert_eq!(instruction(text, Variant::Alpaca), expected, "{text}");
        }
        let only_alpaca = "Describe the music of the baroque.";
        assert_eq!(instruction(only_alpaca, Variant::SelfInstruct), None);
        assert_eq!(instruction(only_alpaca, Variant::Alpaca), Some(Keyword));
    }

    fn pair(input: &str, output: &str) -> Instance {
        Instance { input: input.into(), output: output.into() }
    }

    #[test]
    fn instances_are_judged_by_the_table() {
        use RejectReason::*;
        let again = "no more of this ".repeat(7);
        let counted: String = (1..40).map(|i| format!("{i} ")).collect();
        let cases = [
            (pair("", "Nile, Congo, Niger"), None),
            (pair("a", "b"), None),
            (pair("a", " \n"), Some(NoOutput)),
            (pair("a", "\u{0}"), Some(NoOutput)),
            (pair("same", "same "), Some(InputIsOutput)),
            (pair("a", "The instruction."), Some(InstructionIsOutput)),
            (pair("a", "Here is the list:"), Some(EndsWithColon)),
            (pair("Text: ", "b"), Some(EndsWithColon)),
            (pair("a", &again), Some(Loop)),
            (pair(&again, "b"), Some(Loop)),
            (pair("a", &counted), None),
        ];
        for (pair, expected) in cases {
            assert_eq!(instance("The instruction.", &pair), expected, "{pair:?}");
        }
    }

    #[test]
    fn instances_of_one_task_are_judged_together() {
        use RejectReason::*;
        let all = [pair("x", "1"), pair("y", "2"), pair("x", "3"), pair("y", "2"), pair("", "4"), pair("", "5"), pair("", "4")];
        let expected = [Some(Contradiction), None, Some(Contradiction), Some(Duplicate), None, None, Some(Duplicate)];
        assert_eq!(among(&all), expected);
    }
}
