//! Text as words, and words as 32-bit hashes: what copies and leaks are found by.
//!
//! A word is a run of letters, marks and digits, lower-cased; in scripts that put no spaces between words every character is one.
//! Case, punctuation and white space therefore change nothing; the signs of arithmetic are words, because `3 + 4` is not
//! `3 × 4`. Refuses to know what the words mean.

/// A word: 30 bits of hash, then whether it belongs to a script without spaces, then whether it has a digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Word(pub(super) u32);

const DIGIT: u32 = 1;
const CROWDED: u32 = 2;

impl Word {
    fn new(text: &str) -> Word {
        let digit = u32::from(text.bytes().any(|b| b.is_ascii_digit()) || text.chars().any(char::is_numeric));
        let crowded = if text.chars().next().is_some_and(crowded) { CROWDED } else { 0 };
        Word(((hash(text.as_bytes()) as u32) & !3) | crowded | digit)
    }

    /// Whether it holds a digit.
    pub(super) fn is_number(self) -> bool {
        self.0 & DIGIT != 0
    }

    /// Whether it is one character of a script without spaces.
    pub(super) fn is_crowded(self) -> bool {
        self.0 & CROWDED != 0
    }
}

/// FNV-1a (Fowler, Noll, Vo) and a finaliser: the same on every machine, and words are short.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for b in bytes {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(h)
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scripts that put no spaces between words: Han, Kana, Thai, Lao, Khmer, Burmese, Tibetan.
pub(super) fn crowded(c: char) -> bool {
    matches!(c as u32,
        0x0e00..=0x0eff | 0x0f00..=0x0fff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3005..=0x3007 | 0x3040..=0x30ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

/// Letters, digits, and the marks that are put on letters.
fn inner(c: char) -> bool {
    c.is_alphanumeric() || matches!(c as u32, 0x0300..=0x036f | 0x0900..=0x0dff | 0x0591..=0x05c7 | 0x064b..=0x065f)
}

/// Calls `take` with every word, lower-cased, in order.
pub(super) fn each(text: &str, mut take: impl FnMut(&str)) {
    let mut word = String::new();
    let mut flush = |word: &mut String| {
        if !word.is_empty() {
            take(word);
            word.clear();
        }
    };
    for c in text.chars() {
        // Apostrophes and soft hyphens inside a word do not end it.
        if crowded(c) || matches!(c, '+' | '=' | '<' | '>' | '×' | '÷' | '−' | '^') {
            flush(&mut word);
            word.push(c);
            flush(&mut word);
        } else if inner(c) {
            if c.is_ascii() { word.push(c.to_ascii_lowercase()) } else { word.extend(c.to_lowercase()) }
        } else if !matches!(c, '\'' | '’' | '\u{ad}' | '\u{200c}' | '\u{200d}') {
            flush(&mut word);
        }
    }
    flush(&mut word);
}

/// The words of a text.
pub(super) fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    each(text, |w| words.push(Word::new(w)));
    words
}

/// How many words a text has.
pub(super) fn count(text: &str) -> usize {
    let mut n = 0;
    each(text, |_| n += 1);
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        let mut list = Vec::new();
        each(text, |w| list.push(w.to_string()));
        list
    }

    #[test]
    fn case_punctuation_and_space_change_nothing() {
        assert_eq!(list("Don't  STOP,\nÉté!"), ["dont", "stop", "été"]);
        assert_eq!(words("Hello, World."), words("hello   world"));
        assert_ne!(words("hello world"), words("world hello"));
    }

    #[test]
    fn scripts_without_spaces_are_cut_at_every_character() {
        assert_eq!(list("你好 world"), ["你", "好", "world"]);
        assert!(words("你")[0].is_crowded() && !words("a")[0].is_crowded());
        assert_eq!(list("नमस्ते"), ["नमस्ते"]);
    }

    #[test]
    fn numbers_and_signs_are_words() {
        assert_eq!(list("3 + 4=7"), ["3", "+", "4", "=", "7"]);
        assert!(words("x7")[0].is_number() && !words("seven")[0].is_number());
    }
}
