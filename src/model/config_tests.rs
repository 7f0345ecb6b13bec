use serde_json::json;

use super::*;
use crate::model::settings::{SETTINGS, Verdict};

fn base(family: &str) -> Value {
    match family {
        "gpt2" => json!({"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 64, "vocab_size": 32}),
        _ => json!({
            "model_type": family, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 32,
        }),
    }
}

fn read(config: &Value) -> Result<Config> {
    Config::from_json(config, Path::new("m"))
}

fn with(family: &str, changes: Value) -> Result<Config> {
    let mut config = base(family);
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    read(&config)
}

fn refused(family: &str, changes: Value, words: &[&str]) {
    let text = with(family, changes.clone()).expect_err(&changes.to_string()).to_string();
    for word in words {
        assert!(text.contains(word), "{family} {changes}: `{word}` is not in: {text}");
    }
}

/// The config without the JSON it was read from.
fn numbers(config: Config) -> String {
    format!("{:?}", Config { json: Value::Null, ..config })
}

#[test]
fn missing_keys_are_what_the_classes_say() {
    for (family, eps, positions, tied) in [("llama", 1e-6, 2048, false), ("qwen2", 1e-6, 32_768, false), ("gpt2", 1e-5, 64, true)]
    {
        let c = with(family, json!({})).unwrap();
        assert_eq!((c.norm_eps, c.max_positions, c.tied, c.head_dim), (eps, positions, tied, 16), "{family}");
    }
    let sizes = |family: &str| {
        let c = read(&json!({ "model_type": family })).unwrap();
        [c.vocab, c.width, c.layers, c.heads, c.kv_heads, c.ffn, c.max_positions]
    };
    assert_eq!(sizes("llama"), [32_000, 4096, 32, 32, 32, 11_008, 2048]);
    assert_eq!(sizes("qwen2"), [151_936, 4096, 32, 32, 32, 22_016, 32_768]);
    assert_eq!(sizes("gpt2"), [50_257, 768, 12, 12, 12, 3072, 1024]);
    // A `null` is no missing key: derived where the class derives it, refused elsewhere.
    assert_eq!(with("qwen2", json!({"num_key_value_heads": null, "head_dim": null})).unwrap().kv_heads, 4);
    assert_eq!(with("gpt2", json!({"n_inner": null})).unwrap().ffn, 256);
    refused("llama", json!({"intermediate_size": null}), &["intermediate_size", "null"]);
    refused("llama", json!({"rms_norm_eps": null}), &["rms_norm_eps"]);
}

#[test]
fn keys_of_other_families_are_not_read() {
    let same = |family: &str, changes: Value| {
        assert_eq!(numbers(with(family, changes.clone()).unwrap()), numbers(with(family, json!({})).unwrap()), "{changes}")
    };
    same(
        "gpt2",
        json!({"rms_norm_eps": 0.5, "head_dim": 8, "num_key_value_heads": 2, "intermediate_size": 7, "hidden_act": "silu"}),
    );
    same(
        "llama",
        json!({"layer_norm_epsilon": 0.5, "n_embd": 8, "n_inner": 9, "n_positions": 9, "activation_function": "gelu_new"}),
    );
    same("qwen2", json!({"attention_bias": true, "mlp_bias": true, "scale_attn_weights": false}));
    // The common names are gpt2's own too, and win.
    let c = with("gpt2", json!({"num_attention_heads": 2, "max_position_embeddings": 16})).unwrap();
    assert_eq!((c.heads, c.max_positions, c.head_dim), (2, 16, 32));
}

/// Code and table: a key that is called honoured is read, one called meaningless is not, any other is refused.
#[test]
fn each_verdict_of_the_table_is_carried_out() {
    for setting in SETTINGS {
        for family in setting.families {
            // The ids of special tokens are the tokenizer's, the length before scaling only `llama3`'s, the window qwen2's if it is on.
            let mut changes = json!({setting.key: ["wrong"]});
            match setting.key {
                key if key.ends_with("_token_id") => continue,
                "original_max_position_embeddings" => {
                    changes["rope_scaling"] = json!({"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4})
                }
                "sliding_window" => changes["use_sliding_window"] = json!(*family == "qwen2"),
                "model_type" => continue,
                _ => {}
            }
            if setting.key == "sliding_window" && *family != "qwen2" {
                changes = json!({"sliding_window": ["wrong"]});
            }
            match setting.verdict {
                Verdict::Meaningless(_) => {
                    assert_eq!(
                        numbers(with(family, changes).unwrap()),
                        numbers(with(family, json!({})).unwrap()),
                        "{}",
                        setting.key
                    );
                }
                _ => refused(family, changes, &[setting.key, "help: "]),
            }
            if let Verdict::Only(values) = setting.verdict {
                for value in values {
                    let value: Value = serde_json::from_str(value).unwrap();
                    with(family, json!({setting.key: value})).unwrap();
                }
            }
        }
    }
}

#[test]
fn gpt2_scales_its_scores_as_it_says() {
    let scales = |changes: Value| {
        let c = with("gpt2", changes).unwrap();
        [c.scores[0].scale, c.scores[2].scale]
    };
    assert_eq!(scales(json!({})), [0.25, 0.25]);
    assert_eq!(scales(json!({"scale_attn_weights": false})), [1.0, 1.0]);
    assert_eq!(scales(json!({"scale_attn_by_inverse_layer_idx": true})), [0.25, 0.25 / 3.0]);
}

#[test]
fn activations_are_known_by_name_or_refused() {
    for (name, found) in [("gelu_fast", Activation::GeluTanh), ("gelu", Activation::Gelu), ("relu", Activation::Relu)] {
        assert_eq!(with("gpt2", json!({"activation_function": name})).unwrap().activation, found);
    }
    refused("gpt2", json!({"activation_function": "silu"}), &["activation_function", "`silu`", "gelu_new"]);
    refused("llama", json!({"hidden_act": "gelu"}), &["hidden_act", "`gelu`", "silu"]);
}

#[test]
fn windows_are_refused_where_they_would_be_looked_through() {
    let window = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1, "max_position_embeddings": 64});
    refused("qwen2", window.clone(), &["sliding_window", "last 8 of 64"]);
    for harmless in [
        json!({"max_window_layers": 3}),
        json!({"sliding_window": 64}),
        json!({"use_sliding_window": false}),
        json!({"sliding_window": null}),
    ] {
        let mut changes = window.clone();
        changes.as_object_mut().unwrap().extend(harmless.as_object().unwrap().clone());
        with("qwen2", changes).unwrap();
    }
    refused("llama", json!({"sliding_window": 8}), &["sliding_window"]);
    refused("qwen2", json!({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}), &["layer_types"]);
    refused("qwen2", json!({"layer_types": ["full_attention"]}), &["layer_types", "3 layers"]);
}

#[test]
fn gemma2_caps_scores_and_logits_and_looks_through_windows() {
    let c = with("gemma2", json!({})).unwrap();
    let scores = |window| Scores { scale: 1.0 / 16.0, cap: Some(50.0), window };
    assert_eq!(c.scores, [scores(Some(4096)), scores(None), scores(Some(4096))]);
    assert_eq!((c.head_dim, c.final_cap, c.tied, c.activation), (256, Some(30.0), true, Activation::GeluTanh));
    let types = json!(["full_attention", "sliding_attention", "full_attention"]);
    let c = with("gemma2", json!({"layer_types": types, "sliding_window": 8})).unwrap();
    assert_eq!(c.scores.iter().map(|s| s.window).collect::<Vec<_>>(), [None, Some(8), None]);
    let c = with("gemma2", json!({"attn_logit_softcapping": null, "final_logit_softcapping": null})).unwrap();
    assert_eq!((c.scores[0].cap, c.final_cap), (None, None));
    for (key, value) in [
        ("sliding_window", json!(null)),
        ("query_pre_attn_scalar", json!(null)),
        ("attn_logit_softcapping", json!(0)),
        ("final_logit_softcapping", json!(-1)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["full_attention", "chunked_attention", "full_attention"])),
        ("hidden_activation", json!("gelu")),
    ] {
        refused("gemma2", json!({key: value}), &[key, "help: "]);
    }
}

#[test]
fn both_spellings_of_rope_are_read_as_transformers_does() {
    let freq = |changes: Value| with("llama", changes).unwrap().inv_freq.unwrap();
    let plain = freq(json!({}));
    assert_eq!((plain[0], plain.len()), (1.0, 8));
    assert!((plain[1] - 10_000f32.powf(-0.125)).abs() < 1e-6);
    let halved: Vec<f32> = plain.iter().map(|f| f / 2.0).collect();
    assert_eq!(freq(json!({"rope_scaling": {"type": "linear", "factor": 2}})), halved);
    assert_eq!(freq(json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}})), halved);
    // The theta inside the table wins over the one beside it; an empty table says nothing; `rope_type` wins over `type`.
    let beside = json!({"rope_theta": 500.0, "rope_parameters": {"rope_theta": 10000.0}, "rope_scaling": {}});
    assert_eq!(freq(beside), plain);
    assert_eq!(freq(json!({"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2}})), plain);
    // Both tables: alike, or refused.
    let both =
        json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "linear", "factor": 2.0}});
    assert_eq!(freq(both), halved);
    refused(
        "llama",
        json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 10000.0}}),
        &["rope_scaling", "rope_parameters"],
    );
    for (table, key) in [
        (json!({"rope_type": "yarn", "factor": 2}), "rope_parameters.rope_type"),
        (json!({"rope_type": null}), "rope_parameters.rope_type"),
        (json!({"rope_type": "linear"}), "rope_parameters.factor"),
        (json!({"rope_type": "linear", "factor": 0}), "rope_parameters.factor"),
        (json!({"rope_theta": null}), "rope_parameters.rope_theta"),
        (json!({"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor"),
        (json!({"full_attention": {"rope_type": "default"}}), "rope_parameters.full_attention"),
        (json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}), "high_freq_factor"),
    ] {
        refused("llama", json!({ "rope_parameters": table }), &[key, "help: "]);
    }
}

#[test]
fn the_length_before_scaling_beside_the_table_wins() {
    let table = |old: u32| json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": old});
    let freq = |changes: Value| with("llama", changes).unwrap().inv_freq.unwrap();
    let beside = freq(json!({"rope_parameters": table(32), "original_max_position_embeddings": 512}));
    assert_eq!(beside, freq(json!({ "rope_parameters": table(512) })));
    assert_ne!(beside, freq(json!({ "rope_parameters": table(32) })));
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    refused(
        "llama",
        json!({"num_attention_heads": 5, "num_key_value_heads": 5}),
        &["num_attention_heads", "64 dimensions", "5 heads"],
    );
    refused("gpt2", json!({"n_head": 5}), &["n_head", "5 heads"]);
    refused("llama", json!({"head_dim": 15}), &["head_dim", "even"]);
    refused("qwen2", json!({"num_key_value_heads": 3}), &["num_key_value_heads", "do not divide by 3"]);
}
