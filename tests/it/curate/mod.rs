//! `lorakit data check` and `lorakit data curate`, through the binary.

mod planted;
mod real;
#[cfg(unix)]
mod stopped;
mod verbs;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// A folder with these files.
fn scratch(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

/// `lorakit data ARGS` in a folder.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.arg("data").args(args).current_dir(dir);
    command
}

/// Exit code, standard output and standard error.
fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(dir, args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// What a run that succeeds prints.
fn done(dir: &Path, args: &[&str]) -> String {
    let (code, stdout, stderr) = run(dir, args);
    assert_eq!(code, Some(0), "{args:?}: {stderr}");
    stdout
}

/// A copy by the lines of the rows; `source` and `of_source` count the files.
struct Copy {
    source: u64,
    row: u64,
    of_source: u64,
    of: u64,
    similarity: f64,
    exact: bool,
}

/// A report, and the copies in it.
struct Checked {
    report: Value,
    copies: Vec<Copy>,
}

fn checked(dir: &Path, args: &[&str]) -> Checked {
    let report: Value = serde_json::from_str(&done(dir, &[&["check", "--json"], args].concat())).unwrap();
    let number = |v: &Value| v.as_u64().unwrap();
    let copy = |c: &Value| Copy {
        source: number(&c["row"]["source"]),
        row: number(&c["row"]["line"]),
        of_source: number(&c["of"]["source"]),
        of: number(&c["of"]["line"]),
        similarity: c["similarity"].as_f64().unwrap(),
        exact: c["exact"].as_bool().unwrap(),
    };
    let copies = report["copies"]["rows"].as_array().unwrap().iter().map(copy).collect();
    Checked { report, copies }
}
