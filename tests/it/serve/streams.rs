//! Stop strings and characters that are split over tokens, in streams and whole.

use serde_json::{Value, json};

use super::client::{Client, Event};
use super::harness::{World, chat, with};
use super::oracle::Oracle;

/// What came of a streamed choice.
#[derive(Debug, Default)]
struct Streamed {
    /// Text and tokens of each chunk that has either.
    chunks: Vec<(String, Vec<Value>)>,
    finish: Option<String>,
}

impl Streamed {
    fn text(&self) -> String {
        self.chunks.iter().map(|(text, _)| text.as_str()).collect()
    }

    fn tokens(&self) -> Vec<Value> {
        self.chunks.iter().flat_map(|(_, tokens)| tokens.clone()).collect()
    }
}

fn streamed(client: &Client, body: &Value) -> Streamed {
    let mut all = Streamed::default();
    let mut done = false;
    for event in client.stream("/v1/chat/completions", &with(body.clone(), json!({"stream": true}))) {
        let Event::Data(chunk) = event else {
            done = true;
            continue;
        };
        assert!(chunk["error"].is_null() && !done, "{chunk}");
        let choice = &chunk["choices"][0];
        assert!(choice["index"] == 0 && all.finish.is_none(), "{chunk}");
        let text = choice["delta"]["content"].as_str().unwrap_or_default().to_string();
        let tokens = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        if !text.is_empty() || !tokens.is_empty() {
            all.chunks.push((text, tokens));
        }
        all.finish = choice["finish_reason"].as_str().map(str::to_string);
    }
    assert!(done);
    all
}

fn whole(client: &mut Client, body: &Value) -> (String, Vec<Value>, String) {
    let choice = client.post("/v1/chat/completions", body).ok()["choices"][0].clone();
    let tokens = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    let said = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{choice}")).to_string();
    (said(&choice["message"]["content"]), tokens, said(&choice["finish_reason"]))
}

fn bytes(tokens: &[Value]) -> Vec<u8> {
    let bytes = tokens.iter().flat_map(|token| token["bytes"].as_array().unwrap());
    bytes.map(|byte| byte.as_u64().unwrap() as u8).collect()
}

/// The chunks of `text`, a token a byte, where `stop` is held back exactly and does not come.
fn held_back(text: &str, stop: &str) -> Vec<String> {
    let (mut given, mut chunks) = (0, Vec::new());
    for end in 1..=text.len() {
        let held = (0..stop.len()).rev().find(|n| text[..end].ends_with(&stop[..*n])).unwrap();
        if end - held > given {
            chunks.push(text[given..end - held].to_string());
            given = end - held;
        }
    }
    chunks.extend((given < text.len()).then(|| text[given..].to_string()));
    chunks
}

/// Forty letters, which the seed makes no row of equal ones.
fn letters() -> Value {
    with(
        chat("x", "hello"),
        json!({"guided_regex": "[abc]{40}", "temperature": 2.0, "seed": 5, "max_tokens": 60, "logprobs": true}),
    )
}

#[test]
fn a_stop_string_over_several_tokens_never_shows_its_beginning() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let (text, tokens, finish) = whole(&mut client, &letters());
    assert_eq!((text.len(), tokens.len(), finish.as_str()), (40, 40, "stop"), "{text}");
    for at in [0, 1, 17, 37] {
        let stop = &text[at..at + 3];
        let end = text.find(stop).unwrap();
        let body = with(letters(), json!({"stop": [stop, "zz"]}));
        let (cut, cut_tokens, finish) = whole(&mut client, &body);
        assert_eq!((cut.as_str(), finish.as_str()), (&text[..end], "stop"), "{stop} in {text}");
        assert_eq!(cut_tokens, tokens[..end], "the tokens of the text, and no others");
        let stream = streamed(&client, &body);
        assert_eq!((stream.text(), stream.tokens()), (cut, cut_tokens), "{stop} in {text}");
        assert_eq!(stream.finish.as_deref(), Some("stop"));
        let included = with(body, json!({"include_stop_str_in_output": true}));
        assert_eq!(whole(&mut client, &included).0, text[..end + 3]);
        assert_eq!(streamed(&client, &included).text(), text[..end + 3]);
    }
}

#[test]
fn what_only_looks_like_a_stop_string_comes_after_all() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let (text, tokens, _) = whole(&mut client, &letters());
    // The last one is still held back when the answer ends.
    for begun in [&text[10..12], &text[20..23], &text[37..]] {
        let stop = format!("{begun}#");
        let body = with(letters(), json!({"stop": stop}));
        assert_eq!(whole(&mut client, &body), (text.clone(), tokens.clone(), "stop".into()));
        let stream = streamed(&client, &body);
        assert_eq!((stream.text(), stream.tokens()), (text.clone(), tokens.clone()));
        let chunks: Vec<&String> = stream.chunks.iter().map(|(text, _)| text).collect();
        assert_eq!(chunks, held_back(&text, &stop).iter().collect::<Vec<_>>(), "{stop} in {text}");
        for (text, tokens) in &stream.chunks {
            assert_eq!(bytes(tokens), text.as_bytes(), "log-probabilities come with the text of their tokens");
        }
    }
}

#[test]
fn characters_over_several_tokens_come_whole() {
    const TEXT: &str = "Grüße, 世界! 🎉 ñandú — ok";
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let body = with(chat("x", "hello"), json!({"guided_choice": [TEXT], "max_tokens": 100, "logprobs": true, "top_logprobs": 2}));
    let (text, tokens, finish) = whole(&mut client, &body);
    assert_eq!((text.as_str(), finish.as_str()), (TEXT, "stop"));
    assert_eq!((bytes(&tokens), tokens.len()), (TEXT.as_bytes().to_vec(), TEXT.len()));
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    let stream = streamed(&client, &body);
    assert_eq!((stream.text().as_str(), stream.tokens()), (TEXT, tokens));
    assert!(stream.chunks.iter().all(|(text, _)| !text.contains(char::REPLACEMENT_CHARACTER)), "{:?}", stream.chunks);
    assert!(
        stream.chunks.iter().filter(|(text, _)| !text.is_empty()).count() >= TEXT.chars().count() - 1,
        "it is not kept to the end"
    );
    // A stop string of such characters.
    let stopped = with(body, json!({"stop": "界! 🎉"}));
    assert_eq!(
        (whole(&mut client, &stopped).0.as_str(), streamed(&client, &stopped).text().as_str()),
        ("Grüße, 世", "Grüße, 世")
    );
}

#[test]
fn streams_and_whole_answers_say_the_same_bytes() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    for (name, dir) in [("tiny", None), ("x", Some(world.root().join("x"))), ("y", Some(world.root().join("y")))] {
        let questions = ["hello", "Was gibt's?", "你好"];
        let prompts: Vec<Vec<u32>> = questions.iter().map(|q| oracle.conversation(&[("user", q)])).collect();
        let expected = oracle.answers(dir.as_deref(), &prompts, 40);
        for ((question, prompt), ids) in questions.iter().zip(&prompts).zip(&expected) {
            let body = with(chat(name, question), json!({"max_tokens": 40, "logprobs": true}));
            let (text, tokens, finish) = whole(&mut client, &body);
            assert_eq!(text, oracle.tokenizer.decode(ids, true).unwrap());
            assert_eq!(bytes(&tokens), oracle.bytes(ids), "{name} {question}");
            assert_eq!(finish, if ids.len() == 40 { "length" } else { "stop" });
            let stream = streamed(&client, &body);
            assert_eq!((stream.text(), stream.tokens(), stream.finish), (text.clone(), tokens, Some(finish)));
            let asked = json!({"model": name, "prompt": prompt, "max_tokens": 40, "logprobs": 3});
            let choice = client.post("/v1/completions", &asked).ok()["choices"][0].clone();
            assert_eq!(choice["text"], text);
            assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), ids.len());
            assert_eq!(choice["logprobs"]["top_logprobs"].as_array().unwrap().len(), ids.len());
        }
    }
}
