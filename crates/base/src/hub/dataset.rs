//! Files of a data set on the hub: `hf://datasets/OWNER/NAME@REVISION/FILE`, as `huggingface_hub` writes it
//! (`HfFileSystem`). The file may be a pattern.

use std::path::{Path, PathBuf};

use super::is_plain;

/// How an address begins.
const SCHEME: &str = "hf://datasets/";
/// The folder of the cache that holds a data set begins with this.
const FOLDER: &str = "datasets--";

/// Files of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// `OWNER/NAME`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// A file, or a pattern that files match: `*` stands for any letters of a name, `**` for any folders.
    pub files: String,
}

impl Dataset {
    /// What to write, as an example.
    pub const FORM: &'static str = "e.g. \"hf://datasets/tatsu-lab/alpaca@main/data/*.parquet\"";

    /// Whether a path of a recipe is meant as an address.
    pub fn is_meant(path: &str) -> bool {
        path.starts_with("hf:")
    }

    /// # Errors
    /// Why it is no address.
    pub fn parse(address: &str) -> Result<Dataset, String> {
        let form = || format!("\"{address}\" is not of the form hf://datasets/OWNER/NAME@REVISION/FILE");
        let rest = address.strip_prefix(SCHEME).ok_or_else(form)?;
        let (owner, rest) = rest.split_once('/').ok_or_else(form)?;
        let (name, files) = rest.split_once('/').ok_or_else(form)?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let part = |part: &str| is_plain(part) && !part.contains("--") && !part.contains(['%', '?', '#', '*']);
        let within = !files.is_empty() && files.split('/').all(is_plain);
        if ![owner, name, revision].into_iter().all(part) || !within {
            return Err(form());
        }
        glob::Pattern::new(files).map_err(|e| format!("\"{files}\" is no pattern: {e}"))?;
        Ok(Dataset { id: format!("{owner}/{name}"), revision: revision.into(), files: files.into() })
    }

    /// Whether several files may be meant.
    pub fn is_pattern(&self) -> bool {
        self.files.contains(['*', '?', '['])
    }

    /// Whether a file of the data set is meant; a name that leads out of it never is.
    pub fn matches(&self, file: &str) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        file.split('/').all(is_plain) && glob::Pattern::new(&self.files).is_ok_and(|p| p.matches_with(file, options))
    }

    /// The files that are on this machine, by name; `cache` is Hugging Face's.
    pub fn kept(&self, cache: &Path) -> Vec<PathBuf> {
        let repo = cache.join(format!("{FOLDER}{}", self.id.replace('/', "--")));
        let commit = std::fs::read_to_string(repo.join("refs").join(&self.revision));
        let commit = commit.map_or_else(|_| self.revision.clone(), |text| text.trim().to_string());
        if !is_plain(&commit) {
            return Vec::new();
        }
        let snapshot = repo.join("snapshots").join(commit);
        let mut found = Vec::new();
        walk(&snapshot, "", &mut found);
        found.retain(|file| self.matches(file));
        found.sort();
        found.into_iter().map(|file| snapshot.join(file)).collect()
    }
}

impl std::fmt::Display for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}@{}/{}", self.id, self.revision, self.files)
    }
}

/// The files below a folder, by their paths from it.
fn walk(folder: &Path, before: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{before}{name}"));
        match path.is_dir() {
            true => walk(&path, &format!("{name}/"), found),
            // A link whose file is gone is no file.
            false if path.is_file() => found.push(name),
            false => {}
        }
    }
}

/// The address, with its commit, of a file in the cache.
pub fn address_of(path: &Path) -> Option<String> {
    let snapshots = path.ancestors().find(|p| p.ends_with("snapshots"))?;
    let (owner, name) = snapshots.parent()?.file_name()?.to_str()?.strip_prefix(FOLDER)?.split_once("--")?;
    let (commit, file) = path.strip_prefix(snapshots).ok()?.to_str()?.split_once('/')?;
    Some(format!("{SCHEME}{owner}/{name}@{commit}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_what_is_none_is_refused() {
        let address = Dataset::parse("hf://datasets/tatsu-lab/alpaca@dce01c9/data/*.parquet").unwrap();
        assert_eq!((address.id.as_str(), address.revision.as_str()), ("tatsu-lab/alpaca", "dce01c9"));
        assert!(address.is_pattern() && address.matches("data/a.parquet"));
        assert!(!address.matches("data/b/a.parquet") && !address.matches("data/../a.parquet"));
        assert_eq!(address.to_string(), "hf://datasets/tatsu-lab/alpaca@dce01c9/data/*.parquet");
        assert_eq!(Dataset::parse("hf://datasets/a/b/c.jsonl").unwrap().revision, "main");
        for bad in [
            "hf://datasets/a/b",
            "hf://datasets/a/b/",
            "hf://datasets/alpaca.jsonl",
            "hf://a/b/c.jsonl",
            "hf://datasets/a/b@/c.jsonl",
            "hf://datasets/../b/c.jsonl",
            "hf://datasets/a/b/../../c.jsonl",
            "hf://datasets/a/b@x?y/c.jsonl",
            "hf:datasets/a/b/c.jsonl",
            "hf://datasets/a/b/[.jsonl",
        ] {
            let why = Dataset::parse(bad).unwrap_err();
            assert!(why.contains("is not of the form") || why.contains("no pattern"), "{why}");
        }
    }

    #[test]
    fn kept_files_are_found_by_branch_and_by_commit_and_know_their_address() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("datasets--o--n");
        for file in ["snapshots/c0ffee/data/b.jsonl", "snapshots/c0ffee/data/a.jsonl", "snapshots/c0ffee/README.md", "refs/main"]
        {
            let path = repo.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "c0ffee\n").unwrap();
        }
        let kept = |address: &str| Dataset::parse(address).unwrap().kept(cache.path());
        let found = kept("hf://datasets/o/n/data/*.jsonl");
        assert_eq!(found, kept("hf://datasets/o/n@c0ffee/**/*.jsonl"));
        let addresses: Vec<_> = found.iter().map(|path| address_of(path).unwrap()).collect();
        assert_eq!(addresses, ["a", "b"].map(|name| format!("hf://datasets/o/n@c0ffee/data/{name}.jsonl")));
        assert!(kept("hf://datasets/o/n@v1/data/a.jsonl").is_empty() && kept("hf://datasets/o/m/a.jsonl").is_empty());
        assert_eq!(address_of(Path::new("/data/a.jsonl")), None);
    }
}
