//! Source text without comments and without tests, and the rules about a single file.

use std::collections::BTreeSet;

use regex::Regex;

use super::{File, files, none, root};

/// Longest file, in lines.
const LONGEST: usize = 500;

/// The crates as the rules see them: comment lines are blank, what is under `#[cfg(test)]` is gone.
pub(crate) fn sources() -> Vec<File> {
    crates().iter().flat_map(|folder| shipped(files(folder))).collect()
}

/// The folders that hold a crate: `src` and each `crates/*/src`.
pub(crate) fn crates() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("crates")).into_iter().flatten().flatten();
    let inner = entries.map(|entry| format!("crates/{}/src", entry.file_name().to_string_lossy()));
    let mut found: Vec<String> = inner.filter(|path| root().join(path).is_dir()).collect();
    found.sort();
    found.insert(0, "src".to_string());
    found
}

/// Blanks comments, cuts test modules, and leaves out the files that only tests use.
pub(crate) fn shipped(files: Vec<File>) -> Vec<File> {
    let files: Vec<File> = files.into_iter().filter(|f| f.path.ends_with(".rs")).collect();
    let tests: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    let only_tests = |path: &str| tests.iter().any(|t| path == format!("{t}.rs") || path.starts_with(&format!("{t}/")));
    let kept = files.into_iter().filter(|f| !only_tests(&f.path));
    kept.map(|f| File { text: without_tests(&without_comments(&f.text)), ..f }).collect()
}

/// Paths (without `.rs`) of the modules that a file declares for tests only.
fn test_modules(file: &File) -> Vec<String> {
    let declared = Regex::new(r"#\[cfg\(test\)\]\s*(?:#\[[^\n]*\]\s*)*(?:pub(?:\([a-z]+\))? )?mod (\w+);").unwrap();
    let folder = match file.path.strip_suffix("/mod.rs").or(file.path.strip_suffix("/lib.rs")) {
        Some(folder) => folder,
        None => file.path.trim_end_matches(".rs"),
    };
    declared.captures_iter(&file.text).map(|c| format!("{folder}/{}", &c[1])).collect()
}

fn without_comments(text: &str) -> String {
    text.lines().map(|l| if l.trim_start().starts_with("//") { "\n".into() } else { format!("{l}\n") }).collect()
}

/// Blanks every item under `#[cfg(test)]`, up to the closing brace or semicolon at the same indentation.
fn without_tests(text: &str) -> String {
    let (mut out, mut until): (String, Option<usize>) = (String::new(), None);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match until {
            Some(at) => {
                let opens = line.trim_end().ends_with('{') || line.trim_start().starts_with("#[");
                if indent == at && !opens && line.trim_end().ends_with(['}', ';']) {
                    until = None;
                }
            }
            None if line.trim_start().starts_with("#[cfg(test)]") => until = Some(indent),
            None => out += line,
        }
        out += "\n";
    }
    out
}

fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LONGEST).then(|| format!("{}: {lines} lines, more than {LONGEST}: split it by nouns", file.path))
}

/// Longest verb, in lines: what it computes is the library's, what it draws stands beside it.
const LONGEST_VERB: usize = 100;

/// A file of `src/cli` that runs a verb (it has arguments and `run`) and is longer than a verb may be.
fn long_verb(file: &File) -> Option<String> {
    let args = Regex::new(r"(?m)^pub(?:\([a-z]+\))? struct \w+Args\b").unwrap();
    let run = Regex::new(r"(?m)^pub(?:\([a-z]+\))? fn run\b").unwrap();
    let lines = file.text.lines().count();
    let long = lines > LONGEST_VERB && args.is_match(&file.text) && run.is_match(&file.text);
    long.then(|| format!("{}: {lines} lines, more than {LONGEST_VERB} for a verb", file.path))
}

/// Lines where `pattern` stands although `allowed` does not hold for the file.
fn stray(file: &File, pattern: &Regex, allowed: impl Fn(&str) -> bool, why: &str) -> Vec<String> {
    let lines = file.text.lines().enumerate().filter(|(_, l)| !allowed(&file.path) && pattern.is_match(l));
    lines.map(|(i, l)| format!("{}:{}: {why}: {}", file.path, i + 1, l.trim())).collect()
}

fn prints(file: &File) -> Vec<String> {
    let pattern = Regex::new(r"\b(?:e?print(?:ln)?|dbg)!").unwrap();
    stray(file, &pattern, |p| p.starts_with("src/cli/"), "only src/cli writes to the terminal")
}

fn unsafe_code(file: &File) -> Vec<String> {
    let pattern = Regex::new(r"\bunsafe\b").unwrap();
    let allowed = |p: &str| p.starts_with("crates/kernels/src/") || p == "crates/base/src/files.rs";
    stray(file, &pattern, allowed, "unsafe stands in crates/kernels and crates/base/src/files.rs only")
}

#[test]
fn no_file_is_too_long() {
    let all: Vec<File> = ["src", "crates", "tests", "examples", "benches"].into_iter().flat_map(files).collect();
    assert!(all.len() > 100, "{} files", all.len());
    none(&all.iter().filter(|f| f.path.ends_with(".rs")).filter_map(too_long).collect::<Vec<_>>());
}

#[test]
fn verbs_are_short() {
    let all = files("src/cli");
    let verbs = all.iter().filter(|f| f.text.contains("Args) -> Result<")).count();
    assert!(verbs >= 15, "{verbs} verbs");
    none(&all.iter().filter_map(long_verb).collect::<Vec<_>>());
}

#[test]
fn only_the_command_line_prints() {
    none(&sources().iter().flat_map(prints).collect::<Vec<_>>());
}

#[test]
fn unsafe_code_stays_in_its_two_places() {
    let all = crates().into_iter().flat_map(|folder| files(&folder));
    let all = all.map(|f| File { text: without_comments(&f.text), ..f });
    none(&all.filter(|f| f.path.ends_with(".rs")).flat_map(|f| unsafe_code(&f)).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_long_verb_is_found() {
        let verb = "pub struct XArgs;\npub fn run(args: &XArgs) -> Result<()> {\n}\n";
        let rest = |n: usize| "\n".repeat(n);
        assert!(long_verb(&file("src/cli/x.rs", &(verb.to_string() + &rest(97)))).is_none());
        assert!(long_verb(&file("src/cli/x.rs", &(verb.to_string() + &rest(98)))).is_some());
        assert!(long_verb(&file("src/cli/x.rs", &rest(300))).is_none());
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(too_long(&file("src/a.rs", &"\n".repeat(LONGEST))).is_none());
        assert!(too_long(&file("src/a.rs", &"\n".repeat(LONGEST + 1))).is_some());
    }

    #[test]
    fn a_print_is_found_outside_the_command_line() {
        for word in ["println", "eprint", "dbg"] {
            let text = format!("fn f() {{\n    {word}!(x);\n}}\n");
            assert_eq!(prints(&file("src/data/load.rs", &text)).len(), 1);
            assert_eq!(prints(&file("src/cli/data.rs", &text)), [""; 0]);
        }
    }

    #[test]
    fn unsafe_is_found_outside_its_places() {
        let text = "let x = unsafe { *p };\n";
        assert_eq!(unsafe_code(&file("src/model/mod.rs", text)).len(), 1);
        assert_eq!(unsafe_code(&file("crates/kernels/src/rope.rs", text)), [""; 0]);
    }

    #[test]
    fn tests_and_comments_are_not_judged() {
        let text = "// dbg!\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n        dbg!();\n    }\n}\nfn c() {}\n";
        let left = without_tests(&without_comments(text));
        assert_eq!(left.lines().count(), text.lines().count());
        assert!(left.contains("fn a") && left.contains("fn c") && !left.contains("dbg"), "{left}");
        let parent = file("src/x/mod.rs", "#[cfg(test)]\nmod real;\nmod kept;\n");
        let all = vec![parent, file("src/x/real.rs", "dbg!()"), file("src/x/kept.rs", "dbg!()"), file("src/x/real/a.rs", "")];
        let paths: Vec<String> = shipped(all).into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["src/x/mod.rs", "src/x/kept.rs"]);
    }
}
