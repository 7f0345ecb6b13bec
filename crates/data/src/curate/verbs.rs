//! What a row asks for: the verb of its first sentence and the noun that is the verb's object.
//!
//! Self-Instruct (Wang et al. 2022, figure 2) parses the instruction and takes the root verb with its first direct object. Here
//! there is no parser: the first word of a list of verbs that instructions begin with, after what is said for
//! politeness; then the last word of the noun phrase behind it, which a preposition, a clause or punctuation ends. A question
//! counts under its question word. English only: rows in other languages have neither. Refuses to know answers.

use super::words;

/// Verbs of instructions, in the form of the command.
const VERBS: &str = " add advise analyze analyse answer append apply argue arrange ask assemble assess assign assume balance brainstorm \
    break build calculate cancel categorize change check choose cite clarify classify clean code combine come comment compare compile \
    complete compose compress compute conduct construct continue convert correct count craft create criticize debug decide decode \
    define delete deliver derive describe design detect determine develop devise diagnose differentiate discuss display distinguish \
    divide do draft draw edit elaborate eliminate embed encode enter estimate evaluate examine expand explain explore express extend \
    extract fill filter find finish fix form format formulate generate get give group guess help highlight identify illustrate \
    imagine implement improve incorporate indicate infer insert inspect interpret introduce invent investigate invert join judge \
    justify label learn list locate look make manage map mark match measure mention merge modify move multiply name note offer open \
    optimize order organize outline paraphrase parse perform pick plan play point portray predict prepare present print process produce \
    propose prove provide punctuate put quote rank rate read rearrange recognize recommend reconstruct record reduce refactor refer reformat \
    rephrase remove rename reorder reorganize replace reply report request research reserve respond restate restructure return \
    reverse review revise rewrite reword role-play roleplay round say schedule search select send sentence separate share shorten \
    show simplify simulate sketch solve sort specify spell split state subtract suggest sum summarize summarise support \
    synthesize tag take tell think track transcribe transform translate turn type update use validate verify view visualize \
    vote write act adopt adapt book buy cook embody emulate pretend reflect step assist bring call close count devise end follow go \
    hold keep leave let listen meet paint pay pronounce pull push raise run save set sing start stop study talk teach test try \
    understand unscramble wish work ";

const QUESTIONS: [&str; 30] = [
    "what", "how", "why", "who", "whom", "whose", "when", "where", "which", "is", "are", "was", "were", "do", "does", "did",
    "can", "could", "should", "would", "will", "has", "have", "had", "whats", "am", "may", "might", "must", "shall",
];

/// Said before the verb.
const POLITE: [&str; 16] = [
    "please",
    "can you please",
    "could you please",
    "would you please",
    "can you",
    "could you",
    "would you",
    "will you",
    "i want you to",
    "i would like you to",
    "id like you to",
    "i need you to",
    "your task is to",
    "you need to",
    "you have to",
    "you are asked to",
];

/// Ends a noun phrase.
const STOPS: &str = " of for to in on at by with from about into that which who whom whose what when where how why if as and or but \
    so because while using between without within under over through after before during per via than is are was were be has have \
    can could should would will may might does do did not based given such including related regarding like upon containing called \
    named following: ";

/// Passed over at the beginning of a noun phrase; alone it is no object.
const SMALL: &str = " a an the this that these those my your his her its our their me us him them it you we they he she some any each every all both \
    one two three four five six seven eight nine ten few several many following given provided new short brief simple good best \
    more another other down out up ";

/// What the first sentence that asks for something asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskedFor {
    /// Verb and object, singular.
    Order { verb: String, object: Option<String> },
    /// The word that the question begins with.
    Question(String),
}

/// What a prompt asks for; `None` when it is neither an order nor a question that this knows.
pub(super) fn of(prompt: &str) -> Option<AskedFor> {
    let sentences = sentences(prompt);
    sentences.iter().take(3).find_map(|s| order(s)).or_else(|| sentences.iter().take(3).find_map(|s| question(s)))
}

/// The first sentences, each a list of words in lower case; a comma is a word of its own.
fn sentences(prompt: &str) -> Vec<Vec<String>> {
    let mut start: &str = prompt.trim_start();
    if start.len() > 1200 {
        let mut end = 1200;
        while !start.is_char_boundary(end) {
            end -= 1;
        }
        start = &start[..end];
    }
    let mut all = Vec::new();
    for sentence in start.split_inclusive(['.', '!', '?', '\n', ':', ';']) {
        let mut list = Vec::new();
        for (i, piece) in sentence.split([',', '"', '“', '”', '(', ')', '`', '—']).enumerate() {
            if i > 0 {
                list.push(",".to_string());
            }
            words::each(piece, |w| list.push(w.to_string()));
        }
        if list.iter().any(|w| w != ",") {
            all.push(list);
        }
    }
    all
}

fn listed(list: &str, word: &str) -> bool {
    list.contains(&format!(" {word} "))
}

fn order(sentence: &[String]) -> Option<AskedFor> {
    let clauses = sentence.split(|w| w == ",");
    clauses.take(3).filter(|c| !c.is_empty()).find_map(|clause| {
        let line = clause.join(" ");
        let polite = POLITE.iter().filter(|p| line.starts_with(&format!("{p} "))).map(|p| p.split(' ').count()).max();
        let rest = &clause[polite.unwrap_or(0)..];
        let rest = match rest {
            [help, me, rest @ ..] if help == "help" && (me == "me" || me == "us") && !rest.is_empty() => {
                if rest[0] == "to" {
                    &rest[1..]
                } else {
                    rest
                }
            }
            other => other,
        };
        let (verb, behind) = rest.split_first()?;
        // An adverb may come first: "Briefly describe …".
        let (verb, behind) = match verb.ends_with("ly") && !behind.is_empty() {
            true => behind.split_first()?,
            false => (verb, behind),
        };
        if !listed(VERBS, verb) {
            return None;
        }
        Some(AskedFor::Order { verb: verb.clone(), object: object(behind) })
    })
}

/// The last word of the noun phrase that the words begin with.
fn object(behind: &[String]) -> Option<String> {
    let behind = match behind {
        [me, rest @ ..] if me == "me" || me == "us" || me == "up" => rest,
        all => all,
    };
    let phrase: Vec<&String> = behind.iter().take_while(|w| *w != "," && !listed(STOPS, w)).take(6).collect();
    let head = phrase.iter().rev().find(|w| !listed(SMALL, w) && w.chars().all(char::is_alphabetic))?;
    Some(singular(head))
}

fn singular(word: &str) -> String {
    let keep = ["ss", "us", "is", "news", "series", "species"].iter().any(|end| word.ends_with(end)) || word.len() < 4;
    match word {
        _ if keep => word.to_string(),
        _ if word.ends_with("ies") && word.len() > 4 => format!("{}y", &word[..word.len() - 3]),
        _ if ["ches", "shes", "sses", "xes"].iter().any(|end| word.ends_with(end)) => word[..word.len() - 2].to_string(),
        _ if word.ends_with('s') => word[..word.len() - 1].to_string(),
        _ => word.to_string(),
    }
}

fn question(sentence: &[String]) -> Option<AskedFor> {
    let clause = sentence.split(|w| w == ",").find(|c| c.first().is_some_and(|w| QUESTIONS.contains(&w.as_str())))?;
    let word = clause.first()?.as_str();
    Some(AskedFor::Question(if word == "whats" { "what".into() } else { word.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(prompt: &str) -> String {
        match of(prompt) {
            Some(AskedFor::Order { verb, object }) => format!("{verb} {}", object.unwrap_or_default()).trim().to_string(),
            Some(AskedFor::Question(word)) => format!("{word}?"),
            None => String::new(),
        }
    }

    #[test]
    fn verb_and_object_are_found() {
        let table = [
            ("Write a short poem about spring.", "write poem"),
            ("Please give me three tips for staying healthy.", "give tip"),
            ("Generate a list of ten items", "generate list"),
            ("Rewrite the following sentence in its passive voice:\nThe dog bit me.", "rewrite sentence"),
            ("Can you help me write an email to my boss?", "write email"),
            ("Given a movie title, classify its genre.", "classify genre"),
            ("Explain why the sky is blue.", "explain"),
            ("Briefly describe the water cycle", "describe cycle"),
            ("In this task, you are asked to identify the two countries of the text.", "identify country"),
            ("You are a helpful teacher. Explain the concept of gravity.", "explain concept"),
            ("Translate \"good morning\" into French", "translate"),
            ("What is the capital of France?", "what?"),
            ("hello, how are you", "how?"),
        ];
        for (prompt, expect) in table {
            assert_eq!(pair(prompt), expect, "{prompt}");
        }
    }

    #[test]
    fn what_asks_for_nothing_known_has_neither() {
        for prompt in ["", "Afghanistan", "Écrivez une lettre.", "描述医疗应用。", "my order never came"] {
            assert_eq!(of(prompt), None, "{prompt}");
        }
    }

    #[test]
    fn nouns_are_counted_in_the_singular() {
        for (many, one) in
            [("countries", "country"), ("tips", "tip"), ("classes", "class"), ("gas", "gas"), ("analysis", "analysis")]
        {
            assert_eq!(singular(many), one);
        }
    }
}
