//! GGUF files that are right but written otherwise: older spellings, keys left out, lists for numbers, empty tokens.

use super::malformed_gguf_tests::{GgufDraft, RawValue, check, float, kinds, list, number, refused, text, texts};
use super::*;

fn config(draft: &GgufDraft) -> Result<serde_json::Value> {
    let (_dir, path) = draft.write();
    Ok(ModelFiles::open(&path)?.config)
}

fn flag(on: bool) -> RawValue {
    RawValue(7, vec![u8::from(on)])
}

fn numbers(items: &[u32]) -> RawValue {
    list(4, &items.iter().map(|n| n.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

#[test]
fn keys_left_out_are_llama_cpps_defaults() {
    let draft = GgufDraft::llama().without("llama.attention.head_count_kv").without("llama.rope.dimension_count");
    let found = config(&draft).unwrap();
    assert_eq!((&found["num_key_value_heads"], &found["head_dim"]), (&2.into(), &2.into()));
    assert_eq!((&found["rope_theta"], &found["rope_scaling"]), (&10_000.0.into(), &serde_json::Value::Null));
    check(
        config(&draft.without("llama.attention.layer_norm_rms_epsilon")).map(|c| c.to_string()),
        &["layer_norm_rms_epsilon", "not there"],
    );
}

#[test]
fn rope_scaling_is_read_as_llama_cpp_does() {
    let scaling = |keys: &[(&str, RawValue)]| {
        let draft = keys.iter().fold(GgufDraft::llama(), |d, (key, value)| d.set(&format!("llama.rope.{key}"), value.clone()));
        config(&draft).map(|c| c["rope_scaling"].clone())
    };
    let linear = serde_json::json!({"rope_type": "linear", "factor": 4.0});
    assert_eq!(scaling(&[("scaling.factor", float(4.0))]).unwrap(), linear, "the type is linear where none is named");
    assert_eq!(scaling(&[("scale_linear", float(4.0))]).unwrap(), linear, "the older name");
    assert_eq!(scaling(&[("scaling.type", text("linear")), ("scaling.factor", float(4.0))]).unwrap(), linear);
    for none in [
        vec![("scaling.type", text("none")), ("scaling.factor", float(4.0))],
        vec![("scaling.factor", float(0.0))],
        vec![("scale_linear", float(1.0))],
    ] {
        assert_eq!(scaling(&none).unwrap(), serde_json::Value::Null);
    }
    check(scaling(&[("scaling.type", text("longrope"))]).map(|s| s.to_string()), &["llama.rope.scaling.type", "`longrope`"]);
    check(scaling(&[("scaling.attn_factor", float(1.5))]).map(|s| s.to_string()), &["llama.rope.scaling.attn_factor", "1.5"]);
}

#[test]
fn yarn_is_read_as_llama_cpp_does() {
    let yarn = |architecture: &str, keys: &[(&str, RawValue)]| {
        let draft = GgufDraft::of(architecture)
            .set(&format!("{architecture}.rope.scaling.type"), text("yarn"))
            .set(&format!("{architecture}.rope.scaling.factor"), float(4.0))
            .set(&format!("{architecture}.rope.scaling.original_context_length"), number(8));
        let set = |d: GgufDraft, (key, value): &(&str, RawValue)| d.set(&format!("{architecture}.{key}"), value.clone());
        config(&keys.iter().fold(draft, set)).map(|c| c["rope_scaling"].clone())
    };
    let attention = |found: serde_json::Value| (found["attention_factor"].as_f64().unwrap() - 0.1 * 4f64.ln()).abs();
    assert!((attention(yarn("llama", &[]).unwrap()) - 1.0).abs() < 1e-9);
    let usual = float((0.1 * 4f64.ln() + 1.0) as f32);
    yarn("llama", &[("rope.scaling.yarn_attn_factor", usual), ("rope.scaling.yarn_beta_fast", float(32.0))]).unwrap();
    let found =
        yarn("mistral3", &[("rope.scaling.yarn_beta_fast", float(4.0)), ("attention.temperature_scale", float(0.1))]).unwrap();
    assert_eq!((&found["beta_fast"], &found["llama_4_scaling_beta"]), (&4.0.into(), &0.1.into()));
    // llama.cpp reads these for mistral3 alone.
    for (key, value) in
        [("yarn_beta_fast", 4.0), ("yarn_beta_slow", 2.0), ("yarn_attn_factor", 1.5), ("yarn_log_multiplier", 0.4)]
    {
        let key = format!("rope.scaling.{key}");
        check(yarn("qwen3", &[(&key, float(value))]).map(|s| s.to_string()), &[&format!("qwen3.{key}"), "not supported"]);
    }
    let length = [("attention.temperature_scale", float(0.1)), ("attention.temperature_length", number(16))];
    check(yarn("mistral3", &length).map(|s| s.to_string()), &["mistral3.attention.temperature_length", "the 8 before scaling"]);
}

#[test]
fn a_key_is_refused_where_its_architecture_does_not_read_it() {
    let cases = [
        ("llama", "attention.sliding_window_pattern", number(2), "not supported"),
        ("qwen3", "embedding_scale", float(3.0), "not supported"),
        ("qwen3", "attention.scale", float(0.3), "not supported"),
        ("granite", "attn_logit_softcapping", float(30.0), "not supported"),
        ("granite", "rope.scaling.finetuned", flag(false), "no rotary positions"),
        ("gemma2", "rope.freq_base_swa", float(1e4), "not supported"),
        ("gemma3", "attn_logit_softcapping", float(30.0), "not supported"),
        ("gemma3", "attention.sliding_window_pattern", text("two"), "neither a number nor a list"),
        ("gemma3", "use_parallel_residual", flag(true), "not supported"),
        ("mistral3", "rope.dimension_count", number(1), "rotating 1 of 2"),
        ("smollm3", "attention.temperature_scale", float(0.1), "not supported"),
    ];
    for (architecture, key, value, why) in cases {
        let scale = format!("{architecture}.logit_scale");
        let draft = GgufDraft::of(architecture);
        let draft = if architecture == "granite" { draft.set(&scale, float(1.0)) } else { draft };
        let key = format!("{architecture}.{key}");
        config(&draft).unwrap();
        refused(&draft.set(&key, value).bytes(), &[&format!("`{key}`"), why]);
    }
    // Without the tensors of its factors.
    refused(
        &GgufDraft::of("phi3").set("phi3.rope.scaling.type", text("longrope")).bytes(),
        &["`phi3.rope.scaling.type`", "`longrope`"],
    );
    let layered = GgufDraft::of("command-r").set("command-r.attention.layer_norm_epsilon", float(1e-5));
    refused(&layered.bytes(), &["`command-r.logit_scale`", "not there"]);
    let windowed = GgufDraft::of("cohere2").set("cohere2.attention.layer_norm_epsilon", float(1e-5));
    refused(&windowed.set("cohere2.logit_scale", float(0.5)).bytes(), &["`cohere2.attention.sliding_window`", "not there"]);
}

#[test]
fn layers_with_a_window_are_told_by_the_rule_or_the_file() {
    let kinds = |draft: &GgufDraft| {
        let found = config(draft).unwrap();
        let types = found["layer_types"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()[..1].to_string());
        types.collect::<String>()
    };
    let gemma3 = GgufDraft::of("gemma3").set("gemma3.block_count", number(7));
    let windowed = gemma3.clone().set("gemma3.attention.sliding_window", number(4));
    let pattern = |value: RawValue| kinds(&windowed.clone().set("gemma3.attention.sliding_window_pattern", value));
    assert_eq!((kinds(&gemma3).as_str(), kinds(&windowed).as_str()), ("fffffff", "sssssfs"));
    assert_eq!(
        (pattern(number(2)).as_str(), pattern(number(0)).as_str(), pattern(number(1)).as_str()),
        ("sfsfsfs", "sssssss", "fffffff")
    );
    let list = list(7, &[1, 1, 0, 0, 1, 0, 1].map(|b| vec![b]));
    assert_eq!(pattern(list), "ssffsfs");
    let olmo = GgufDraft::of("olmo2");
    assert_eq!(config(&olmo).unwrap()["model_type"], "olmo2");
    let olmo = config(&olmo.set("olmo2.attention.sliding_window", number(4))).unwrap();
    assert_eq!((&olmo["model_type"], &olmo["layer_types"][0]), (&"olmo3".into(), &"sliding_attention".into()));
    // Queries of the 27B models are scaled by the width of a head's share of the model.
    let wide =
        |layers: u32| GgufDraft::of("gemma2").set("gemma2.block_count", number(layers)).set("gemma2.embedding_length", number(8));
    let wide =
        |layers| wide(layers).set("gemma2.attention.key_length", number(2)).set("gemma2.attention.value_length", number(2));
    assert_eq!(config(&wide(26)).unwrap()["query_pre_attn_scalar"], 2);
    assert_eq!(config(&wide(46)).unwrap()["query_pre_attn_scalar"], 4);
}

#[test]
fn a_list_that_is_the_same_in_each_layer_is_the_number() {
    let draft = GgufDraft::llama().set("llama.block_count", number(2));
    let found = config(&draft.clone().set("llama.attention.head_count_kv", numbers(&[1, 1]))).unwrap();
    assert_eq!(found["num_key_value_heads"], 1);
    assert_eq!(config(&draft.clone().set("llama.feed_forward_length", numbers(&[8, 8]))).unwrap()["intermediate_size"], 8);
    refused(&draft.clone().set("llama.attention.head_count_kv", numbers(&[1, 2])).bytes(), &["head_count_kv", "layer 1 differ"]);
    refused(&draft.set("llama.attention.head_count", numbers(&[2])).bytes(), &["head_count", "1 entries for 2 layers"]);
}

#[test]
fn keys_that_change_the_mathematics_are_refused_by_name() {
    let good = GgufDraft::llama();
    let cases = [
        ("attention.value_length", number(4), "different sizes"),
        ("attention.sliding_window", number(8), "window of the 16"),
        ("attention.causal", flag(false), "false"),
        ("attn_logit_softcapping", float(50.0), "50"),
        ("logit_scale", float(0.5), "0.5"),
        ("rope.dimension_sections", numbers(&[1, 1]), "a list"),
        ("expert_used_count", number(2), "experts"),
        ("tomorrows.key", number(0), "not known"),
    ];
    for (key, value, why) in cases {
        refused(&good.clone().set(&format!("llama.{key}"), value).bytes(), &[&format!("`llama.{key}`"), why]);
    }
    for (key, value) in [
        ("attention.sliding_window", number(16)),
        ("attention.causal", flag(true)),
        ("logit_scale", float(0.0)),
        ("expert_count", number(0)),
        ("vocab_size", number(6)),
        ("tensor_data_layout", text("Meta AI original pth")),
    ] {
        config(&good.clone().set(&format!("llama.{key}"), value)).unwrap();
    }
    config(&good.set("qwen2.logit_scale", float(0.5))).unwrap();
}

#[test]
fn empty_tokens_are_named_and_told_and_no_text_becomes_them() {
    let pieces = ["<s>", "a", "b", "c", "ab", "abc", "", "", "[", "E"];
    let draft = GgufDraft::llama()
        .set("tokenizer.ggml.tokens", texts(&pieces))
        .set("tokenizer.ggml.token_type", kinds(&[3, 1, 1, 1, 1, 1, 1, 4, 1, 1]));
    let (_dir, path) = draft.write();
    let found = GgufText::open(&path).unwrap();
    assert_eq!(found.tokenizer.id_to_token(6).as_deref(), Some("[EMPTY_6]"));
    assert_eq!(found.tokenizer.id_to_token(7).as_deref(), Some("[EMPTY_7]"));
    assert_eq!(found.notes.len(), 1);
    assert!(found.notes[0].contains("2 of the tokens") && found.notes[0].contains("6, 7"), "{:?}", found.notes);
    let ids = found.tokenizer.encode("[EMPTY_7]abc", false).unwrap();
    assert!(ids.get_ids().ends_with(&[5]) && !ids.get_ids().contains(&7), "{:?}", ids.get_ids());
}

#[test]
fn ends_of_a_turn_besides_eos_are_read() {
    let draft = GgufDraft::llama()
        .set("tokenizer.ggml.eos_token_id", number(0))
        .set("tokenizer.ggml.eot_token_id", number(3))
        .set("tokenizer.ggml.add_eos_token", flag(true));
    let (_dir, path) = draft.write();
    let found = GgufText::open(&path).unwrap();
    assert_eq!((found.ends.as_slice(), found.add_eos), (&[3][..], true));
    let tokenizer = crate::model::text::tokenizer(&path).unwrap();
    assert_eq!(tokenizer.eos_ids(), [0, 3]);
    let bad = draft.set("tokenizer.ggml.eot_token_id", number(60)).write();
    check(GgufText::open(&bad.1).map(|t| format!("{:?}", t.ends)), &["eot_token_id", "no id of the 6 tokens"]);
}

#[test]
fn without_scores_pieces_are_joined_in_the_order_of_their_ids() {
    let pieces = ["<s>", "a", "b", "c", "bc", "ab"];
    let draft = GgufDraft::llama()
        .set("tokenizer.ggml.model", text("llama"))
        .set("tokenizer.ggml.tokens", texts(&pieces))
        .set("tokenizer.ggml.add_space_prefix", flag(false));
    let (_dir, path) = draft.write();
    let read = GgufText::open(&path).unwrap();
    assert!(matches!(&read.notes[..], [note] if note.contains("`tokenizer.ggml.scores` is not there")), "{:?}", read.notes);
    let ids = |read: &GgufText| read.tokenizer.encode("abc", false).unwrap().get_ids().to_vec();
    assert_eq!(ids(&read), [1, 4]);
}

#[test]
fn a_vocabulary_of_gemma4_says_its_merges() {
    let pieces = ["<bos>", "a", "b", "▁", "ab", "▁ab", "\n", "\n\n", "<0x63>"];
    let draft = GgufDraft::llama()
        .set("tokenizer.ggml.model", text("gemma4"))
        .set("tokenizer.ggml.tokens", texts(&pieces))
        .set("tokenizer.ggml.token_type", kinds(&[3, 1, 1, 1, 1, 1, 1, 1, 6]))
        .set("tokenizer.ggml.merges", texts(&["a b", "▁ ab", "\n \n"]));
    let (_dir, path) = draft.write();
    let read = GgufText::open(&path).unwrap();
    let encode = |text: &str, special: bool| read.tokenizer.encode(text, special).unwrap().get_ids().to_vec();
    assert_eq!(encode("ab ab\n\n\nba", false), [4, 5, 7, 6, 2, 1], "no space is put before a text");
    assert_eq!(encode(" bc", true), [0, 3, 2, 8], "a text begins with bos; a letter without a piece is its bytes");
    assert_eq!(read.tokenizer.decode(&[4, 5, 7, 8], false).unwrap(), "ab ab\n\nc");
}
