//! `--watch`: what a training run has completed answers, and nothing half-written ever does.

use std::path::Path;
use std::time::Duration;

use lorakit::files::sha256_file;
use serde_json::{Value, json};

use super::client::{Client, Event};
use super::harness::{World, chat, generation, until, with};
use super::oracle::Oracle;

const CHAT: &str = "/v1/chat/completions";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Longer than the server waits for the end of changes.
const SETTLED: Duration = Duration::from_millis(900);

fn trace(dir: &Path, hash: &str) {
    std::fs::write(dir.join("trace.json"), json!({"adapter_sha256": hash}).to_string()).unwrap();
}

fn copy(from: &Path, to: &Path, file: &str) {
    std::fs::copy(from.join(file), to.join(file)).unwrap();
}

fn absent(client: &mut Client, when: &str) {
    std::thread::sleep(SETTLED);
    assert_eq!(generation(client, "run"), None, "it was published {when}");
}

#[test]
fn a_run_answers_once_it_is_complete() {
    let world = World::long(&[("x", 1)]);
    // Made elsewhere, so that each file comes when the test says.
    let made = [2, 3].map(|seed| {
        let dir = world.path().join(format!("made{seed}"));
        std::fs::rename(world.adapter("made", seed), &dir).unwrap();
        dir
    });
    let runs = world.path().join("runs");
    let run = runs.join("run");
    std::fs::create_dir_all(&run).unwrap();
    let mut server = world.serve(&["--watch", "runs", "--kv-tokens", "300000"]);
    let mut client = server.client();
    for file in ["recipe.toml", "adapter_config.json"] {
        copy(&made[0], &run, file);
    }
    absent(&mut client, "without weights");
    let weights = std::fs::read(made[0].join(WEIGHTS)).unwrap();
    std::fs::write(run.join(WEIGHTS), &weights[..weights.len() / 2]).unwrap();
    absent(&mut client, "with half of its weights");
    std::fs::write(run.join("trace.json"), "{\"adapter_sha").unwrap();
    absent(&mut client, "with half of its trace");
    let hash = sha256_file(&made[0].join(WEIGHTS)).unwrap();
    trace(&run, &hash);
    absent(&mut client, "with the trace of other weights");
    std::fs::write(run.join(WEIGHTS), &weights).unwrap();
    server.told("adapter run: version 1 (generation ");
    let first = generation(&mut client, "run").unwrap();
    // A second result in the same folder, while the first one answers.
    let body = with(chat("run", "hello"), json!({"stream": true, "max_tokens": 20_000, "logit_bias": {"257": -100}}));
    let mut stream = client.stream(CHAT, &body);
    stream.next();
    copy(&made[1], &run, WEIGHTS);
    std::thread::sleep(SETTLED);
    assert_eq!(generation(&mut client, "run").as_ref(), Some(&first), "weights without their trace were published");
    trace(&run, &sha256_file(&run.join(WEIGHTS)).unwrap());
    server.told("adapter run: version 2 (generation ");
    assert!(stream.all(|event| matches!(event, Event::Done) || is_of(&event, &first)), "the answer that was begun changed");
    let oracle = Oracle::new(&world.base());
    let expected = oracle.answers(Some(&run), &[oracle.conversation(&[("user", "hello")])], 16);
    let answer = client.post(CHAT, &with(chat("run", "hello"), json!({"max_tokens": 16}))).ok();
    assert_eq!(answer["choices"][0]["message"]["content"], oracle.tokenizer.decode(&expected[0], true).unwrap());
    assert_eq!(answer["adapter_version"], 2);
}

fn is_of(event: &Event, generation: &str) -> bool {
    matches!(event, Event::Data(chunk) if chunk["error"] == Value::Null && chunk["adapter_generation"] == generation)
}

#[test]
fn what_was_complete_before_is_published_at_the_start_and_once() {
    let world = World::new(&[("x", 1)]);
    let runs = world.path().join("runs");
    std::fs::create_dir(&runs).unwrap();
    std::fs::rename(world.adapter("made", 2), runs.join("run")).unwrap();
    std::fs::rename(world.adapter("made", 3), runs.join("bad")).unwrap();
    trace(&runs.join("run"), &sha256_file(&runs.join("run").join(WEIGHTS)).unwrap());
    // Complete by its trace, and no adapter of this base.
    let config = runs.join("bad/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"r\": 8", "\"r\": 4")).unwrap();
    trace(&runs.join("bad"), &sha256_file(&runs.join("bad").join(WEIGHTS)).unwrap());
    let mut server = world.serve(&["--watch", "runs"]);
    server.told("adapter run: version 1");
    server.told("adapter bad was not published");
    let mut client = server.client();
    let first = generation(&mut client, "run").unwrap();
    // Written again without a change, and rolled away from: it is no news.
    let away = json!({"lora_name": "run", "lora_path": "x", "load_inplace": true});
    assert_eq!(client.post("/v1/load_lora_adapter", &away).status, 200);
    let again = std::fs::read(runs.join("run/trace.json")).unwrap();
    std::fs::write(runs.join("run/trace.json"), again).unwrap();
    std::thread::sleep(SETTLED);
    assert_ne!(generation(&mut client, "run").unwrap(), first);
    assert_eq!(generation(&mut client, "bad"), None);
    assert_eq!(client.post("/v1/unload_lora_adapter", &json!({"lora_name": "run"})).status, 200);
    until("its end", || generation(&mut client, "run").is_none().then_some(()));
    client.post(CHAT, &chat("x", "hello")).ok();
}
