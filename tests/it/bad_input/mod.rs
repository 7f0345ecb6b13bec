//! Input that cannot be used, through the binary: each case ends in exit code 2 with one clear error, and leaves no
//! file behind.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod adapters;
mod data;
mod files;
mod models;
mod recipes;
mod verbs;
mod valid_setup;

use std::process::Command;

use valid_setup::ValidSetup;

/// A way to go wrong.
struct Case {
    name: &'static str,
    /// Breaks something in a good setup.
    spoil: fn(&ValidSetup),
    args: &'static [&'static str],
    /// What the error must say: what, where, why, and what to do.
    says: &'static [&'static str],
}

const fn case(name: &'static str, spoil: fn(&ValidSetup), args: &'static [&'static str], says: &'static [&'static str]) -> Case {
    Case { name, spoil, args, says }
}

const TRAIN: &[&str] = &["train", "recipe.toml"];
const SHOW: &[&str] = &["data", "show", "recipe.toml"];
const EVAL: &[&str] = &["eval", "recipe.toml", "--adapter", "adapter"];
const MERGE: &[&str] = &["merge", "--model", "model", "--adapter", "adapter", "--out", "merged"];

/// Exit code, standard output and standard error of the binary in a setup without network.
fn run(shop: &ValidSetup, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.args(args).current_dir(shop.root()).env_clear();
    command.env("HOME", shop.path("home")).env("HF_HUB_OFFLINE", "1").env("LORAKIT_PIP", "no-such-program");
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

/// `None` when the case ends as it must, else what is wrong with it.
fn fault(case: &Case) -> Option<String> {
    faults(case.name, &case.spoil, case.args, case.says)
}

fn faults(name: &str, spoil: &dyn Fn(&ValidSetup), args: &[&str], says: &[&str]) -> Option<String> {
    let shop = ValidSetup::new();
    spoil(&shop);
    let before = shop.listing();
    let (code, _, stderr) = run(&shop, args);
    let mut faults = Vec::new();
    if code != Some(2) {
        faults.push(format!("exit code {code:?}"));
    }
    let errors = stderr.lines().filter(|l| l.starts_with("error:")).count();
    if errors != 1 {
        faults.push(format!("{errors} errors"));
    }
    if stderr.contains("panicked") || stderr.contains("RUST_BACKTRACE") {
        faults.push("a panic".into());
    }
    faults.extend(says.iter().filter(|s| !stderr.contains(**s)).map(|s| format!("{s:?} is not said")));
    let after = shop.listing();
    faults.extend(after.iter().filter(|(p, _)| !before.contains_key(*p)).map(|(p, _)| format!("{p} is left behind")));
    faults.extend(before.iter().filter(|(p, b)| after.get(*p) != Some(b)).map(|(p, _)| format!("{p} was changed")));
    (!faults.is_empty()).then(|| format!("{name}: {}\n{stderr}", faults.join(", ")))
}

/// Runs a table and reports every fault in it at once.
fn check(cases: &[Case], at_least: usize) {
    let faults: Vec<String> = cases.iter().filter_map(fault).collect();
    println!("{} cases", cases.len());
    assert!(faults.is_empty(), "{} of {} cases:\n\n{}", faults.len(), cases.len(), faults.join("\n\n"));
    assert!(cases.len() >= at_least);
    let mut names: Vec<&str> = cases.iter().map(|c| c.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
}

/// What the cases break is good before they do: otherwise they would prove nothing.
#[test]
fn the_workshop_is_good() {
    let shop = ValidSetup::new();
    shop.adapter("adapter");
    let good: [&[&str]; 6] =
        [&["recipe", "check", "recipe.toml"], SHOW, EVAL, MERGE, TRAIN, &["train", "recipe.toml", "--resume"]];
    for args in good {
        let (code, _, stderr) = run(&shop, args);
        assert_eq!(code, Some(0), "{args:?}\n{stderr}");
    }
    assert!(shop.path("run/adapter_model.safetensors").is_file() && shop.path("merged/config.json").is_file());
}
