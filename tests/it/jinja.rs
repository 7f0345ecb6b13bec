//! What templates may write, piece by piece, against what Python's Jinja makes of it (`tests/data/jinja`).

use lorakit::data::{Jinja, Special};
use serde_json::Value;

use crate::chat_templates::{NOON, json_lines};

/// `differs.txt` names the pieces that are known to differ; no template that was tried needs one.
#[test]
fn pieces_of_templates_render_as_in_python() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jinja");
    let lines = json_lines(&dir.join("expected.jsonl"));
    let known = std::fs::read_to_string(dir.join("differs.txt")).unwrap();
    let context = lines[0]["context"].as_object().unwrap();
    let differs: Vec<(&str, String)> = lines[1..]
        .iter()
        .filter_map(|case| {
            let source = case["source"].as_str().unwrap();
            let rendered = Jinja::new("piece", source, &Special::default(), NOON).and_then(|t| t.render_json(&context.into()));
            let agrees = match (&rendered, &case["text"]) {
                (Ok(text), Value::String(expected)) => text == expected,
                (Err(_), Value::Null) => true,
                _ => false,
            };
            (!agrees).then(|| (source, format!("{source}\n    {rendered:?}, not {case}")))
        })
        .collect();
    println!("{} of {} pieces agree", lines.len() - 1 - differs.len(), lines.len() - 1);
    let found: Vec<&str> = differs.iter().map(|(source, _)| *source).collect();
    let told: Vec<&String> = differs.iter().map(|(_, told)| told).collect();
    assert_eq!(found, known.lines().collect::<Vec<_>>(), "{told:#?}");
    assert!(lines.len() > 400);
}
