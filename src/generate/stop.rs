//! Stop strings: an answer ends where one is complete, and no part of one is given out before.

use std::collections::VecDeque;

use crate::error::{Error, Result};

/// Stop strings of one answer at most.
const MOST_STRINGS: usize = 16;

/// Characters of a stop string at most.
const MOST_CHARACTERS: usize = 256;

/// Strings that end an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
}

/// A string with its failure function (Knuth, Morris & Pratt 1977).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// By the length of a prefix less one: the length of its longest proper suffix that is a prefix too. In bytes.
    borders: Vec<usize>,
}

impl StopStrings {
    /// Any of `strings` ends an answer; with none, only tokens do.
    ///
    /// # Errors
    /// [`Error::Usage`] for more than 16 strings, an empty one, or one of more than 256 characters.
    pub fn new(strings: Vec<String>) -> Result<StopStrings> {
        if strings.len() > MOST_STRINGS {
            let why = format!("{} are given, at most {MOST_STRINGS} are possible", strings.len());
            return Err(Error::usage("stop strings", why, "leave some out"));
        }
        for (i, text) in strings.iter().enumerate() {
            let (what, length) = (format!("stop string {}", i + 1), text.chars().count());
            if length == 0 {
                return Err(Error::usage(what, "it is empty, and would end every answer at once", "leave it out"));
            }
            if length > MOST_CHARACTERS {
                let why = format!("it has {length} characters, at most {MOST_CHARACTERS} are possible");
                return Err(Error::usage(what, why, "give only its beginning"));
            }
        }
        Ok(StopStrings { patterns: strings.into_iter().map(Pattern::new).collect() })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

impl Pattern {
    fn new(text: String) -> Pattern {
        let mut pattern = Pattern { borders: vec![0], text };
        for i in 1..pattern.text.len() {
            let border = pattern.next(pattern.borders[i - 1], pattern.text.as_bytes()[i]);
            pattern.borders.push(border);
        }
        pattern
    }

    /// The length of the longest prefix that a text ends with once `byte` is added; it ended with one of `length`, not the
    /// whole pattern.
    fn next(&self, mut length: usize, byte: u8) -> usize {
        let bytes = self.text.as_bytes();
        while length > 0 && bytes[length] != byte {
            length = self.borders[length - 1];
        }
        length + usize::from(bytes[length] == byte)
    }
}

/// What may be given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released<T> {
    /// Tokens in their order: the text of each, and what came with it.
    pub pieces: Vec<(String, T)>,
    /// The stop string that ended the answer.
    pub stopped: Option<String>,
}

/// Holds back the tokens whose text may be the beginning of a stop string, and no others.
///
/// The first stop string to be complete ends the answer, of those complete at the same place the longest: where the answer
/// ends follows from its text, not from how it is cut into tokens.
#[derive(Debug, Clone)]
pub struct StopFilter<T> {
    strings: StopStrings,
    include: bool,
    /// Bytes of each string's longest prefix that the text ends with.
    begun: Vec<usize>,
    held: VecDeque<(String, T)>,
    /// Their text, in bytes.
    held_bytes: usize,
    stopped: bool,
}

impl<T> StopFilter<T> {
    /// `include`: the stop string is given out as the answer's end.
    pub fn new(strings: StopStrings, include: bool) -> StopFilter<T> {
        let begun = vec![0; strings.patterns.len()];
        StopFilter { strings, include, begun, held: VecDeque::new(), held_bytes: 0, stopped: false }
    }

    /// Takes the text of a token (empty where it completed no character) and what comes with it. At a stop string, the token
    /// that it begins in is released with its text cut there, and those inside of it never are; nor is anything pushed later.
    pub fn push(&mut self, text: &str, item: T) -> Released<T> {
        if self.stopped {
            return Released { pieces: Vec::new(), stopped: None };
        }
        let found = self.read(text);
        self.held.push_back((text.to_string(), item));
        if let Some((end, string)) = found {
            self.stopped = true;
            let string = self.strings.patterns[string].text.clone();
            let end = self.held_bytes + end - if self.include { 0 } else { string.len() };
            return Released { pieces: self.cut(end), stopped: Some(string) };
        }
        self.held_bytes += text.len();
        let kept = self.begun.iter().copied().max().unwrap_or(0);
        let mut pieces = Vec::new();
        while let Some(piece) = self.held.pop_front_if(|(text, _)| self.held_bytes - text.len() >= kept) {
            self.held_bytes -= piece.0.len();
            pieces.push(piece);
        }
        Released { pieces, stopped: None }
    }

    /// Releases what is held back: the answer ended otherwise.
    pub fn finish(&mut self) -> Vec<(String, T)> {
        self.begun.fill(0);
        self.held_bytes = 0;
        self.held.drain(..).collect()
    }

    /// Reads on until a string is complete: where in `text` it ends, and which one it is.
    fn read(&mut self, text: &str) -> Option<(usize, usize)> {
        for (at, byte) in text.bytes().enumerate() {
            let mut complete: Option<usize> = None;
            for (i, (pattern, begun)) in self.strings.patterns.iter().zip(&mut self.begun).enumerate() {
                *begun = pattern.next(*begun, byte);
                let longest = complete.is_none_or(|other| self.strings.patterns[other].text.len() < *begun);
                if *begun == pattern.text.len() && longest {
                    complete = Some(i);
                }
            }
            if let Some(i) = complete {
                return Some((at + 1, i));
            }
        }
        None
    }

    /// The first `end` bytes of what is held; the rest is dropped.
    fn cut(&mut self, end: usize) -> Vec<(String, T)> {
        let (mut begin, mut pieces) = (0, Vec::new());
        for (mut text, item) in self.held.drain(..) {
            let next = begin + text.len();
            if next <= end || begin < end {
                text.truncate(end - begin);
                pieces.push((text, item));
            }
            begin = next;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(strings: &[&str], include: bool) -> StopFilter<usize> {
        StopFilter::new(StopStrings::new(strings.iter().map(|s| s.to_string()).collect()).unwrap(), include)
    }

    /// What each push released, tokens being numbered from 0, and which string ended the answer.
    fn run(filter: &mut StopFilter<usize>, tokens: &[&str]) -> (Vec<Vec<(String, usize)>>, Option<String>) {
        let (mut released, mut stopped) = (Vec::new(), None);
        for (i, token) in tokens.iter().enumerate() {
            let got = filter.push(token, i);
            released.push(got.pieces);
            stopped = stopped.or(got.stopped);
        }
        (released, stopped)
    }

    fn pieces(expected: &[&[(&str, usize)]]) -> Vec<Vec<(String, usize)>> {
        expected.iter().map(|push| push.iter().map(|(text, i)| (text.to_string(), *i)).collect()).collect()
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_held_back() {
        let mut filter = filter(&["\nUser:"], false);
        let (released, stopped) = run(&mut filter, &["one", " two\n", "Us", "", "ual", "\n", "User"]);
        let expected: [&[(&str, usize)]; 7] =
            [&[("one", 0)], &[], &[], &[], &[(" two\n", 1), ("Us", 2), ("", 3), ("ual", 4)], &[], &[]];
        assert_eq!((released, stopped), (pieces(&expected), None));
        assert_eq!(filter.finish(), [("\n".to_string(), 5), ("User".to_string(), 6)]);
        assert!(filter.finish().is_empty());
    }

    #[test]
    fn a_token_that_begins_before_the_stop_string_is_cut_and_those_inside_are_dropped() {
        let tokens = ["a.", "END", " OF", " TEXT and more", "never"];
        let (released, stopped) = run(&mut filter(&[".END OF TEXT"], false), &tokens);
        assert_eq!(released, pieces(&[&[], &[], &[], &[("a", 0)], &[]]));
        assert_eq!(stopped.as_deref(), Some(".END OF TEXT"));
        let (released, _) = run(&mut filter(&["END OF TEXT"], false), &tokens);
        assert_eq!(released, pieces(&[&[("a.", 0)], &[], &[], &[], &[]]));
        let (released, _) = run(&mut filter(&[".END OF TEXT"], true), &tokens);
        assert_eq!(released, pieces(&[&[], &[], &[], &[("a.", 0), ("END", 1), (" OF", 2), (" TEXT", 3)], &[]]));
    }

    #[test]
    fn the_first_to_be_complete_ends_the_answer_and_of_several_the_longest() {
        for tokens in [&["xabcd"][..], &["xa", "bcd"], &["x", "a", "b", "c", "d"]] {
            let (released, stopped) = run(&mut filter(&["abcd", "bc", "c", "abx"], false), tokens);
            let text: String = released.into_iter().flatten().map(|(text, _)| text).collect();
            assert_eq!((text.as_str(), stopped.as_deref()), ("xa", Some("bc")), "{tokens:?}");
        }
    }

    #[test]
    fn impossible_strings_are_refused() {
        let new = |strings: Vec<String>| StopStrings::new(strings);
        assert!(new(Vec::new()).unwrap().is_empty());
        assert!(!new(vec!["日".repeat(256); 16]).unwrap().is_empty());
        for bad in [vec!["x".to_string(); 17], vec!["x".into(), String::new()], vec!["日".repeat(257)]] {
            assert_eq!(new(bad).unwrap_err().exit_code(), 2);
        }
    }

    /// Where the first of `strings` to be complete in `text` begins and ends, of several the longest.
    fn first(text: &str, strings: &[String]) -> Option<(usize, usize)> {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        ends.into_iter().find_map(|end| {
            let longest = strings.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len).max()?;
            Some((end - longest, end))
        })
    }

    /// The longest suffix of `text` that is a proper prefix of one of `strings`, in bytes.
    fn begun(text: &str, strings: &[String]) -> usize {
        let proper = |tail: &str| strings.iter().any(|s| s.len() > tail.len() && s.starts_with(tail));
        text.char_indices().map(|(at, _)| &text[at..]).find(|tail| proper(tail)).map_or(0, str::len)
    }

    fn words(letters: std::ops::Range<usize>, many: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
        let letter = prop::sample::select(vec!['a', 'b', '日']);
        let word = prop::collection::vec(letter, letters).prop_map(|letters| letters.into_iter().collect::<String>());
        prop::collection::vec(word, many)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_is_released_is_the_text_before_the_first_stop_string(
            tokens in words(0..4, 0..25), strings in words(1..6, 0..4), include: bool,
        ) {
            let mut filter = StopFilter::new(StopStrings::new(strings.clone()).unwrap(), include);
            let (mut text, mut released) = (String::new(), Vec::new());
            for (i, token) in tokens.iter().enumerate() {
                let before = first(&text, &strings);
                text += token;
                let Released { pieces, stopped } = filter.push(token, i);
                let now = first(&text, &strings).filter(|_| before.is_none());
                prop_assert_eq!(stopped.as_deref(), now.map(|(begin, end)| &text[begin..end]));
                released.extend(pieces);
                if before.is_none() && now.is_none() {
                    // Held tokens are those that reach into the suffix.
                    let kept = text.len() - begun(&text, &strings);
                    let ends = tokens[..=i].iter().scan(0, |end, token| { *end += token.len(); Some(*end) });
                    prop_assert_eq!(released.len(), ends.filter(|end| *end <= kept).count());
                }
            }
            released.extend(filter.finish());
            let expected = first(&text, &strings).map_or(text.len(), |(begin, end)| if include { end } else { begin });
            prop_assert_eq!(released.iter().map(|(text, _)| text.as_str()).collect::<String>(), &text[..expected]);
            prop_assert!(released.iter().map(|(_, i)| *i).eq(0..released.len()));
            let whole = released.len().saturating_sub(1);
            prop_assert!(released[..whole].iter().zip(&tokens).all(|((text, _), token)| text == token));
        }
    }
}
