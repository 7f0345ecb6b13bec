//! `adapter_config.json`: every field that PEFT 0.20 writes (`peft/tuners/lora/config.py`), and the refusal of settings
//! that change the mathematics in a way not implemented here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::recipe;

/// PEFT's shorthand for every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// A list of names or one regular expression, as in PEFT's `target_modules` and `exclude_modules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// A regular expression for the whole path, or `all-linear`.
    Pattern(String),
    /// Names or suffixes of paths.
    Names(Vec<String>),
}

/// One number or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    /// All of them.
    pub fn to_vec(&self) -> Vec<T> {
        match self {
            OneOrMany::One(x) => vec![x.clone()],
            OneOrMany::Many(v) => v.clone(),
        }
    }
}

/// PEFT's `LoraConfig`: the fields that mean something here. The rest is written with PEFT's defaults and must have a
/// harmless value when read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    #[serde(default)]
    pub revision: Option<String>,
    pub r: usize,
    pub lora_alpha: f64,
    #[serde(default)]
    pub lora_dropout: f64,
    #[serde(default)]
    pub use_rslora: bool,
    #[serde(default)]
    pub fan_in_fan_out: bool,
    pub target_modules: Option<Modules>,
    #[serde(default)]
    pub exclude_modules: Option<Modules>,
    #[serde(default)]
    pub layers_to_transform: Option<OneOrMany<usize>>,
    #[serde(default)]
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Pattern → rank, in the order of the file (the first match wins).
    #[serde(default)]
    pub rank_pattern: Map<String, Value>,
    /// Pattern → alpha, in the order of the file (the first match wins).
    #[serde(default)]
    pub alpha_pattern: Map<String, Value>,
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    pub init_lora_weights: Option<Value>,
}

/// Fields whose presence with another value means a method that is not implemented.
fn harmless(key: &str, value: &Value) -> bool {
    match key {
        "peft_type" => value == "LORA",
        "bias" => value == "none",
        "task_type" => value.is_null() || value == "CAUSAL_LM",
        "use_dora" | "use_qalora" | "lora_bias" | "use_bdlora" | "ensure_weight_tying" => value.is_null() || value == false,
        "trainable_token_indices" | "layer_replication" | "alora_invocation_tokens" | "target_parameters" | "arrow_config" => {
            value.is_null() || value.as_array().is_some_and(Vec::is_empty)
        }
        _ => true,
    }
}

impl PeftConfig {
    /// From a recipe; `base` is the Hub id that goes into the file (never a local path), `conv1d` the layout of the targets.
    pub fn from_recipe(recipe: &recipe::Adapter, base: Option<String>, conv1d: bool, attention: &[&str]) -> PeftConfig {
        let modules = |t: &recipe::TargetModules| match t {
            recipe::TargetModules::Attention => Modules::Names(attention.iter().map(ToString::to_string).collect()),
            recipe::TargetModules::Names(names) => Modules::Names(names.clone()),
            recipe::TargetModules::Regex(pattern) => Modules::Pattern(pattern.clone()),
            recipe::TargetModules::AllLinear => Modules::Pattern(ALL_LINEAR.to_string()),
        };
        let pattern = |p: Vec<(String, Value)>| p.into_iter().collect::<Map<_, _>>();
        PeftConfig {
            base_model_name_or_path: base,
            revision: None,
            r: recipe.rank,
            lora_alpha: recipe.alpha,
            lora_dropout: recipe.dropout,
            use_rslora: recipe.method == recipe::Method::RsLora,
            fan_in_fan_out: conv1d,
            target_modules: Some(modules(&recipe.targets)),
            exclude_modules: recipe.exclude.as_ref().map(modules),
            layers_to_transform: recipe.layers.clone().map(OneOrMany::Many),
            layers_pattern: (!recipe.layers_pattern.is_empty()).then(|| OneOrMany::Many(recipe.layers_pattern.clone())),
            rank_pattern: pattern(recipe.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect()),
            alpha_pattern: pattern(recipe.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect()),
            modules_to_save: (!recipe.modules_to_save.is_empty()).then(|| recipe.modules_to_save.clone()),
            init_lora_weights: Some(match recipe.init {
                recipe::Init::Default => json!(true),
                recipe::Init::Gaussian => json!("gaussian"),
            }),
        }
    }

    /// Parses `adapter_config.json`.
    ///
    /// # Errors
    /// [`Error::Adapter`] naming the field that is malformed or asks for a method that is not implemented.
    pub fn parse(text: &str, path: &Path) -> Result<PeftConfig> {
        let fail = |what: &str, why: String, help: &str| Error::adapter(path, what, why, help);
        let json: Value = serde_json::from_str(text)
            .map_err(|e| fail("adapter_config.json", format!("not JSON: {e}"), "restore the file, or save the adapter again"))?;
        let Some(map) = json.as_object() else {
            return Err(fail("adapter_config.json", "not a JSON object".into(), "restore the file, or save the adapter again"));
        };
        if let Some((key, value)) = map.iter().find(|(k, v)| !harmless(k, v)) {
            return Err(Error::unsupported(
                path,
                format!("adapter_config.json `{key}`"),
                format!("{value} is not supported"),
                "use a LoRA or rsLoRA adapter for a causal language model, without this setting",
            ));
        }
        let config: PeftConfig = serde_json::from_value(json.clone())
            .map_err(|e| fail("adapter_config.json", e.to_string(), "restore the field to what PEFT writes there"))?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let fail = |what: &str, why: String| Err(Error::adapter(path, what, why, "restore the field to what PEFT writes there"));
        let rank_ok = |v: &Value| v.as_u64().is_some_and(|r| (1..=65_536).contains(&r));
        let alpha_ok = |v: &Value| v.as_f64().is_some_and(|a| a.is_finite());
        if !rank_ok(&json!(self.r)) {
            return fail("`r`", format!("rank {} is not possible", self.r));
        }
        if !self.lora_alpha.is_finite() || !(0.0..1.0).contains(&self.lora_dropout) {
            return fail(
                "`lora_alpha`/`lora_dropout`",
                format!("{} and {} are not possible", self.lora_alpha, self.lora_dropout),
            );
        }
        if let Some((k, v)) = self.rank_pattern.iter().find(|(_, v)| !rank_ok(v)) {
            return fail("`rank_pattern`", format!("{k} = {v} is not a rank"));
        }
        if let Some((k, v)) = self.alpha_pattern.iter().find(|(_, v)| !alpha_ok(v)) {
            return fail("`alpha_pattern`", format!("{k} = {v} is not a number"));
        }
        if self.target_modules.is_none() {
            return fail("`target_modules`", "missing".into());
        }
        Ok(())
    }

    /// The text of `adapter_config.json`, with the sites that were adapted spelled out when the recipe said `all-linear`
    /// (as PEFT does when it saves).
    pub fn to_json(&self, all_linear: &[String]) -> String {
        let targets = match &self.target_modules {
            Some(Modules::Pattern(p)) if p == ALL_LINEAR => json!(all_linear),
            other => json!(other),
        };
        let mut map = defaults();
        let own = [
            ("base_model_name_or_path", json!(self.base_model_name_or_path)),
            ("exclude_modules", json!(self.exclude_modules)),
            ("fan_in_fan_out", json!(self.fan_in_fan_out)),
            ("init_lora_weights", self.init_lora_weights.clone().unwrap_or(json!(true))),
            ("layers_pattern", json!(self.layers_pattern)),
            ("layers_to_transform", json!(self.layers_to_transform)),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("alpha_pattern", Value::Object(self.alpha_pattern.clone())),
            ("modules_to_save", json!(self.modules_to_save)),
            ("r", json!(self.r)),
            ("rank_pattern", Value::Object(self.rank_pattern.clone())),
            ("revision", json!(self.revision)),
            ("target_modules", targets),
            ("use_rslora", json!(self.use_rslora)),
        ];
        map.extend(own.into_iter().map(|(k, v)| (k.to_string(), v)));
        map.sort_keys();
        format!("{:#}\n", Value::Object(map))
    }
}

/// Whole numbers as integers, as PEFT writes `lora_alpha`.
fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 1e15 { json!(v as i64) } else { json!(v) }
}

/// The fields that are the same in every file we write.
fn defaults() -> Map<String, Value> {
    let fixed = json!({
        "alora_invocation_tokens": null, "arrow_config": null, "auto_mapping": null, "bias": "none", "corda_config": null,
        "ensure_weight_tying": false, "eva_config": null, "inference_mode": true, "layer_replication": null,
        "loftq_config": {}, "lora_bias": false, "lora_ga_config": null, "megatron_config": null,
        "megatron_core": "megatron.core", "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.20.0",
        "qalora_group_size": 16, "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null,
        "use_bdlora": null, "use_dora": false, "use_qalora": false, "velora_config": null
    });
    match fixed {
        Value::Object(map) => map,
        _ => unreachable!("the literal above is an object"),
    }
}
