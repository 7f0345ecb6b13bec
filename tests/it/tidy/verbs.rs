//! The README and the command line name the same verbs.

use std::collections::BTreeSet;
use std::process::Command;

use regex::Regex;

use super::root;

/// Verbs that a text names: `lorakit VERB` in code, `cargo run --release -- VERB`.
fn named(text: &str) -> BTreeSet<String> {
    let verb = Regex::new(r"(?m)(?:^|`|\$ )(?:lorakit|cargo run --release --)(?: --threads \d+)? ([a-z]+)\b").unwrap();
    verb.captures_iter(text).map(|c| c[1].to_string()).collect()
}

/// Verbs in the output of `lorakit --help`.
fn offered(help: &str) -> BTreeSet<String> {
    let list = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    list.filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).filter(|v| !v.is_empty()).map(String::from).collect()
}

#[test]
fn the_readme_names_the_verbs_that_there_are() {
    let help = Command::new(env!("CARGO_BIN_EXE_lorakit")).arg("--help").output().unwrap();
    let mut offered = offered(&String::from_utf8(help.stdout).unwrap());
    assert!(offered.remove("help") && offered.len() >= 6, "{offered:?}");
    let named = named(&std::fs::read_to_string(root().join("README.md")).unwrap());
    let unknown: Vec<&String> = named.difference(&offered).collect();
    let silent: Vec<&String> = offered.difference(&named).collect();
    assert!(unknown.is_empty(), "the README names {unknown:?}, which `lorakit --help` does not");
    assert!(silent.is_empty(), "`lorakit --help` names {silent:?}, which the README does not");
}

#[test]
fn both_readers_read() {
    let text = "`lorakit merge --out x`, lorakit is\n\ncargo run --release -- train recipes/x.toml\nlorakit chat\n";
    assert_eq!(named(text).iter().collect::<Vec<_>>(), ["chat", "merge", "train"]);
    let help = "Usage: lorakit\n\nCommands:\n  train  Train\n  eval   Judge\n         more words\n\nOptions:\n  -h\n";
    assert_eq!(offered(help).iter().collect::<Vec<_>>(), ["eval", "train"]);
}
