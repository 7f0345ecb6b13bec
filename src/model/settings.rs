//! Keys of a `config.json` that the family's row does not read, and what becomes of each.
//!
//! Such a key is known to mean nothing to the computation, or it is set to what changes nothing, or it is an error. The keys are
//! fields of transformers' config classes (`configuration_utils.py` and `models/*/configuration_*.py`, 5.24), what published files
//! hold beside them, and settings of other families that, set here, say that the weights were made by other mathematics.
//! Refuses to know: what a key that is read means.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;

use super::config_reader::ConfigReader;
use super::family::Family;
use crate::error::{Error, Result};

const RECORD: &str = "a record of how the file was made";
const OUTPUT: &str = "what a call returns";
const CLASSIFIER: &str = "heads of classifiers, which a causal model has not";
const DROPOUT: &str = "dropout of the base's own training; training here drops only inputs of the adapter";
const START: &str = "weights before training";
const STORED: &str = "each tensor says its own type";
const TOKENS: &str = "read with the tokenizer";
const GENERATION: &str = "how answers were made; requests and recipes say so here";

/// Nothing that is computed depends on them; the reason.
pub(super) const MEANINGLESS: &[(&str, &str)] = &[
    ("model_type", "read before"),
    ("bos_token_id", TOKENS),
    ("eos_token_id", TOKENS),
    ("pad_token_id", TOKENS),
    ("unk_token_id", TOKENS),
    ("sep_token_id", TOKENS),
    ("cls_token_id", TOKENS),
    ("decoder_start_token_id", "only encoder-decoders begin with it"),
    ("is_decoder", "every model here is one"),
    ("transformers_version", RECORD),
    ("architectures", RECORD),
    ("name_or_path", RECORD),
    ("auto_map", RECORD),
    ("model_name", RECORD),
    ("unsloth_fixed", RECORD),
    ("unsloth_version", RECORD),
    ("transformers.js_config", RECORD),
    ("is_llama_config", RECORD),
    ("max_sequence_length", RECORD),
    ("gradient_checkpointing", "how the base was trained; `train.checkpoint` says so here"),
    ("attention_softmax_in_fp32", "attention is summed in f32 always"),
    ("scale_attention_softmax_in_fp32", "attention is summed in f32 always"),
    ("task_specific_params", GENERATION),
    ("max_length", GENERATION),
    ("min_length", GENERATION),
    ("do_sample", GENERATION),
    ("temperature", GENERATION),
    ("top_k", GENERATION),
    ("top_p", GENERATION),
    ("typical_p", GENERATION),
    ("num_beams", GENERATION),
    ("num_beam_groups", GENERATION),
    ("num_return_sequences", GENERATION),
    ("repetition_penalty", GENERATION),
    ("length_penalty", GENERATION),
    ("diversity_penalty", GENERATION),
    ("early_stopping", GENERATION),
    ("no_repeat_ngram_size", GENERATION),
    ("encoder_no_repeat_ngram_size", GENERATION),
    ("bad_words_ids", GENERATION),
    ("begin_suppress_tokens", GENERATION),
    ("suppress_tokens", GENERATION),
    ("exponential_decay_length_penalty", GENERATION),
    ("forced_bos_token_id", GENERATION),
    ("forced_eos_token_id", GENERATION),
    ("remove_invalid_values", GENERATION),
    ("prefix", GENERATION),
    ("output_scores", OUTPUT),
    ("output_attentions", OUTPUT),
    ("output_hidden_states", OUTPUT),
    ("return_dict", OUTPUT),
    ("return_dict_in_generate", OUTPUT),
    ("use_cache", OUTPUT),
    ("cache_implementation", "how keys and values are kept"),
    ("dtype", STORED),
    ("torch_dtype", STORED),
    ("torchscript", RECORD),
    ("tf_legacy_loss", RECORD),
    ("use_bfloat16", STORED),
    ("attn_implementation", "how attention is computed"),
    ("chunk_size_feed_forward", "the same sums in pieces"),
    ("pretraining_tp", "the same sums in pieces"),
    ("id2label", CLASSIFIER),
    ("label2id", CLASSIFIER),
    ("num_labels", CLASSIFIER),
    ("problem_type", CLASSIFIER),
    ("finetuning_task", CLASSIFIER),
    ("tokenizer_class", TOKENS),
    ("summary_type", CLASSIFIER),
    ("summary_use_proj", CLASSIFIER),
    ("summary_activation", CLASSIFIER),
    ("summary_proj_to_labels", CLASSIFIER),
    ("summary_first_dropout", CLASSIFIER),
    ("initializer_range", START),
    ("initializer_factor", START),
    ("attention_dropout", DROPOUT),
    ("hidden_dropout", DROPOUT),
    ("residual_dropout", DROPOUT),
    ("embedding_dropout", DROPOUT),
    ("resid_pdrop", DROPOUT),
    ("embd_pdrop", DROPOUT),
    ("attn_pdrop", DROPOUT),
    ("resid_dropout", DROPOUT),
    ("embd_dropout", DROPOUT),
    ("attn_dropout", DROPOUT),
];

const OFF: &[&str] = &["null", "false"];
const ZERO: &[&str] = &["null", "false", "0"];
const ONE: &[&str] = &["null", "1"];
const NONE: &[&str] = &["null", "false", "0", "[]", "{}"];

/// Would change the mathematics and are not carried out where a family does not read them: any value but these (as JSON) is refused.
pub(super) const NEUTRAL: &[(&str, &[&str])] = &[
    ("is_encoder_decoder", OFF),
    ("add_cross_attention", OFF),
    ("cross_attention_hidden_size", &["null"]),
    ("tie_encoder_decoder", OFF),
    ("per_layer_config", NONE),
    ("enable_moe_block", OFF),
    ("pruned_heads", NONE),
    ("quantization_config", NONE),
    ("compression_config", NONE),
    // ---- attention
    ("sliding_window", OFF),
    ("use_sliding_window", OFF),
    ("attention_bias", OFF),
    ("mlp_bias", OFF),
    ("attn_logit_softcapping", ZERO),
    ("attention_multiplier", &["null"]),
    ("query_pre_attn_scalar", &["null"]),
    ("attention_chunk_size", ZERO),
    ("attn_temperature_tuning", ZERO),
    ("clip_qkv", ZERO),
    ("use_qk_norm", OFF),
    ("qk_layernorm", OFF),
    ("qk_norm", OFF),
    ("multi_query", OFF),
    ("use_parallel_residual", OFF),
    ("parallel_attn", OFF),
    ("kv_lora_rank", ZERO),
    ("cross_layer_kv_sharing", NONE),
    ("num_kv_shared_layers", ZERO),
    ("use_bidirectional_attention", &["null", "false", "\"vision\""]),
    // ---- positions
    ("alibi", OFF),
    ("rope_local_base_freq", &["null"]),
    ("partial_rotary_factor", ONE),
    ("rotary_pct", ONE),
    ("rope_interleaved", OFF),
    ("mrope_section", NONE),
    ("use_mrope", OFF),
    ("full_attn_mod", ONE),
    ("interpolate_factor", ONE),
    ("no_rope_layers", NONE),
    ("no_rope_layer_interval", ZERO),
    // ---- scales of embeddings, residuals and logits
    ("final_logit_softcapping", ZERO),
    ("embedding_multiplier", ONE),
    ("residual_multiplier", ONE),
    ("logits_scaling", ONE),
    ("logit_scale", ONE),
    ("scale_emb", ONE),
    ("scale_depth", ONE),
    ("scale_embedding", OFF),
    ("lm_head_bias", OFF),
    // ---- experts
    ("num_experts", ZERO),
    ("num_local_experts", ZERO),
    ("n_routed_experts", ZERO),
    ("router_jitter_noise", ZERO),
];

/// Unknown keys that are left out of account at the user's risk, and which of them were met.
pub(super) struct Ignored<'a> {
    /// As paths: `key`, `table.key`.
    keys: &'a [String],
    /// Path → value.
    met: RefCell<BTreeMap<String, String>>,
}

impl<'a> Ignored<'a> {
    pub(super) fn new(keys: &'a [String]) -> Ignored<'a> {
        Ignored { keys, met: RefCell::default() }
    }

    /// Whether the unknown key at `path` is among them; it is remembered.
    fn passes(&self, path: &str, value: &Value) -> bool {
        let found = self.keys.iter().any(|key| key == path);
        if found {
            self.met.borrow_mut().insert(path.to_string(), value.to_string());
        }
        found
    }

    /// What is to be told of them, after all of a `config.json` was read by `r`; sentences.
    ///
    /// # Errors
    /// [`Error::Model`] naming one that is there and known.
    pub(super) fn notes(&self, r: &ConfigReader) -> Result<Vec<String>> {
        let there = |key: &str| r.json.get(key).or_else(|| key.split('.').try_fold(r.json, |table, part| table.get(part)));
        let note = |key: &String| match self.met.borrow().get(key) {
            Some(value) => {
                Ok(format!("config.json `{key}`: {value} is ignored at your own risk; what it changes is not computed"))
            }
            None if there(key).is_none() => Ok(format!("config.json has no key `{key}` that could be ignored")),
            None => {
                let help = "take it out of --ignore-config (`ignore_config` in a recipe's `[base]`)";
                Err(r.fail(key, "is a known key and cannot be ignored", help))
            }
        };
        let once = self.keys.iter().enumerate().filter(|(i, key)| !self.keys[..*i].contains(key));
        once.map(|(_, key)| note(key)).collect()
    }
}

/// Refuses the first key that the row has not read and that may change what the model computes; `ignored` are at the user's risk.
///
/// # Errors
/// [`Error::Unsupported`] naming the key and what to do.
pub(super) fn refuse_unread(r: &ConfigReader, family: &Family, ignored: &Ignored) -> Result<()> {
    for (key, value) in r.unread() {
        let path = format!("{}{key}", r.prefix);
        let passes =
            key.starts_with('_') || family.meaningless.contains(&key) || MEANINGLESS.iter().any(|(known, _)| *known == key);
        if passes {
            continue;
        }
        let what = format!("config `{path}`");
        match NEUTRAL.iter().find(|(known, _)| *known == key) {
            Some((_, values)) if values.iter().any(|v| same(v, value)) => {}
            Some((_, values)) => {
                return Err(Error::unsupported(
                    r.path,
                    what,
                    format!("{value} would change what the model computes and is not supported for {}", family.model_type),
                    format!("use a model where it is one of: {}", values.join(", ")),
                ));
            }
            None if ignored.passes(&path, value) || value.is_null() => {}
            None => {
                return Err(Error::unsupported(
                    r.path,
                    what,
                    format!("it is not known what {value} changes in a model of {}", family.model_type),
                    format!(
                        "use a model without it, or leave it out of account at your own risk: `--ignore-config {path}` \
                         (`ignore_config = [\"{path}\"]` in a recipe's `[base]`)"
                    ),
                ));
            }
        }
    }
    Ok(())
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

    #[test]
    fn no_key_has_two_verdicts() {
        let all: Vec<&str> = MEANINGLESS.iter().map(|(key, _)| *key).chain(NEUTRAL.iter().map(|(key, _)| *key)).collect();
        for (i, key) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(key), "{key} twice");
        }
    }

    #[test]
    fn numbers_are_compared_by_what_they_are_worth() {
        for (json, value) in [("1", serde_json::json!(1.0)), ("0", serde_json::json!(0)), ("{}", serde_json::json!({}))] {
            assert!(same(json, &value), "{json}");
        }
        assert!(!same("1", &serde_json::json!(2)) && !same("null", &serde_json::json!(false)));
    }
}
