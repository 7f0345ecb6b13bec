//! Which files a path of data stands for. Refuses to know what is in them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Data;
use super::validation_context::{Files, ValidationContext};
use crate::error::Result as Checked;
use crate::files::unpacked_name;
use crate::hub::{Dataset, Places, address_of};
use crate::piped;

/// Endings of files of rows and of tasks.
pub(super) const ENDINGS: [&str; 9] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md", ".parquet", ".toml"];

impl ValidationContext<'_> {
    /// The files of data that a path stands for: itself, those of a folder, those that a pattern matches; by name.
    pub(super) fn files(&self, key: &str, given: &str) -> Checked<Vec<PathBuf>> {
        if Dataset::is_meant(given) {
            return self.on_hub(key, given);
        }
        if given == piped::PATH && self.files == Files::MustExist {
            return Ok(vec![piped::file()?]);
        }
        let path = self.path(key, given);
        let files = match is_pattern(&path) {
            true => matching(&path),
            false if path.is_dir() => in_folder(&path),
            false => return Ok(vec![self.file(key, given)?]),
        };
        match files {
            Ok(files) if files.is_empty() && self.files == Files::MustExist => {
                let why = format!("{} holds no file of data", path.display());
                Err(self.written.complain(
                    key,
                    why,
                    format!("files of data end in {}, or these and .gz or .zst", ENDINGS.join(", ")),
                ))
            }
            Ok(files) => Ok(files),
            Err(why) => Err(self.written.complain(key, why, "in a pattern `*` stands for any letters, `**` for any folders")),
        }
    }

    /// The files of a data set of the hub that are on this machine.
    fn on_hub(&self, key: &str, given: &str) -> Checked<Vec<PathBuf>> {
        let dataset = Dataset::parse(given).map_err(|why| self.written.complain(key, why, Dataset::FORM))?;
        let kept = Places::from_env().hub_cache.map(|cache| dataset.kept(&cache)).unwrap_or_default();
        match kept.is_empty() {
            false => Ok(kept),
            true if self.files == Files::MayBeAbsent => Ok(vec![PathBuf::from(given)]),
            true => {
                Err(self.written.complain(key, format!("{dataset} is not on this machine"), "`lorakit data show` fetches it"))
            }
        }
    }
}

/// How a file is written that is no file of the user's: `-` where it came from standard input, its address and commit where it is one
/// of a data set of the hub.
pub fn origin(path: &Path) -> Option<String> {
    if piped::is_it(path) { Some(piped::PATH.to_string()) } else { address_of(path) }
}

/// Whether a path is a pattern of paths.
pub fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '[']) && !path.exists()
}

/// The files that a pattern matches, by name.
///
/// # Errors
/// Why it is no pattern, or what cannot be read.
pub fn matching(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let paths = glob::glob(&pattern.to_string_lossy()).map_err(|e| format!("not a pattern: {e}"))?;
    let mut files = paths.collect::<Result<Vec<_>, _>>().map_err(|e| format!("cannot look for files: {e}"))?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// The files of data in a folder (not in folders below it), by name; those that begin with a dot or say README are not data,
/// nor are accounts of a curation.
///
/// # Errors
/// Why it cannot be read.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |e: std::io::Error| format!("cannot read the folder {}: {e}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(cannot)?;
    let mut files = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(cannot)?;
    files.retain(|path| path.is_file() && path.file_name().is_some_and(|name| is_data(&name.to_string_lossy())));
    files.sort();
    Ok(files)
}

fn is_data(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let inner = unpacked_name(&lower);
    !lower.starts_with('.')
        && !lower.starts_with("readme")
        && !lower.ends_with(".curation.json")
        && ENDINGS.iter().any(|ending| inner.ends_with(ending))
}

/// Whether a file that was named for a recipe is one of rows, by its name.
pub(super) fn holds_rows(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let inner = unpacked_name(&name);
    ENDINGS.iter().any(|ending| *ending != ".toml" && inner.ends_with(ending))
}

impl ValidationContext<'_> {
    /// Refuses files of rows that are both trained on and held out, by whatever path or link they are named.
    ///
    /// # Errors
    /// [`crate::Error::Recipe`] at the held-out file.
    pub(super) fn kept_apart(&self, data: &Data) -> Checked<()> {
        if self.files == Files::MayBeAbsent {
            return Ok(());
        }
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let trained: HashMap<PathBuf, &Path> =
            data.train.iter().chain(data.replayed()).map(|source| (real(&source.path), source.path.as_path())).collect();
        let both = data.heldout.iter().find_map(|held| Some((&held.path, *trained.get(&real(&held.path))?)));
        let Some((held, train)) = both else { return Ok(()) };
        let also = if held == train { String::new() } else { format!(" (there as {})", train.display()) };
        let why = format!("{} is trained on as well{also}: rows that were learnt judge nothing", held.display());
        let help = "name other rows, or leave the key out: `data.heldout_fraction` then sets rows of `data.train` aside";
        Err(self.written.complain("data.heldout", why, help))
    }
}

/// Names of tasks; in one `*` stands for any letters.
pub(super) struct Tasks<'a> {
    names: Vec<(&'a str, glob::Pattern)>,
}

impl<'a> Tasks<'a> {
    /// # Errors
    /// Why a name is none.
    pub(super) fn new(names: &'a [String]) -> Result<Tasks<'a>, String> {
        let pattern = |name: &'a String| match glob::Pattern::new(name) {
            Ok(pattern) => Ok((name.as_str(), pattern)),
            Err(e) => Err(format!("\"{name}\" is no name of tasks: {e}")),
        };
        Ok(Tasks { names: names.iter().map(pattern).collect::<Result<_, _>>()? })
    }

    /// Whether the task of a file goes by one of these names.
    pub(super) fn name(&self, path: &Path) -> bool {
        let task = task_of(path);
        self.names.iter().any(|(_, pattern)| pattern.matches(&task))
    }

    /// The first name that is that of no file's task.
    pub(super) fn missing(&self, paths: &[PathBuf]) -> Option<&'a str> {
        let tasks: Vec<String> = paths.iter().map(|path| task_of(path)).collect();
        let missing = |(_, pattern): &&(&str, glob::Pattern)| !tasks.iter().any(|task| pattern.matches(task));
        self.names.iter().find(missing).map(|(name, _)| *name)
    }
}

/// The task that lies in a file: the file's name without its endings.
fn task_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let inner = unpacked_name(&name);
    ENDINGS.iter().find_map(|ending| inner.strip_suffix(ending)).unwrap_or(inner).to_string()
}

/// The task of one of the files whose name is most like `name`.
pub(super) fn nearest_task(name: &str, paths: &[PathBuf]) -> Option<String> {
    let tasks: Vec<String> = paths.iter().map(|path| task_of(path)).collect();
    crate::error::nearest(name, tasks.iter().map(String::as_str)).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_stand_for_their_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.csv.gz", "README.md", ".x.jsonl", "c.bin", "sub"] {
            match name {
                "sub" => std::fs::create_dir(dir.path().join(name)).unwrap(),
                _ => std::fs::write(dir.path().join(name), "x").unwrap(),
            }
        }
        std::fs::write(dir.path().join("sub/d.jsonl"), "x").unwrap();
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            files.iter().map(|p| p.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(names(in_folder(dir.path()).unwrap()), ["a.csv.gz", "b.jsonl"]);
        assert_eq!(names(matching(&dir.path().join("**/*.jsonl")).unwrap()), [".x.jsonl", "b.jsonl", "sub/d.jsonl"]);
        assert_eq!(names(matching(&dir.path().join("*.none")).unwrap()), [""; 0]);
        assert!(matching(&dir.path().join("a[")).unwrap_err().starts_with("not a pattern"));
    }
}
