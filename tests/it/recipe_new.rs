//! From rows to a judged adapter in two commands: `recipe new` and `train`, or `train` alone.

use std::path::Path;
use std::process::{Command, Output};

use lorakit::recipe::Recipe;

use crate::shared;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/models/llama");

/// A folder for rows and what becomes of them.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, String)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        Folder(dir)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.current_dir(self.0.path()).args(words).env("HF_HUB_OFFLINE", "1").output().unwrap()
    }

    fn works(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// What is complained about.
    fn complains(&self, words: &[&str]) -> String {
        let done = self.run(words);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{words:?}: {said}");
        said
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    fn recipe(&self, name: &str) -> Recipe {
        Recipe::load(&self.0.path().join(name), &[]).unwrap()
    }

    fn is_adapter(&self, dir: &str) {
        let dir: &Path = &self.0.path().join(dir);
        for file in ["adapter_config.json", "adapter_model.safetensors", "README.md"] {
            assert!(dir.join(file).is_file(), "{file}");
        }
        let results = &shared::json(&dir.join("trace.json"))["results"];
        assert!(results["base"]["loss"].as_f64().unwrap() > results["adapter"]["loss"].as_f64().unwrap(), "{results:#}");
    }
}

fn alpaca(rows: usize) -> String {
    let row = |i: usize| {
        format!("{{\"instruction\": \"Which number comes after {i}?\", \"input\": \"\", \"output\": \"{}\"}}\n", i + 1)
    };
    (0..rows).map(row).collect()
}

fn intents() -> String {
    let row = |i: usize| format!("message {i} about it,{}\n", ["cancel", "order", "refund"][i % 3]);
    format!("text,intent\n{}", (0..60).map(row).collect::<String>())
}

#[test]
fn rows_become_a_recipe_that_trains_as_it_is() {
    let folder = Folder::new(&[("rows.jsonl", alpaca(60))]);
    let said = folder.works(&["recipe", "new", "rows.jsonl", "--model", BASE]);
    assert!(said.contains("train it     lorakit train rows.toml"), "{said}");
    let text = folder.text("rows.toml");
    assert!(text.contains("# 60 rows, ") && text.contains(" % en") && text.contains("train = \"rows.jsonl\""), "{text}");
    let recipe = folder.recipe("rows.toml");
    assert!(recipe.eval.exact_match && recipe.train.max_length.is_multiple_of(64) && recipe.train.max_length <= 256, "{text}");
    folder.works(&["train", "rows.toml"]);
    folder.is_adapter("runs/rows");
    assert!(folder.complains(&["recipe", "new", "rows.jsonl", "--model", BASE]).contains("rows.toml: it exists already"));
}

#[test]
fn rows_are_trained_on_without_a_recipe() {
    let folder = Folder::new(&[("rows.jsonl", alpaca(60))]);
    folder.works(&["train", "rows.jsonl", "--model", BASE, "--set", "train.epochs=1"]);
    folder.is_adapter("runs/rows");
    assert!(!folder.0.path().join("rows.toml").exists());
    assert_eq!(folder.recipe("runs/rows/recipe.toml").train.epochs, 1.0);
}

#[test]
fn a_table_of_texts_and_intents_asks_for_the_intent() {
    let folder = Folder::new(&[("intents.csv", intents())]);
    folder.works(&["recipe", "new", "intents.csv", "--model", BASE, "--out", "mine.toml"]);
    let text = folder.text("mine.toml");
    assert!(text.contains("columns = { prompt = \"text\", completion = \"intent\" }"), "{text}");
    assert!(text.contains("one of: cancel, order, refund."), "{text}");
    folder.works(&["train", "mine.toml", "--dry-run"]);
}

#[test]
fn a_file_called_test_is_held_out() {
    let folder = Folder::new(&[("train.jsonl", alpaca(30)), ("test.jsonl", alpaca(40))]);
    folder.works(&["recipe", "new", ".", "--model", BASE, "--out", "all.toml"]);
    let recipe = folder.recipe("all.toml");
    let names = |sources: &[lorakit::recipe::Source]| {
        sources.iter().map(|s| s.path.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!((names(&recipe.data.train), names(&recipe.data.heldout)), (vec!["train.jsonl".into()], vec!["test.jsonl".into()]));
    assert!(folder.text("all.toml").contains("30 rows have held-out ones in them"), "{}", folder.text("all.toml"));
}

#[test]
fn preferences_are_trained_on_what_was_chosen() {
    let row = |i: usize| format!("{{\"prompt\": \"Say {i}.\", \"chosen\": \"{i}\", \"rejected\": \"no\"}}\n");
    let folder = Folder::new(&[("pairs.jsonl", (0..30).map(row).collect())]);
    folder.works(&["recipe", "new", "pairs.jsonl", "--model", BASE]);
    assert!(folder.text("pairs.toml").contains("take = \"chosen\""));
    folder.works(&["train", "pairs.toml", "--dry-run"]);
}

#[test]
fn what_cannot_become_a_recipe_is_refused_and_nothing_written() {
    let folder = Folder::new(&[("few.jsonl", alpaca(3)), ("odd.jsonl", "{\"a\": 1}\n".repeat(9))]);
    let table = [
        (&["recipe", "new", "few.jsonl", "--model", BASE][..], "3 usable rows are too few"),
        (&["recipe", "new", "odd.jsonl", "--model", BASE], "known shapes"),
        (&["recipe", "new", "-", "--model", BASE], "a recipe cannot name standard input"),
        (&["recipe", "new", "none.jsonl", "--model", BASE], "none.jsonl"),
        (&["train", "none.jsonl"], "none.jsonl"),
    ];
    for (words, expected) in table {
        let said = folder.complains(words);
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    let mut names: Vec<_> = std::fs::read_dir(folder.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["few.jsonl", "odd.jsonl"]);
}
