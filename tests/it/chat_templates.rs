//! Chat templates of real models against what Python's Jinja makes of them.

use lorakit::data::{Clock, Jinja, Special};
use serde_json::{Map, Value};

use crate::shared;

/// Noon of 10 July 2025, the moment that the expected texts were made at.
const NOON: Clock = Clock(1_752_148_800);

fn json_lines(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// `None` when it is right, else what is wrong.
fn check(source: &str, context: &Map<String, Value>, expected: Option<&str>) -> Option<String> {
    let rendered = Jinja::new("under test", source, &Special::default(), NOON).and_then(|t| t.render_json(context));
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
        wrong
    };
    assert!(cases.len() >= 472);
    assert_eq!(wrong(None), [""; 0]);
    // As transformers calls a template: `tools` is none where there are none. One template of vLLM cannot take that, in
    // Python neither.
    let with_none = wrong(Some(Value::Null));
    assert!(with_none.iter().all(|w| w.starts_with("vllm_tool_qwen3coder")), "{with_none:?}");
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
