//! A hub made of a socket.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::*;

/// Name, content and etag of a served file.
type Served = (&'static str, Vec<u8>, String);

/// A hub with one model, or one data set, `o/n`, and where it is.
fn serve(files: Vec<Served>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &files)));
    address
}

fn answer(mut stream: TcpStream, files: &[Served]) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::io::Result::ok);
    let Some(path) = lines.next().and_then(|l| l.split(' ').nth(1).map(String::from)) else { return };
    let range =
        lines.take_while(|l| !l.is_empty()).find_map(|l| l.to_ascii_lowercase().strip_prefix("range: bytes=").map(String::from));
    let path = path.replace("/datasets/o/n/", "/o/n/");
    let reply = if ["/api/models/o/n/revision/main", "/api/o/n/revision/main"].contains(&path.as_str()) {
        let siblings: Vec<_> = files.iter().map(|f| serde_json::json!({"rfilename": f.0})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    } else if let Some((_, content, etag)) = files.iter().find(|f| path == format!("/o/n/resolve/main/{}", f.0)) {
        let (start, end) = range.as_deref().and_then(|r| r.split_once('-')).unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(content.len(), |e: usize| (e + 1).min(content.len()));
        let head = format!(
            "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
            end - start,
            end.max(1) - 1,
            content.len()
        );
        [head.as_bytes(), &content[start..end]].concat()
    } else {
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    };
    stream.write_all(&reply).unwrap();
}

fn small(name: &'static str, content: &str) -> Served {
    (name, content.into(), git_hash::blob(content.as_bytes()))
}

fn large(name: &'static str, content: &str) -> Served {
    (name, content.into(), crate::files::sha256(content.as_bytes()))
}

#[test]
fn a_model_is_fetched_from_the_hub_and_then_found_in_the_cache() {
    let root = TempDir::new().unwrap();
    let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    let files = vec![
        small("config.json", "{ }"),
        small("tokenizer.json", "{}"),
        small("generation_config.json", "{\n}"),
        small("README.md", "not wanted"),
        small("model.safetensors.index.json", index),
        large("1.safetensors", "first"),
        large("2.safetensors", "second"),
    ];
    let online = Places { endpoint: Some(serve(files)), ..places(&root) };
    let (found, notes) = look(&online, &base("o/n", None));
    let found = found.unwrap();
    assert_eq!((found.how, found.id.as_deref()), (How::Hub, Some("o/n")));
    for (name, content) in [("config.json", "{ }"), ("generation_config.json", "{\n}"), ("2.safetensors", "second")] {
        assert_eq!(fs::read_to_string(found.path.join(name)).unwrap(), content);
    }
    assert!(!found.path.join("README.md").exists());
    assert!(notes.contains(&Note::Progress { done: 6, total: Some(6), what: "2.safetensors".into() }));
    let (again, notes) = look(&places(&root), &base("o/n", None));
    assert_eq!((again.unwrap().how, tried(&notes).len()), (How::HfCache, 2));
}

#[test]
fn a_damaged_download_is_removed() {
    let root = TempDir::new().unwrap();
    let mut weights = large("model.safetensors", "weights");
    weights.1[0] ^= 1;
    let places = |files| Places { endpoint: Some(serve(files)), ..places(&root) };
    let good = || vec![small("config.json", "{}"), small("tokenizer.json", "{ }")];
    let (result, _) = look(&places([good(), vec![weights]].concat()), &base("o/n", None));
    contains(&result.unwrap_err(), &["model.safetensors", "damaged"]);
    let (result, _) =
        look(&places([good(), vec![("model.safetensors", b"w".to_vec(), "v1".into())]].concat()), &base("o/n", None));
    contains(&result.unwrap_err(), &["`v1`", "no hash"]);
    contains(&look(&places(good()), &base("o/n", None)).0.unwrap_err(), &["no safetensors weights"]);
    contains(&look(&places(vec![]), &base("o/n", None)).0.unwrap_err(), &["no config.json and no tokenizer.json"]);
    contains(&look(&places(good()), &base("o/other", None)).0.unwrap_err(), &["404", "no such model"]);
    let whole = [good(), vec![large("model.safetensors", "weights")]].concat();
    assert_eq!(look(&places(whole), &base("o/n", None)).0.unwrap().how, How::Hub);
}

fn dataset(address: &str) -> Dataset {
    Dataset::parse(address).unwrap()
}

#[test]
fn files_of_a_data_set_are_fetched_by_name_and_by_pattern() {
    let root = TempDir::new().unwrap();
    let rows = "{\"text\": \"a\"}\n";
    let files =
        || vec![small("data/b.jsonl", rows), large("data/a.jsonl", rows), small("README.md", "x"), small("../c.jsonl", rows)];
    let online = Places { endpoint: Some(serve(files())), ..places(&root) };
    let cache = online.hub_cache.clone().unwrap();
    let mut notes = Vec::new();
    let one = dataset("hf://datasets/o/n/data/b.jsonl");
    fetch_dataset(&online, &one, &mut |note| notes.push(note)).unwrap();
    assert!(notes.iter().any(|n| matches!(n, Note::Found(what) if what.ends_with(&format!("write @{COMMIT}")))), "{notes:?}");
    assert_eq!(one.kept(&cache).len(), 1);
    // Of a pattern the hub says what there is, though one of its files is here.
    let all = dataset("hf://datasets/o/n/**/*.jsonl");
    assert_eq!(all.kept(&cache).len(), 1);
    fetch_dataset(&online, &all, &mut |_| {}).unwrap();
    let kept = all.kept(&cache);
    assert_eq!(kept.iter().map(|p| fs::read_to_string(p).unwrap()).collect::<Vec<_>>(), [rows, rows]);
    assert_eq!(kept, dataset(&format!("hf://datasets/o/n@{COMMIT}/data/*.jsonl")).kept(&cache));
    // Without the hub what is here is used, which is said of a pattern.
    for (dataset, told) in [(&one, 0), (&all, 1)] {
        let mut notes = Vec::new();
        fetch_dataset(&Places { offline: true, ..places(&root) }, dataset, &mut |note| notes.push(note)).unwrap();
        let failed = |n: &&Note| matches!(n, Note::Failed(what) if what.ends_with("2 files of it are on this machine"));
        assert_eq!(notes.iter().filter(failed).count(), told, "{notes:?}");
    }
    for (places, address, says) in [
        (&online, "hf://datasets/o/n/data/c.jsonl", "none of its 4 files is data/c.jsonl"),
        (&online, "hf://datasets/o/m/a.jsonl", "hf://datasets/o/m@main/a.jsonl"),
        (&places(&root), "hf://datasets/o/n/data/c.jsonl", "HF_ENDPOINT"),
    ] {
        contains(&fetch_dataset(places, &dataset(address), &mut |_| {}).unwrap_err(), &[says]);
    }
    assert!(!root.path().join("hub/datasets--o--n/c.jsonl").exists());
}
