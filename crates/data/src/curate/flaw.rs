//! What is wrong with a single row, by plain heuristics, each with a name.
//!
//! Refusals and remnants of web pages are found by phrases; repetition as Gopher's filters do (Rae et al. 2021, table A1:
//! shares of repeated lines and of the commonest n-gram). A flaw is a hint for a person, not a proof.
//! Refuses to know other rows, and how much a flaw weighs.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;

use super::rows::{Role, RowTurn};
use super::words;

/// A reason to look at a row again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// The question, or the text, has no visible character (an empty answer makes a row unusable before it comes here).
    EmptyPrompt,
    /// The answer declines, or speaks of being a language model.
    Refusal,
    /// Bytes read in the wrong encoding, control characters, key mashing, one character over and over.
    Garbled,
    /// The same words or lines over and over.
    Repetitive,
    /// The answer is the question again.
    Echo,
    /// A slot that nobody filled in: `[Your Name]`, `{{name}}`, lorem ipsum.
    Unfilled,
    /// Buttons of a chat's web page, HTML.
    WebRemnant,
    /// A long answer that ends in mid-sentence.
    CutOff,
}

impl Flaw {
    /// Every flaw, the gravest first.
    pub const ALL: [Flaw; 8] = [
        Flaw::EmptyPrompt,
        Flaw::Garbled,
        Flaw::Refusal,
        Flaw::Repetitive,
        Flaw::Echo,
        Flaw::WebRemnant,
        Flaw::Unfilled,
        Flaw::CutOff,
    ];

    /// Its name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Flaw::EmptyPrompt => "empty_prompt",
            Flaw::Refusal => "refusal",
            Flaw::Garbled => "garbled",
            Flaw::Repetitive => "repetitive",
            Flaw::Echo => "echo",
            Flaw::Unfilled => "unfilled",
            Flaw::WebRemnant => "web_remnant",
            Flaw::CutOff => "cut_off",
        }
    }

    pub(super) fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The flaws of a row, gravest first.
pub(super) fn of(parts: &[RowTurn]) -> Vec<Flaw> {
    let answers: Vec<&str> = parts.iter().filter(|p| p.by == Role::Assistant).map(|p| p.text.as_str()).collect();
    let questions: Vec<&str> = parts.iter().filter(|p| p.by == Role::User).map(|p| p.text.as_str()).collect();
    let last = answers.last().copied().unwrap_or_default();
    let visible = |t: &&str| !t.trim().is_empty();
    let found = |flaw: Flaw| match flaw {
        Flaw::EmptyPrompt => questions.first().is_some_and(|_| !questions.iter().any(visible)),
        Flaw::Refusal => answers.iter().any(|a| refuses(a)),
        Flaw::Garbled => parts.iter().any(|p| garbled(&p.text)),
        Flaw::Repetitive => answers.iter().any(|a| repeats(a)),
        Flaw::Echo => questions.last().is_some_and(|q| echoes(q, last)),
        Flaw::Unfilled => answers.iter().any(|a| unfilled(a)),
        Flaw::WebRemnant => answers.iter().any(|a| web(a)),
        Flaw::CutOff => !questions.is_empty() && cut_off(last),
    };
    Flaw::ALL.into_iter().filter(|flaw| found(*flaw)).collect()
}

/// Looked for in the first characters of an answer, in lower case and with plain apostrophes.
const REFUSALS: [&str; 62] = [
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i'm sorry, i can",
    "i am sorry, i can",
    "sorry, but i can",
    "i can't assist with",
    "i cannot assist with",
    "i can't help with",
    "i cannot help with",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i cannot provide",
    "i can't provide",
    "i cannot fulfill",
    "i can't fulfill",
    "i won't be able to",
    "i will not be able to",
    "i must decline",
    "i cannot comply",
    "i can't comply",
    "i cannot answer",
    "i can't answer",
    "as an ai language model",
    "as a large language model",
    "as an ai assistant, i can",
    "as an ai, i",
    "as an artificial intelligence",
    "as a language model",
    "i'm just an ai",
    "i am just an ai",
    "i'm only an ai",
    "i don't have access to",
    "i do not have access to",
    "i do not have personal",
    "i don't have personal",
    "it is not appropriate for me",
    "i'm sorry, but as an ai",
    "i apologize, but i",
    "i'm afraid i can",
    "sorry, i can't",
    "sorry, i cannot",
    "i cannot generate",
    "i can't generate",
    "i cannot create",
    "no answer available",
    "je suis désolé, mais je ne",
    "je suis désolée, mais je ne",
    "en tant que modèle de langage",
    "je ne peux pas vous aider",
    "es tut mir leid, aber ich kann",
    "als ki-sprachmodell",
    "als sprachmodell",
    "lo siento, pero no puedo",
    "como modelo de lenguaje",
    "mi dispiace, ma non posso",
    "抱歉，我无法",
    "很抱歉，我",
    "对不起，我不能",
    "作为一个人工智能",
    "申し訳ありませんが",
];

/// Letters of an answer in which a refusal would stand.
const OPENING: usize = 160;

fn refuses(answer: &str) -> bool {
    let opening: String = answer.trim_start().chars().take(OPENING).flat_map(char::to_lowercase).map(plain).collect();
    static PHRASES: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    finds(&PHRASES, &REFUSALS, &opening)
}

fn plain(c: char) -> char {
    if c == '’' { '\'' } else { c }
}

/// Whether one of `phrases` stands in `text`; the automaton is built once.
fn finds(built: &'static OnceLock<Option<AhoCorasick>>, phrases: &[&str], text: &str) -> bool {
    match built.get_or_init(|| AhoCorasick::new(phrases).ok()) {
        Some(automaton) => automaton.is_match(text),
        None => phrases.iter().any(|p| text.contains(p)),
    }
}

/// UTF-8 that was read as Latin-1 or Windows-1252.
const MOJIBAKE: [&str; 20] = [
    "Ã©",
    "Ã¨",
    "Ã¼",
    "Ã¶",
    "Ã¤",
    "Ã±",
    "Ã³",
    "Ã¡",
    "Ã§",
    "Ã\u{AD}",
    "â€™",
    "â€œ",
    "â€“",
    "â€¦",
    "â€\u{9d}",
    "Â°",
    "Â«",
    "Â»",
    "Ð¾Ð",
    "ï¿½",
];

fn garbled(text: &str) -> bool {
    let total = text.chars().count();
    if total == 0 {
        return false;
    }
    let control = |c: char| (c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}')) || matches!(c as u32, 0xe000..=0xf8ff);
    let bad = text.chars().filter(|c| *c == '\u{fffd}' || control(*c)).count();
    let mojibake: usize = MOJIBAKE.iter().map(|m| text.matches(m).count()).sum();
    bad * 100 > total || bad >= 3 || mojibake >= 2 || mashed(text) || one_character(text) || symbols(text)
}

/// Mostly words without a vowel, as hands falling on a keyboard write.
fn mashed(text: &str) -> bool {
    let (mut long, mut dumb) = (0, 0);
    words::each(text, |w| {
        if w.len() >= 5 && w.bytes().all(|b| b.is_ascii_lowercase()) {
            long += 1;
            let vowels = w.bytes().filter(|b| b"aeiouy".contains(b)).count();
            dumb += usize::from(vowels * 6 < w.len());
        }
    });
    long >= 3 && dumb * 2 > long
}

/// One letter or digit twelve times and more in a row, for most of the text.
fn one_character(text: &str) -> bool {
    let (mut longest, mut run, mut before, mut letters) = (0usize, 0usize, '\0', 0usize);
    for c in text.chars() {
        run = if c == before { run + 1 } else { 1 };
        before = c;
        if c.is_alphanumeric() {
            letters += 1;
            longest = longest.max(run);
        }
    }
    longest >= 12 && longest * 2 > letters
}

/// Neither words nor numbers: long texts of which less than a third are letters, digits and spaces, outside code fences. A rule
/// drawn with one sign counts as one.
fn symbols(text: &str) -> bool {
    if text.contains("```") || text.contains('|') {
        return false;
    }
    let (mut total, mut ordinary, mut before) = (0, 0, '\0');
    for c in text.chars() {
        let word = c.is_alphanumeric() || c.is_whitespace() || !c.is_ascii();
        total += usize::from(word || c != before);
        ordinary += usize::from(word);
        before = c;
    }
    total >= 30 && ordinary * 3 < total
}

/// Gopher's rules on repetition, for texts long enough to have any.
fn repeats(text: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| l.len() > 12).collect();
    if lines.len() >= 6 {
        let distinct: std::collections::HashSet<&&str> = lines.iter().collect();
        if distinct.len() * 2 < lines.len() {
            return true;
        }
    }
    let words = words::words(text);
    if words.len() < 40 {
        return false;
    }
    let crowded = words.iter().filter(|w| w.is_crowded()).count() * 2 > words.len();
    let (n, limit) = if crowded { (8, 0.3) } else { (4, 0.22) };
    let mut counts: HashMap<&[words::Word], usize> = HashMap::new();
    words.windows(n).for_each(|w| *counts.entry(w).or_default() += 1);
    let covered: usize = counts.values().filter(|c| **c >= 3).map(|c| c * n).sum();
    let most = counts.values().max().copied().unwrap_or(0);
    most >= 3 && ((most * n) as f64 > limit * words.len() as f64 || covered as f64 > 2.5 * words.len() as f64)
}

fn echoes(question: &str, answer: &str) -> bool {
    let (q, a) = (words::words(question), words::words(answer));
    a.len() >= 5 && q == a
}

const SLOTS: [&str; 17] = [
    "[your name]",
    "[name]",
    "[company name]",
    "[company]",
    "[insert",
    "[date]",
    "[your company",
    "[recipient",
    "[address]",
    "lorem ipsum",
    "{{name}}",
    "{{author}}",
    "<insert",
    "[your email",
    "[phone number]",
    "xxx-xxx-xxxx",
    "[product name]",
];

fn unfilled(text: &str) -> bool {
    static PHRASES: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    finds(&PHRASES, &SLOTS, &text.to_lowercase())
}

const REMNANTS: [&str; 14] = [
    "</div>",
    "<div class",
    "<br>",
    "<br/>",
    "<p>",
    "</span>",
    "&nbsp;",
    "&lt;",
    "&amp;",
    "Regenerate response",
    "Copy code\n",
    "Share Prompt",
    "Too many requests in 1 hour",
    "Click here to subscribe",
];

/// Remnants outside code: an answer that shows HTML in a fence means to.
fn web(text: &str) -> bool {
    if text.contains("```") || text.contains("<html") || text.contains("<!DOCTYPE") {
        return false;
    }
    static PHRASES: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    finds(&PHRASES, &REMNANTS, text)
}

/// A long answer whose last line is a long one that ends in a letter, a comma or an opened bracket.
fn cut_off(answer: &str) -> bool {
    let last = answer.trim_end().lines().last().unwrap_or_default();
    if words::count(answer) < 60 || words::count(last) < 8 || answer.contains("```") {
        return false;
    }
    let end = last.chars().next_back().unwrap_or('.');
    let open = matches!(end, ',' | ';' | '(' | '[' | '-' | '、' | '，');
    open || (end.is_alphabetic() && last.contains(' ') && last.contains(['.', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(question: &str, answer: &str) -> Vec<Flaw> {
        of(&[RowTurn::new(Role::User, question), RowTurn::new(Role::Assistant, answer)])
    }

    #[test]
    fn good_answers_have_no_flaw() {
        let long = "Plants need light, water and air. ".repeat(2) + "They grow towards the sun and store what they make. ";
        for answer in [
            "Kabul",
            "4",
            &long,
            "他们需要阳光、水和空气。",
            "def f(x):\n    return x * 2",
            "I'm sorry to hear that your dog is ill. Take it to a vet.",
            "| a | b |\n|---|---|\n| 1 | 2 |",
            "La réponse est « oui ».",
            "-----------------\nTitle\n-----------------",
            "αβγ → δ",
            "NaN",
            "hmm, brrr, shh",
        ] {
            assert_eq!(row("Tell me.", answer), [], "{answer}");
        }
    }

    #[test]
    fn refusals_are_found_in_several_languages() {
        for answer in [
            "I'm sorry, but I can't help with that.",
            "As an AI language model, I have no feelings.",
            "Je suis désolé, mais je ne peux pas.",
            "I’m sorry, but I cannot do this.",
            "很抱歉，我不能回答。",
            "Es tut mir leid, aber ich kann das nicht.",
        ] {
            assert_eq!(row("Do it.", answer), [Flaw::Refusal], "{answer}");
        }
    }

    #[test]
    fn garbage_is_found() {
        for answer in [
            "CafÃ© et thÃ© Ã  la carte",
            "donâ€™t and wonâ€™t",
            "a\u{fffd}b\u{fffd}c\u{fffd}",
            "\u{0}\u{1}\u{2}abc",
            "sdkfjh wlkrtz qwrtp mnbvc xzlkj",
            "aaaaaaaaaaaaaaaaaaaa",
            "%$#@!^&*()_+{}:<>?~%$#@!^&*()_+{}:<>?~;;;;;",
        ] {
            assert!(row("Say it.", answer).contains(&Flaw::Garbled), "{answer}");
        }
    }

    #[test]
    fn repetition_echo_slots_and_remnants_are_found() {
        let again = "The cat sat on the mat. ".repeat(12);
        assert_eq!(row("Write.", &again), [Flaw::Repetitive]);
        assert_eq!(row("Write.", &"Buy this product now\n".repeat(8)), [Flaw::Repetitive]);
        let question = "What is the largest city of the country?";
        assert_eq!(row(question, question), [Flaw::Echo]);
        assert_eq!(row("Write a letter.", "Dear [Your Name], thank you."), [Flaw::Unfilled]);
        assert_eq!(row("Explain.", "<p>It is so.</p>&nbsp;"), [Flaw::WebRemnant]);
        assert_eq!(row(" \n", "An answer."), [Flaw::EmptyPrompt]);
    }

    #[test]
    fn an_answer_cut_in_mid_sentence_is_found() {
        let whole = "Light travels fast, and sound is slow; thunder follows lightning. ".repeat(8);
        assert!(!row("Why?", &whole).contains(&Flaw::CutOff));
        let cut = whole + "The reason, as many people know, is that the speed of sound in the";
        assert!(row("Why?", &cut).contains(&Flaw::CutOff));
    }
}
