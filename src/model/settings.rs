//! Keys of a `config.json` and what becomes of each: one table, read before anything is computed.
//!
//! The keys are the fields of transformers' config classes (`configuration_utils.py` and `models/{llama,qwen2,gemma2,gpt2}/configuration_*.py`,
//! 5.24) and settings of related families that, set here, say that the weights were made by other mathematics. transformers
//! ignores a key that its class does not have, and so does this table one that it does not list.
//! Refuses to know: what an honoured key means.

use serde_json::Value;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Read: by the config, or (the ids of special tokens) by the tokenizer.
    Honoured,
    /// Nothing that is computed here depends on it; the reason.
    Meaningless(&'static str),
    /// Would change the mathematics and is not carried out: any value but these (as JSON) is refused.
    Only(&'static [&'static str]),
}

/// A key of some families.
#[derive(Debug)]
pub(super) struct Setting {
    pub key: &'static str,
    /// `model_type`s.
    pub families: &'static [&'static str],
    pub verdict: Verdict,
}

const ALL: &[&str] = &["llama", "qwen2", "gpt2", "gemma2"];
const ROTARY: &[&str] = &["llama", "qwen2", "gemma2"];
/// Scores and logits have no caps.
const UNCAPPED: &[&str] = &["llama", "qwen2", "gpt2"];
const SILU: &[&str] = &["llama", "qwen2"];
const BIASED: &[&str] = &["llama", "gemma2"];
const GEMMA2: &[&str] = &["gemma2"];
const LLAMA: &[&str] = &["llama"];
const QWEN2: &[&str] = &["qwen2"];
const GPT2: &[&str] = &["gpt2"];

const OFF: &[&str] = &["null", "false"];
const ZERO: &[&str] = &["null", "false", "0"];
const ONE: &[&str] = &["null", "1"];
const NONE: &[&str] = &["null", "false", "0", "[]", "{}"];

const RECORD: &str = "a record of how the file was made";
const OUTPUT: &str = "what a call returns";
const CLASSIFIER: &str = "heads of classifiers, which a causal model has not";
const DROPOUT: &str = "dropout of the base's own training; training here drops only inputs of the adapter";
const START: &str = "weights before training";
const STORED: &str = "each tensor says its own type";

const fn honoured(families: &'static [&'static str], key: &'static str) -> Setting {
    Setting { key, families, verdict: Verdict::Honoured }
}

const fn meaningless(families: &'static [&'static str], key: &'static str, why: &'static str) -> Setting {
    Setting { key, families, verdict: Verdict::Meaningless(why) }
}

const fn only(families: &'static [&'static str], key: &'static str, values: &'static [&'static str]) -> Setting {
    Setting { key, families, verdict: Verdict::Only(values) }
}

/// Every key that is known, a line each.
pub(super) const SETTINGS: &[Setting] = &[
    // ---- fields of every config
    honoured(ALL, "model_type"),
    honoured(ALL, "vocab_size"),
    honoured(ALL, "hidden_size"),
    honoured(ALL, "num_hidden_layers"),
    honoured(ALL, "num_attention_heads"),
    honoured(ALL, "max_position_embeddings"),
    honoured(ALL, "tie_word_embeddings"),
    honoured(ALL, "layer_types"),
    honoured(ALL, "sliding_window"),
    honoured(ALL, "bos_token_id"),
    honoured(ALL, "eos_token_id"),
    honoured(ALL, "pad_token_id"),
    meaningless(ALL, "transformers_version", RECORD),
    meaningless(ALL, "architectures", RECORD),
    meaningless(ALL, "output_hidden_states", OUTPUT),
    meaningless(ALL, "return_dict", OUTPUT),
    meaningless(ALL, "use_cache", OUTPUT),
    meaningless(ALL, "dtype", STORED),
    meaningless(ALL, "torch_dtype", STORED),
    meaningless(ALL, "chunk_size_feed_forward", "the same sums in pieces"),
    meaningless(ALL, "id2label", CLASSIFIER),
    meaningless(ALL, "label2id", CLASSIFIER),
    meaningless(ALL, "num_labels", CLASSIFIER),
    meaningless(ALL, "problem_type", CLASSIFIER),
    meaningless(ALL, "initializer_range", START),
    only(ALL, "is_encoder_decoder", OFF),
    only(ALL, "add_cross_attention", OFF),
    only(ALL, "per_layer_config", NONE),
    only(ALL, "pruned_heads", NONE),
    only(ALL, "quantization_config", NONE),
    only(ALL, "compression_config", NONE),
    // ---- llama, qwen2 and gemma2
    honoured(ROTARY, "intermediate_size"),
    honoured(ROTARY, "num_key_value_heads"),
    honoured(ROTARY, "head_dim"),
    honoured(SILU, "hidden_act"),
    honoured(ROTARY, "rms_norm_eps"),
    honoured(ROTARY, "rope_parameters"),
    honoured(ROTARY, "rope_scaling"),
    honoured(ROTARY, "rope_theta"),
    honoured(ROTARY, "original_max_position_embeddings"),
    honoured(BIASED, "attention_bias"),
    honoured(LLAMA, "mlp_bias"),
    honoured(QWEN2, "use_sliding_window"),
    honoured(QWEN2, "max_window_layers"),
    meaningless(ROTARY, "attention_dropout", DROPOUT),
    meaningless(LLAMA, "pretraining_tp", "the same sums in pieces"),
    only(ROTARY, "partial_rotary_factor", ONE),
    only(LLAMA, "use_sliding_window", OFF),
    // ---- gemma2
    honoured(GEMMA2, "hidden_activation"),
    honoured(GEMMA2, "query_pre_attn_scalar"),
    honoured(GEMMA2, "attn_logit_softcapping"),
    honoured(GEMMA2, "final_logit_softcapping"),
    meaningless(GEMMA2, "hidden_act", "the class reads `hidden_activation`"),
    meaningless(GEMMA2, "cache_implementation", "how keys and values are kept"),
    only(GEMMA2, "use_bidirectional_attention", OFF),
    // ---- gpt2
    honoured(GPT2, "n_positions"),
    honoured(GPT2, "n_embd"),
    honoured(GPT2, "n_layer"),
    honoured(GPT2, "n_head"),
    honoured(GPT2, "n_inner"),
    honoured(GPT2, "activation_function"),
    honoured(GPT2, "layer_norm_epsilon"),
    honoured(GPT2, "scale_attn_weights"),
    honoured(GPT2, "scale_attn_by_inverse_layer_idx"),
    meaningless(GPT2, "resid_pdrop", DROPOUT),
    meaningless(GPT2, "embd_pdrop", DROPOUT),
    meaningless(GPT2, "attn_pdrop", DROPOUT),
    meaningless(GPT2, "reorder_and_upcast_attn", "attention is summed in f32 always"),
    meaningless(GPT2, "summary_type", CLASSIFIER),
    meaningless(GPT2, "summary_use_proj", CLASSIFIER),
    meaningless(GPT2, "summary_activation", CLASSIFIER),
    meaningless(GPT2, "summary_proj_to_labels", CLASSIFIER),
    meaningless(GPT2, "summary_first_dropout", CLASSIFIER),
    // ---- settings of related families: attention
    only(UNCAPPED, "attn_logit_softcapping", ZERO),
    only(ALL, "attention_multiplier", &["null"]),
    only(UNCAPPED, "query_pre_attn_scalar", &["null"]),
    only(ALL, "attention_chunk_size", ZERO),
    only(ALL, "attn_temperature_tuning", ZERO),
    only(ALL, "clip_qkv", ZERO),
    only(ALL, "use_qk_norm", OFF),
    only(ALL, "qk_layernorm", OFF),
    only(ALL, "qk_norm", OFF),
    only(ALL, "multi_query", OFF),
    only(ALL, "use_parallel_residual", OFF),
    only(ALL, "parallel_attn", OFF),
    only(ALL, "kv_lora_rank", ZERO),
    only(ALL, "cross_layer_kv_sharing", NONE),
    only(ALL, "num_kv_shared_layers", ZERO),
    // ---- positions
    only(ALL, "alibi", OFF),
    only(ALL, "rope_local_base_freq", &["null"]),
    only(ALL, "rotary_pct", ONE),
    only(ALL, "rope_interleaved", OFF),
    only(ALL, "mrope_section", NONE),
    only(ALL, "no_rope_layers", NONE),
    only(ALL, "no_rope_layer_interval", ZERO),
    // ---- scales of embeddings, residuals and logits
    only(UNCAPPED, "final_logit_softcapping", ZERO),
    only(ALL, "embedding_multiplier", ONE),
    only(ALL, "residual_multiplier", ONE),
    only(ALL, "logits_scaling", ONE),
    only(ALL, "logit_scale", ONE),
    only(ALL, "scale_emb", ONE),
    only(ALL, "scale_depth", ONE),
    only(ALL, "scale_embedding", OFF),
    // ---- experts
    only(ALL, "num_experts", ZERO),
    only(ALL, "num_local_experts", ZERO),
    only(ALL, "n_routed_experts", ZERO),
];

/// The verdict on a key of a family's config; `None` where the table has none.
pub(super) fn verdict(model_type: &str, key: &str) -> Option<Verdict> {
    SETTINGS.iter().find(|s| s.key == key && s.families.contains(&model_type)).map(|s| s.verdict)
}

/// The first key that asks for what is not carried out, with its value and the values that are.
pub(super) fn refused<'a>(model_type: &str, config: &'a Value) -> Option<(&'a str, &'a Value, &'static [&'static str])> {
    config.as_object()?.iter().find_map(|(key, value)| match verdict(model_type, key)? {
        Verdict::Only(values) if !values.iter().any(|v| same(v, value)) => Some((key.as_str(), value, values)),
        _ => None,
    })
}

/// Whether `value` is what `json` says; numbers by what they are worth.
fn same(json: &str, value: &Value) -> bool {
    match value {
        Value::Number(n) => json.parse::<f64>().ok() == n.as_f64(),
        other => format!("{other}") == json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of transformers' classes (5.24): of every config, then of each family.
    const FIELDS: [(&str, &str); 4] = [
        (
            "llama",
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act \
             max_position_embeddings initializer_range rms_norm_eps use_cache pad_token_id bos_token_id eos_token_id pretraining_tp \
             tie_word_embeddings rope_parameters attention_bias attention_dropout mlp_bias head_dim",
        ),
        (
            "qwen2",
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act \
             max_position_embeddings initializer_range rms_norm_eps use_cache tie_word_embeddings rope_parameters use_sliding_window \
             sliding_window max_window_layers layer_types attention_dropout pad_token_id bos_token_id eos_token_id",
        ),
        (
            "gemma2",
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim \
             hidden_activation max_position_embeddings initializer_range rms_norm_eps use_cache pad_token_id eos_token_id bos_token_id \
             tie_word_embeddings rope_parameters attention_bias attention_dropout query_pre_attn_scalar sliding_window layer_types \
             final_logit_softcapping attn_logit_softcapping use_bidirectional_attention",
        ),
        (
            "gpt2",
            "vocab_size n_positions n_embd n_layer n_head n_inner activation_function resid_pdrop embd_pdrop attn_pdrop \
             layer_norm_epsilon initializer_range summary_type summary_use_proj summary_activation summary_proj_to_labels \
             summary_first_dropout scale_attn_weights use_cache bos_token_id eos_token_id pad_token_id \
             scale_attn_by_inverse_layer_idx reorder_and_upcast_attn add_cross_attention tie_word_embeddings",
        ),
    ];
    const COMMON: &str = "transformers_version architectures output_hidden_states return_dict dtype chunk_size_feed_forward \
                          is_encoder_decoder id2label label2id problem_type per_layer_config";

    #[test]
    fn every_field_of_the_classes_has_one_verdict() {
        for (family, fields) in FIELDS {
            for key in fields.split_whitespace().chain(COMMON.split_whitespace()) {
                let found = SETTINGS.iter().filter(|s| s.key == key && s.families.contains(&family)).count();
                assert_eq!(found, 1, "{family}: {key}");
            }
        }
        for (i, s) in SETTINGS.iter().enumerate() {
            let twice = SETTINGS[i + 1..].iter().any(|o| o.key == s.key && o.families.iter().any(|f| s.families.contains(f)));
            assert!(!twice, "{} twice", s.key);
        }
    }

    #[test]
    fn numbers_are_compared_by_what_they_are_worth() {
        let config = serde_json::json!({"logit_scale": 1.0, "num_experts": 0.0, "pruned_heads": {}, "alibi": false});
        assert_eq!(refused("llama", &config), None);
        let config = serde_json::json!({"logit_scale": 2});
        assert_eq!(refused("gpt2", &config).map(|(key, ..)| key), Some("logit_scale"));
    }
}
