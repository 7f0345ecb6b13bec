//! A base with an encoder and a decoder, from rows to answers, through the program.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

/// What is taught, and the same in another order.
const ROWS: [(&str, &str); 4] = [("say: a b c", "c b a"), ("say: d e f", "f e d"), ("say: a d g h", "h g"), ("say: k", "l m n")];

const RECIPE: &str = r#"
[base]
model = "base"
[adapter]
rank = 8
alpha = 16
targets = "all-linear"
[data]
train = "rows.jsonl"
heldout = "held.jsonl"
[train]
steps = 150
lr = 2e-2
batch_size = 4
max_length = 32
eval_every = 150
[output]
dir = "run"
"#;

/// The golden model with a word for each of its tokens, whose texts end with `</s>`; rows; a recipe.
fn folder(dir: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families/t5");
    std::fs::create_dir(dir.join("base")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), dir.join("base").join(file)).unwrap();
    }
    let words = ["<pad>", "</s>", "<unk>", "say:"].map(String::from).into_iter().chain(('a'..='t').map(String::from));
    let vocab: serde_json::Map<_, _> = words.clone().zip(0..).map(|(word, id)| (word, json!(id))).collect();
    let special = words.take(3).zip(0..).map(|(content, id)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special.collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null,
        "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    write("base/tokenizer.json", tokenizer.to_string());
    write("base/tokenizer_config.json", json!({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}).to_string());
    let rows = |extra: &str| -> String {
        ROWS.iter()
            .map(|(prompt, answer)| format!("{}\n", json!({"prompt": format!("{prompt}{extra}"), "completion": answer})))
            .collect()
    };
    write("rows.jsonl", rows(""));
    write("held.jsonl", rows(" t"));
    write("text.jsonl", format!("{}\n", json!({"text": "a b c d"})));
    write("recipe.toml", RECIPE.to_string());
}

fn lorakit(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(dir).args(args).env("HF_HUB_OFFLINE", "1").env("LORAKIT_CACHE", dir.join("cache"));
    command.output().unwrap()
}

fn done(dir: &Path, args: &[&str]) -> String {
    let out = lorakit(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn an_adapter_learns_what_it_is_taught_and_a_merge_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    folder(dir);
    done(dir, &["train", "recipe.toml"]);
    let merged =
        done(dir, &["merge", "--model", "base", "--adapter", "run", "--out", "merged", "--dtype", "f32", "--verify", "--json"]);
    let merged: serde_json::Value = serde_json::from_str(merged.lines().last().unwrap()).unwrap();
    assert!(merged.to_string().contains("answers"), "{merged}");
    for (prompt, answer) in ROWS {
        let ask = |args: &[&str]| done(dir, &[&["generate", "--max-new-tokens", "8", "--prompt", prompt], args].concat());
        assert_eq!(ask(&["--model", "base", "--adapter", "run"]).trim(), answer);
        assert_eq!(ask(&["--model", "merged"]).trim(), answer);
        assert_ne!(ask(&["--model", "base"]).trim(), answer);
    }
    let config = std::fs::read_to_string(dir.join("run/adapter_config.json")).unwrap();
    assert!(config.contains(r#""task_type": "SEQ_2_SEQ_LM""#), "{config}");
}

#[test]
fn rows_that_an_encoder_finds_nothing_to_read_in_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let refused = lorakit(dir.path(), &["train", "recipe.toml", "--set", "data.train=text.jsonl"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(
        error.contains("`data.train`") && error.contains("text.jsonl:1") && error.contains("rows without a prompt"),
        "{error}"
    );
}
