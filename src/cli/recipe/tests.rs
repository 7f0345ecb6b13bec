//! The verb from its words to what it prints.

use serde_json::json;

use super::*;

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: RecipeArgs,
}

fn said(words: &[&str]) -> Result<String> {
    use clap::Parser;
    text(&CommandLine::try_parse_from([&["recipe"], words].concat()).unwrap().args)
}

/// A folder with a good and a bad recipe, and the paths of the three.
fn folder() -> (tempfile::TempDir, [String; 3]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.jsonl"), "{}\n").unwrap();
    let good = "#:schema ../docs/x.json\n\n# Sorts tickets.\n# More.\n[base]\nmodel = 'a/b'\n[data]\ntrain = 't.jsonl'\n";
    std::fs::write(dir.path().join("good.toml"), good).unwrap();
    std::fs::write(dir.path().join("bad.toml"), "[base]\nrevision = 'a#b'\n").unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let paths = [dir.path().display().to_string(), path("good.toml"), path("bad.toml")];
    (dir, paths)
}

#[test]
fn ls_gives_each_recipe_with_its_first_comment() {
    let (_dir, [folder, good, bad]) = folder();
    assert_eq!(said(&["ls", &folder]).unwrap(), format!("{bad}\n{good}  Sorts tickets.\n"));
    let list: serde_json::Value = serde_json::from_str(&said(&["ls", &folder, "--json"]).unwrap()).unwrap();
    assert_eq!(list[1], json!({"recipe": good, "about": "Sorts tickets."}));
    let error = said(&["ls", &format!("{folder}/none")]).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("recipe ls DIR"), "{error}");
}

#[test]
fn show_and_check_load_the_recipe() {
    let (_dir, [_, good, bad]) = folder();
    assert!(said(&["show", &good, "--set", "train.lr=1e-5"]).unwrap().contains("\nlr = 1e-5\n"));
    let shown: serde_json::Value = serde_json::from_str(&said(&["show", &good, "--json"]).unwrap()).unwrap();
    assert_eq!(shown["adapter"]["rank"], 8);
    let line = format!("OK {good}: LoRA of rank 8 on a/b, 1 epoch over 1 file(s), adapter to runs/good\n");
    assert_eq!(said(&["check", &good, &good]).unwrap(), line.repeat(2));
    let error = said(&["check", &bad]).unwrap_err().to_string();
    assert!(error.contains("bad.toml:1: `base.model`: is missing"), "{error}");
    let (lines, wrong) = check(&[bad.clone().into(), good.clone().into(), bad.into()], &[]);
    let lines: Vec<&str> = lines.lines().filter(|l| l.contains("OK ")).collect();
    assert!(lines.len() == 3 && lines[0].starts_with("NOT OK ") && lines[0].contains("`base.model`: is missing"), "{lines:?}");
    assert!(lines[1].starts_with("OK ") && lines[2].starts_with("NOT OK "), "{lines:?}");
    let error = wrong.unwrap();
    assert!(error.exit_code() == 2 && error.to_string().contains("2 of 3 recipes cannot be used"), "{error}");
    let error = said(&["show", &good, "--set", "train.lr=0"]).unwrap_err().to_string();
    assert!(error.starts_with("--set train.lr=0: `train.lr`"), "{error}");
}

#[test]
fn keys_are_explained() {
    let keys = said(&["keys"]).unwrap();
    assert!(keys.contains("adapter.rank: a whole number (at least 1, at most 65536) [default: 8]\n    Rank of"), "{keys}");
    assert!(said(&["schema"]).unwrap().starts_with("{\n  \""));
}
