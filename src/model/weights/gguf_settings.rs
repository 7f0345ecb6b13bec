//! Keys `<architecture>.*` of a GGUF file that are not read for its family, and what becomes of each: one table.
//!
//! Names and defaults are llama.cpp's (`src/llama-arch.cpp`, `src/llama-model.cpp`, ggml's `docs/gguf.md`). A key that is in no
//! line and set is refused: llama.cpp gains keys that change what a model computes. Refuses to know: bytes of the container.

use super::gguf::MetadataValue;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Nothing that is computed here depends on it; the reason.
    Meaningless(&'static str),
    /// Would change the mathematics and is not carried out: any other number (a flag is 0 or 1) is refused.
    Only(f64),
    Refused,
}

/// Keys that some architecture does without, without its name.
pub(super) const SETTINGS: &[(&str, Verdict)] = &[
    ("vocab_size", Verdict::Meaningless("the embedding has as many rows as there are tokens")),
    ("tensor_data_layout", Verdict::Meaningless("a record of where the file came from")),
    ("pooling_type", Verdict::Meaningless("how sentences are embedded")),
    ("attention.layer_norm_epsilon", Verdict::Meaningless("the architecture has no such norm")),
    ("attention.layer_norm_rms_epsilon", Verdict::Meaningless("the architecture has no such norm")),
    ("rope.scaling.original_context_length", Verdict::Meaningless("only yarn and longrope need it")),
    ("rope.scaling.finetuned", Verdict::Meaningless("a record of how the model was trained")),
    ("rope.scaling.attn_factor", Verdict::Only(1.0)),
    ("rope.scaling.yarn_attn_factor", Verdict::Only(1.0)),
    ("rope.scaling.yarn_ext_factor", Verdict::Only(1.0)),
    ("rope.scaling.yarn_beta_fast", Verdict::Only(32.0)),
    ("rope.scaling.yarn_beta_slow", Verdict::Only(1.0)),
    ("rope.scaling.yarn_log_multiplier", Verdict::Only(0.0)),
    ("rope.freq_base_swa", Verdict::Refused),
    ("rope.freq_base", Verdict::Meaningless("learned positions do not turn")),
    ("rope.dimension_count", Verdict::Meaningless("learned positions do not turn")),
    ("attention.sliding_window_pattern", Verdict::Refused),
    ("attention.key_length_swa", Verdict::Refused),
    ("attention.value_length_swa", Verdict::Refused),
    ("rope.dimension_count_swa", Verdict::Refused),
    ("embedding_length_per_layer_input", Verdict::Only(0.0)),
    ("rope.dimension_sections", Verdict::Refused),
    ("attention.causal", Verdict::Only(1.0)),
    ("attention.scale", Verdict::Only(0.0)),
    ("attention.output_scale", Verdict::Only(0.0)),
    ("attention.clamp_kqv", Verdict::Only(0.0)),
    ("attention.max_alibi_bias", Verdict::Only(0.0)),
    ("attention.temperature_length", Verdict::Only(0.0)),
    ("attention.temperature_scale", Verdict::Only(0.0)),
    ("attention.q_lora_rank", Verdict::Only(0.0)),
    ("attention.kv_lora_rank", Verdict::Only(0.0)),
    ("attention.shared_kv_layers", Verdict::Only(0.0)),
    ("attn_logit_softcapping", Verdict::Only(0.0)),
    ("final_logit_softcapping", Verdict::Only(0.0)),
    ("logit_scale", Verdict::Only(0.0)),
    ("residual_scale", Verdict::Only(0.0)),
    ("embedding_scale", Verdict::Only(0.0)),
    ("use_parallel_residual", Verdict::Only(0.0)),
    ("expert_count", Verdict::Only(0.0)),
    ("expert_used_count", Verdict::Only(0.0)),
    ("expert_shared_count", Verdict::Only(0.0)),
    ("expert_feed_forward_length", Verdict::Only(0.0)),
    ("nextn_predict_layers", Verdict::Only(0.0)),
];

/// Why a key with this value that nobody has read is refused, if it is.
pub(super) fn refused(key: &str, value: &MetadataValue) -> Option<String> {
    let number = value.number().or_else(|| value.flag().map(|on| f64::from(u8::from(on))));
    match SETTINGS.iter().find(|(k, _)| *k == key).map(|(_, verdict)| *verdict) {
        Some(Verdict::Meaningless(_)) => None,
        Some(Verdict::Only(neutral)) if number == Some(neutral) => None,
        Some(_) if key.starts_with("expert_") => Some("experts are not supported for this architecture".into()),
        Some(_) => Some(format!("it changes what the model computes and is not supported, found {}", brief(value))),
        None => Some(format!("it is not known what it changes in the model, found {}", brief(value))),
    }
}

/// A value in a message.
fn brief(value: &MetadataValue) -> String {
    match (value.number(), value.text(), value.flag()) {
        (Some(number), ..) => number.to_string(),
        (_, Some(text), _) => format!("{:?}", text.chars().take(40).collect::<String>()),
        (.., Some(flag)) => flag.to_string(),
        _ => "a list".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_verdicts_and_neutral_values_pass() {
        for (i, (key, verdict)) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[i + 1..].iter().all(|(other, _)| other != key), "{key} twice");
            if let Verdict::Only(neutral) = verdict {
                assert_eq!(refused(key, &MetadataValue::F32(*neutral as f32)), None, "{key}");
                assert!(refused(key, &MetadataValue::F32(0.5)).is_some(), "{key}");
            }
        }
        assert_eq!(refused("attention.causal", &MetadataValue::Bool(true)), None);
        assert!(refused("attention.causal", &MetadataValue::Bool(false)).is_some());
        assert!(refused("some.new_key", &MetadataValue::Unsigned(0)).is_some_and(|why| why.contains("not known")));
    }
}
