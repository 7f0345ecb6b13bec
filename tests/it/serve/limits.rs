//! What is out of bounds is refused, and the refusal names it.

use serde_json::{Value, json};

use super::harness::{World, chat, with};

const CHAT: &str = "/v1/chat/completions";

/// Values just outside the bounds of a field's schema, and far outside.
fn outside(schema: &Value) -> Vec<Value> {
    // Fields that are not required may be null.
    let schema = if schema["anyOf"][1]["type"] == "null" { &schema["anyOf"][0] } else { schema };
    let whole = schema["type"] == "integer";
    match schema["type"].as_str() {
        Some("integer" | "number") => {
            let bounds = [("minimum", -1.0), ("maximum", 1.0)];
            let beyond = bounds.iter().map(|(key, by)| {
                let bound = schema[key].as_f64().unwrap_or_else(|| panic!("no {key}: {schema}"));
                // Beyond 2^53 one more is the same number.
                json!(if bound.abs() > 9e15 { bound * 2.0 } else { bound + by })
            });
            let odd = [json!(-1e300), json!(1e300), json!("1"), json!([1]), json!(true)];
            beyond.chain(odd).chain(whole.then(|| json!(0.5))).collect()
        }
        Some("boolean") => vec![json!(1), json!("true")],
        Some("object") => vec![json!([]), json!("{}"), json!(1)],
        Some("array") => vec![json!({}), json!(1)],
        Some("string") => vec![json!(1), json!(["a"])],
        _ => vec![json!(1)],
    }
}

#[test]
fn every_field_that_is_out_of_bounds_is_named() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let document = client.get("/openapi.json").ok();
    let mut tried = 0;
    for (path, good) in [
        (CHAT, chat("x", "hello")),
        ("/v1/completions", json!({"model": "x", "prompt": "hello"})),
        ("/v1/responses", json!({"model": "x", "input": "hello"})),
    ] {
        let good = with(good, json!({"guided_choice": ["y"]}));
        client.post(path, &good).ok();
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        for (name, field) in schema["properties"].as_object().unwrap() {
            if field.get("anyOf").is_none() && field.get("type").is_none() {
                // It is passed over, whatever it holds.
                client.post(path, &with(good.clone(), json!({name: [{"any": "thing"}]}))).ok();
                continue;
            }
            for value in outside(field) {
                let refused = client.post(path, &with(good.clone(), json!({name: value}))).refused(400);
                let param = refused["param"].as_str().unwrap_or_default();
                assert!(param == name || param.starts_with(&format!("{name}[")), "{path} {name} {value}: {refused}");
                tried += 1;
            }
            if field.get("anyOf").is_some_and(|any| any[1] == json!({"type": "null"})) {
                client.post(path, &with(good.clone(), json!({name: null}))).ok();
            }
        }
        let unknown = client.post(path, &with(good.clone(), json!({"temprature": 1}))).refused(400);
        assert_eq!((&unknown["param"], &unknown["code"]), (&json!("temprature"), &json!("unsupported_parameter")));
        assert!(unknown["message"].as_str().unwrap().contains("`temperature`"), "{unknown}");
        for required in schema["required"].as_array().unwrap() {
            let mut less = good.clone();
            less.as_object_mut().unwrap().remove(required.as_str().unwrap());
            assert_eq!(client.post(path, &less).refused(400)["param"], *required);
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn ids_and_lists_that_cannot_be_are_named() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let long = "s".repeat(257);
    let many: Vec<String> = (0..17).map(|i| format!("s{i}")).collect();
    let biases: serde_json::Map<String, Value> = (0..301).map(|i| (i.to_string(), json!(1))).collect();
    let cases = [
        json!({"messages": []}),
        json!({"messages": [{"role": "robot", "content": "x"}]}),
        json!({"messages": [{"role": "user"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]}]}),
        json!({"messages": [{"role": "user", "content": "x", "weight": 0}]}),
        json!({"stop_token_ids": [258]}),
        json!({"stop_token_ids": [-1]}),
        json!({"stop_token_ids": [1.5]}),
        json!({"stop_token_ids": ["1"]}),
        json!({"stop_token_ids": [18446744073709551615u64]}),
        json!({"logit_bias": {"258": 1}}),
        json!({"logit_bias": {"-1": 1}}),
        json!({"logit_bias": {"a": 1}}),
        json!({"logit_bias": {"1": 100.5}}),
        json!({"logit_bias": {"1": null}}),
        json!({"logit_bias": biases}),
        json!({"stop": long}),
        json!({"stop": many}),
        json!({"stop": [1]}),
        json!({"top_logprobs": 2}),
        json!({"max_tokens": 2, "max_completion_tokens": 2}),
        json!({"chat_template": "{{ 1 }}"}),
        json!({"chat_template_kwargs": {"a": 1}}),
        json!({"functions": []}),
        json!({"prompt_logprobs": 1}),
        json!({"stream_options": {"include_usage": true}}),
        json!({"stream": true, "stream_options": {"continuous_usage_stats": true}}),
    ];
    for case in cases {
        let refused = client.post(CHAT, &with(chat("x", "hello"), case.clone())).refused(400);
        let param = refused["param"].as_str().unwrap_or_default().split(['[', '.']).next().unwrap_or_default().to_string();
        assert!(case.get(&param).is_some(), "{case}: {refused}");
    }
}

#[test]
fn prompts_and_bodies_that_cannot_be_are_named() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    for prompt in [
        json!([258]),
        json!([-1]),
        json!([[1, 2], [300]]),
        json!([1.5]),
        json!([]),
        json!(""),
        json!([""]),
        json!([[]]),
        json!([1, "a"]),
        json!(vec!["a"; 257]),
    ] {
        let refused = client.post("/v1/completions", &json!({"model": "x", "prompt": prompt})).refused(400);
        assert_eq!(refused["param"], "prompt", "{prompt}: {refused}");
    }
    assert_eq!(client.post("/detokenize", &json!({"tokens": [258]})).refused(400)["param"], "tokens");
    assert_eq!(
        client.post("/v1/completions", &json!({"model": "x", "prompt": "a", "max_tokens": 0})).refused(400)["param"],
        "max_tokens"
    );
    assert_eq!(
        client.post("/v1/completions", &json!({"model": "x", "prompt": "a", "best_of": 2})).refused(400)["param"],
        "best_of"
    );
    for body in ["", "{", "[]", "null", "\"x\"", "{\"model\": NaN}", "\u{0}"] {
        let refused = client.send("POST", CHAT, &[], body.as_bytes()).unwrap().refused(400);
        assert_eq!(refused["param"], "body", "{body:?}: {refused}");
    }
    // It still answers.
    client.post(CHAT, &with(chat("x", "hello"), json!({"max_tokens": 1}))).ok();
}
