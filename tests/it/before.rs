//! What happens before the first step of a run: the start is timed and told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn recipe_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/recipe.toml")
}

/// Runs `lorakit ARGS` in `dir`.
fn lorakit(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(dir).args(args).env("HF_HUB_OFFLINE", "1").env("LORAKIT_CACHE", dir.join("cache"));
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_start_is_told_and_written_by_part() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe_file();
    let done = lorakit(dir.path(), &["train", recipe.to_str().unwrap(), "--set", "train.steps=2", "--out", "run"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).lines().any(|l| l.starts_with("ready in ")), "{}", text(&done.stderr));
    let events = std::fs::read_to_string(dir.path().join("run/events.jsonl")).unwrap();
    let events: Vec<serde_json::Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let at = |name: &str| events.iter().position(|e| e["event"] == name).unwrap_or_else(|| panic!("no {name} in {events:?}"));
    assert!(at("ready") < at("step"), "{events:?}");
    let ready = &events[at("ready")];
    let parts = ready["parts"].as_object().unwrap();
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["recipe", "base", "data", "adapter", "checkpoints"]);
    let sum: f64 = parts.values().map(|s| s.as_f64().unwrap()).sum();
    let whole = ready["seconds"].as_f64().unwrap();
    assert!(sum > 0.0 && sum <= whole, "parts of {sum} s in a whole of {whole} s");
}
