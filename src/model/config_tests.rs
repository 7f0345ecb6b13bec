use serde_json::json;

use super::*;
use crate::model::settings::{MEANINGLESS, NEUTRAL};

/// What is beside `yarn` in a table, and the frequencies and the factor of cosines and sines that transformers makes of it.
const YARN_CASES: [(&str, [f64; 4], f64); 3] = [
    (r#"{"rope_type": "yarn"}"#, [1.0, 0.237_170_81, 0.05, 0.007_905_694], 1.138_629_436),
    (
        r#"{"rope_type": "yarn", "truncate": false, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 0.9}"#,
        [1.0, 0.160_589_16, 0.025, 0.007_905_694],
        0.9,
    ),
    (r#"{"rope_type": "yarn", "mscale": 0.7, "mscale_all_dim": 1.5}"#, [1.0, 0.237_170_81, 0.05, 0.007_905_694], 0.908_188_18),
];

fn base(family: &str) -> Value {
    match family {
        "gpt2" => json!({"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 64, "vocab_size": 32}),
        "t5" => json!({
            "model_type": family, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4, "vocab_size": 32,
            "decoder_start_token_id": 0,
        }),
        "gpt_neox" => json!({
            "model_type": family, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "vocab_size": 32,
        }),
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

/// The config without the JSON it was read from and what was told of it.
fn numbers(config: Config) -> String {
    format!("{:?}", Config { json: Value::Null, notes: Vec::new(), ..config })
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
fn keys_that_the_row_does_not_read_are_refused_by_name() {
    for (family, key, value) in [
        ("gpt2", "rms_norm_eps", json!(0.5)),
        ("gpt2", "intermediate_size", json!(7)),
        ("llama", "layer_norm_epsilon", json!(0.5)),
        ("llama", "n_inner", json!(9)),
        ("qwen2", "scale_attn_weights", json!(false)),
        ("qwen2", "some_new_key", json!({"a": 1})),
    ] {
        refused(family, json!({key: value}), &[key, "--ignore-config", "help: "]);
        let config = {
            let mut config = base(family);
            config[key] = value;
            config
        };
        let told = format!("config.json `{key}`: {} is ignored at your own risk", config[key]);
        let read = Config::from_json_ignoring(&config, Path::new("m"), &[key.to_string()]).unwrap();
        assert!(read.notes.len() == 1 && read.notes[0].starts_with(&told), "{:?}", read.notes);
        assert_eq!(numbers(read), numbers(with(family, json!({})).unwrap()), "{key}");
    }
    for (family, changes) in [("qwen2", json!({"attention_bias": true})), ("llama", json!({"final_logit_softcapping": 30}))] {
        refused(family, changes, &["would change what the model computes"]);
    }
    let table = json!({"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 2]});
    refused("llama", json!({ "rope_parameters": table }), &["rope_parameters.mrope_section"]);
    // The common names are gpt2's own too, and win.
    let c = with("gpt2", json!({"num_attention_heads": 2, "max_position_embeddings": 16})).unwrap();
    assert_eq!((c.heads, c.max_positions, c.head_dim), (2, 16, 32));
}

/// In a table as beside it; told where it is not there; refused where it is known.
#[test]
fn only_unknown_keys_can_be_ignored() {
    let table = json!({"rope_type": "default", "rope_theta": 10000.0, "new_angle": 1, "mrope_section": []});
    let mut config = base("llama");
    config["rope_parameters"] = table;
    let ignoring = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        Config::from_json_ignoring(&config, Path::new("m"), &keys)
    };
    assert!(ignoring(&[]).unwrap_err().to_string().contains("--ignore-config rope_parameters.new_angle"));
    let read = ignoring(&["rope_parameters.new_angle", "rope_parameters.other", "another"]).unwrap();
    let told = [
        "config.json `rope_parameters.new_angle`: 1 is ignored at your own risk; what it changes is not computed",
        "config.json has no key `rope_parameters.other` that could be ignored",
        "config.json has no key `another` that could be ignored",
    ];
    assert_eq!(read.notes, told);
    for known in ["hidden_size", "rope_parameters.rope_theta", "rope_parameters.mrope_section", "rope_parameters"] {
        let text = ignoring(&["rope_parameters.new_angle", known]).unwrap_err().to_string();
        assert!(text.contains(&format!("`{known}`")) && text.contains("is a known key"), "{known}: {text}");
    }
    config["alibi"] = json!(true);
    let keys = ["rope_parameters.new_angle", "alibi"].map(String::from);
    let text = Config::from_json_ignoring(&config, Path::new("m"), &keys).unwrap_err().to_string();
    assert!(text.contains("would change what the model computes"), "{text}");
}

/// Code and lists, in every family: a key without meaning changes nothing, one with a neutral value neither, any other is refused.
#[test]
fn each_verdict_is_carried_out() {
    for family in FAMILIES {
        let (of, plain) = (family.model_type, numbers(with(family.model_type, json!({})).unwrap()));
        for key in MEANINGLESS.iter().map(|(key, _)| key).chain(family.meaningless) {
            let own = family.encoder.is_some() && ["decoder_start_token_id", "is_decoder"].contains(key);
            if *key != "model_type" && !own {
                assert_eq!(numbers(with(of, json!({*key: ["wrong"]})).unwrap()), plain, "{of} {key}");
            }
        }
        for (key, values) in NEUTRAL {
            if family.meaningless.contains(key) {
                continue;
            }
            refused(of, json!({*key: ["wrong"]}), &[key, "help: "]);
            for value in *values {
                let value: Value = serde_json::from_str(value).unwrap();
                // What a row reads, it may read otherwise.
                if let Ok(config) = with(of, json!({*key: value})) {
                    assert!(numbers(config) == plain || reads(family, key), "{of} {key} {value}");
                } else {
                    assert!(reads(family, key), "{of} {key} {value}");
                }
            }
        }
    }
}

/// Whether the row of a family reads a key.
fn reads(family: &Family, key: &str) -> bool {
    !with(family.model_type, json!({key: {"no": "value"}})).unwrap_err().to_string().contains("would change what the model")
}

#[test]
fn a_t5_says_its_feed_forward_in_one_key_and_what_followed_from_it_wins() {
    let of = |changes: Value| {
        let c = with("t5", changes).unwrap();
        let encoder = c.encoder.unwrap();
        (c.activation, encoder.gated, [encoder.layers, c.layers], c.logit_scale)
    };
    use Activation::{Gelu, GeluTanh, Relu, Silu};
    assert_eq!(of(json!({})), (Relu, false, [3, 3], 0.125));
    assert_eq!(of(json!({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})), (GeluTanh, true, [3, 3], 1.0));
    let followed = json!({"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu", "scale_decoder_outputs": false});
    assert_eq!(of(followed), (Relu, true, [3, 3], 1.0));
    assert_eq!(
        of(json!({"feed_forward_proj": "gelu", "is_gated_act": true, "num_decoder_layers": 2})),
        (Gelu, true, [3, 2], 0.125)
    );
    assert_eq!(of(json!({"feed_forward_proj": "gated-silu", "num_decoder_layers": null})), (Silu, true, [3, 3], 0.125));
    // The names of `attribute_map` win.
    let c = with("t5", json!({"hidden_size": 32, "num_attention_heads": 2, "head_dim": 8, "num_hidden_layers": 4})).unwrap();
    assert_eq!([c.width, c.heads, c.head_dim, c.layers], [32, 2, 8, 4]);
    refused("t5", json!({"feed_forward_proj": "gated-gelu-new"}), &["`feed_forward_proj`", "gated-NAME"]);
    refused("t5", json!({"dense_act_fn": "tanh"}), &["`dense_act_fn`", "`tanh` is not supported"]);
    refused("t5", json!({"decoder_start_token_id": null}), &["`decoder_start_token_id`", "missing"]);
    refused("t5", json!({"is_encoder_decoder": false}), &["`is_encoder_decoder`"]);
    refused("t5", json!({"is_decoder": true}), &["`is_decoder`"]);
    refused("t5", json!({"relative_attention_num_buckets": 2}), &["`relative_attention_num_buckets`"]);
    refused("t5", json!({"intermediate_size": 7}), &["`intermediate_size`"]);
    refused("llama", json!({"is_encoder_decoder": true}), &["`is_encoder_decoder`"]);
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
    assert_eq!(with("llama", json!({"hidden_act": "gelu"})).unwrap().activation, Activation::Gelu);
    assert_eq!(with("gemma", json!({"hidden_act": "gelu"})).unwrap().activation, Activation::GeluTanh);
    refused("llama", json!({"hidden_act": "quick_gelu"}), &["hidden_act", "`quick_gelu`", "silu"]);
}

#[test]
fn windows_are_where_the_classes_put_them() {
    let windows = |family: &str, changes: Value| -> Vec<Option<usize>> {
        with(family, changes).unwrap().scores.iter().map(|s| s.window).collect()
    };
    let from = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    assert_eq!(windows("qwen2", from.clone()), [None, Some(8), Some(8)]);
    let types = json!(["sliding_attention", "full_attention", "full_attention"]);
    let mut listed = from;
    listed["layer_types"] = types.clone();
    assert_eq!(windows("qwen3", listed), [Some(8), None, None]);
    assert_eq!(windows("qwen2", json!({"sliding_window": 8})), [None; 3]);
    refused("qwen2", json!({ "layer_types": types }), &["sliding_window"]);
    refused("qwen2", json!({"layer_types": ["full_attention"]}), &["layer_types", "3 layers"]);
    assert_eq!(windows("mistral", json!({})), [Some(4096); 3]);
    assert_eq!(windows("mistral", json!({"sliding_window": null})), [None; 3]);
    assert_eq!(windows("phi3", json!({})), [None; 3]);
    assert_eq!(windows("gemma3_text", json!({"sliding_window": 8, "sliding_window_pattern": 2})), [Some(8), None, Some(8)]);
    refused("gemma2", json!({"sliding_window_pattern": 2}), &["sliding_window_pattern"]);
    refused("llama", json!({"sliding_window": 8}), &["sliding_window"]);
    refused("llama", json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]}), &["window"]);
}

#[test]
fn layers_turn_where_the_classes_turn_them() {
    let of = |family: &str, changes: Value| with(family, changes).unwrap().rotation_of;
    assert_eq!(of("llama", json!({})), [Some(0); 3]);
    assert_eq!(of("gpt2", json!({})), [None; 3]);
    assert_eq!(of("smollm3", json!({"no_rope_layer_interval": 2})), [Some(0), None, Some(0)]);
    assert_eq!(of("smollm3", json!({"no_rope_layers": [0, 1, 1]})), [None, Some(0), Some(0)]);
    assert_eq!(of("cohere2", json!({"sliding_window_pattern": 3})), [Some(0), Some(0), None]);
    assert_eq!(of("gemma3_text", json!({"sliding_window_pattern": 3})), [Some(1), Some(1), Some(0)]);
    refused("smollm3", json!({"no_rope_layers": [0, 1]}), &["no_rope_layers", "list of 3"]);
}

#[test]
fn scales_are_the_familys() {
    let c = with("granite", json!({"embedding_multiplier": 12, "residual_multiplier": 0.5, "logits_scaling": 8})).unwrap();
    assert_eq!((c.embedding_scale, c.residual_scale, c.logit_scale, c.scores[0].scale), (12.0, 0.5, 0.125, 1.0));
    assert_eq!(with("cohere", json!({})).unwrap().logit_scale, 0.0625);
    assert_eq!(with("gemma", json!({})).unwrap().embedding_scale, 8.0);
    refused("granite", json!({"logits_scaling": 0}), &["logits_scaling"]);
}

#[test]
fn parts_of_heads_turn_where_a_family_has_them() {
    let turning = |family: &str, changes: Value| 2 * with(family, changes).unwrap().rotations[0].inverse_frequencies.len();
    assert_eq!(turning("glm4", json!({"head_dim": 16})), 8);
    assert_eq!(turning("phi3", json!({"partial_rotary_factor": 0.75})), 12);
    assert_eq!(turning("gpt_neox", json!({"rotary_pct": 0.5})), 8);
    assert_eq!(turning("stablelm", json!({"rope_parameters": {"partial_rotary_factor": 0.5}})), 8);
    refused("glm4", json!({"head_dim": 6}), &["partial_rotary_factor", "3 of 6"]);
    refused("llama", json!({"partial_rotary_factor": 0.5}), &["partial_rotary_factor"]);
    refused("cohere2", json!({"head_dim": 32}), &["head_dim", "16"]);
}

/// Numbers of transformers 5.24 (`ROPE_INIT_FUNCTIONS`): head of 8, theta 100, factor 4, 64 positions before scaling.
#[test]
fn yarn_and_longrope_are_those_of_transformers() {
    let close = |got: &Rotary, want: [f64; 4], scaling: f64| {
        let near = got.inverse_frequencies.iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6 * b);
        assert!(near && (f64::from(got.scaling) - scaling).abs() < 1e-6, "{got:?}");
    };
    let with_table = |family: &str, table: Value| {
        with(family, json!({"head_dim": 8, "max_position_embeddings": 256, "rope_parameters": table})).unwrap()
    };
    let table = |more: Value| {
        let mut table = json!({"rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64});
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        table
    };
    YARN_CASES.iter().for_each(|(more, want, scaling)| {
        let more: Value = serde_json::from_str(more).unwrap();
        close(&with_table("llama", table(more)).rotations[0], *want, *scaling);
    });
    let long = json!({"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 4.0, 5.0]});
    let c = with_table("llama", table(long.clone()));
    close(&c.rotations[0], [1.0, 0.210_818_5, 0.05, 0.010_540_925], 1.154_700_5);
    // The other factors begin beyond the length before scaling: no text may be longer.
    assert_eq!(c.max_positions, 64);
    let mut short = long;
    short["short_factor"] = json!([1.0]);
    refused("llama", json!({"head_dim": 8, "rope_parameters": short}), &["short_factor", "1 numbers for 4"]);
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
        ("hidden_activation", json!("no_such")),
    ] {
        refused("gemma2", json!({key: value}), &[key, "help: "]);
    }
}

#[test]
fn both_spellings_of_rope_are_read_as_transformers_does() {
    let freq = |changes: Value| with("llama", changes).unwrap().rotations.remove(0).inverse_frequencies;
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
        (json!({"rope_type": "ntk", "factor": 2}), "rope_parameters.rope_type"),
        (json!({"rope_type": "yarn", "factor": 0}), "rope_parameters.factor"),
        (json!({"rope_type": "yarn", "factor": 2, "beta_fast": -1}), "rope_parameters.beta_fast"),
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

/// A length that nothing can be divided by.
#[test]
fn lengths_before_scaling_that_cannot_be_are_refused() {
    let yarn = |length: Value| {
        json!({"rope_parameters": {"rope_type": "yarn", "factor": 2, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": length}})
    };
    for length in [json!(0), json!(0.5), json!(1), json!(4_294_967_296_u64)] {
        refused("ministral3", yarn(length), &["original_max_position_embeddings"]);
    }
    with("ministral3", yarn(json!(16))).unwrap();
}

/// transformers 5 leaves the older name of the kind out of account for families with two rotations, and 4 does not.
#[test]
fn a_scaling_that_versions_read_otherwise_is_refused() {
    for family in ["gemma3_text", "olmo3"] {
        refused(family, json!({"rope_scaling": {"type": "linear", "factor": 3}}), &["rope_scaling.type", "`rope_type`"]);
        let first = |changes: Value| with(family, changes).unwrap().rotations[0].inverse_frequencies[1];
        let third = first(json!({"rope_scaling": {"rope_type": "linear", "factor": 3}}));
        assert!((3.0 * third / first(json!({})) - 1.0).abs() < 1e-6, "{family}");
    }
}

/// Configs of published models (SmolLM2, Qwen2.5, Phi-4-mini, StarCoder2) hold such keys.
#[test]
fn keys_of_published_files_that_change_nothing_are_read() {
    for (family, changes) in [
        ("llama", json!({"is_llama_config": true, "rope_interleaved": false, "pretraining_tp": 1})),
        ("qwen2", json!({"use_mrope": false, "some_key_without_value": null})),
        ("phi3", json!({"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "auto_map": {"AutoConfig": "x"}})),
        ("starcoder2", json!({"attention_softmax_in_fp32": true, "norm_type": "layer_norm", "mlp_type": "default"})),
        ("gpt2", json!({"n_ctx": 1024, "task_specific_params": {}, "gradient_checkpointing": false})),
    ] {
        assert_eq!(numbers(with(family, changes).unwrap()), numbers(with(family, json!({})).unwrap()), "{family}");
    }
    refused("qwen2", json!({"use_mrope": true}), &["use_mrope"]);
}

#[test]
fn the_length_before_scaling_beside_the_table_wins() {
    let table = |old: u32| json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": old});
    let freq = |changes: Value| with("llama", changes).unwrap().rotations.remove(0).inverse_frequencies;
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
