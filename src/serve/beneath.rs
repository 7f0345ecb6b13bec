//! Files of adapters, read beneath one folder and nowhere else: names, not paths; no links; bounded sizes.
//!
//! Folders are opened once and everything below them relative to that handle (`openat`), so that nothing that is exchanged between a check
//! and a read leads outside.

use std::io::Read;
use std::path::{Path, PathBuf};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use sha2::{Digest, Sha256};

use crate::adapter::inspect::{RECIPE, TRACE, check_name};
use crate::adapter::peft::{CONFIG, WEIGHTS};
use crate::artifact::chat_template;
use crate::error::{Error, Result};
use crate::files;

/// Most bytes of a file that is not the tensors'.
const MAX_SMALL: u64 = 8 << 20;
/// Most further templates of an adapter.
const MAX_TEMPLATES: usize = 16;
const TEMPLATES: &str = "additional_chat_templates";

/// The folder whose folders are adapters.
#[derive(Debug)]
pub(super) struct Root {
    dir: Dir,
    path: PathBuf,
}

/// The files of one adapter, as they were in one moment.
#[derive(Debug, Clone)]
pub(super) struct AdapterFiles {
    /// By name below the adapter's folder, in order.
    files: Vec<(String, Vec<u8>)>,
    /// SHA-256 over names and contents, in hexadecimal digits.
    pub(super) hash: String,
}

impl Root {
    /// # Errors
    /// [`Error::Io`] where the folder cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Root> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(Error::io("open", path))?;
        Ok(Root { dir, path: path.to_path_buf() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the folders that hold an adapter.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let entries = self.dir.entries().map_err(Error::io("read", &self.path))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check_name(name).is_ok())
            .filter(|name| self.dir.open_dir_nofollow(name).is_ok_and(|dir| dir.is_file(CONFIG)))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads the files of the adapter in the folder `name`, each once.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is none, [`Error::Adapter`] for a folder or file that is not there, a link, or too large.
    pub(super) fn read(&self, name: &str, most_bytes: u64) -> Result<AdapterFiles> {
        check_name(name)?;
        let fail = |what: &str, why: String| {
            Error::adapter(
                Path::new(name),
                what,
                why,
                "give a folder with adapter_config.json and adapter_model.safetensors; no links",
            )
        };
        let dir = self.dir.open_dir_nofollow(name).map_err(|e| fail("its folder", e.to_string()))?;
        let mut found = Vec::new();
        for (file, most, needed) in [
            (CONFIG, MAX_SMALL, true),
            (WEIGHTS, most_bytes, true),
            (RECIPE, MAX_SMALL, false),
            (TRACE, MAX_SMALL, false),
            (chat_template::FILE, MAX_SMALL, false),
        ] {
            match read_one(&dir, file, most) {
                Ok(bytes) => found.push((file.to_string(), bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && !needed => {}
                Err(e) => return Err(fail(file, e.to_string())),
            }
        }
        if let Ok(more) = dir.open_dir_nofollow(TEMPLATES) {
            let entries = more.entries().map_err(|e| fail(TEMPLATES, e.to_string()))?;
            let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
            names.retain(|name| name.ends_with(".jinja") && check_name(name).is_ok());
            names.sort_unstable();
            if names.len() > MAX_TEMPLATES {
                return Err(fail(TEMPLATES, format!("{} templates are more than {MAX_TEMPLATES}", names.len())));
            }
            for name in names {
                let bytes = read_one(&more, &name, MAX_SMALL).map_err(|e| fail(&name, e.to_string()))?;
                found.push((format!("{TEMPLATES}/{name}"), bytes));
            }
        }
        Ok(AdapterFiles::new(found))
    }
}

fn read_one(dir: &Dir, name: &str, most: u64) -> std::io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No);
    let file = dir.open_with(name, &options)?;
    let meta = file.metadata()?;
    let refuse = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    if !meta.is_file() {
        return Err(refuse("it is no plain file".into()));
    }
    if meta.len() > most {
        return Err(refuse(format!("{} bytes are more than {most}", meta.len())));
    }
    // What grows while it is read is cut off by the limit, and then refused.
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(refuse(format!("it grew over {most} bytes while it was read")));
    }
    Ok(bytes)
}

impl AdapterFiles {
    fn new(files: Vec<(String, Vec<u8>)>) -> AdapterFiles {
        let mut hash = Sha256::new();
        for (name, bytes) in &files {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let hash = files::hex(&hash.finalize());
        AdapterFiles { files, hash }
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Writes them into `dir`, which comes to be whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where that fails.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        files::write_dir_atomic(dir, |dir| {
            for (name, bytes) in &self.files {
                let path = dir.join(name);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
                }
                std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(CONFIG), "{}").unwrap();
        std::fs::write(dir.join(WEIGHTS), "w").unwrap();
    }

    #[test]
    fn two_hundred_names_that_lead_elsewhere_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("root");
        adapter(&path.join("good"));
        adapter(&outer.path().join("secret"));
        std::os::unix::fs::symlink(outer.path().join("secret"), path.join("link")).unwrap();
        std::os::unix::fs::symlink("good", path.join("inner-link")).unwrap();
        adapter(&path.join("linked-file"));
        std::fs::remove_file(path.join("linked-file").join(WEIGHTS)).unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret").join(WEIGHTS), path.join("linked-file").join(WEIGHTS)).unwrap();
        let root = Root::open(&path).unwrap();
        assert_eq!(root.read("good", 10).unwrap().get(WEIGHTS), Some(&b"w"[..]));
        let secret = outer.path().join("secret").display().to_string();
        let ups = (1..60).map(|n| format!("{}secret", "../".repeat(n)));
        let within = (1..60).map(|n| format!("good/{}secret", "../".repeat(n)));
        let absolute = (0..30).map(|n| format!("{}{secret}", "/".repeat(n)));
        let long = (0..20).map(|n| "a".repeat(129 + n * 97));
        let odd = [
            "good/../../secret",
            "./good",
            "",
            ".",
            "..",
            "...",
            ".git",
            "good/",
            "/good",
            "good/.",
            "good\0",
            "\0",
            "a\nb",
            "a b",
            "good\\..\\secret",
            "%2e%2e",
            "~root",
            "link",
            "inner-link",
            "linked-file",
            "ｇood",
            "good;x",
            "C:",
            "con:",
            "file:///etc",
            "http://x/y",
            "missing",
            "link/.",
            "*",
            "?",
            "good ",
            " good",
            "good\t",
            "\u{202e}good",
        ];
        let all: Vec<String> = ups.chain(within).chain(absolute).chain(long).chain(odd.map(String::from)).collect();
        assert!(all.len() >= 200, "{}", all.len());
        for name in all {
            assert!(root.read(&name, 10).is_err(), "{name:?}");
        }
        assert_eq!(root.names().unwrap(), ["good", "linked-file"]);
    }

    #[test]
    fn the_hash_is_of_names_and_contents_and_what_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        adapter(&dir.path().join("a"));
        adapter(&dir.path().join("b"));
        let root = Root::open(dir.path()).unwrap();
        let (a, b) = (root.read("a", 10).unwrap(), root.read("b", 10).unwrap());
        assert_eq!(a.hash, b.hash);
        std::fs::write(dir.path().join("b").join(chat_template::FILE), "").unwrap();
        assert_ne!(root.read("b", 10).unwrap().hash, a.hash);
        assert!(root.read("a", 0).unwrap_err().to_string().contains("1 bytes are more than 0"));
        let copy = dir.path().join("copy");
        a.write(&copy).unwrap();
        assert_eq!(Root::open(dir.path()).unwrap().read("copy", 10).unwrap().hash, a.hash);
    }
}
