//! What happens before the first step of a run: the start is timed and told, a dry run writes nothing, an estimate adds up.

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

fn estimate(dir: &Path, args: &[&str]) -> serde_json::Value {
    let recipe = recipe_file();
    let done = lorakit(dir, &[&["estimate", recipe.to_str().unwrap(), "--json"], args].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_dry_run_says_what_would_be_trained_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe_file();
    let train = |args: &[&str]| lorakit(dir.path(), &[&["train", recipe.to_str().unwrap()], args].concat());
    let done = train(&["--dry-run", "--out", "run"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    for phrase in ["q_proj ×", "40 of 9 rows", "weights of the base", "peak", "tokens/s", "nothing was written"] {
        assert!(text(&done.stdout).contains(phrase), "`{phrase}` is not in {}", text(&done.stdout));
    }
    let json = train(&["--dry-run", "--json", "--out", "run"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["work"]["steps"], 40);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was written");
    for (args, phrase) in [
        (["--dry-run", "--resume"].as_slice(), "cannot be used with"),
        (&["--dry-run", "--set", "adapter.targets=[\"no_proj\"]"], "no_proj"),
        (&["--dry-run", "--set", "data.train=\"none.jsonl\""], "none.jsonl"),
    ] {
        let refused = train(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(text(&refused.stderr).contains(phrase), "{args:?}: {}", text(&refused.stderr));
    }
}

#[test]
fn an_estimate_adds_up_and_counts_what_training_sees() {
    let dir = tempfile::tempdir().unwrap();
    let set = ["--set", "train.accumulate=2", "--set", "train.packing=true", "--set", "train.eval_every=10"];
    let told = estimate(dir.path(), &set);
    let parts: f64 = told["memory"].as_object().unwrap().values().map(|b| b.as_f64().unwrap()).sum();
    assert!((parts / 1e6 - told["peak_rss_mb"].as_f64().unwrap()).abs() < 1e-6, "{told}");
    assert!(told["fits"] == true && told["would_fit"].is_null(), "{told}");
    let recipe = recipe_file();
    let trained =
        lorakit(dir.path(), &[&["train", recipe.to_str().unwrap(), "--out", "run", "--set", "eval.limit=1"], &set[..]].concat());
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    let events = std::fs::read_to_string(dir.path().join("run/events.jsonl")).unwrap();
    let events: Vec<serde_json::Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let sum =
        |event: &str, key: &str| events.iter().filter(|e| e["event"] == event).map(|e| e[key].as_u64().unwrap_or(1)).sum::<u64>();
    let work = &told["work"];
    assert_eq!(work["tokens"], sum("step", "tokens"));
    assert_eq!(work["trained_tokens"], sum("step", "trained"));
    assert_eq!(work["steps"], sum("step", "count"));
    assert_eq!(work["evaluations"], sum("eval", "count"));
    assert!(told["time"]["training"].as_f64().unwrap() > 0.0 && told["time"]["evaluation"].as_f64().unwrap() > 0.0, "{told}");
}

#[test]
fn what_does_not_fit_comes_with_a_setting_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let dropout = ["--set", "adapter.dropout=0.1"];
    let whole = estimate(dir.path(), &dropout);
    let (peak, kept) = (whole["peak_rss_mb"].as_f64().unwrap(), whole["memory"]["activations"].as_f64().unwrap() / 1e6);
    let less = format!("{:.0}", (peak - kept / 2.0) * 1e6);
    let tight = estimate(dir.path(), &[dropout.as_slice(), &["--memory", &less]].concat());
    assert_eq!(tight["fits"], false, "{tight}");
    let setting = &tight["would_fit"];
    let (batch, accumulate) = (setting["batch_size"].as_u64().unwrap(), setting["accumulate"].as_u64().unwrap());
    assert!(batch < 9 && batch * accumulate == 9, "a step of as many rows: {setting}");
    let set = [format!("train.batch_size={batch}"), format!("train.accumulate={accumulate}")];
    let again = estimate(dir.path(), &[dropout.as_slice(), &["--memory", &less, "--set", &set[0], "--set", &set[1]]].concat());
    assert_eq!(again["memory"]["activations"].as_f64().unwrap(), kept * 1e6 * batch as f64 / 9.0, "fewer rows keep less");
    let none = estimate(dir.path(), &["--memory", "1MB"]);
    assert!(none["fits"] == false && none["would_fit"].is_null(), "{none}");
    let recipe = recipe_file();
    let wrong = lorakit(dir.path(), &["estimate", recipe.to_str().unwrap(), "--memory", "4 potatoes"]);
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("potatoes"), "{}", text(&wrong.stderr));
}
