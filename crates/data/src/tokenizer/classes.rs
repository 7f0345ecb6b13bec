//! Which characters are letters, numbers and white space, as the regular expressions of the library see them.
//!
//! The library's engine carries its own Unicode tables; asking it, once a process, for the class of every character
//! keeps both sides on the same ones.

use std::sync::OnceLock;

use tokenizers::utils::SysRegex;

/// Neither of the others: punctuation, symbols, marks, unassigned.
pub(crate) const OTHER: u8 = 0;
/// `\s`
pub(crate) const SPACE: u8 = 1;
/// `\p{L}`
pub(crate) const LETTER: u8 = 2;
/// `\p{N}`
pub(crate) const NUMBER: u8 = 3;
/// The bits that hold the class.
pub(crate) const CLASS: u8 = 3;
/// A bit beside the class: the standard library's `is_numeric`, by which `Digits` splits.
pub(crate) const NUMERIC: u8 = 4;

const CHARACTERS: usize = 0x11_0000;

/// The class of every character, by its number; `None` when the library refuses the patterns.
pub(crate) fn classes() -> Option<&'static [u8]> {
    static CLASSES: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    CLASSES.get_or_init(ask).as_deref()
}

fn ask() -> Option<Vec<u8>> {
    let mut classes = vec![OTHER; CHARACTERS];
    let all: String = (0..CHARACTERS as u32).filter_map(char::from_u32).collect();
    for (pattern, class) in [(r"\s+", SPACE), (r"\p{L}+", LETTER), (r"\p{N}+", NUMBER)] {
        let pattern = SysRegex::new(pattern).ok()?;
        for (start, end) in pattern.find_iter(&all) {
            all[start..end].chars().for_each(|c| classes[c as usize] = class);
        }
    }
    all.chars().filter(|c| c.is_numeric()).for_each(|c| classes[c as usize] |= NUMERIC);
    Some(classes)
}
