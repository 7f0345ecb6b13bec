//! Names, ids and files: that none of them comes to stand for something else.

use serde_json::{Value, json};

use super::harness::{World, chat, generation, load, replace, until, with};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn loads_that_nobody_waits_for_leave_their_places() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    for i in 0..40 {
        drop(client.only_ask("/v1/load_lora_adapter", &replace("x", ["x", "y"][i % 2])));
    }
    until("a place", || (client.post("/v1/load_lora_adapter", &replace("x", "x")).status == 200).then_some(()));
    for _ in 0..20 {
        assert_eq!(client.post("/v1/load_lora_adapter", &replace("x", "y")).status, 200);
    }
}

#[test]
fn an_adapters_recipe_names_no_file_elsewhere() {
    let world = World::new(&[("x", 1), ("leak", 2)]);
    let secret = world.path().join("secret.jinja");
    std::fs::write(&secret, "a secret {{ messages }}").unwrap();
    let recipe = format!(
        "[base]\nmodel = \"base\"\n[data]\ntrain = \"rows.jsonl\"\n[template]\nkind = \"{}\"\n[train]\nsteps = 1\n",
        secret.display()
    );
    std::fs::write(world.root().join("leak/recipe.toml"), recipe).unwrap();
    let mut server = world.serve(&[]);
    server.told("adapter leak could not be loaded");
    let mut client = server.client();
    let refused = client.post("/apply-template", &chat("leak", "hello")).refused(404);
    assert!(!refused.to_string().contains("a secret"), "{refused}");
    client.post("/apply-template", &chat("x", "hello")).ok();
    client.post("/v1/load_lora_adapter", &load("again", "leak")).refused(400);
}

#[test]
fn an_index_is_a_names_for_good() {
    let world = World::new(&[("m", 1), ("z", 2)]);
    world.adapter("other", 3);
    let index = |client: &mut super::client::Client, name: &str| {
        let all = client.get("/lora-adapters").ok();
        all.as_array().unwrap().iter().find(|one| one["path"] == name).map(|one| one["id"].clone())
    };
    let ids = |client: &mut super::client::Client| ["m", "other", "z"].map(|name| index(client, name).unwrap());
    let (before, asked) = {
        let server = world.serve(&[]);
        let mut client = server.client();
        let before = ids(&mut client);
        let asked = with(chat("tiny", "hello"), json!({"lora": [{"id": before[2], "scale": 1.0}], "max_tokens": 4}));
        let first = client.post(CHAT, &asked).ok();
        assert_eq!(first["adapter_generation"].as_str(), generation(&mut client, "z").as_deref());
        client.post("/v1/load_lora_adapter", &load("a", "other")).text();
        client.post("/v1/unload_lora_adapter", &json!({"lora_name": "m"})).text();
        assert_eq!(client.post(CHAT, &asked).ok()["adapter_generation"], first["adapter_generation"]);
        client.post("/v1/load_lora_adapter", &load("m", "m")).text();
        assert_eq!(ids(&mut client), before);
        (before, asked)
    };
    let server = world.serve(&[]);
    let mut client = server.client();
    assert_eq!(ids(&mut client), before);
    assert_eq!(client.post(CHAT, &asked).ok()["adapter_generation"].as_str(), generation(&mut client, "z").as_deref());
}

#[test]
fn what_was_replaced_many_times_or_taken_away_does_not_come_back() {
    let world = World::new(&[("x", 1), ("y", 2), ("one", 3), ("two", 4)]);
    let last = {
        let server = world.serve(&[]);
        let mut client = server.client();
        for i in 0..18 {
            for name in ["x", "y"] {
                assert_eq!(client.post("/v1/load_lora_adapter", &replace(name, ["one", "two"][i % 2])).status, 200);
            }
        }
        client.post("/v1/unload_lora_adapter", &json!({"lora_name": "y"})).text();
        generation(&mut client, "x")
    };
    let server = world.serve(&[]);
    let mut client = server.client();
    assert_eq!((generation(&mut client, "x"), generation(&mut client, "y")), (last, None));
    drop(server);
    // Another adapter in the name's own folder is one.
    world.adapter("y", 9);
    let server = world.serve(&[]);
    assert!(generation(&mut server.client(), "y").is_some());
}

#[test]
fn the_same_files_once_more_are_no_new_version() {
    let world = World::new(&[("x", 1), ("y", 2)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let version = |client: &mut super::client::Client| {
        let all = client.get("/v1/lora_adapters").ok();
        all["data"].as_array().unwrap().iter().find(|one| one["id"] == "x").map(|one| one["version"].clone())
    };
    for (folder, expected) in [("x", 1), ("x", 1), ("y", 2), ("y", 2), ("x", 3)] {
        assert_eq!(client.post("/v1/load_lora_adapter", &replace("x", folder)).status, 200);
        assert_eq!(version(&mut client), Some(json!(expected)), "{folder}");
    }
}

#[test]
fn no_adapter_has_the_name_of_the_base_or_of_an_assistant() {
    let world = World::new(&[("x", 1), ("base", 2), ("tiny", 3), ("bot", 4)]);
    std::fs::write(world.path().join("a.toml"), "[[assistant]]\nname = \"bot\"\nadapter = \"x\"\nmax_tokens = 3\n").unwrap();
    let mut server = world.serve(&["--assistants", "a.toml"]);
    for name in ["base", "tiny", "bot"] {
        server.told(&format!("adapter {name} could not be loaded"));
    }
    let mut client = server.client();
    let listed = client.get("/v1/models").ok();
    let ids: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["tiny", "x", "bot"]);
    let answer = client.post("/v1/completions", &json!({"model": "bot", "prompt": "hello", "ignore_eos": true})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 3, "its own longest, where a request gives none");
}

#[test]
fn a_page_of_another_port_of_this_machine_is_anothers() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let mut client = server.client();
    let body = json!({"lora_name": "x"}).to_string();
    for origin in ["http://localhost", "https://localhost", "http://127.0.0.1", "http://localhost:1"] {
        let reply = client.send("POST", "/v1/unload_lora_adapter", &[("origin", origin)], body.as_bytes()).unwrap();
        assert_eq!(reply.refused(403)["code"], "origin_not_allowed", "{origin}");
    }
    let own = format!("http://localhost:{}", server.address.port());
    assert_eq!(client.send("POST", "/v1/unload_lora_adapter", &[("origin", &own)], body.as_bytes()).unwrap().status, 200);
}
