//! Rules of the house that neither the compiler nor clippy knows. Every rule is a function from text to complaints, run
//! on the repository and on something made up that breaks it.

mod order;
mod paths;
mod recipes;
mod source;
mod verbs;
mod words;

use std::path::{Path, PathBuf};

/// A file of the repository: its path from the root with `/` between the parts, and its text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file at or below `folder`, in order; none when it does not exist.
pub(crate) fn files(folder: &str) -> Vec<File> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    found.iter().filter_map(|p| Some(File { path: name(p), text: std::fs::read_to_string(p).ok()? })).collect()
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_path_buf());
    }
    for entry in std::fs::read_dir(path).into_iter().flatten() {
        collect(&entry.unwrap().path(), found);
    }
}

/// Fails with all complaints, one a line.
pub(crate) fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
