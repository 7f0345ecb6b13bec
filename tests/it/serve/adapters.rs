//! Who answers: names, generations, and sums of adapters.

use lorakit::adapter::Adapter;
use lorakit::adapter::mix::Mix;
use lorakit::generate::{self, Limits, Sampling};
use serde_json::{Value, json};

use super::client::Client;
use super::harness::{World, chat, generation, load, replace, with};
use super::oracle::Oracle;

const CHAT: &str = "/v1/chat/completions";
const TOKENS: usize = 16;
/// Some blocks of keys and values long, so that what is kept of one sum could be mistaken for another's.
const QUESTION: &str = "What is it that you would say to somebody who asks the same question again and again, and again?";

/// The answer's text and the generation that it names.
fn answer(client: &mut Client, body: Value) -> (String, Value) {
    let answer = client.post(CHAT, &with(body, json!({"max_tokens": TOKENS}))).ok();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    (text, answer["adapter_generation"].clone())
}

/// What the sum of adapters answers, by name and weight.
fn sum(world: &World, oracle: &Oracle, parts: &[(&str, f64)]) -> String {
    let prompts = [oracle.conversation(&[("user", QUESTION)])];
    let limits = Limits { max_new_tokens: TOKENS, min_new_tokens: 0, stop: oracle.tokenizer.eos_ids().to_vec() };
    let load = |(name, _): &(&str, f64)| Adapter::load(&world.root().join(name), &oracle.model).unwrap().frozen();
    let loaded: Vec<_> = parts.iter().map(|part| oracle.model.prepare(&load(part)).unwrap()).collect();
    let named: Vec<_> = parts.iter().zip(&loaded).map(|((name, weight), adapter)| (*name, adapter, *weight)).collect();
    let mix = Mix::new(&named, &oracle.model).unwrap();
    let ids = generate::batch(&oracle.model, &mix, &prompts, &Sampling::GREEDY, &limits, 1, &mut |_| Ok(())).unwrap();
    oracle.tokenizer.decode(&ids[0], true).unwrap()
}

fn alone(world: &World, oracle: &Oracle, name: Option<&str>) -> String {
    let dir = name.map(|name| world.root().join(name));
    let ids = oracle.answers(dir.as_deref(), &[oracle.conversation(&[("user", QUESTION)])], TOKENS);
    oracle.tokenizer.decode(&ids[0], true).unwrap()
}

#[test]
fn a_name_is_spelled_in_three_ways_and_given_back_as_it_was() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    let (base, x, y) = (alone(&world, &oracle, None), alone(&world, &oracle, Some("x")), alone(&world, &oracle, Some("y")));
    assert!(base != x && x != y && base != y);
    let ids = ["x", "y"].map(|name| json!(generation(&mut client, name).unwrap()));
    for (name, text, id) in [
        ("tiny", &base, &Value::Null),
        ("base", &base, &Value::Null),
        ("x", &x, &ids[0]),
        ("tiny:x", &x, &ids[0]),
        ("tiny::x", &x, &ids[0]),
        ("base:y", &y, &ids[1]),
        ("base::y", &y, &ids[1]),
    ] {
        assert_eq!(answer(&mut client, chat(name, QUESTION)), (text.clone(), id.clone()), "{name}");
        assert_eq!(client.post(CHAT, &with(chat(name, QUESTION), json!({"max_tokens": 1}))).ok()["model"], name);
    }
    let chosen = |adapter: Value| with(chat("tiny", QUESTION), json!({"adapter": adapter}));
    assert_eq!(answer(&mut client, chosen(json!("x"))), (x.clone(), ids[0].clone()));
    assert_eq!(answer(&mut client, chosen(json!({"generation": ids[1]}))), (y.clone(), ids[1].clone()));
    for (body, param) in [
        (chat("z", QUESTION), "model"),
        (chat("tiny:z", QUESTION), "model"),
        (chat("x:tiny", QUESTION), "model"),
        (chosen(json!("z")), "adapter"),
        (chosen(json!({"generation": "0123456789abcdef"})), "adapter"),
    ] {
        let refused = client.post(CHAT, &body).refused(404);
        assert_eq!(refused["param"], param, "{refused}");
        assert_eq!(client.stream(CHAT, &with(body, json!({"stream": true}))).status, 404);
    }
    let unknown = client.post(CHAT, &chat("gpt-4o", QUESTION)).refused(404);
    assert_eq!((&unknown["code"], &unknown["type"]), (&json!("model_not_found"), &json!("not_found_error")));
    assert_eq!(client.post(CHAT, &chosen(json!({"id": "x"}))).refused(400)["param"], "adapter");
}

#[test]
fn what_is_served_is_listed() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    std::fs::create_dir(world.root().join("broken")).unwrap();
    std::fs::write(world.root().join("broken/adapter_config.json"), "{").unwrap();
    let mut server = world.serve(&[]);
    server.told("adapter broken could not be loaded");
    let mut client = server.client();
    let models = client.get("/v1/models").ok();
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["tiny", "x", "y"]);
    let x = client.get("/v1/models/x").ok();
    assert_eq!((&x["object"], &x["root"], &x["parent"]), (&json!("model"), &json!("x"), &json!("tiny")));
    assert_eq!((&x["max_model_len"], &x["adapter_generation"]), (&json!(2048), &json!(generation(&mut client, "x").unwrap())));
    client.get("/v1/models/z").refused(404);
    let listed = client.get("/v1/lora_adapters").ok();
    assert_eq!(
        (&listed["data"][0]["rank"], &listed["data"][0]["version"], &listed["broken"][0]["id"]),
        (&json!(8), &json!(1), &json!("broken"))
    );
    assert_eq!(
        client.get("/lora-adapters").ok(),
        json!([{"id": 0, "path": "x", "scale": 0.0}, {"id": 1, "path": "y", "scale": 0.0}])
    );
    let broken = client.post(CHAT, &chat("broken", QUESTION)).refused(404);
    assert!(broken["message"].as_str().unwrap().contains("could not be loaded"), "{broken}");
}

#[test]
fn sums_of_adapters_are_the_sums_that_were_asked_for() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    let lora = |parts: Value| with(chat("tiny", QUESTION), json!({"lora": parts}));
    let alone = |name| alone(&world, &oracle, name);
    let cases = [
        (json!([{"id": "x", "scale": 0}]), alone(None)),
        (json!([{"id": 0, "scale": 0}, {"id": 1, "scale": 0.0}]), alone(None)),
        (json!([]), alone(None)),
        (json!([{"id": "x", "scale": 1}]), alone(Some("x"))),
        (json!([{"id": "x"}]), alone(Some("x"))),
        (json!([{"id": 1, "scale": 1.0}]), alone(Some("y"))),
        (json!([{"id": 0, "scale": 1}, {"id": 1, "scale": 0}]), alone(Some("x"))),
        (json!([{"id": "x", "scale": 0.5}]), sum(&world, &oracle, &[("x", 0.5)])),
        (json!([{"id": "y", "scale": -1}]), sum(&world, &oracle, &[("y", -1.0)])),
        (json!([{"id": "x", "scale": 0.7}, {"id": "y", "scale": 0.3}]), sum(&world, &oracle, &[("x", 0.7), ("y", 0.3)])),
    ];
    for (parts, expected) in &cases {
        assert_eq!(answer(&mut client, lora(parts.clone())).0, *expected, "{parts}");
    }
    assert_ne!(cases[7].1, cases[3].1);
    let [x, y] = ["x", "y"].map(|name| generation(&mut client, name).unwrap());
    let said = answer(&mut client, lora(json!([{"id": "x", "scale": 0.5}, {"id": "y"}]))).1;
    assert_eq!(said, format!("{x}*0.5+{y}"));
    // A running sum of several at once does not disturb another: each request has its own.
    std::thread::scope(|scope| {
        let all: Vec<_> = cases
            .iter()
            .cycle()
            .take(40)
            .map(|(parts, expected)| {
                let (mut client, body) = (server.client(), lora(parts.clone()));
                scope.spawn(move || (answer(&mut client, body).0, expected))
            })
            .collect();
        for asked in all {
            let (text, expected) = asked.join().unwrap();
            assert_eq!(text, *expected);
        }
    });
    for bad in [
        json!([{"id": 2}]),
        json!([{"id": -1}]),
        json!([{"id": "z"}]),
        json!([{"id": "x", "scale": 101}]),
        json!([{"id": "x", "scale": "1"}]),
        json!([{"id": "x"}, {"id": 0}]),
        json!([{"id": "x", "weight": 1}]),
        json!(["x"]),
    ] {
        assert_eq!(client.post(CHAT, &lora(bad.clone())).refused(400)["param"], "lora", "{bad}");
    }
    let other = with(chat("x", QUESTION), json!({"lora": [{"id": "y"}]}));
    assert_eq!(client.post(CHAT, &other).refused(400)["param"], "lora");
}

#[test]
fn scales_that_are_set_act_on_the_bare_base_alone() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    let (base, x, y) = (alone(&world, &oracle, None), alone(&world, &oracle, Some("x")), alone(&world, &oracle, Some("y")));
    assert_eq!(client.post("/lora-adapters", &json!([{"id": 0, "scale": 1.0}])).ok(), json!({"success": true}));
    assert_eq!(client.get("/lora-adapters").ok()[0]["scale"], 1.0);
    assert_eq!(answer(&mut client, chat("tiny", QUESTION)).0, x);
    assert_eq!(answer(&mut client, chat("y", QUESTION)).0, y);
    assert_eq!(answer(&mut client, with(chat("tiny", QUESTION), json!({"lora": []}))).0, base);
    client.post("/lora-adapters", &json!([{"id": 7, "scale": 1.0}])).refused(400);
    client.post("/lora-adapters", &json!({"id": 0})).refused(400);
    client.post("/lora-adapters", &json!([])).ok();
    assert_eq!(answer(&mut client, chat("tiny", QUESTION)).0, base);
}

#[test]
fn a_name_is_loaded_replaced_rolled_back_and_taken_away() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let oracle = Oracle::new(&world.base());
    let server = world.serve(&[]);
    let mut client = server.client();
    let (x, y) = (alone(&world, &oracle, Some("x")), alone(&world, &oracle, Some("y")));
    let said = client.post("/v1/load_lora_adapter", &load("bot", "x"));
    assert_eq!((said.status, said.text().as_str()), (200, "Success: LoRA adapter 'bot' added successfully."));
    let first = said.header("x-adapter-generation").unwrap().to_string();
    assert_eq!(answer(&mut client, chat("bot", QUESTION)), (x.clone(), json!(first)));
    let again = client.post("/v1/load_lora_adapter", &load("bot", "y")).refused(400);
    assert!(again["message"].as_str().unwrap().contains("has already been loaded"), "{again}");
    let second = client.post("/v1/load_lora_adapter", &replace("bot", "y"));
    assert_eq!((second.status, second.header("x-adapter-version")), (200, Some("2")));
    assert_eq!(answer(&mut client, chat("bot", QUESTION)).0, y);
    let back = |to: &str| json!({"lora_name": "bot", "generation": to});
    assert_eq!(client.post("/v1/rollback_lora_adapter", &back(&first)).status, 200);
    assert_eq!(answer(&mut client, chat("bot", QUESTION)), (x, json!(first)));
    assert_eq!(client.post("/v1/rollback_lora_adapter", &back("0123456789abcdef")).refused(404)["param"], "generation");
    let expect = |id: &str| with(replace("bot", "y"), json!({"expected_generation": id}));
    let mismatch = client.post("/v1/load_lora_adapter", &expect("0123456789abcdef")).refused(409);
    assert_eq!(mismatch["code"], "lora_generation_mismatch");
    assert_eq!(generation(&mut client, "bot"), Some(first.clone()));
    assert_eq!(client.post("/v1/load_lora_adapter", &expect(&first)).status, 200);
    assert_eq!(client.post("/v1/load_lora_adapter", &expect(&first)).status, 409);
    let alone = with(load("bot2", "y"), json!({"expected_generation": first}));
    assert_eq!(client.post("/v1/load_lora_adapter", &alone).refused(400)["param"], "expected_generation");
    let gone = client.post("/v1/unload_lora_adapter", &json!({"lora_name": "bot", "lora_int_id": 3}));
    assert_eq!((gone.status, gone.text().as_str()), (200, "Success: LoRA adapter 'bot' removed successfully."));
    client.post(CHAT, &chat("bot", QUESTION)).refused(404);
    assert_eq!(
        client.post("/v1/unload_lora_adapter", &json!({"lora_name": "bot"})).refused(404)["code"],
        "lora_adapter_not_found"
    );
    for (name, folder, status, param) in
        [("bot", "nowhere", 404, "lora_path"), ("tiny", "x", 400, "lora_name"), ("base", "x", 400, "lora_name")]
    {
        assert_eq!(client.post("/v1/load_lora_adapter", &load(name, folder)).refused(status)["param"], param, "{name} {folder}");
    }
}
