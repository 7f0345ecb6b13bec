//! Data sets of the hub in a recipe: found in the cache, written back with their commit, refused where they are not to be had.

use std::path::Path;
use std::process::{Command, Output};

use crate::training::recipe_file;

fn run(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(cache).args(&args[..2]).arg(recipe_file()).args(&args[2..]);
    command.env("HF_HUB_CACHE", cache).env("HF_HUB_OFFLINE", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_data_set_of_the_hub_is_read_from_the_cache_and_pinned() {
    let cache = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repo = cache.path().join("datasets--o--n");
    let put = |name: &str, content: &str| {
        let path = repo.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put("refs/main", commit);
    let rows = std::fs::read_to_string(recipe_file().with_file_name("train.jsonl")).unwrap();
    put(&format!("snapshots/{commit}/data/b.jsonl"), &rows);
    put(&format!("snapshots/{commit}/data/a.jsonl"), &rows);
    let set = r#"data.train="hf://datasets/o/n/data/*.jsonl""#;
    let shown = run(cache.path(), &["recipe", "show", "--set", set]);
    let written = text(&shown.stdout);
    for name in ["a", "b"] {
        assert!(written.contains(&format!("\"hf://datasets/o/n@{commit}/data/{name}.jsonl\"")), "{written}");
    }
    let shown = run(cache.path(), &["data", "show", "--json", "--set", set]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let said: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(said["report"]["sources"][1]["rows"], 36, "{said:#}");
    assert!(text(&shown.stderr).contains("HF_HUB_OFFLINE is set"), "that the pattern may be short of files is said");
    for (set, says) in [
        (r#"data.train="hf://datasets/o/m/a.jsonl""#, "hf://datasets/o/m@main/a.jsonl"),
        (r#"data.train="hf://datasets/o/a.jsonl""#, "hf://datasets/OWNER/NAME@REVISION/FILE"),
    ] {
        for verb in [["data", "show"], ["recipe", "show"]] {
            let output = run(cache.path(), &[verb[0], verb[1], "--set", set]);
            let said = text(&output.stderr);
            assert!(output.status.code() == Some(2) && said.contains(says) && said.matches("error:").count() == 1, "{said}");
        }
    }
}
