use std::path::Path;

use serde_json::json;

use super::*;

/// What is said of a config: `what: how`.
fn said(changes: Value) -> Vec<String> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config = Config::from_json(&config, Path::new("m")).unwrap();
    of(&config).into_iter().map(|p| format!("{}: {}", p.what, p.how)).collect()
}

#[test]
fn a_plain_model_has_nothing_special() {
    let expected = [
        "norms: root mean square, before attention and feed-forward",
        "rotation: whole heads, the slowest pair once in 19900 tokens, in all layers",
        "feed-forward: silu, gated",
        "head: a matrix of its own",
    ];
    assert_eq!(said(json!({})), expected);
}

/// Every family and switch that has a word of its own.
#[test]
fn what_is_special_is_said() {
    let table = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let cases = [
        (json!({"attention_bias": true, "tie_word_embeddings": true}), "biases: queries, keys, values; attention's output"),
        (json!({"tie_word_embeddings": true}), "head: the matrix of the embedding"),
        (json!({ "rope_scaling": table }), "scaled by llama3 × 8"),
        (json!({"model_type": "qwen3", "head_dim": 16}), "head norms: queries and keys, over each head"),
        (json!({"model_type": "olmo2"}), "head norms: queries and keys, over all heads of a token"),
        (json!({"model_type": "olmo2"}), "norms: root mean square, after attention and feed-forward"),
        (json!({"model_type": "mistral", "sliding_window": 8}), "window: the newest 8 tokens in all layers"),
        (json!({"model_type": "gemma2", "sliding_window": 8}), "window: the newest 8 tokens in layers 0, 2, … 10"),
        (json!({"model_type": "gemma2", "head_dim": 64}), "scores: q·k × 0.0625 in place of 1/√64, capped at ±50 by tanh"),
        (json!({"model_type": "gemma2"}), "logits: capped at ±30 by tanh"),
        (json!({"model_type": "gemma2"}), "embeddings: multiplied with 8"),
        (json!({"model_type": "gemma3_text"}), "window: the newest 4096 tokens in layers 0–4, 6–10"),
        (json!({"model_type": "gemma3_text"}), "in layers 5, 11"),
        (json!({"model_type": "smollm3"}), "rotation: none in layers 3, 7, 11"),
        (json!({"model_type": "glm4", "head_dim": 16}), "rotation: 8 of 16, neighbours in pairs"),
        (json!({"model_type": "ministral3"}), "scaled by yarn × 16"),
        (json!({"model_type": "ministral3"}), "queries scaled each 16384 positions"),
        (json!({"model_type": "granite", "residual_multiplier": 0.22}), "residuals: multiplied with 0.22"),
        (
            json!({"model_type": "cohere", "num_key_value_heads": 4}),
            "parallel: attention and feed-forward read the same sum, with one norm",
        ),
        (json!({"model_type": "starcoder2"}), "norms: layer norm, before"),
        (json!({"model_type": "gemma4_text"}), "layer inputs: 256 numbers of each token for each layer"),
        (json!({"model_type": "gemma4_text"}), "heads: 4 of 512, 2 of keys, in layers 5, 11"),
        (json!({"model_type": "gemma4_text"}), "rotation: 128 of 512, scaled by proportional"),
        (
            json!({"model_type": "gemma4_text", "num_kv_shared_layers": 2}),
            "keys and values: those of layers 5, 9 in layers 10–11",
        ),
        (json!({"model_type": "gemma4_text", "attention_k_eq_v": true}), "values made of what keys are in layers 5, 11"),
        (json!({"model_type": "qwen3_5_text"}), "delta rule: gated, in place of attention in"),
        (json!({"model_type": "qwen3_5_text"}), "a text keeps a state of 2144 KiB there"),
        (json!({"model_type": "qwen3_5_text"}), "heads: each output gated by a sigmoid"),
        (json!({"model_type": "gpt_oss"}), "heads: each with a sink that takes a share of its attention"),
        (json!({"model_type": "gpt_oss"}), "feed-forward: SwiGLU with its inputs held to a limit, gated; 128 experts"),
    ];
    for (changes, expected) in cases {
        let all = said(changes.clone());
        assert!(all.iter().any(|line| line.contains(expected)), "{changes}: {expected} is not in {all:#?}");
    }
    let gpt2 = json!({"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "scale_attn_by_inverse_layer_idx": true});
    let config = Config::from_json(&gpt2, Path::new("m")).unwrap();
    let how = of(&config).into_iter().map(|p| p.how).collect::<Vec<_>>().join("\n");
    for expected in [
        "positions are learned (`transformer.wpe`)",
        "q·k × 0.25 in the first layer, × 0.083333 in the last",
        "gelu, its tanh form",
    ] {
        assert!(how.contains(expected), "{how}");
    }
}

#[test]
fn layers_are_listed_the_shorter_way() {
    let which = |n: usize, is: &dyn Fn(usize) -> bool| (0..n).map(is).collect::<Vec<bool>>();
    for (which, expected) in [
        (which(4, &|_| true), "all layers"),
        (which(8, &|i| i < 3 || i == 6), "layers 0–2, 6"),
        (which(30, &|i| (i + 1) % 6 != 0), "all layers but 5, 11, … 29"),
        (which(5, &|i| i == 2), "layers 2"),
        (which(6, &|i| i % 2 == 1), "layers 1, 3, 5"),
    ] {
        assert_eq!(layers(&which), expected);
    }
}

#[test]
fn numbers_have_five_digits_at_most() {
    let all = [
        (1.0, "1"),
        (0.22, "0.22"),
        (27.712_812_9, "27.713"),
        (16384.0, "16384"),
        (0.007_812_5, "0.0078125"),
        (1_234_567.0, "1234567"),
    ];
    for (value, text) in all {
        assert_eq!(significant(value), text);
    }
}
