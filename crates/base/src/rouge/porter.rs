//! Porter's stemmer (Porter 1980, "An algorithm for suffix stripping") with the changes that NLTK makes by default
//! (`nltk/stem/porter.py`, mode `NLTK_EXTENSIONS`), because that is what `rouge-score` calls. For words of `a-z0-9`.

/// The stem of a word of more than two characters.
pub(super) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_string();
    }
    let word = past(&plural(word));
    let word = first_rule(&adverbs(&y_to_i(word)), STEP_2);
    let word = first_rule(&word, STEP_3);
    last_l(last_e(first_rule(&word, STEP_4)))
}

const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// What must hold of what is left of the suffix.
#[derive(Clone, Copy)]
enum If {
    /// Its measure is above this.
    Measure(usize),
    /// Its measure with the suffix's first letter is above 0 (`logi`: the l is counted with the stem).
    WithFirst,
    /// Its measure is above 1 and it ends in s or t.
    AfterST,
}

type SuffixRule = (&'static str, &'static str, If);

const STEP_2: &[SuffixRule] = &[
    ("ational", "ate", If::Measure(0)),
    ("tional", "tion", If::Measure(0)),
    ("enci", "ence", If::Measure(0)),
    ("anci", "ance", If::Measure(0)),
    ("izer", "ize", If::Measure(0)),
    ("bli", "ble", If::Measure(0)),
    ("alli", "al", If::Measure(0)),
    ("entli", "ent", If::Measure(0)),
    ("eli", "e", If::Measure(0)),
    ("ousli", "ous", If::Measure(0)),
    ("ization", "ize", If::Measure(0)),
    ("ation", "ate", If::Measure(0)),
    ("ator", "ate", If::Measure(0)),
    ("alism", "al", If::Measure(0)),
    ("iveness", "ive", If::Measure(0)),
    ("fulness", "ful", If::Measure(0)),
    ("ousness", "ous", If::Measure(0)),
    ("aliti", "al", If::Measure(0)),
    ("iviti", "ive", If::Measure(0)),
    ("biliti", "ble", If::Measure(0)),
    ("fulli", "ful", If::Measure(0)),
    ("logi", "log", If::WithFirst),
];

const STEP_3: &[SuffixRule] = &[
    ("icate", "ic", If::Measure(0)),
    ("ative", "", If::Measure(0)),
    ("alize", "al", If::Measure(0)),
    ("iciti", "ic", If::Measure(0)),
    ("ical", "ic", If::Measure(0)),
    ("ful", "", If::Measure(0)),
    ("ness", "", If::Measure(0)),
];

const STEP_4: &[SuffixRule] = &[
    ("al", "", If::Measure(1)),
    ("ance", "", If::Measure(1)),
    ("ence", "", If::Measure(1)),
    ("er", "", If::Measure(1)),
    ("ic", "", If::Measure(1)),
    ("able", "", If::Measure(1)),
    ("ible", "", If::Measure(1)),
    ("ant", "", If::Measure(1)),
    ("ement", "", If::Measure(1)),
    ("ment", "", If::Measure(1)),
    ("ent", "", If::Measure(1)),
    ("ion", "", If::AfterST),
    ("ou", "", If::Measure(1)),
    ("ism", "", If::Measure(1)),
    ("ate", "", If::Measure(1)),
    ("iti", "", If::Measure(1)),
    ("ous", "", If::Measure(1)),
    ("ive", "", If::Measure(1)),
    ("ize", "", If::Measure(1)),
];

/// Applies the first rule whose suffix the word has; when its condition does not hold, none.
fn first_rule(word: &str, rules: &[SuffixRule]) -> String {
    let Some((rest, (suffix, replacement, condition))) =
        rules.iter().find_map(|rule| word.strip_suffix(rule.0).map(|rest| (rest, rule)))
    else {
        return word.to_string();
    };
    let holds = match condition {
        If::Measure(above) => measure(rest) > *above,
        If::WithFirst => measure(&word[..word.len() - suffix.len() + 1]) > 0,
        If::AfterST => measure(rest) > 1 && rest.ends_with(['s', 't']),
    };
    if holds { format!("{rest}{replacement}") } else { word.to_string() }
}

/// Which letters are consonants: y is one at the start and after a vowel.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        let consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before: &bool| !before),
            _ => true,
        };
        flags.push(consonant);
    }
    flags
}

/// m of `[C](VC)^m[V]`.
fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

fn ends_in_consonant(word: &str) -> bool {
    consonants(word).last() == Some(&true)
}

/// The paper's *d.
fn ends_double(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() >= 2 && bytes[bytes.len() - 1] == bytes[bytes.len() - 2] && ends_in_consonant(word)
}

/// The paper's *o (consonant, vowel, consonant but w, x, y); NLTK also takes a word of a vowel and a consonant.
fn ends_short(word: &str) -> bool {
    let flags = consonants(word);
    match flags.as_slice() {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// Step 1a, with `dies` → `die` beside `flies` → `fli`.
fn plural(word: &str) -> String {
    match () {
        () if word.ends_with("ies") && word.len() == 4 => word[..3].to_string(),
        () if word.ends_with("sses") || word.ends_with("ies") => word[..word.len() - 2].to_string(),
        () if word.ends_with("ss") => word.to_string(),
        () => word.strip_suffix('s').unwrap_or(word).to_string(),
    }
}

/// Step 1b, with `died` → `die` beside `spied` → `spi`.
fn past(word: &str) -> String {
    if word.ends_with("ied") {
        return word[..word.len() - if word.len() == 4 { 1 } else { 2 }].to_string();
    }
    if let Some(rest) = word.strip_suffix("eed") {
        return if measure(rest) > 0 { format!("{rest}ee") } else { word.to_string() };
    }
    let rest = ["ed", "ing"].iter().filter_map(|suffix| word.strip_suffix(suffix)).find(|rest| has_vowel(rest));
    rest.map_or_else(|| word.to_string(), repaired)
}

/// What step 1b puts right after it took away `ed` or `ing`.
fn repaired(rest: &str) -> String {
    match () {
        () if ["at", "bl", "iz"].iter().any(|end| rest.ends_with(end)) => format!("{rest}e"),
        () if ends_double(rest) && rest.ends_with(['l', 's', 'z']) => rest.to_string(),
        () if ends_double(rest) => rest[..rest.len() - 1].to_string(),
        () if measure(rest) == 1 && ends_short(rest) => format!("{rest}e"),
        () => rest.to_string(),
    }
}

/// Step 1c in NLTK's form: after a consonant that is not the whole rest.
fn y_to_i(word: String) -> String {
    match word.strip_suffix('y') {
        Some(rest) if rest.len() > 1 && ends_in_consonant(rest) => format!("{rest}i"),
        _ => word,
    }
}

/// What NLTK does at the start of step 2: `alli` → `al`, and step 2 again from there.
fn adverbs(word: &str) -> String {
    match word.strip_suffix("alli") {
        Some(rest) if measure(rest) > 0 => adverbs(&format!("{rest}al")),
        _ => word.to_string(),
    }
}

/// Step 5a.
fn last_e(word: String) -> String {
    match word.strip_suffix('e') {
        Some(rest) if measure(rest) > 1 || (measure(rest) == 1 && !ends_short(rest)) => rest.to_string(),
        _ => word,
    }
}

/// Step 5b.
fn last_l(word: String) -> String {
    let rest = &word[..word.len().saturating_sub(1)];
    if word.ends_with("ll") && measure(rest) > 1 { rest.to_string() } else { word }
}
