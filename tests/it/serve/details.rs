//! What clients of OpenAI's API rely on.

use std::collections::HashSet;

use lorakit::adapter::Adapter;
use lorakit::model::Marked;
use serde_json::{Value, json};

use super::client::{Client, Event};
use super::harness::{POSITIONS, World, chat, with};
use super::oracle::Oracle;

const CHAT: &str = "/v1/chat/completions";

fn chunks(client: &Client, path: &str, body: &Value) -> Vec<Value> {
    let events: Vec<Event> = client.stream(path, &with(body.clone(), json!({"stream": true}))).collect();
    let (last, events) = events.split_last().unwrap();
    assert_eq!(*last, Event::Done);
    let data = |event: &Event| match event {
        Event::Data(value) => value.clone(),
        Event::Done => panic!("two ends: {events:?}"),
    };
    events.iter().map(data).collect()
}

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap().iter();
    let text = |c: &Value| c["message"]["content"].as_str().or(c["text"].as_str()).map(str::to_string);
    choices.map(|c| text(c).unwrap_or_else(|| panic!("{c}"))).collect()
}

#[test]
fn numbers_of_tokens_come_when_they_are_asked_for() {
    let world = World::new(&[("x", 1)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    let prompt = oracle.conversation(&[("user", "hello")]);
    let text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    for (path, body) in [(CHAT, chat("x", "hello")), ("/v1/completions", json!({"model": "x", "prompt": text}))] {
        let body = with(body, json!({"max_tokens": 7, "logit_bias": {"257": -100}, "n": 2, "temperature": 1, "seed": 3}));
        let usage = client.post(path, &body).ok()["usage"].clone();
        assert_eq!(usage["prompt_tokens"], prompt.len());
        assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(14), &json!(prompt.len() + 14)));
        assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() < prompt.len() as u64);
        let plain = chunks(&client, path, &body);
        assert!(plain.iter().all(|c| c.get("usage").is_none() && !c["choices"].as_array().unwrap().is_empty()), "{plain:?}");
        let counted = chunks(&client, path, &with(body.clone(), json!({"stream_options": {"include_usage": true}})));
        let (last, others) = counted.split_last().unwrap();
        assert!(others.iter().all(|c| c["usage"].is_null() && c.get("usage").is_some()), "{others:?}");
        assert_eq!(last["choices"], json!([]));
        assert_eq!((&last["usage"]["completion_tokens"], &last["usage"]["prompt_tokens"]), (&json!(14), &json!(prompt.len())));
        let ids: HashSet<&str> = counted.iter().map(|c| c["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 1);
        let without_stream = with(body, json!({"stream_options": {"include_usage": true}}));
        assert_eq!(client.post(path, &without_stream).refused(400)["param"], "stream_options");
    }
}

#[test]
fn an_answer_says_why_it_ended() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let abc = json!({"guided_regex": "abc[d-z]{30}", "max_tokens": 20});
    let cases = [
        (json!({"max_tokens": 3, "ignore_eos": true}), "length"),
        (json!({"max_tokens": 1, "logit_bias": {"257": -100}}), "length"),
        // The end of a turn is the only token that is left.
        (json!({"max_tokens": 9, "logit_bias": {"257": 100}}), "stop"),
        (with(abc.clone(), json!({"stop": "bc"})), "stop"),
        (abc.clone(), "length"),
        (json!({"guided_choice": ["yes", "no"]}), "stop"),
        // The token of `b`, which the regular expression lets come second.
        (with(abc, json!({"stop_token_ids": [client.post("/tokenize", &json!({"content": "b"})).ok()["tokens"][0]]})), "stop"),
    ];
    for (more, expected) in cases {
        let body = with(chat("x", "hello"), more);
        let choice = client.post(CHAT, &body).ok()["choices"][0].clone();
        assert_eq!(choice["finish_reason"], expected, "{body}: {choice}");
        assert!(choice["message"]["tool_calls"].is_null(), "{choice}");
        let streamed = chunks(&client, CHAT, &body);
        let reasons: Vec<&str> = streamed.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str()).collect();
        assert_eq!(reasons, [expected], "{body}");
        assert_eq!(streamed.last().unwrap()["choices"][0]["finish_reason"], expected);
    }
    let ended = client.post(CHAT, &with(chat("x", "hello"), json!({"logit_bias": {"257": 100}}))).ok();
    assert_eq!((texts(&ended), &ended["usage"]["completion_tokens"]), (vec![String::new()], &json!(0)));
}

#[test]
fn choices_differ_and_come_again_by_their_seed() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let body =
        |n: usize, seed: i64| with(chat("x", "hello"), json!({"n": n, "seed": seed, "temperature": 1.5, "max_tokens": 16}));
    let four = texts(&client.post(CHAT, &body(4, 9)).ok());
    assert_eq!(four.iter().collect::<HashSet<_>>().len(), 4, "{four:?}");
    assert_eq!(texts(&client.post(CHAT, &body(4, 9)).ok()), four);
    assert_eq!(texts(&client.post(CHAT, &body(1, 9)).ok()), four[..1]);
    assert_ne!(texts(&client.post(CHAT, &body(4, 10)).ok()), four);
    let streamed = chunks(&client, CHAT, &body(4, 9));
    let of = |index: usize| {
        let own = streamed.iter().filter(|c| c["choices"][0]["index"] == index);
        own.filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect::<String>()
    };
    assert_eq!((0..4).map(of).collect::<Vec<_>>(), four);
    // In company of others, other adapters too.
    std::thread::scope(|scope| {
        for other in 0..8 {
            let mut client = server.client();
            let body = with(body(2, other), json!({"model": if other % 2 == 0 { "y" } else { "tiny" }, "max_tokens": 40}));
            scope.spawn(move || client.post(CHAT, &body).ok());
        }
        let together: Vec<_> = (0..4).map(|_| scope.spawn(|| texts(&server.client().post(CHAT, &body(4, 9)).ok()))).collect();
        assert!(together.into_iter().all(|t| t.join().unwrap() == four), "the company changed an answer");
    });
    let unseeded = || with(chat("x", "hello"), json!({"temperature": 1.5, "max_tokens": 16}));
    assert_ne!(texts(&client.post(CHAT, &unseeded()).ok()), texts(&client.post(CHAT, &unseeded()).ok()));
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_and_never_cut() {
    let world = World::new(&[]);
    let server = world.serve(&["--kv-tokens", "8192"]);
    let mut client = server.client();
    let ask = |n: usize, more: Value| with(json!({"model": "tiny", "prompt": vec![65; n]}), more);
    for path in ["/v1/completions", CHAT, "/v1/responses"] {
        let long = "a".repeat(POSITIONS);
        let body = match path {
            CHAT => chat("tiny", &long),
            "/v1/responses" => json!({"model": "tiny", "input": long}),
            _ => ask(POSITIONS, json!({})),
        };
        let refused = client.post(path, &body).refused(400);
        assert_eq!(refused["code"], "context_length_exceeded", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains(&POSITIONS.to_string()), "{refused}");
        assert_eq!(
            client.send("POST", path, &[], with(body, json!({"stream": true})).to_string().as_bytes()).unwrap().status,
            400
        );
    }
    let last = client.post("/v1/completions", &ask(POSITIONS - 1, json!({"max_tokens": 50, "ignore_eos": true}))).ok();
    assert_eq!(last["usage"], with(last["usage"].clone(), json!({"prompt_tokens": POSITIONS - 1, "completion_tokens": 1})));
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    // A prompt alone, to be scored, fills all of it.
    let scored = client.post("/v1/completions", &ask(POSITIONS, json!({"max_tokens": 0, "echo": true, "logprobs": 0}))).ok();
    assert_eq!(scored["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), POSITIONS);
    assert_eq!(
        client.post("/v1/completions", &ask(POSITIONS + 1, json!({"max_tokens": 0, "echo": true, "logprobs": 0}))).status,
        400
    );
}

#[test]
fn scores_of_prompts_are_those_of_an_evaluation() {
    let world = World::new(&[("x", 1)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    let text = "The quick brown fox jumps over the lazy dog, and then it does so again and again: 80 tokens or more.";
    let ids = oracle.ids(text);
    let adapter = Adapter::load(&world.root().join("x"), &oracle.model).unwrap().frozen();
    let own = |adapt: &dyn lorakit::model::Adapt| {
        let texts = Marked { ids: &[&ids], trained: &|_, token| token > 0 };
        oracle.model.score(adapt, texts, 1, &mut |_| Ok(())).unwrap()
    };
    for (name, own) in [("tiny", own(&())), ("x", own(&adapter))] {
        let body = json!({"model": name, "prompt": text, "max_tokens": 0, "echo": true, "logprobs": 2});
        // The second time, keys and values of the prompt are there already.
        for _ in 0..2 {
            let answer = client.post("/v1/completions", &body).ok();
            let choice = &answer["choices"][0];
            assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text), &json!("length")));
            let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
            assert_eq!((scores.len(), &scores[0]), (ids.len(), &Value::Null));
            let sum: f64 = scores[1..].iter().map(|score| score.as_f64().unwrap()).sum();
            assert!((sum + own.sum).abs() < 1e-3 && own.tokens == ids.len() - 1, "{name}: {sum} and {own:?}");
            let offsets: Vec<usize> = (0..ids.len()).collect();
            assert_eq!(choice["logprobs"]["text_offset"], json!(offsets));
            assert_eq!(
                choice["logprobs"]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect::<String>(),
                text
            );
            assert_eq!(answer["usage"]["completion_tokens"], 0);
        }
        // With an answer behind it, the prompt's scores are the same.
        let more = with(body.clone(), json!({"max_tokens": 5, "ignore_eos": true}));
        let longer = client.post("/v1/completions", &more).ok()["choices"][0]["logprobs"]["token_logprobs"].clone();
        let scores = client.post("/v1/completions", &body).ok()["choices"][0]["logprobs"]["token_logprobs"].clone();
        assert_eq!(longer.as_array().unwrap()[..ids.len()], scores.as_array().unwrap()[..]);
        assert_eq!(longer.as_array().unwrap().len(), ids.len() + 5);
        let streamed = chunks(&client, "/v1/completions", &more);
        let all = streamed.iter().flat_map(|c| c["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned().unwrap());
        assert_eq!(json!(all.collect::<Vec<_>>()), longer);
    }
}

#[test]
fn answers_hold_to_what_they_must_be() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "kind"],
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "kind": {"enum": ["cat", "dog"]},
        },
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "pet", "schema": schema, "strict": true}});
    for seed in 0..4 {
        let body =
            with(chat("x", "a pet"), json!({"response_format": format, "temperature": 1.0, "seed": seed, "max_tokens": 900}));
        let answer = client.post(CHAT, &body).ok();
        let pet: Value = serde_json::from_str(&texts(&answer)[0]).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert!(pet["name"].as_str().unwrap().chars().count() <= 6 && pet["age"].as_u64().unwrap() <= 99, "{pet}");
        assert!((pet["kind"] == "cat" || pet["kind"] == "dog") && pet.as_object().unwrap().len() == 3, "{pet}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let streamed: String =
            chunks(&client, CHAT, &body).iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, texts(&answer)[0]);
    }
    let regex = with(chat("x", "a code"), json!({"guided_regex": "[A-F]{3}-[0-9]{2}", "temperature": 2.0, "seed": 1}));
    let code = texts(&client.post(CHAT, &regex).ok())[0].clone();
    let found = regex::Regex::new("^[A-F]{3}-[0-9]{2}$").unwrap();
    assert!(found.is_match(&code), "{code}");
    let choice = with(chat("x", "?"), json!({"guided_choice": ["left", "right", "straight on"], "temperature": 2.0}));
    let chosen = texts(&client.post(CHAT, &choice).ok())[0].clone();
    assert!(["left", "right", "straight on"].contains(&chosen.as_str()), "{chosen}");
    for wrong in [
        json!({"guided_regex": "("}),
        json!({"guided_regex": "a", "guided_choice": ["b"]}),
        json!({"response_format": {"type": "xml"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        json!({"guided_json": {"type": "array", "maxItems": u64::MAX, "items": {"type": "string"}}}),
    ] {
        let refused = client.post(CHAT, &with(chat("x", "?"), wrong.clone())).refused(400);
        assert!(wrong.get(refused["param"].as_str().unwrap()).is_some(), "{wrong}: {refused}");
    }
}

#[test]
fn texts_become_tokens_and_texts_again() {
    let world = World::new(&[("x", 1)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    for text in ["hello", "Grüße, 世界! 🎉", "", " two  spaces\n", "<|im_start|>user"] {
        for field in ["content", "prompt"] {
            let found = client.post("/tokenize", &json!({field: text})).ok();
            assert_eq!((&found["tokens"], &found["count"]), (&json!(oracle.ids(text)), &json!(oracle.ids(text).len())), "{text}");
            assert_eq!(client.post("/detokenize", &json!({"tokens": found["tokens"]})).ok()["content"], text);
        }
    }
    let pieces = client.post("/tokenize", &json!({"content": "aß", "with_pieces": true})).ok()["tokens"].clone();
    let pieces: Vec<&Value> = pieces.as_array().unwrap().iter().map(|token| &token["piece"]).collect();
    assert_eq!(pieces, [&json!("a"), &json!([0xC3]), &json!([0x9F])]);
    let body = json!({"model": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let applied = client.post("/apply-template", &body).ok();
    assert_eq!(applied["prompt"], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn responses_say_what_chats_say() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let (n, bias) = (8, json!({"257": -100}));
    let expected =
        texts(&client.post(CHAT, &with(chat("x", "hello"), json!({"max_tokens": n, "logit_bias": bias}))).ok())[0].clone();
    let body = json!({"model": "x", "input": "hello", "max_output_tokens": n, "logit_bias": bias});
    let whole = client.post("/v1/responses", &body).ok();
    assert_eq!(whole["output"][0]["content"][0]["text"], expected);
    assert_eq!((&whole["status"], &whole["incomplete_details"]["reason"]), (&json!("incomplete"), &json!("max_output_tokens")));
    assert_eq!((&whole["model"], &whole["usage"]["output_tokens"]), (&json!("x"), &json!(n)));
    assert_eq!(whole["adapter_generation"].as_str().unwrap().len(), 16);
    let messages = with(
        body.clone(),
        json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}]}),
    );
    assert_eq!(client.post("/v1/responses", &messages).ok()["output"][0]["content"], whole["output"][0]["content"]);
    let events: Vec<Value> = client
        .stream("/v1/responses", &with(body, json!({"stream": true})))
        .map(|event| match event {
            Event::Data(value) => value,
            Event::Done => panic!("responses end with an event of their own"),
        })
        .collect();
    let numbers: Vec<u64> = events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let deltas = events.iter().filter(|e| e["type"] == "response.output_text.delta");
    assert_eq!(deltas.map(|e| e["delta"].as_str().unwrap()).collect::<String>(), expected);
    assert_eq!(
        (&events[0]["type"], &events.last().unwrap()["type"]),
        (&json!("response.created"), &json!("response.incomplete"))
    );
    assert_eq!(events.last().unwrap()["response"]["output"][0]["content"], whole["output"][0]["content"]);
    let short = json!({"model": "x", "input": "?", "guided_choice": ["yes"]});
    assert_eq!(client.post("/v1/responses", &short).ok()["status"], "completed");
    assert_eq!(
        client.post("/v1/responses", &with(short, json!({"previous_response_id": "resp-1"}))).refused(400)["param"],
        "previous_response_id"
    );
}
