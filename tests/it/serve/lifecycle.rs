//! Adapters that are exchanged, damaged, or taken away while they answer; askers who go away; a server that is started again.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{Client, Event, Stream};
use super::harness::{Server, World, chat, endless, generation, load, replace, until, with};
use super::oracle::Oracle;

const CHAT: &str = "/v1/chat/completions";

fn running(server: &Server, client: &mut Client) -> usize {
    server.metric(client, "vllm:num_requests_running") as usize
}

#[test]
fn who_goes_away_frees_the_row() {
    let world = World::long(&[("x", 1)]);
    let server = world.serve(&["--kv-tokens", "1000000"]);
    let mut client = server.client();
    let prompt = json!({"model": "x", "prompt": "a".repeat(100_000), "max_tokens": 1});
    let streams = json!({"stream": true});
    let cases = [
        ("/v1/completions", prompt.clone(), 1),
        ("/v1/completions", with(prompt, streams.clone()), 1),
        (CHAT, endless("x"), 1),
        (CHAT, with(endless("x"), json!({"n": 4})), 4),
        (CHAT, with(endless("tiny"), streams.clone()), 1),
        (CHAT, with(endless("x"), with(streams, json!({"n": 3}))), 3),
        ("/v1/responses", json!({"model": "x", "input": "hello", "max_output_tokens": 100_000, "ignore_eos": true}), 1),
    ];
    let mut given_up = 0;
    for (path, body, rows) in cases {
        let asking = client.only_ask(path, &body);
        until("rows at work", || (running(&server, &mut client) == rows).then_some(()));
        drop(asking);
        server.idle(&mut client);
        given_up += rows;
        assert_eq!(server.metric(&mut client, "lorakit:requests_given_up_total"), given_up as f64, "{path}: they came to an end");
        assert_eq!(server.metric(&mut client, "vllm:kv_cache_usage_perc"), 0.0);
    }
    leases_end(&mut client);
    client.post(CHAT, &with(chat("x", "hello"), json!({"max_tokens": 4}))).ok();
}

#[test]
fn many_go_away_in_the_middle_of_their_streams() {
    let world = World::long(&[("x", 1), ("y", 2)]);
    let server = world.serve(&["--kv-tokens", "1000000"]);
    let mut client = server.client();
    let ask = |i: usize| {
        with(chat(["x", "y", "tiny"][i % 3], "hello"), json!({"max_tokens": 5000, "ignore_eos": true, "stream": true}))
    };
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let client = server.client();
            scope.spawn(move || {
                for i in 0..10 {
                    let stream = client.stream(CHAT, &ask(thread + i));
                    assert_eq!(stream.take(i).filter(|event| *event == Event::Done).count(), 0);
                }
            });
        }
    });
    server.idle(&mut client);
    leases_end(&mut client);
    assert_eq!(server.metric(&mut client, "lorakit:turns_failed_total"), 0.0);
    client.post(CHAT, &with(chat("x", "hello"), json!({"max_tokens": 4}))).ok();
}

/// Waits until nothing runs with any generation, and those that were replaced are gone.
fn leases_end(client: &mut Client) {
    until("the end of all leases", || {
        let all = client.get("/v1/lora_adapters").ok();
        let published: Vec<&Value> = all["data"].as_array().unwrap().iter().map(|one| &one["generation"]).collect();
        let mut generations = all["generations"].as_array().unwrap().iter();
        generations.all(|g| g["leases"] == 0 && published.contains(&&g["generation"])).then_some(())
    });
}

/// The leases of a generation.
fn leases(client: &mut Client, id: &str) -> u64 {
    let all = client.get("/v1/lora_adapters").ok();
    let own = all["generations"].as_array().unwrap().iter().filter(|g| g["generation"] == id);
    own.map(|g| g["leases"].as_u64().unwrap()).sum()
}

/// The text of a stream, from some first chunks on to its end, all of one generation.
fn rest(first: Vec<Value>, stream: Stream) -> (String, String) {
    let (mut text, mut ids, mut done) = (String::new(), BTreeSet::new(), false);
    for event in first.into_iter().map(Event::Data).chain(stream) {
        let Event::Data(chunk) = event else {
            done = true;
            continue;
        };
        assert!(chunk["error"].is_null(), "{chunk}");
        ids.insert(chunk["adapter_generation"].as_str().unwrap().to_string());
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    assert!(done && ids.len() == 1, "{ids:?}");
    (text, ids.into_iter().next().unwrap())
}

/// A stream of `bot` that has just begun, and its first chunks.
fn begun(client: &Client, tokens: usize) -> (Vec<Value>, Stream) {
    let body = with(chat("bot", "hello"), json!({"stream": true, "max_tokens": tokens, "logit_bias": {"257": -100}}));
    let mut stream = client.stream(CHAT, &body);
    let first = stream.by_ref().take(5);
    let first = first.map(|event| if let Event::Data(value) = event { value } else { panic!("it ended at once") }).collect();
    (first, stream)
}

#[test]
fn a_request_ends_with_the_generation_that_it_began_with() {
    const TOKENS: usize = 20_000;
    let world = World::long(&[("x", 1), ("y", 2)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&["--kv-tokens", "200000"]);
    let mut client = server.client();
    assert_eq!(client.post("/v1/load_lora_adapter", &load("bot", "x")).status, 200);
    let prompt = [oracle.conversation(&[("user", "hello")])];
    let [x, y] = ["x", "y"].map(|name| generation(&mut client, name).unwrap());
    let (first, stream) = begun(&client, TOKENS);
    assert_eq!(client.post("/v1/load_lora_adapter", &replace("bot", "y")).status, 200);
    assert!(leases(&mut client, &x) > 0, "the stream had ended before the exchange");
    let new = client.post(CHAT, &with(chat("bot", "hello"), json!({"max_tokens": 4}))).ok();
    assert_eq!(new["adapter_generation"], y);
    let old = with(chat("tiny", "hello"), json!({"max_tokens": 4, "adapter": {"generation": x}}));
    assert_eq!(client.post(CHAT, &old).ok()["adapter_generation"], x);
    let (text, id) = rest(first, stream);
    assert_eq!(id, x);
    let expected = oracle.tokenizer.decode(&oracle.unending(Some(&world.root().join("x")), &prompt[0], TOKENS), true).unwrap();
    assert!(text == expected, "the answer of a generation that was replaced changed");
    leases_end(&mut client);
    // Taken away in the middle.
    let (first, stream) = begun(&client, TOKENS);
    assert_eq!(client.post("/v1/unload_lora_adapter", &json!({"lora_name": "bot"})).status, 200);
    assert!(leases(&mut client, &y) > 0, "the stream had ended before the name was taken away");
    client.post(CHAT, &chat("bot", "hello")).refused(404);
    assert_eq!(rest(first, stream).1, y);
    leases_end(&mut client);
}

#[test]
fn what_was_done_survives_a_restart() {
    let world = World::new(&[("x", 1), ("y", 2), ("z", 3)]);
    let act = |client: &mut Client, path: &str, body: &Value| {
        let reply = client.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let table = |client: &mut Client| client.get("/v1/lora_adapters").ok()["data"].clone();
    let (before, y) = {
        let server = world.serve(&[]);
        let mut client = server.client();
        let [x, y] = ["x", "y"].map(|name| generation(&mut client, name).unwrap());
        act(&mut client, "/v1/load_lora_adapter", &load("bot", "x"));
        act(&mut client, "/v1/load_lora_adapter", &replace("bot", "y"));
        act(&mut client, "/v1/rollback_lora_adapter", &json!({"lora_name": "bot", "generation": x}));
        act(&mut client, "/v1/unload_lora_adapter", &json!({"lora_name": "y"}));
        act(&mut client, "/v1/load_lora_adapter", &load("other", "y"));
        act(&mut client, "/v1/load_lora_adapter", &replace("z", "x"));
        (table(&mut client), y)
    };
    let server = world.serve(&[]);
    let mut client = server.client();
    let after = table(&mut client);
    let told = |table: &Value| -> Vec<Value> {
        let keys = ["id", "generation", "version", "history", "published"];
        table.as_array().unwrap().iter().map(|one| keys.iter().map(|key| one[*key].clone()).collect()).collect()
    };
    assert_eq!(told(&after), told(&before));
    let names: Vec<&str> = after.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["bot", "other", "x", "z"]);
    client.post(CHAT, &chat("y", "hello")).refused(404);
    act(&mut client, "/v1/rollback_lora_adapter", &json!({"lora_name": "bot", "generation": y}));
    let answer = client.post(CHAT, &with(chat("bot", "hello"), json!({"max_tokens": 2}))).ok();
    assert_eq!(answer["adapter_generation"], y);
    drop(server);
    // The bytes are the server's own: the folders may be gone.
    std::fs::remove_dir_all(world.root().join("x")).unwrap();
    std::fs::remove_dir_all(world.root().join("y")).unwrap();
    let server = world.serve(&[]);
    let mut client = server.client();
    for name in ["bot", "other", "x", "z"] {
        client.post(CHAT, &with(chat(name, "hello"), json!({"max_tokens": 2}))).ok();
    }
    assert_eq!(generation(&mut client, "bot"), Some(y));
}

/// Folders of adapters that are damaged, each in one way.
fn damaged(world: &World) -> Vec<&'static str> {
    let make = |name: &str| world.adapter(name, 5);
    let weights = |name: &str| make(name).join("adapter_model.safetensors");
    let edit = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = weights(name);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    };
    edit("cut", &|bytes| bytes.truncate(bytes.len() / 2));
    edit("empty", &|bytes| bytes.clear());
    edit("header", &|bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    edit("text", &|bytes| *bytes = b"PK\x03\x04 a pickle".to_vec());
    edit("longer", &|bytes| bytes.extend([0; 64]));
    let config = |name: &str, from: &str, to: &str| {
        let path = make(name).join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    };
    config("rank", "\"r\": 8", "\"r\": 4");
    config("json", "{", "");
    config("kind", "\"LORA\"", "\"IA3\"");
    config("nothing", "\"q_proj\"", "\"no_such_module\"");
    std::fs::remove_file(weights("gone")).unwrap();
    vec!["cut", "empty", "header", "text", "longer", "rank", "json", "kind", "nothing", "gone"]
}

#[test]
fn damaged_adapters_are_refused_and_change_nothing() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let names = damaged(&world);
    let mut client = server.client();
    assert_eq!(client.post("/v1/load_lora_adapter", &load("bot", "x")).status, 200);
    let state = || std::fs::read_to_string(world.root().join(".lorakit/state.json")).unwrap();
    let ask =
        |client: &mut Client| client.post(CHAT, &with(chat("bot", "hello"), json!({"max_tokens": 8}))).ok()["choices"].clone();
    let (answer, before, kept) = (ask(&mut client), client.get("/v1/lora_adapters").ok(), state());
    for name in &names {
        for body in [load("new", name), replace("bot", name)] {
            let reply = client.post("/v1/load_lora_adapter", &body);
            assert!([400, 404].contains(&reply.status), "{name}: {} {}", reply.status, reply.text());
            let refused = reply.refused(reply.status);
            assert!(refused["message"].as_str().unwrap().len() > 20, "{refused}");
        }
        let after = client.get("/v1/lora_adapters").ok();
        assert_eq!((&after["data"], &after["generations"]), (&before["data"], &before["generations"]), "{name}");
        assert_eq!((ask(&mut client), state()), (answer.clone(), kept.clone()), "{name}");
    }
    drop(server);
    // At the start, too: the rest is served.
    let mut server = world.serve(&[]);
    for name in names {
        server.told(&format!("adapter {name} could not be loaded"));
    }
    assert_eq!(ask(&mut server.client()), answer);
}

#[test]
fn loads_of_one_name_come_one_after_another() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let server = world.serve(&[]);
    let outcomes: Vec<(u64, String)> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..12)
            .map(|i| {
                let mut client = server.client();
                scope.spawn(move || {
                    let folder = if i % 2 == 0 { "x" } else { "y" };
                    let reply = client.post("/v1/load_lora_adapter", &replace("bot", folder));
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    let header = |name: &str| reply.header(name).unwrap().to_string();
                    (header("x-adapter-version").parse().unwrap(), header("x-adapter-generation"))
                })
            })
            .collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // Loads of what is there already make no new version, all others one each.
    let versions: BTreeSet<u64> = outcomes.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (1..=versions.len() as u64).collect());
    let distinct: BTreeSet<&(u64, String)> = outcomes.iter().collect();
    assert!(distinct.len() == versions.len() && versions.len() > 1, "{outcomes:?}");
    let last = outcomes.iter().max().unwrap();
    let mut client = server.client();
    assert_eq!(generation(&mut client, "bot").as_ref(), Some(&last.1));
    let answer = client.post(CHAT, &with(chat("bot", "hello"), json!({"max_tokens": 1}))).ok();
    assert_eq!((&answer["adapter_generation"], &answer["adapter_version"]), (&json!(last.1), &json!(last.0)));
}
