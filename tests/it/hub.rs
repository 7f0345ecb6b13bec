//! Rows that are not files of the recipe's folder: data sets of the hub, found in the cache and written back with their commit,
//! and standard input.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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

/// What a verb says of rows that are piped in, and how many temporary files it leaves.
fn piped(rows: &str, verb: &[&str]) -> (Output, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(dir.path()).args(verb).arg(recipe_file()).args(["--set", "data.train=\"-\""]);
    command.env("TMPDIR", dir.path()).env("LORAKIT_CACHE", dir.path().join("own"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rows.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let left = std::fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.file_name() != "own").count();
    (output, left)
}

#[test]
fn rows_are_read_from_standard_input_and_the_recipe_says_so() {
    let rows = std::fs::read_to_string(recipe_file().with_file_name("train.jsonl")).unwrap();
    let array = format!("[{}]", rows.trim().replace('\n', ",\n"));
    for rows in [rows, array] {
        let (output, left) = piped(&rows, &["data", "show", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&said["report"]["sources"][0]["rows"], left), (&36.into(), 0), "{said:#}");
    }
    let shown = text(&piped("{}", &["recipe", "show"]).0.stdout);
    assert!(shown.contains("train = \"-\""), "{shown}");
    for (rows, says) in [("", "the file has no rows"), ("{\"text\": \"a\"}\n{\n", "stdin.jsonl:2: ")] {
        let (output, left) = piped(rows, &["data", "show", "--json"]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && left == 0 && said.contains(says), "{left}: {said}");
    }
}
