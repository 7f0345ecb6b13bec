//! Which language a text is in, without a model file.
//!
//! Two witnesses: trigrams and alphabets (the crate `whatlang`, 70 languages; Cavnar & Trenkle 1994) and a list of function
//! words for fifteen languages in Latin letters, which decides where the text is short, and which knows Swahili, as the crate does
//! not. A text that neither is sure of has no language: it is counted as such, never guessed. Code and formulas weigh little:
//! what stands in code fences is left out. Refuses to know how languages are asked for.

use whatlang::{Lang, Script};

use super::words;

/// Letters below which a text says nothing about its language.
const SHORTEST: usize = 12;
/// A text is judged by its first so many bytes.
const LONGEST: usize = 4000;

/// Function words that no other of these languages uses as often.
const FUNCTION: [(&str, &[&str]); 15] = [
    (
        "en",
        &[
            "the",
            "of",
            "and",
            "to",
            "is",
            "that",
            "for",
            "you",
            "with",
            "are",
            "this",
            "what",
            "how",
            "it",
            "from",
            "your",
            "can",
            "which",
            "be",
            "or",
            "an",
            "following",
            "was",
            "by",
            "my",
            "write",
            "have",
            "i",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "nicht", "ein", "eine", "zu", "von", "mit", "wie", "für", "auf", "den", "dem",
            "sie", "ich", "werden", "sich", "wird", "im", "auch", "sind", "viele", "er",
        ],
    ),
    (
        "fr",
        &[
            "le", "la", "les", "des", "et", "est", "une", "un", "du", "que", "pour", "dans", "qui", "vous", "sur", "avec", "ne",
            "pas", "il", "au", "combien", "votre", "sont", "en", "à", "ce", "elle", "je",
        ],
    ),
    (
        "es",
        &[
            "el", "la", "los", "las", "de", "y", "es", "una", "que", "en", "por", "con", "para", "del", "se", "un", "su", "cómo",
            "qué", "como", "más", "al", "lo",
        ],
    ),
    (
        "it",
        &[
            "il", "la", "di", "che", "e", "è", "una", "un", "per", "con", "non", "del", "della", "sono", "gli", "le", "nel",
            "come", "si", "era", "lo", "ha", "i",
        ],
    ),
    (
        "pt",
        &[
            "o", "a", "os", "as", "de", "e", "é", "uma", "um", "que", "em", "para", "com", "não", "do", "da", "no", "na", "se",
            "como", "dos", "você",
        ],
    ),
    (
        "nl",
        &[
            "de", "het", "een", "en", "van", "is", "dat", "niet", "op", "te", "voor", "met", "zijn", "aan", "er", "die", "hoe",
            "wat", "ik", "je",
        ],
    ),
    (
        "sv",
        &["och", "att", "det", "är", "som", "en", "på", "för", "med", "av", "inte", "till", "den", "ett", "jag", "har", "hur"],
    ),
    (
        "da",
        &[
            "og", "at", "det", "er", "som", "en", "på", "for", "med", "af", "ikke", "til", "den", "et", "jeg", "har", "hvordan",
            "hvad",
        ],
    ),
    ("pl", &["i", "w", "na", "z", "się", "nie", "jest", "do", "to", "że", "jak", "dla", "są", "po", "od", "co"]),
    ("ro", &["și", "în", "de", "la", "cu", "este", "un", "o", "pe", "nu", "care", "din", "a", "pentru", "se", "sunt", "să"]),
    ("tr", &["ve", "bir", "bu", "için", "ile", "da", "de", "ne", "nasıl", "olarak", "çok", "daha", "mi", "var"]),
    ("fi", &["ja", "on", "ei", "se", "että", "oli", "mitä", "kun", "myös", "hän", "tai", "ovat", "mutta", "ole", "kuin"]),
    ("id", &["yang", "dan", "di", "untuk", "dengan", "dari", "ini", "itu", "adalah", "pada", "tidak", "dalam", "apa", "ke"]),
    (
        "sw",
        &[
            "na", "ya", "wa", "kwa", "ni", "katika", "kila", "la", "za", "cha", "ngapi", "yake", "kama", "siku", "hii", "ana",
            "au", "vya", "alikuwa", "mtu", "hiyo", "gani", "ambayo", "lakini", "kuwa", "huyo", "wake", "ili", "kiasi", "yote",
            "sana", "yao", "hivyo",
        ],
    ),
];

/// The language of a text as its ISO 639-1 code (639-3 where there is none); `None` when that cannot be told.
pub(super) fn of(text: &str) -> Option<&'static str> {
    let text = prose(text);
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    // A script of few languages says much with few letters (Hebrew and what Unicode has behind it).
    let telling = text.chars().filter(|c| c.is_alphabetic() && *c >= '\u{590}').count();
    if letters < SHORTEST && telling < 4 {
        return None;
    }
    let info = whatlang::detect(&text);
    if let Some(info) = info.as_ref().filter(|i| i.script() != Script::Latin) {
        return Some(code(info.lang()));
    }
    let mut heard = vote(&text);
    heard.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let (total, first, second) = (words::count(&text), heard[0], heard[1]);
    let sure = first.1 * 8 >= total && first.1 >= 2 && first.1 * 3 >= second.1 * 4;
    let guess = info.map(|i| (code(i.lang()), i.is_reliable()));
    match guess {
        Some((lang, _)) if lang == first.0 && first.1 >= 1 => Some(lang),
        _ if sure => Some(first.0),
        // A language whose function words are known, and none of them there, is not it.
        Some((lang, true)) => heard.iter().all(|(known, n)| *known != lang || *n > 0).then_some(lang),
        _ => None,
    }
}

/// How often each language's function words stand in the text.
fn vote(text: &str) -> Vec<(&'static str, usize)> {
    let mut heard: Vec<(&'static str, usize)> = FUNCTION.iter().map(|(lang, _)| (*lang, 0)).collect();
    words::each(text, |word| {
        for (i, (_, list)) in FUNCTION.iter().enumerate() {
            heard[i].1 += usize::from(list.contains(&word));
        }
    });
    heard
}

/// The beginning of a text, without what stands in code fences (all of it when nothing else is there).
fn prose(text: &str) -> String {
    let mut kept = String::new();
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 0 {
            kept += part;
        }
        if kept.len() > LONGEST {
            break;
        }
    }
    if kept.trim().is_empty() {
        kept = text.to_string();
    }
    let mut end = kept.len().min(LONGEST);
    while !kept.is_char_boundary(end) {
        end -= 1;
    }
    kept.truncate(end);
    kept
}

fn code(lang: Lang) -> &'static str {
    TWO_LETTERS.iter().find(|(three, _)| *three == lang.code()).map_or(lang.code(), |(_, two)| two)
}

/// ISO 639-3 → 639-1.
const TWO_LETTERS: [(&str, &str); 70] = [
    ("epo", "eo"),
    ("eng", "en"),
    ("rus", "ru"),
    ("cmn", "zh"),
    ("spa", "es"),
    ("por", "pt"),
    ("ita", "it"),
    ("ben", "bn"),
    ("fra", "fr"),
    ("deu", "de"),
    ("ukr", "uk"),
    ("kat", "ka"),
    ("ara", "ar"),
    ("hin", "hi"),
    ("jpn", "ja"),
    ("heb", "he"),
    ("yid", "yi"),
    ("pol", "pl"),
    ("amh", "am"),
    ("jav", "jv"),
    ("kor", "ko"),
    ("nob", "no"),
    ("dan", "da"),
    ("swe", "sv"),
    ("fin", "fi"),
    ("tur", "tr"),
    ("nld", "nl"),
    ("hun", "hu"),
    ("ces", "cs"),
    ("ell", "el"),
    ("bul", "bg"),
    ("bel", "be"),
    ("mar", "mr"),
    ("kan", "kn"),
    ("ron", "ro"),
    ("slv", "sl"),
    ("hrv", "hr"),
    ("srp", "sr"),
    ("mkd", "mk"),
    ("lit", "lt"),
    ("lav", "lv"),
    ("est", "et"),
    ("tam", "ta"),
    ("vie", "vi"),
    ("urd", "ur"),
    ("tha", "th"),
    ("guj", "gu"),
    ("uzb", "uz"),
    ("pan", "pa"),
    ("aze", "az"),
    ("ind", "id"),
    ("tel", "te"),
    ("pes", "fa"),
    ("mal", "ml"),
    ("ori", "or"),
    ("mya", "my"),
    ("nep", "ne"),
    ("sin", "si"),
    ("khm", "km"),
    ("tuk", "tk"),
    ("aka", "ak"),
    ("zul", "zu"),
    ("sna", "sn"),
    ("afr", "af"),
    ("lat", "la"),
    ("slk", "sk"),
    ("cat", "ca"),
    ("tgl", "tl"),
    ("hye", "hy"),
    ("cym", "cy"),
];

/// Every code that [`of`] may give.
pub(super) fn known() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = Lang::all().iter().map(|l| code(*l)).chain(FUNCTION.iter().map(|(l, _)| *l)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_from_a_sentence() {
        let table = [
            ("en", "What is the capital of Australia, and why is it not Sydney?"),
            ("de", "Wie viele Eier legen die Enten von Janet an einem Tag?"),
            ("fr", "Combien d'œufs les canes de Janet pondent-elles chaque jour pour le marché ?"),
            ("es", "Escribe un poema sobre el mar y las montañas de tu país."),
            ("it", "L'oggetto era incartato nella plastica e non si poteva vedere che cosa era."),
            ("sw", "Bata wa Janet hutaga mayai 16 kila siku. Huwa anakula matatu wakati wa staftahi kila asubuhi."),
            ("zh", "描述一个可以从人工智能技术中受益的医疗应用。"),
            ("ja", "日本の歴史について短いエッセイを書いてください。"),
            ("ru", "Напиши короткое стихотворение о зиме."),
            ("ko", "한국의 수도는 어디입니까?"),
            ("ar", "ما هي عاصمة فرنسا؟ اكتب جملة كاملة."),
        ];
        for (lang, text) in table {
            assert_eq!(of(text), Some(lang), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_guessed() {
        for text in ["", "42", "Kabul", "x = y + 1", "qwrt zxpl mnbv kjhg"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn code_in_fences_does_not_count() {
        let text = "Écris une fonction qui trie la liste des noms pour le client.\n```\nfor the item in the list of the items: print the item and the name\n```";
        assert_eq!(of(text), Some("fr"));
    }

    #[test]
    fn every_code_is_known_once() {
        let all = known();
        assert!(all.contains(&"sw") && all.contains(&"en") && all.len() >= 70, "{all:?}");
    }
}
