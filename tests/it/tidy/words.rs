//! Signs of work that looks done and is not.

use super::{File, files, none};

/// Spelled in two halves, so that this file does not complain about itself.
const SIGNS: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimple", "mented!("),
    concat!("#[ig", "nore"),
    concat!("for", " now"),
    concat!("place", "holder"),
];

fn unfinished(file: &File) -> Vec<String> {
    let signs = |line: &str| SIGNS.into_iter().find(|s| line.contains(s));
    let lines = file.text.lines().enumerate().filter_map(|(i, l)| Some((i, signs(l)?)));
    lines.map(|(i, sign)| format!("{}:{}: `{sign}`: finish it, or say in docs/ why not", file.path, i + 1)).collect()
}

fn is_code(file: &File) -> bool {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    !name.contains('.') || [".rs", ".sh", ".py", ".toml", ".md"].iter().any(|end| name.ends_with(end))
}

#[test]
fn nothing_is_left_unfinished() {
    let all =
        ["src", "crates", "tests", "examples", "benches", "recipes", "scripts", "docs", ".ci", "README.md", "CONTRIBUTING.md"];
    let all: Vec<File> = all.into_iter().flat_map(files).filter(is_code).collect();
    assert!(all.iter().any(|f| f.path == ".ci/run") && all.iter().any(|f| f.path.starts_with("scripts/")));
    none(&all.iter().flat_map(unfinished).collect::<Vec<_>>());
}

#[test]
fn every_sign_is_found() {
    for sign in SIGNS {
        let file = File { path: "src/a.rs".into(), text: format!("fn f() {{}}\n    // {sign}\n") };
        assert_eq!(unfinished(&file).len(), 1, "{sign}");
    }
    assert_eq!(unfinished(&File { path: "src/a.rs".into(), text: "fn f() {}".into() }), [""; 0]);
}
