//! `generate`, `chat`, `adapter` and `doctor` through the program, on a model of a few kilobytes made here.

use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::{shared, tiny_folder};

/// A folder with a random llama in `base` and an adapter on it in `adapters/x`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    tiny_folder::base(&base, 256);
    tiny_folder::adapter(&base, &dir.path().join("adapters/x"), "[template]\nsystem = 'Be odd.'\n", 50);
    dir
}

fn lorakit(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("lorakit").unwrap();
    command.current_dir(dir).args(args);
    command
}

fn stdout(mut command: Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&stdout(lorakit(dir, args))).unwrap()
}

/// The message of a failure that the user can mend.
fn refusal(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(lorakit(dir, args).assert().code(2).get_output().stderr.clone()).unwrap()
}

#[test]
fn generate_answers_with_and_without_an_adapter() {
    let dir = folder();
    let dir = dir.path();
    let ask = ["generate", "--model", "base", "--max-new-tokens", "12", "--chat", "hello"];
    let base = json_of(dir, &[&ask[..], &["--json"]].concat());
    let adapter = json_of(dir, &[&ask[..], &["--adapter", "adapters/x", "--json"]].concat());
    assert_ne!(base["ids"], adapter["ids"]);
    // The adapter's recipe names a system message; saying the same one aloud changes nothing.
    let said = json_of(dir, &[&ask[..], &["--adapter", "adapters/x", "--system", "Be odd.", "--json"]].concat());
    assert_eq!(said, adapter);
    assert!(adapter["prompt_tokens"].as_u64() > base["prompt_tokens"].as_u64());
    assert_eq!(base["completion_tokens"].as_u64().unwrap() as usize, base["ids"].as_array().unwrap().len());
    assert_eq!(stdout(lorakit(dir, &ask)), format!("{}\n", base["text"].as_str().unwrap()));
    // Its recipe also names the base.
    let alone = ["generate", "--adapter", "adapters/x", "--max-new-tokens", "12", "--chat", "hello", "--json"];
    assert_eq!(json_of(dir, &alone)["ids"], adapter["ids"]);
}

#[test]
fn generate_is_reproducible_by_its_seed() {
    let dir = folder();
    let ask = |seed: &str| {
        let args = [
            "generate",
            "--model",
            "base",
            "--prompt",
            "Once",
            "--temperature",
            "1.5",
            "--top-k",
            "50",
            "--seed",
            seed,
            "--json",
        ];
        json_of(dir.path(), &[&args[..], &["--max-new-tokens", "20"]].concat())
    };
    assert_eq!(ask("1"), ask("1"));
    assert_ne!(ask("1")["ids"], ask("2")["ids"]);
}

#[test]
fn generate_refuses_what_it_cannot_do() {
    let dir = folder();
    let cases: [(&[&str], &str); 6] = [
        (&["--model", "base"], "--prompt"),
        (&["--model", "base", "--prompt", "a", "--chat", "b"], "cannot be used with"),
        (&["--prompt", "a"], "--model BASE"),
        (&["--model", "base", "--prompt", "a", "--top-p", "2"], "top-p: 2 is not possible"),
        (&["--model", "base", "--prompt", "a", "--adapter", "base"], "adapter_config.json"),
        (&["--model", "base", "--prompt", ""], "it has no tokens"),
    ];
    for (args, expected) in cases {
        let said = refusal(dir.path(), &[&["generate"], args].concat());
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn chat_reads_a_pipe_and_switches_in_the_middle() {
    let dir = folder();
    let args = ["chat", "--model", "base", "--adapter", "x=adapters/x", "--max-new-tokens", "5"];
    let mut chat = lorakit(dir.path(), &args);
    chat.write_stdin("/base\nhello\n/adapter x\nhello\n/adapter nobody\n/reset\n/nothing\n/quit\nnot reached\n");
    let out = stdout(chat);
    let at = |text: &str| out.find(text).unwrap_or_else(|| panic!("{text:?} in {out:?}"));
    let order = ["base answers from here on", "x answers from here on", "there is no adapter `nobody`", "conversation forgotten"];
    assert!(order.map(at).is_sorted() && at("there is: base, x") > 0 && at("there is no /nothing") > 0, "{out}");
    assert!(!out.contains("not reached"));
    let again = |lines: &'static str| {
        let mut chat = lorakit(dir.path(), &args);
        chat.write_stdin(lines);
        stdout(chat)
    };
    assert_ne!(again("hello"), again("/base\nhello").split_once('\n').unwrap().1);
}

#[test]
fn adapters_are_listed_and_inspected() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("adapters/broken")).unwrap();
    std::fs::write(dir.path().join("adapters/broken/adapter_config.json"), "{").unwrap();
    let list = stdout(lorakit(dir.path(), &["adapter", "ls"]));
    assert!(list.contains("adapters/broken: cannot be used") && list.contains("adapters/x: LoRA of rank 8"), "{list}");
    assert_eq!(json_of(dir.path(), &["adapter", "ls", "--json"]).as_array().unwrap().len(), 2);
    let found = json_of(dir.path(), &["adapter", "inspect", "adapters/x", "--json"]);
    assert_eq!((&found["base"], &found["rank"], found["modules"].as_array().unwrap().len()), (&"a/b".into(), &8.into(), 4));
    assert_eq!(found["recipe"], "adapters/x/recipe.toml");
    let text = stdout(lorakit(dir.path(), &["adapter", "inspect", "adapters/x"]));
    assert!(text.contains("model.layers.0.self_attn.q_proj") && text.contains(found["sha256"].as_str().unwrap()), "{text}");
    assert!(refusal(dir.path(), &["adapter", "inspect", "base"]).contains("adapter_config.json"));
    assert!(refusal(dir.path(), &["adapter", "ls", "nowhere"]).contains("there is no such folder"));
}

#[test]
fn doctor_tells_a_sound_machine_from_a_broken_one() {
    let dir = folder();
    let ask = |args: &[&str]| {
        let mut doctor = lorakit(dir.path(), &[&["doctor"], args].concat());
        doctor.env("HOME", dir.path()).env("HF_HUB_OFFLINE", "1").env("LORAKIT_PIP", "no-such-program");
        for name in ["XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "LORAKIT_CACHE"] {
            doctor.env_remove(name);
        }
        doctor
    };
    let found: Value = serde_json::from_str(&stdout(ask(&["--model", "base", "--json"]))).unwrap();
    assert_eq!((&found["model"]["path"], &found["pip"], &found["problems"]), (&"base".into(), &Value::Null, &json!([])));
    assert!(found["threads"].as_u64() > Some(0));
    let text = stdout(ask(&[]));
    assert!(text.contains("none looked for") && text.contains("cpu"), "{text}");
    let broken = ask(&["--model", "some/model"]).assert().code(1).get_output().stdout.clone();
    assert!(String::from_utf8(broken).unwrap().contains("BROKEN; help: name a path"));
}

#[test]
fn smollm2_says_what_transformers_says() {
    let (Some(golden), Some(gguf)) = (shared::find("golden/smollm2/prompts.json"), shared::smollm2()) else { return };
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let case = &golden["prompts"][0];
    let gguf = gguf.display().to_string();
    let args =
        ["generate", "--model", &gguf, "--compute", "f32", "--max-new-tokens", "24", "--prompt", case["text"].as_str().unwrap()];
    assert_eq!(stdout(lorakit(Path::new("."), &args)), format!("{}\n", case["greedy_text"].as_str().unwrap()));
}
