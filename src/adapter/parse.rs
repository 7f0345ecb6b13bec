//! `adapter_config.json` read by PEFT's rules: null and absence mean PEFT's default, empty lists mean none, whole numbers
//! may be written as floats. Refuses to know the model.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{Modules, OneOrMany, PeftConfig, once};
use super::fields;
use crate::error::{Error, Result};

/// PEFT's rank and alpha where the file has none (`LoraConfig`).
const DEFAULT: usize = 8;
/// Largest rank that is possible.
const MAX_RANK: usize = 65_536;

/// Reads the file's text; the configuration and what is to be told about it. `dir` is named in errors; unknown fields in
/// `ignored` are passed over.
///
/// # Errors
/// [`Error::Adapter`] naming the field that is malformed, [`Error::Unsupported`] naming one that is not implemented.
pub(super) fn parse(text: &str, dir: &Path, ignored: &[String]) -> Result<(PeftConfig, Vec<String>)> {
    let fail = |why: String| Error::adapter(dir, "adapter_config.json", why, "restore the file, or save the adapter again");
    let json: Value = serde_json::from_str(text).map_err(|e| fail(format!("not JSON: {e}")))?;
    let Some(map) = json.as_object() else { return Err(fail("not a JSON object".into())) };
    let mut notes = fields::judge(map, dir, ignored)?;
    let fields = Fields { map, dir };
    let config = fields.config()?;
    if !map.contains_key("lora_alpha") {
        notes.push(format!("adapter_config.json has no `lora_alpha`: PEFT's {DEFAULT} is taken"));
    }
    if config.layers_pattern.is_some() && config.layers_to_transform.is_none() {
        notes.push("adapter_config.json `layers_pattern`: has no effect without `layers_to_transform`".into());
    }
    Ok((config, notes))
}

/// The fields of one file. Each reader gives `None` for null and absence.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    dir: &'a Path,
}

impl Fields<'_> {
    fn config(&self) -> Result<PeftConfig> {
        let target_modules = self.modules("target_modules")?;
        let target_parameters = self.names("target_parameters")?.unwrap_or_default();
        if target_modules.is_none() && target_parameters.is_empty() {
            return Err(self.bad("target_modules", "missing"));
        }
        Ok(PeftConfig {
            base_model_name_or_path: self.text("base_model_name_or_path")?,
            revision: self.text("revision")?,
            r: self.rank("r", self.map.get("r").unwrap_or(&json!(DEFAULT)))?,
            lora_alpha: self.alpha("lora_alpha", self.map.get("lora_alpha").unwrap_or(&json!(DEFAULT)))?,
            lora_dropout: self.dropout()?,
            use_rslora: self.flag("use_rslora")?,
            use_dora: self.flag("use_dora")?,
            fan_in_fan_out: self.flag("fan_in_fan_out")?,
            target_modules,
            target_parameters,
            exclude_modules: self.modules("exclude_modules")?.filter(|m| !m.is_empty()),
            layers_to_transform: self.layers()?,
            layers_pattern: self.names("layers_pattern")?.map(OneOrMany::Many),
            rank_pattern: self.patterns("rank_pattern", |key, v| self.rank(key, v).map(|r| json!(r)))?,
            alpha_pattern: self.patterns("alpha_pattern", |key, v| self.alpha(key, v).map(|_| v.clone()))?,
            modules_to_save: self.names("modules_to_save")?,
            init_lora_weights: self.get("init_lora_weights").cloned(),
            task_type: self.text("task_type")?,
        })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn bad(&self, key: &str, why: impl Into<String>) -> Error {
        Error::adapter(self.dir, format!("adapter_config.json `{key}`"), why, "restore the field to what PEFT writes there")
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.bad(key, format!("{other} is not a text"))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.bad(key, format!("{other} is neither true nor false"))),
        }
    }

    fn rank(&self, key: &str, value: &Value) -> Result<usize> {
        match whole(value) {
            Some(r) if (1..=MAX_RANK).contains(&r) => Ok(r),
            _ => Err(self.bad(key, format!("rank {value} is not possible"))),
        }
    }

    fn alpha(&self, key: &str, value: &Value) -> Result<f64> {
        let alpha = value.as_f64().filter(|a| a.is_finite());
        alpha.ok_or_else(|| self.bad(key, format!("{value} is not a number")))
    }

    fn dropout(&self) -> Result<f64> {
        let Some(value) = self.get("lora_dropout") else { return Ok(0.0) };
        let dropout = value.as_f64().filter(|p| (0.0..1.0).contains(p));
        dropout.ok_or_else(|| self.bad("lora_dropout", format!("{value} is no probability below 1")))
    }

    /// Names without repetitions, or one name as a list of one; an empty list is none.
    fn names(&self, key: &str) -> Result<Option<Vec<String>>> {
        let names = match self.modules(key)? {
            None => return Ok(None),
            Some(Modules::Pattern(name)) if name.is_empty() => Vec::new(),
            Some(Modules::Pattern(name)) => vec![name],
            Some(Modules::Names(names)) => names,
        };
        Ok((!names.is_empty()).then_some(names))
    }

    fn modules(&self, key: &str) -> Result<Option<Modules>> {
        let bad = |value: &Value| self.bad(key, format!("{value} is neither a text nor a list of texts"));
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Modules::Pattern(text.clone()))),
            Some(Value::Array(all)) => {
                let names = all.iter().map(|v| v.as_str().map(str::to_string).ok_or_else(|| bad(v)));
                Ok(Some(Modules::Names(once(&names.collect::<Result<Vec<_>>>()?))))
            }
            Some(other) => Err(bad(other)),
        }
    }

    fn layers(&self) -> Result<Option<OneOrMany<usize>>> {
        let key = "layers_to_transform";
        let layer = |v: &Value| whole(v).ok_or_else(|| self.bad(key, format!("{v} is no layer's number")));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(all)) if all.is_empty() => Ok(None),
            Some(Value::Array(all)) => Ok(Some(OneOrMany::Many(all.iter().map(layer).collect::<Result<_>>()?))),
            Some(one) => Ok(Some(OneOrMany::One(layer(one)?))),
        }
    }

    /// Pattern → value, in the order of the file.
    fn patterns(&self, key: &str, value: impl Fn(&str, &Value) -> Result<Value>) -> Result<Map<String, Value>> {
        match self.get(key) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => {
                map.iter().map(|(pattern, v)| Ok((pattern.clone(), value(&format!("{key}.{pattern}"), v)?))).collect()
            }
            Some(other) => Err(self.bad(key, format!("{other} is no object of patterns"))),
        }
    }
}

/// A whole number from 0 on, also one written as a float.
fn whole(value: &Value) -> Option<usize> {
    let float = || value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).map(|f| f as u64);
    value.as_u64().or_else(float).and_then(|n| usize::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: Value) -> Result<(PeftConfig, Vec<String>)> {
        let mut map = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
        let map = map.as_object_mut().unwrap();
        map.extend(changes.as_object().unwrap().clone());
        parse(&Value::Object(map.clone()).to_string(), Path::new("a"), &[])
    }

    #[test]
    fn null_and_empty_mean_nothing() {
        let plain = read(json!({})).unwrap();
        let nulls = json!({
            "lora_dropout": null, "use_rslora": null, "fan_in_fan_out": null, "exclude_modules": null, "revision": null,
            "layers_to_transform": null, "layers_pattern": null, "rank_pattern": null, "alpha_pattern": null,
            "modules_to_save": null, "init_lora_weights": null, "base_model_name_or_path": null, "task_type": null, "bias": null
        });
        let empty = json!({
            "exclude_modules": [], "layers_to_transform": [], "layers_pattern": [], "rank_pattern": {}, "alpha_pattern": {},
            "modules_to_save": [], "target_parameters": [], "loftq_config": {}
        });
        for changes in [nulls, empty, json!({"layers_pattern": "", "exclude_modules": ""})] {
            assert_eq!(read(changes.clone()).unwrap(), plain, "{changes}");
        }
    }

    #[test]
    fn numbers_and_lists_as_python_writes_them() {
        let (config, notes) = read(json!({
            "r": 8.0, "lora_alpha": 11.3137, "layers_to_transform": 1.0, "rank_pattern": {"b": 2.0, "a": 3},
            "alpha_pattern": {"z": 1, "a": 2.5}, "target_modules": ["v", "q", "v"], "modules_to_save": ["lm_head", "lm_head"],
            "layers_pattern": "model.layers", "target_parameters": ["b", "a", "b"]
        }))
        .unwrap();
        assert_eq!((config.r, config.lora_alpha, notes.len()), (8, 11.3137, 0));
        assert_eq!(config.layers_to_transform, Some(OneOrMany::One(1)));
        assert_eq!(config.layers_pattern, Some(OneOrMany::Many(vec!["model.layers".into()])));
        assert_eq!(Value::Object(config.rank_pattern).to_string(), r#"{"b":2,"a":3}"#);
        assert_eq!(Value::Object(config.alpha_pattern).to_string(), r#"{"z":1,"a":2.5}"#);
        assert_eq!(config.target_modules, Some(Modules::Names(vec!["v".into(), "q".into()])));
        assert_eq!(config.modules_to_save, Some(vec!["lm_head".into()]));
        assert_eq!(config.target_parameters, ["b", "a"]);
    }

    #[test]
    fn what_is_missing_is_pefts_default() {
        let (config, notes) = parse(r#"{"peft_type": "LORA", "target_modules": "all-linear"}"#, Path::new("a"), &[]).unwrap();
        assert_eq!((config.r, config.lora_alpha), (8, 8.0));
        assert!(matches!(&notes[..], [note] if note.contains("`lora_alpha`")), "{notes:?}");
        let (_, notes) = read(json!({"layers_pattern": "h"})).unwrap();
        assert!(matches!(&notes[..], [note] if note.contains("`layers_pattern`")), "{notes:?}");
    }

    #[test]
    fn a_malformed_field_is_named() {
        let wrong = json!({
            "r": 0, "lora_alpha": null, "lora_dropout": 1, "use_rslora": "yes", "use_dora": 1, "target_modules": 3, "exclude_modules": [1],
            "layers_to_transform": [-1], "layers_pattern": {}, "rank_pattern": {"q": 1.5}, "alpha_pattern": {"q": "2"},
            "modules_to_save": {"a": 1}, "target_parameters": [2], "base_model_name_or_path": 3
        });
        for (key, value) in wrong.as_object().unwrap() {
            let error = read(json!({key: value})).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(&format!("`{key}")), "{error}");
        }
    }
}
