//! Every field that `adapter_config.json` may have, and what becomes of it here: PEFT 0.21's `LoraConfig` with its base
//! classes (`peft/tuners/lora/config.py`, `peft/config.py`), and the fields that other writers add.
//!
//! A setting that changes what an adapter computes is carried out or refused by name. Refuses to know the values of the
//! fields that are carried out: `parse` reads them.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result, nearest};

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Read and carried out; `parse` judges the value.
    Honoured,
    /// It does not change what a saved adapter computes, whatever it holds.
    Meaningless,
    /// `init_lora_weights`: some ways to start change the base as well.
    Start,
    /// Not implemented: it may say that the method is not used, and no more.
    Only(Neutral),
}

/// The values that leave a method out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Neutral {
    /// The word for plain LoRA.
    Lora,
    /// `"none"` or null.
    NoBias,
    /// False or null.
    Off,
    /// Null, or an empty list or object.
    Empty,
    /// Null or false. PEFT takes an empty object for its defaults, with the method switched on.
    Unset,
}

use Neutral::{Empty, Lora, NoBias, Off, Unset};
use Verdict::{Honoured, Meaningless, Only, Start};

/// Field → verdict. The first part is PEFT 0.21.2, in its order.
const FIELDS: &[(&str, Verdict)] = &[
    // The class of head that PEFT wraps the model in. Causal adapters in use say SEQ_2_SEQ_LM; of a base with an encoder it is told
    // (`peft`). Tensors of another head are refused as tensors.
    ("task_type", Honoured),
    ("peft_type", Only(Lora)),
    // Which class the base has; the base says that itself.
    ("auto_mapping", Meaningless),
    ("peft_version", Meaningless),
    ("base_model_name_or_path", Honoured),
    ("revision", Honoured),
    ("inference_mode", Meaningless),
    ("r", Honoured),
    ("target_modules", Honoured),
    ("exclude_modules", Honoured),
    ("lora_alpha", Honoured),
    ("lora_dropout", Honoured),
    // PEFT sets it from the layer's class.
    ("fan_in_fan_out", Honoured),
    ("bias", Only(NoBias)),
    ("use_rslora", Honoured),
    ("modules_to_save", Honoured),
    ("init_lora_weights", Start),
    ("layers_to_transform", Honoured),
    ("layers_pattern", Honoured),
    ("rank_pattern", Honoured),
    ("alpha_pattern", Honoured),
    // Where and by what layers are split over devices.
    ("megatron_config", Meaningless),
    ("megatron_core", Meaningless),
    ("trainable_token_indices", Only(Empty)),
    // Settings of a way to start: without meaning unless `init_lora_weights` names it, and then that is judged.
    ("loftq_config", Meaningless),
    ("eva_config", Meaningless),
    ("corda_config", Meaningless),
    ("lora_ga_config", Meaningless),
    ("use_dora", Honoured),
    ("velora_config", Only(Unset)),
    ("alora_invocation_tokens", Only(Empty)),
    ("use_qalora", Only(Off)),
    // Read by QA-LoRA only.
    ("qalora_group_size", Meaningless),
    ("monteclora_config", Only(Unset)),
    ("layer_replication", Only(Empty)),
    // Where tensors lie while PEFT works.
    ("runtime_config", Meaningless),
    ("lora_bias", Only(Off)),
    ("target_parameters", Honoured),
    ("use_bdlora", Only(Unset)),
    ("arrow_config", Only(Unset)),
    ("kasa_config", Only(Unset)),
    ("ensure_weight_tying", Only(Off)),
    // PEFT 0.2: whether the weights of a layer were merged in evaluation; which of its fused parts are adapted.
    ("merge_weights", Meaningless),
    ("enable_lora", Only(Empty)),
    // ms-swift: the type of the matrices in training, learning rates, and methods of its own.
    ("lora_dtype", Meaningless),
    ("lorap_lr_ratio", Meaningless),
    ("lorap_emb_lr", Meaningless),
    ("use_qa_lora", Only(Off)),
    ("use_merged_linear", Only(Off)),
];

/// Ways to start that leave the base as it is: what was trained is all in the file.
const BASE_KEPT: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];
/// Ways to start that take something out of the base's weights, which the file does not hold.
const BASE_CHANGED: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Judges every field of the file; gives what is to be told of those that are passed over. Of the fields that nobody here
/// knows, those in `ignored` are passed over whatever they hold.
///
/// # Errors
/// [`Error::Unsupported`] naming a field that asks for what is not implemented, or that nobody here knows.
pub(super) fn judge(map: &Map<String, Value>, dir: &Path, ignored: &[String]) -> Result<Vec<String>> {
    if let Some(known) = ignored.iter().find(|key| FIELDS.iter().any(|(name, _)| name == key)) {
        return Err(refused(dir, known, "is a known field and cannot be ignored".into(), "take it out of --ignore-field"));
    }
    let absent = ignored.iter().filter(|key| !map.contains_key(*key));
    let mut notes: Vec<String> =
        absent.map(|key| format!("adapter_config.json has no field `{key}` that could be ignored")).collect();
    for (key, value) in map {
        match FIELDS.iter().find(|(name, _)| name == key).map(|(_, verdict)| *verdict) {
            Some(Honoured | Meaningless) => {}
            Some(Start) => start(value, dir)?,
            Some(Only(neutral)) if neutral.allows(value) => {}
            Some(Only(_)) => {
                let help = "use a LoRA or rsLoRA adapter for a causal language model, without this setting";
                return Err(refused(dir, key, format!("{} is not supported", short(value)), help));
            }
            None if says_nothing(value) => {}
            None if passed_over(map, value) => notes.push(format!(
                "adapter_config.json `{key}`: no field of LoRA in PEFT up to 0.21; {} is passed over, as PEFT does",
                short(value)
            )),
            None if ignored.contains(key) => notes.push(format!(
                "adapter_config.json `{key}`: {} is ignored at your own risk; what it changes is not computed",
                short(value)
            )),
            None => return Err(unknown(dir, key, value)),
        }
    }
    Ok(notes)
}

impl Neutral {
    fn allows(self, value: &Value) -> bool {
        let off = value.is_null() || value == false;
        match self {
            Lora => value == "LORA",
            NoBias => value.is_null() || value == "none",
            Off | Unset => off,
            Empty => off || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty),
        }
    }
}

/// Nothing is asked for: null, false, empty, or only such values inside.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.iter().all(says_nothing),
        Value::Object(all) => all.values().all(says_nothing),
        _ => false,
    }
}

/// PEFT has written its version since 0.18. A file without one is older or written by hand; what such a PEFT could act on
/// stands in the table, so that a field beside it had no effect. A switch that is on is not trusted to that.
fn passed_over(map: &Map<String, Value>, value: &Value) -> bool {
    map.get("peft_version").is_none_or(Value::is_null) && value != true
}

fn start(value: &Value, dir: &Path) -> Result<()> {
    let name = match value {
        Value::Null | Value::Bool(_) => return Ok(()),
        Value::String(name) => name.to_lowercase(),
        other => return Err(refused(dir, "init_lora_weights", format!("{} is no way to start", short(other)), "write true")),
    };
    if BASE_KEPT.contains(&name.as_str()) {
        return Ok(());
    }
    let Some(method) = BASE_CHANGED.iter().find(|m| name.starts_with(**m)) else {
        let help = "whether it changes the base is not known; where it does not, write `\"init_lora_weights\": true`";
        return Err(refused(dir, "init_lora_weights", format!("{} is not known", short(value)), help));
    };
    let why = format!("{} changes the base's own weights at the start, and the file does not hold them", short(value));
    let help = match *method {
        "loftq" => {
            "PEFT cannot convert it: merge it in PEFT (`model.merge_and_unload()`, then `save_pretrained`) and use the result as base"
        }
        _ => {
            "convert it to plain LoRA in PEFT: `model.save_pretrained(OUT, path_initial_model_for_weight_conversion=START)`, \
             where START is the adapter as it was saved before training, with its `init_lora_weights` set to true"
        }
    };
    Err(refused(dir, "init_lora_weights", why, help))
}

fn unknown(dir: &Path, key: &str, value: &Value) -> Error {
    let near = nearest(key, FIELDS.iter().map(|(name, _)| *name)).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    let help = format!("{near}if you know that it does not change what the adapter computes: --ignore-field {key}");
    refused(dir, key, format!("is no field of PEFT's LoRA up to 0.21, and it is set: {}", short(value)), help)
}

fn refused(dir: &Path, key: &str, why: String, help: impl Into<String>) -> Error {
    Error::unsupported(dir, format!("adapter_config.json `{key}`"), why, help)
}

/// A value as JSON, cut where it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(59).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(fields: Value) -> Result<Vec<String>> {
        let mut map = fields.as_object().unwrap().clone();
        map.entry("peft_version").or_insert(json!("0.21.2"));
        judge(&map, Path::new("a"), &[])
    }

    #[test]
    fn an_unknown_field_can_be_ignored_and_is_told() {
        let map = json!({"new_method": {"k": 1}, "other": 2, "peft_version": "0.30.0", "use_qalora": true});
        let with = |without: &str, ignored: &[&str]| {
            let mut map = map.as_object().unwrap().clone();
            map.remove(without);
            judge(&map, Path::new("a"), &ignored.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let notes = with("use_qalora", &["new_method", "other", "absent"]).unwrap();
        assert!(notes.len() == 3 && notes[0].contains("`absent`") && notes[1].contains("{\"k\":1}"), "{notes:?}");
        assert!(notes[1..].iter().all(|note| note.contains("at your own risk")), "{notes:?}");
        let error = with("use_qalora", &["other"]).unwrap_err().to_string();
        assert!(error.contains("--ignore-field new_method"), "{error}");
        for ignored in [&["new_method", "other"][..], &["new_method", "other", "use_qalora"]] {
            assert!(with("", ignored).unwrap_err().to_string().contains("`use_qalora`"));
        }
    }

    #[test]
    fn every_field_has_one_verdict() {
        let mut names: Vec<_> = FIELDS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), FIELDS.len()), (49, 49));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        let set = json!({
            "peft_type": "LOHA", "bias": "all", "trainable_token_indices": [1], "velora_config": {},
            "alora_invocation_tokens": [1, 2], "use_qalora": true, "monteclora_config": {"num_samples": 2},
            "layer_replication": [[0, 2]], "lora_bias": true, "use_bdlora": {},
            "arrow_config": {"top_k": 2}, "kasa_config": {}, "ensure_weight_tying": true, "enable_lora": [true, false],
            "use_merged_linear": true, "some_method": true, "other_method": {"k": 1}, "third": 0.5
        });
        for (key, value) in set.as_object().unwrap() {
            let error = judged(json!({key: value})).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(&format!("`{key}`")), "{error}");
        }
        let neutral = json!({
            "peft_type": "LORA", "bias": "none", "trainable_token_indices": null, "use_bdlora": null,
            "layer_replication": [], "kasa_config": null, "some_method": false, "other": {"k": null, "l": []}, "third": ""
        });
        assert!(judged(neutral).unwrap().is_empty());
    }

    #[test]
    fn a_start_that_changes_the_base_is_refused() {
        for name in ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga"] {
            let error = judged(json!({"init_lora_weights": name})).unwrap_err().to_string();
            let way = if name == "loftq" { "merge_and_unload" } else { "path_initial_model_for_weight_conversion" };
            assert!(error.contains("`init_lora_weights`") && error.contains(name) && error.contains(way), "{error}");
        }
        for value in [json!(true), json!(false), Value::Null, json!("gaussian"), json!("eva"), json!("orthogonal"), json!("mica")]
        {
            assert!(judged(json!({"init_lora_weights": value})).unwrap().is_empty());
        }
        assert!(judged(json!({"init_lora_weights": "tomorrow"})).is_err());
    }

    #[test]
    fn an_unknown_field_is_passed_over_only_where_no_peft_could_act_on_it() {
        let options = json!({"some_future_option": {"a": 1}, "peft_version": null});
        let notes = judged(options).unwrap();
        assert!(matches!(&notes[..], [note] if note.contains("`some_future_option`") && note.contains("{\"a\":1}")), "{notes:?}");
        assert!(judged(json!({"some_future_option": {"a": 1}, "peft_version": "0.30.0"})).is_err());
        assert!(judged(json!({"use_future_method": true, "peft_version": null})).is_err());
        let error = judged(json!({"lora_alfa": 4})).unwrap_err().to_string();
        assert!(error.contains("did you mean `lora_alpha`?"), "{error}");
    }
}
