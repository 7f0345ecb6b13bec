//! `data prepare` as a process: killed while it writes, two at a time, and with tokens that lie there already.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::training::recipe_file;

/// A folder with rows that take a while.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"What is {i} and {}?\", \"completion\": \"It is {}.\"}}\n", i % 97, i + i % 97);
    std::fs::write(dir.path().join("rows.jsonl"), (0..40_000).map(row).collect::<String>()).unwrap();
    dir
}

fn start(dir: &Path, cache: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(dir).args(["data", "prepare", "--json"]).arg(recipe_file());
    for set in ["data.train=\"rows.jsonl\"", "train.packing=true", "train.epochs=1", &format!("data.cache={cache:?}")] {
        command.args(["--set", set]);
    }
    command.env("HF_HUB_OFFLINE", "1").env("LORAKIT_CACHE", dir.join("own"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it says but for the time that it took, and where the tokens are kept.
fn said(child: Child) -> (serde_json::Value, Option<PathBuf>) {
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let object = said.as_object_mut().unwrap();
    assert!(object.remove("seconds").unwrap().is_number());
    let kept = object.remove("kept_in").unwrap();
    (said, kept.as_str().map(PathBuf::from))
}

/// Whatever lies two folders deep in the cache.
fn held(cache: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path());
    entries(cache).flat_map(|folder| entries(&folder).collect::<Vec<_>>()).filter(|path| path.is_dir()).collect()
}

#[test]
fn a_killed_start_leaves_nothing_half_and_those_after_it_say_the_same() {
    let dir = folder();
    let cache = dir.path().join("kept");
    let (plain, nowhere) = said(start(dir.path(), "off"));
    assert!(nowhere.is_none() && plain["train"]["examples"] == 40_000 && plain["dropped"] == 0, "{plain}");
    let mut killed = start(dir.path(), "kept");
    let begun = Instant::now();
    while held(&cache).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60) && killed.try_wait().unwrap().is_none(), "it never began to write");
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = held(&cache);
    assert!(!left.iter().any(|path| path.ends_with("tokens")), "{left:?}");
    // Two at a time, then one that finds the tokens.
    let both = [start(dir.path(), "kept"), start(dir.path(), "kept")].map(said);
    let kept = both[0].1.clone().unwrap();
    let made = std::fs::metadata(kept.join("tokens/manifest.json")).unwrap().modified().unwrap();
    for (again, place) in both.into_iter().chain([said(start(dir.path(), "kept"))]) {
        assert_eq!((again, place.as_ref()), (plain.clone(), Some(&kept)));
    }
    assert_eq!(held(&cache), [kept.join("tokens")]);
    assert_eq!(std::fs::metadata(kept.join("tokens/manifest.json")).unwrap().modified().unwrap(), made);
    let own = held(&dir.path().join("own/tokens"));
    assert!(own.is_empty(), "a recipe that names a folder uses that one alone: {own:?}");
}
