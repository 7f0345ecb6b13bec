//! What the binary says, word for word: help, rows as the model sees them, the closing table, and an error of each kind.
//!
//! Folders and the numbers that depend on the CPU are blanked first, so a snapshot holds on any machine. After a change that
//! is meant, `INSTA_UPDATE=always cargo test --test it snapshots` writes them anew; read the difference before it is committed.

use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use regex::Regex;

/// The tiny recipe with its rows, its base and an adapter, in a folder that a test may spoil.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        for folder in ["tiny", "golden/models/llama", "golden/adapters/llama/plain"] {
            bench.copy(folder);
        }
        bench
    }

    /// Copies the files of a folder of the repository's `tests/data` to the same place here.
    fn copy(&self, folder: &str) {
        std::fs::create_dir_all(self.dir.path().join(folder)).unwrap();
        let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder)).unwrap();
        for entry in files.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), self.dir.path().join(folder).join(entry.file_name())).unwrap();
        }
    }

    /// Replaces text in a file, which must hold it.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.dir.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} does not hold {from:?}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Standard output of a run that must go well.
    fn says(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, Some(0), "{err}");
        out
    }

    /// Standard error of a run that must end in exit code 2.
    fn complains(&self, args: &[&str]) -> String {
        let (code, _, err) = self.run(args);
        assert_eq!(code, Some(2), "{err}");
        err.lines().skip_while(|l| !l.starts_with("error:")).map(|l| format!("{l}\n")).collect()
    }

    /// Exit code, standard output and standard error, without network and at one width.
    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).env("LORAKIT_CACHE", self.dir.path().join("cache"));
        command.env("HF_HUB_OFFLINE", "1").env("LORAKIT_PIP", "no-such-program").env("COLUMNS", "100");
        let out = command.output().unwrap();
        (out.status.code(), self.placeless(&out.stdout), self.placeless(&out.stderr))
    }

    /// Text without the path of this folder, which has another name each time.
    fn placeless(&self, bytes: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for place in [self.dir.path().canonicalize().unwrap(), self.dir.path().to_path_buf()] {
            text = text.replace(&place.display().to_string(), "[dir]");
        }
        text
    }
}

/// Numbers with a fraction, and the spaces that right-align them, differ with the CPU; whole numbers do not.
fn numberless(text: &str) -> String {
    Regex::new(r" *[-+]?\d+\.\d+").unwrap().replace_all(text, " #.#").into_owned()
}

#[test]
fn help() {
    assert_snapshot!(Bench::new().says(&["--help"]));
}

#[test]
fn model_inspect() {
    let bench = Bench::new();
    bench.copy("golden/families/gemma3_text");
    // What this process holds differs with the machine, in its number of digits too.
    let inspected = |model: &str| {
        Regex::new(r"(?m) *\d+\.\d+ MB").unwrap().replace_all(&bench.says(&["model", "inspect", model]), " # MB").into_owned()
    };
    assert_snapshot!(inspected("golden/models/llama") + "\n" + &inspected("golden/families/gemma3_text"));
}

#[test]
fn data_show() {
    assert_snapshot!(Bench::new().says(&["data", "show", "tiny/recipe.toml", "-n", "2"]));
}

#[test]
fn closing_table() {
    let sets = ["--set", "train.steps=3", "--set", "train.eval_every=2", "--set", "eval.exact_match=true"];
    let said = Bench::new().says(&[&["train", "tiny/recipe.toml", "--out", "run"], &sets[..]].concat());
    // Beside the table there are answers, which a base of random numbers gives differently on each CPU.
    let table = said.lines().skip_while(|l| !l.contains("held-out rows   ")).take_while(|l| !l.is_empty());
    assert_snapshot!(numberless(&table.collect::<Vec<_>>().join("\n")));
}

#[test]
fn error_in_a_recipe() {
    let bench = Bench::new();
    bench.edit("tiny/recipe.toml", "rank = 8", "rang = 8");
    assert_snapshot!(bench.complains(&["train", "tiny/recipe.toml"]));
}

#[test]
fn error_in_a_row() {
    let bench = Bench::new();
    bench.edit("tiny/train.jsonl", "\"messages\"", "\"mesages\"");
    assert_snapshot!(bench.complains(&["train", "tiny/recipe.toml"]));
}

#[test]
fn error_in_an_adapter() {
    let bench = Bench::new();
    bench.edit("golden/adapters/llama/plain/adapter_config.json", "\"use_qalora\": false", "\"use_qalora\": true");
    let adapter = "golden/adapters/llama/plain";
    assert_snapshot!(bench.complains(&["merge", "--model", "golden/models/llama", "--adapter", adapter, "--out", "merged"]));
}

#[test]
fn error_in_a_model() {
    let bench = Bench::new();
    bench.edit("golden/models/llama/config.json", "\"model_type\": \"llama\"", "\"model_type\": \"lama\"");
    assert_snapshot!(bench.complains(&["train", "tiny/recipe.toml"]));
}

#[test]
fn error_in_usage() {
    assert_snapshot!(Bench::new().complains(&["train", "tiny/recipe.toml", "--set", "train.steps"]));
}
