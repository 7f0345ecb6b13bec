//! Files that are wrong: each gives one clear error and never a panic.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// The error of opening `path`, which must be one a user can act on and name every one of `words`.
fn refused(path: &Path, words: &[&str]) {
    let error = ModelFiles::open(path).map(|c| format!("{:?}", c.tensors.keys())).expect_err("must be refused");
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2, "{text}");
    for word in ["help: "].iter().chain(words) {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

// ---- safetensors and directories -------------------------------------------------------------------------------

const CONFIG: &str = r#"{"model_type": "llama"}"#;

/// A file with a header as given and `data` zero bytes.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn directory(config: &str, weights: &[u8]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    dir
}

fn entry(dtype: &str, shape: &[u64], start: u64, end: u64) -> serde_json::Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let one = |e: serde_json::Value| safetensors(&json!({ "a": e }).to_string(), 16);
    let two = |a, b| safetensors(&json!({"a": a, "b": b}).to_string(), 16);
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (vec![], &["too few for a header"]),
        (vec![1, 2, 3], &["too few for a header"]),
        (u64::MAX.to_le_bytes().to_vec(), &["the limit is 100000000"]),
        (1000u64.to_le_bytes().to_vec(), &["1000", "cut off"]),
        (safetensors("{", 0), &["header", "not a valid table"]),
        (safetensors("[1, 2]", 0), &["not a valid table"]),
        (safetensors(&"[".repeat(100_000), 0), &["not a valid table"]),
        (safetensors(r#"{"a": 3}"#, 0), &["not a valid table"]),
        (safetensors(r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#, 4), &["not a valid table"]),
        (safetensors("{\"\u{fffd}", 0), &["not a valid table"]),
        (
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
                16,
            ),
            &["`a`", "twice"],
        ),
        (one(entry("F32", &[4], 0, 15)), &["`a`", "needs 16 bytes", "0..15"]),
        (one(entry("F32", &[4], 16, 0)), &["`a`", "16..0"]),
        (one(entry("F32", &[1 << 40, 1 << 40], 0, 16)), &["`a`", "not possible"]),
        (one(entry("F31", &[4], 0, 16)), &["`a`", "F31", "not possible"]),
        (one(entry("I64", &[2], 0, 16)), &["`a`", "I64", "not supported", "convert"]),
        (one(entry("F8_E4M3", &[16], 0, 16)), &["`a`", "F8_E4M3"]),
        (one(entry("F32", &[5], 0, 20)), &["`a`", "cut off"]),
        (one(entry("F32", &[2], 0, 8)), &["data", "8 bytes", "16"]),
        (one(entry("F32", &[2], 8, 16)), &["`a`", "hole"]),
        (two(entry("F32", &[4], 0, 16), entry("F32", &[2], 8, 16)), &["`b`", "overlaps"]),
        (safetensors("{}", 0), &["not a single tensor"]),
    ];
    for (bytes, words) in cases {
        refused(directory(CONFIG, &bytes).path(), words);
    }
}

#[test]
fn directories_that_are_not_models_are_refused() {
    let good = safetensors(&json!({"a": entry("F32", &[4], 0, 16)}).to_string(), 16);
    for (config, words) in [
        ("", ["config.json", "not valid JSON"]),
        ("[]", ["config.json", "not a JSON object"]),
        (r#"{"quantization_config": {"quant_method": "gptq"}}"#, ["`gptq`", "not supported"]),
    ] {
        refused(directory(config, &good).path(), &words);
    }
    let dir = TempDir::new().unwrap();
    refused(dir.path(), &["config.json", "not there"]);
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    refused(dir.path(), &["is an adapter"]);
    fs::write(dir.path().join("m.gguf"), "GGUF").unwrap();
    refused(dir.path(), &["there is a GGUF file", "m.gguf"]);
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    refused(dir.path(), &["model.safetensors", "neither"]);
    fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    refused(dir.path(), &["pytorch_model.bin", "pickle", "save_pretrained"]);
    refused(&dir.path().join("pytorch_model.bin"), &["pickle", "save_pretrained"]);
    refused(&dir.path().join("config.json"), &["neither a directory nor a GGUF"]);
    refused(&dir.path().join("absent"), &["absent"]);
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    refused(dir.path(), &["not a regular file"]);
}

/// A directory with two shards `1.safetensors` (tensor `a`) and `2.safetensors` (tensor `b`), and this index.
fn sharded(weight_map: serde_json::Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    for (file, name) in [("1", "a"), ("2", "b")] {
        let bytes = safetensors(&json!({ name: entry("F32", &[4], 0, 16) }).to_string(), 16);
        fs::write(dir.path().join(format!("{file}.safetensors")), bytes).unwrap();
    }
    let index = json!({ "weight_map": weight_map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    dir
}

#[test]
fn an_index_is_checked_against_its_shards_and_cannot_leave_the_directory() {
    let files = ModelFiles::open(sharded(json!({"a": "1.safetensors", "b": "2.safetensors"})).path()).unwrap();
    assert_eq!(files.tensors.len(), 2);
    for name in ["../1.safetensors", "/etc/1.safetensors", "x/../../1.safetensors", "..\\1.safetensors", "", "1.json"] {
        refused(sharded(json!({"a": name, "b": "2.safetensors"})).path(), &["relative path inside the directory"]);
    }
    refused(sharded(json!({"a": "1.bin"})).path(), &["pickle"]);
    refused(sharded(json!({"a": "1.safetensors", "b": "3.safetensors"})).path(), &["1 of 2 files are missing", "3.safetensors"]);
    refused(sharded(json!({"a": "1.safetensors", "b": "1.safetensors"})).path(), &["`b`"]);
    refused(sharded(json!({"a": "2.safetensors", "b": "2.safetensors"})).path(), &["`a`"]);
    refused(sharded(json!({"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"})).path(), &["`c`", "not there"]);
    refused(sharded(json!({"b": "2.safetensors", "c": "1.safetensors"})).path(), &["`a`"]);
    refused(sharded(json!({})).path(), &["names no tensor"]);
    refused(sharded(json!(["a"])).path(), &["weight_map"]);
}

#[cfg(unix)]
#[test]
fn links_may_only_lead_into_the_blobs_of_the_same_cache() {
    use std::os::unix::fs::symlink;
    let good = safetensors(&json!({"a": entry("F32", &[4], 0, 16)}).to_string(), 16);
    let root = TempDir::new().unwrap();
    let snapshot = root.path().join("models--x/snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(root.path().join("models--x/blobs")).unwrap();
    fs::write(snapshot.join("config.json"), CONFIG).unwrap();
    fs::write(root.path().join("models--x/blobs/b"), &good).unwrap();
    fs::write(root.path().join("outside"), &good).unwrap();
    symlink("../../blobs/b", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(ModelFiles::open(&snapshot).unwrap().tensors.len(), 1);
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    symlink("../../../outside", snapshot.join("model.safetensors")).unwrap();
    refused(&snapshot, &["link out of the directory"]);
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    symlink("nowhere", snapshot.join("model.safetensors")).unwrap();
    refused(&snapshot, &["model.safetensors"]);
}

#[test]
fn every_truncation_of_a_safetensors_file_is_refused() {
    let header = json!({"a": entry("F32", &[8, 8], 0, 256), "b": entry("BF16", &[64], 256, 384)}).to_string();
    let whole = safetensors(&header, 384);
    ModelFiles::open(directory(CONFIG, &whole).path()).unwrap();
    for end in (0..whole.len()).step_by(64) {
        refused(directory(CONFIG, &whole[..end]).path(), &["model.safetensors"]);
    }
}

#[test]
fn derived_tensors_are_left_out_and_gpt2_names_are_completed() {
    let header = json!({
        "h.0.attn.bias": entry("BOOL", &[16], 0, 16), "h.0.ln_1.weight": entry("F32", &[4], 16, 32),
        "transformer.wte.weight": entry("F32", &[4], 32, 48), "h.0.attn.masked_bias": entry("F32", &[], 48, 52),
    });
    let bytes = safetensors(&header.to_string(), 52);
    let files = ModelFiles::open(directory(r#"{"model_type": "gpt2"}"#, &bytes).path()).unwrap();
    let names: Vec<&str> = files.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["transformer.h.0.ln_1.weight", "transformer.wte.weight"]);
    refused(directory(CONFIG, &bytes).path(), &["h.0.attn.bias"]);
}

#[test]
fn tensors_that_are_missing_or_left_over_are_named() {
    let header =
        json!({"model.norm.weight": entry("F32", &[4], 0, 16), "lm_head.weight": entry("F32", &[4], 16, 32)}).to_string();
    let open = |config: &str| ModelFiles::open(directory(config, &safetensors(&header, 32)).path()).unwrap();
    let mut files = open(CONFIG);
    let error = files.take("model.norms.weight").unwrap_err().to_string();
    assert!(
        error.contains("`model.norms.weight`") && error.contains("0 of 2 tensors") && error.contains("`model.norm.weight`"),
        "{error}"
    );
    files.take("model.norm.weight").unwrap();
    let error = files.finish(false).unwrap_err().to_string();
    assert!(error.contains("1 of 2 tensors") && error.contains("lm_head.weight"), "{error}");
    let mut tied = open(r#"{"model_type": "llama", "tie_word_embeddings": true}"#);
    tied.take("model.norm.weight").unwrap();
    tied.finish(true).unwrap();
}
