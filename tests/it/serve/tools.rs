//! Calls of tools: forced, refused, and told in answers and streams.

use serde_json::{Value, json};

use super::client::Event;
use super::harness::{World, chat, with};

const CHAT: &str = "/v1/chat/completions";

fn tools() -> Value {
    let tool = |name: &str, field: &str, values: &[&str]| {
        let parameters = json!({
            "type": "object", "properties": {field: {"type": "string", "enum": values}}, "required": [field], "additionalProperties": false,
        });
        json!({"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}})
    };
    json!([tool("weather", "city", &["Rome", "Oslo"]), tool("clock", "zone", &["UTC"])])
}

#[test]
fn a_call_that_must_be_comes_and_its_end_says_so() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let ask = |choice: Value| {
        with(chat("x", "?"), json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 200}))
    };
    let clock = json!({"type": "function", "function": {"name": "clock"}});
    for (choice, names) in [(json!("required"), &["weather", "clock"][..]), (clock, &["clock"])] {
        let body = ask(choice);
        let answer = client.post(CHAT, &body).ok()["choices"][0].clone();
        let calls = answer["message"]["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &answer["finish_reason"]), (1, &json!("tool_calls")), "{answer}");
        let function = &calls[0]["function"];
        let name = function["name"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        let known = if name == "clock" {
            json!("UTC") == arguments["zone"]
        } else {
            ["Rome", "Oslo"].map(|c| json!(c)).contains(&arguments["city"])
        };
        assert!(names.contains(&name) && known && calls[0]["id"].as_str().unwrap().starts_with("call-"), "{answer}");
        assert!(answer["message"]["content"].is_null(), "{answer}");
        let events = client.stream(CHAT, &with(body, json!({"stream": true}))).filter_map(|event| match event {
            Event::Data(chunk) => Some(chunk["choices"][0].clone()),
            Event::Done => None,
        });
        let events: Vec<Value> = events.collect();
        let streamed: Vec<&Value> = events.iter().filter(|c| c["delta"]["tool_calls"].is_array()).collect();
        assert_eq!(streamed.len(), 1, "{events:?}");
        assert_eq!(streamed[0]["delta"]["tool_calls"][0]["function"], *function);
        assert_eq!(streamed[0]["delta"]["tool_calls"][0]["index"], 0);
        assert_eq!(events.last().unwrap()["finish_reason"], "tool_calls");
        assert!(events.iter().all(|c| c["delta"]["content"].as_str().is_none_or(str::is_empty)), "{events:?}");
    }
    // A call that is cut off is none.
    let cut = client.post(CHAT, &with(ask(json!("required")), json!({"max_tokens": 12}))).ok()["choices"][0].clone();
    assert_eq!((&cut["finish_reason"], cut["message"].get("tool_calls")), (&json!("length"), None));
    for choice in [json!("none"), json!("auto"), Value::Null] {
        let plain = with(ask(choice.clone()), json!({"guided_choice": ["no call"]}));
        let answer = client.post(CHAT, &plain).ok()["choices"][0].clone();
        assert_eq!((&answer["finish_reason"], &answer["message"]["content"]), (&json!("stop"), &json!("no call")), "{choice}");
    }
}

#[test]
fn a_choice_of_tools_that_cannot_be_is_refused() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    for (more, param) in [
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "always"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "nobody"}}}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": {"name": "clock"}}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "required", "guided_choice": ["a"]}), "tool_choice"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools"),
    ] {
        assert_eq!(client.post(CHAT, &with(chat("x", "?"), more.clone())).refused(400)["param"], param, "{more}");
    }
}
