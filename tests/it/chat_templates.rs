//! Chat templates of real models against what Python's Jinja makes of them.

use lorakit::data::{Clock, Jinja, Special, Tokenizer};
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::shared;

/// Noon of 10 July 2025, the moment that the expected texts were made at.
pub(crate) const NOON: Clock = Clock(1_752_148_800);

pub(crate) fn json_lines(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// `None` when it is right, else what is wrong.
fn check(source: &str, context: &Map<String, Value>, expected: Option<&str>) -> Option<String> {
    let rendered = Jinja::new("under test", source, &Special::default(), NOON).and_then(|t| t.render_json(&context.into()));
    match (rendered, expected) {
        (Ok(text), Some(expected)) if text == expected => None,
        (Ok(text), Some(expected)) => {
            let same = text.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
            let show = |s: &str| String::from_utf8_lossy(&s.as_bytes()[same.min(s.len())..]).chars().take(60).collect::<String>();
            Some(format!("differs at byte {same}: {:?} for {:?}", show(&text), show(expected)))
        }
        (Err(error), Some(_)) => Some(error.to_string().lines().next().unwrap_or_default().to_string()),
        (Ok(_), None) => Some("renders what Python refuses".into()),
        (Err(_), None) => None,
    }
}

#[test]
fn templates_render_as_in_python() {
    let Some(dir) = shared::find("data/chat_templates") else { return };
    let contexts: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("contexts.json")).unwrap()).unwrap();
    let templates: Map<String, Value> = json_lines(&dir.join("templates.jsonl"))
        .into_iter()
        .map(|t| (t["name"].as_str().unwrap().into(), t["chat_template"].clone()))
        .collect();
    let cases = json_lines(&dir.join("expected.jsonl"));
    let wrong = |fill: Option<Value>| {
        let mut wrong = Vec::new();
        for case in &cases {
            let (template, name) = (case["template"].as_str().unwrap(), case["context"].as_str().unwrap());
            let mut context = contexts[name].as_object().unwrap().clone();
            if let Some(fill) = &fill {
                context.entry("tools").or_insert(fill.clone());
            }
            if let Some(why) = check(templates[template].as_str().unwrap(), &context, case["expected"].as_str()) {
                wrong.push(format!("{template} / {name}: {why}"));
            }
        }
        println!("{} of {} renderings agree; the others:\n{}", cases.len() - wrong.len(), cases.len(), wrong.join("\n"));
        let sandbox =
            cases.iter().filter(|case| case["error"] == "SecurityError").map(|c| format!("{} / {}", c["template"], c["context"]));
        println!("refused by Python's sandbox alone, here too: {}", sandbox.collect::<Vec<_>>().join(", "));
        wrong
    };
    assert!(cases.len() >= 472);
    assert_eq!(wrong(None), [""; 0]);
    // As transformers calls a template: `tools` is none where there are none.
    assert_eq!(wrong(Some(Value::Null)), [""; 0]);
}

#[test]
fn templates_of_the_hub_render_as_in_their_test_table() {
    let Some(path) = shared::find("data/chat_templates/hf_e2e_cases.jsonl") else { return };
    let cases = json_lines(&path);
    let mut wrong = Vec::new();
    for case in &cases {
        let context = case["data"].as_object().unwrap();
        if let Some(why) = check(case["chat_template"].as_str().unwrap(), context, case["target"].as_str()) {
            wrong.push(format!("{}: {why}", case["name"]));
        }
    }
    println!("{} of {} cases agree; the others:\n{}", cases.len() - wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(wrong, [""; 0]);
}

/// One token a byte, and the given special ones.
pub(crate) fn byte_tokenizer(special: &[String], template: &str) -> Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab = alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), i as u32)).collect::<Vocab>();
    let mut inner = tokenizers::Tokenizer::new(BPE::builder().vocab_and_merges(vocab, vec![]).build().unwrap());
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    inner.with_decoder(Some(ByteLevel::default()));
    inner.add_special_tokens(special.iter().map(|t| tokenizers::AddedToken::from(t.clone(), true))).unwrap();
    let named = Special { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Special::default() };
    Tokenizer::new(inner, named, Some(template.into())).unwrap()
}

/// What looks like a special token in a template's source.
pub(crate) fn special_tokens(source: &str) -> Vec<String> {
    let shapes =
        r"<[|｜][^<>'\s]{1,40}[|｜]>|</?s>|<(?:start|end)_of_turn>|<(?:end_of_utterance|eos|bos)>|<SPECIAL_\d+>|<sep>|\[e~\[";
    let mut special: Vec<String> = regex::Regex::new(shapes).unwrap().find_iter(source).map(|m| m.as_str().to_string()).collect();
    special.extend(["<s>".into(), "</s>".into()]);
    special.sort_unstable();
    special.dedup();
    special
}
