//! `adapter_config.json`: the fields that mean something here, from a recipe, and the file with every field that PEFT
//! 0.20 writes (`peft/tuners/lora/config.py`). Refuses to know how a file is read and which of its fields are refused.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::recipe;

/// PEFT's shorthand for every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// A list of names or one regular expression, as in PEFT's `target_modules` and `exclude_modules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Modules {
    /// A regular expression for the whole path, or `all-linear`.
    Pattern(String),
    /// Names or suffixes of paths.
    Names(Vec<String>),
}

impl Modules {
    /// Nothing is named.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Modules::Pattern(pattern) => pattern.is_empty(),
            Modules::Names(names) => names.is_empty(),
        }
    }
}

/// One number or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// PEFT's `LoraConfig`: the fields that mean something here. The rest is written with PEFT's defaults.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeftConfig {
    pub base_model_name_or_path: Option<String>,
    pub revision: Option<String>,
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub fan_in_fan_out: bool,
    pub target_modules: Option<Modules>,
    /// Names or suffixes of paths of parameters that are no module's weight: those of all experts together.
    pub target_parameters: Vec<String>,
    pub exclude_modules: Option<Modules>,
    pub layers_to_transform: Option<OneOrMany<usize>>,
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Pattern → rank, in the order of the file (the first match wins).
    pub rank_pattern: Map<String, Value>,
    /// Pattern → alpha, in the order of the file (the first match wins).
    pub alpha_pattern: Map<String, Value>,
    pub modules_to_save: Option<Vec<String>>,
    pub init_lora_weights: Option<Value>,
    /// What PEFT wraps the model for; causal where there is none.
    #[serde(skip)]
    pub task_type: Option<String>,
}

/// `task_type` of adapters of a base with an encoder, and of others.
pub const SEQ_2_SEQ: &str = "SEQ_2_SEQ_LM";
pub const CAUSAL: &str = "CAUSAL_LM";

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
            use_dora: recipe.dora,
            fan_in_fan_out: conv1d,
            target_modules: Some(modules(&recipe.targets)),
            target_parameters: once(&recipe.target_parameters),
            exclude_modules: recipe.exclude.as_ref().map(modules),
            layers_to_transform: recipe.layers.clone().map(OneOrMany::Many),
            layers_pattern: (!recipe.layers_pattern.is_empty()).then(|| OneOrMany::Many(recipe.layers_pattern.clone())),
            rank_pattern: pattern(recipe.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect()),
            alpha_pattern: pattern(recipe.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect()),
            modules_to_save: (!recipe.modules_to_save.is_empty()).then(|| once(&recipe.modules_to_save)),
            init_lora_weights: Some(match recipe.init {
                recipe::Init::Default => json!(true),
                recipe::Init::Gaussian => json!("gaussian"),
            }),
            task_type: None,
        }
    }

    /// The text of `adapter_config.json`, with the sites that were adapted spelled out when the recipe said `all-linear`
    /// (as PEFT does when it saves), and where `adapted` are whole paths, which names alone do not tell from those of other parts.
    pub fn to_json(&self, adapted: &[String]) -> String {
        let whole = adapted.iter().any(|name| name.contains('.'));
        let targets = match &self.target_modules {
            Some(Modules::Pattern(p)) if p == ALL_LINEAR => json!(adapted),
            Some(Modules::Names(_)) if whole => json!(adapted),
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
            ("target_parameters", if self.target_parameters.is_empty() { Value::Null } else { json!(self.target_parameters) }),
            ("task_type", json!(self.task_type.as_deref().unwrap_or(CAUSAL))),
            ("use_rslora", json!(self.use_rslora)),
            ("use_dora", json!(self.use_dora)),
        ];
        map.extend(own.into_iter().map(|(k, v)| (k.to_string(), v)));
        map.sort_keys();
        format!("{:#}\n", Value::Object(map))
    }
}

/// The names without repetitions, in their order.
pub(super) fn once(names: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for name in names {
        if !kept.contains(name) {
            kept.push(name.clone());
        }
    }
    kept
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
        "qalora_group_size": 16, "trainable_token_indices": null,
        "use_bdlora": null, "use_qalora": false, "velora_config": null
    });
    match fixed {
        Value::Object(map) => map,
        _ => unreachable!("the literal above is an object"),
    }
}
