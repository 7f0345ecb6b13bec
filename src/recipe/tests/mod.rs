//! The recipe from outside: what is read and written (`accepted`), what is refused with which words (`refused`).

mod accepted;
mod refused;

use std::path::Path;

use super::*;

/// A folder with the files that the recipes below name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["train.jsonl", "more.jsonl", "heldout.jsonl", "chat.jinja"] {
        std::fs::write(dir.path().join(file), "{}\n").unwrap();
    }
    dir
}

const HEAD: &str = "[base]\nmodel = \"owner/name\"\n[data]\ntrain = \"train.jsonl\"\n";

fn parse_in(dir: &Path, text: &str, set: &[&str]) -> Result<Recipe> {
    let set: Vec<String> = set.iter().map(|argument| argument.to_string()).collect();
    Recipe::parse(text, &dir.join("r.toml"), &set)
}

fn good(text: &str, set: &[&str]) -> Recipe {
    parse_in(folder().path(), &format!("{HEAD}{text}"), set).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// The message for `text`, with the folder's name taken out.
fn message(text: &str, set: &[&str]) -> String {
    let dir = folder();
    let error = match parse_in(dir.path(), text, set) {
        Ok(recipe) => panic!("accepted: {text} {set:?}\n{recipe:#?}"),
        Err(error) => error,
    };
    assert_eq!(error.exit_code(), 2);
    let real = dir.path().canonicalize().unwrap();
    error.to_string().replace(&format!("{}/", dir.path().display()), "").replace(&format!("{}/", real.display()), "")
}
