//! Assistants: what they add to an adapter, and their files that change while the server runs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::Client;
use super::harness::{Server, World, chat, generation, until, with};

const CHAT: &str = "/v1/chat/completions";
const ONE: &str = "[[assistant]]\nname = \"clerk\"\nadapter = \"x\"\nsystem = \"You work for {{ company }}.\"\nvariables = { company = \"Acme\" }\nmax_tokens = 12\ngreeting = \"Yes?\"\n";
const SECOND: &str =
    "\n[[assistant]]\nname = \"guard\"\nsystem = \"No.\"\nsystem_locked = true\nstop = [\"b\"]\nmax_requests = 1\n";

fn write(path: &Path, text: &str) {
    // As editors do: the old file is there to the end.
    let new: PathBuf = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn text(client: &mut Client, body: &Value) -> String {
    client.post(CHAT, body).ok()["choices"][0]["message"]["content"].as_str().unwrap().to_string()
}

/// How often the server told a line with this in it.
fn times(server: &Server, said: &str) -> usize {
    server.lines().iter().filter(|line| line.contains(said)).count()
}

fn told_again(server: &Server, said: &str, before: usize) {
    until(said, || (times(server, said) > before).then_some(()));
}

#[test]
fn an_assistant_is_its_adapter_with_a_prompt_and_limits() {
    let world = World::new(&[("x", 1)]);
    let file = world.path().join("assistants.toml");
    write(&file, &format!("{ONE}{SECOND}"));
    let server = world.serve(&["--assistants", "assistants.toml"]);
    let mut client = server.client();
    let messages = json!([{"role": "system", "content": "You work for Acme."}, {"role": "user", "content": "hello"}]);
    let plain = with(chat("x", "hello"), json!({"messages": messages, "max_tokens": 12}));
    assert_eq!(text(&mut client, &chat("clerk", "hello")), text(&mut client, &plain));
    let answer = client.post(CHAT, &chat("clerk", "hello")).ok();
    assert_eq!(
        (&answer["model"], &answer["adapter_generation"]),
        (&json!("clerk"), &json!(generation(&mut client, "x").unwrap()))
    );
    // A conversation's own system message stands in place of the assistant's, unless that is locked.
    let own = with(
        plain,
        json!({"model": "clerk", "messages": [{"role": "system", "content": "Odd."}, {"role": "user", "content": "hello"}]}),
    );
    assert_eq!(text(&mut client, &own), text(&mut client, &with(own.clone(), json!({"model": "x"}))));
    let locked = client.post(CHAT, &with(own, json!({"model": "guard"}))).refused(400);
    assert_eq!(locked["param"], "messages[0]");
    assert_eq!(client.post(CHAT, &with(chat("clerk", "hello"), json!({"max_tokens": 13}))).refused(400)["param"], "max_tokens");
    let stopped = with(chat("guard", "hello"), json!({"guided_choice": ["abc"]}));
    assert_eq!(
        (text(&mut client, &stopped), text(&mut client, &with(stopped.clone(), json!({"stop": "c"})))),
        ("a".into(), "ab".into())
    );
    let card = client.get("/v1/models/clerk").ok();
    assert_eq!((&card["kind"], &card["adapter"], &card["greeting"]), (&json!("assistant"), &json!("x"), &json!("Yes?")));
    let prompt = client.post("/apply-template", &json!({"model": "guard", "messages": [{"role": "user", "content": "a"}]})).ok();
    assert!(prompt["prompt"].as_str().unwrap().starts_with("<|im_start|>system\nNo.<|im_end|>\n"), "{prompt}");
    // No adapter takes the name of an assistant.
    let taken = json!({"lora_name": "clerk", "lora_path": "x"});
    assert_eq!(client.post("/v1/load_lora_adapter", &taken).refused(400)["param"], "lora_name");
}

#[test]
fn an_assistant_has_its_own_most_requests() {
    let world = World::long(&[("x", 1)]);
    write(&world.path().join("assistants.toml"), SECOND);
    let server = world.serve(&["--assistants", "assistants.toml", "--kv-tokens", "300000"]);
    let mut client = server.client();
    let endless = with(super::harness::endless("guard"), json!({"stop": "no such string", "stream": true}));
    let mut first = client.stream(CHAT, &endless);
    first.next();
    let busy = client.post(CHAT, &with(chat("guard", "hello"), json!({"max_tokens": 1})));
    assert_eq!((busy.refused(429)["code"].as_str(), busy.header("retry-after")), (Some("assistant_busy"), Some("1")));
    client.post(CHAT, &with(chat("tiny", "hello"), json!({"max_tokens": 1}))).ok();
    drop(first);
    until("its place", || {
        (client.post(CHAT, &with(chat("guard", "hello"), json!({"max_tokens": 1}))).status == 200).then_some(())
    });
}

#[test]
fn assistants_are_exchanged_when_their_file_changes() {
    let world = World::new(&[("x", 1)]);
    let file = world.path().join("assistants.toml");
    write(&file, ONE);
    let mut server = world.serve(&["--assistants", "assistants.toml"]);
    let mut client = server.client();
    let old = text(&mut client, &chat("clerk", "hello"));
    client.post(CHAT, &chat("guard", "hello")).refused(404);
    write(&file, &format!("{ONE}{SECOND}"));
    server.told("assistants: 2 are there now");
    text(&mut client, &with(chat("guard", "hello"), json!({"max_tokens": 1})));
    // What is wrong is told with file and line, and what was there stays.
    for (i, (wrong, line)) in
        [("[[assistant]]\nname = \"new\"\ntemperature = 9.0\n", 1), ("[[assistant]]\nname = \"clerk\"\nsytem = \"\"\n", 3)]
            .iter()
            .enumerate()
    {
        write(&file, wrong);
        told_again(&server, "warning: assistants stay as they were", i);
        assert!(server.lines().iter().any(|said| said.contains(&format!("assistants.toml:{line}: "))), "{:?}", server.lines());
        assert_eq!(text(&mut client, &chat("clerk", "hello")), old);
        client.post(CHAT, &chat("new", "hello")).refused(404);
    }
    // Also when it is asked to by a signal, while nothing has changed.
    let refused = times(&server, "warning: assistants stay as they were");
    server.signal("-HUP");
    told_again(&server, "warning: assistants stay as they were", refused);
    write(&file, &ONE.replace("Acme", "Others"));
    server.told("assistants: 1 are there now");
    let again = times(&server, "assistants: 1 are there now");
    server.signal("-HUP");
    told_again(&server, "assistants: 1 are there now", again);
    assert_ne!(text(&mut client, &chat("clerk", "hello")), old);
    client.post(CHAT, &chat("guard", "hello")).refused(404);
}

#[test]
fn a_folder_of_assistants_is_read_whole_and_a_wrong_one_is_no_start() {
    let world = World::new(&[("x", 1)]);
    let dir = world.path().join("assistants");
    std::fs::create_dir(&dir).unwrap();
    write(&dir.join("a.toml"), ONE);
    write(&dir.join("notes.txt"), "not read");
    let mut server = world.serve(&["--assistants", "assistants"]);
    let mut client = server.client();
    write(&dir.join("b.toml"), SECOND);
    server.told("assistants: 2 are there now");
    client.get("/v1/models/guard").ok();
    std::fs::remove_file(dir.join("a.toml")).unwrap();
    server.told("assistants: 1 are there now");
    client.get("/v1/models/clerk").refused(404);
    drop(server);
    write(&dir.join("c.toml"), SECOND);
    let refused = world.command(&["--adapters", "adapters", "--assistants", "assistants"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("c.toml:2: there are two assistants named `guard`"), "{said}");
}
