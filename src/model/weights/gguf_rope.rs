//! Rotations of a GGUF model, in the spelling of `config.json`. Refuses to know: frequencies (`rope_parameters`).

use serde_json::{Map, Value as Json, json};

use super::gguf::{MetadataValue, Tensor};
use super::gguf_metadata::Metadata;
use super::rope_scaling::{Factors, explain};
use crate::error::{Error, Result};
use crate::kernels::weight::decode;

/// Frequency divisors; not weights.
const DIVISORS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

impl Metadata<'_> {
    /// Whether a tensor belongs to the rotations.
    pub(super) fn is_of_rope(&self, name: &str) -> bool {
        name == DIVISORS || self.architecture.longrope && [LONG, SHORT].contains(&name)
    }

    /// Adds the rotations: one table where the family has one rotation, else one for each kind of layer.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key or tensor that is wrong or not supported.
    pub(super) fn add_rope(&self, config: &mut Map<String, Json>) -> Result<()> {
        let (family, rotation) = (self.family, &self.family.rotation);
        if family.positions.is_some() {
            return Ok(());
        }
        if self.architecture.finetuned_turns && self.optional_flag("rope.scaling.finetuned")? == Some(false) {
            return Err(self.fail("rope.scaling.finetuned", "false means no rotary positions here, which is not supported"));
        }
        let theta = self.optional_number("rope.freq_base")?.unwrap_or(10_000.0);
        if self.is_by_kind() {
            return self.add_rope_of_kinds(config, theta);
        }
        let part = self.turning_part()?;
        let scaling = self.scaling(theta)?;
        if rotation.windowed.is_some() {
            let mut full = scaling.as_object().cloned().unwrap_or_default();
            full.entry("rope_type").or_insert_with(|| json!("default"));
            return self.put_two(config, full, theta);
        }
        if rotation.table.is_some() && scaling.is_null() {
            // Where nothing is said the class has a table of its own.
            return Err(self.fail("rope.scaling.type", "only yarn is supported for this architecture"));
        }
        if self.architecture.sections {
            let mut table = scaling.as_object().cloned().unwrap_or_default();
            table.entry("rope_type").or_insert_with(|| json!("default"));
            table.insert("rope_theta".into(), json!(theta));
            table.extend(part.map(|part| (rotation.part_key.to_string(), json!(part))));
            self.put_sections(&mut table)?;
            config.insert("rope_parameters".into(), Json::Object(table));
            return Ok(());
        }
        config.insert(rotation.theta_key.into(), json!(theta));
        if let Some(part) = part {
            config.insert(rotation.part_key.into(), json!(part));
        }
        if let Some(original) = scaling.get("original_max_position_embeddings").filter(|_| rotation.longrope.is_some()) {
            config.insert("original_max_position_embeddings".into(), original.clone());
        }
        config.insert("rope_scaling".into(), scaling);
        Ok(())
    }

    /// A rotation of layers that see everything, and one of layers with a window.
    fn put_two(&self, config: &mut Map<String, Json>, mut full: Map<String, Json>, theta: f64) -> Result<()> {
        full.insert("rope_theta".into(), json!(theta));
        let window = json!({ "rope_type": "default", "rope_theta": self.window_theta(theta)? });
        config.insert("rope_parameters".into(), json!({ "full_attention": full, "sliding_attention": window }));
        Ok(())
    }

    /// The same where kinds of layers differ in their heads.
    fn add_rope_of_kinds(&self, config: &mut Map<String, Json>, theta: f64) -> Result<()> {
        if self.named_scaling()? != Json::Null {
            return Err(self.fail("rope.scaling.type", "scaling is not supported for this architecture"));
        }
        self.put_two(config, self.proportional()?, theta)
    }

    /// Which pairs turn by which of the axes of a picture's positions: of no meaning for a text, but that each must turn by one of them
    /// (`ggml_mrope_cache_init` with `is_imrope`).
    fn put_sections(&self, table: &mut Map<String, Json>) -> Result<()> {
        let key = "rope.dimension_sections";
        let Some(value) = self.get(key) else { return Ok(()) };
        let list: Option<Vec<usize>> = value.array().and_then(|list| {
            list.iter().map(|n| n.count().filter(|n| *n < 1 << 31).and_then(|n| usize::try_from(n).ok())).collect()
        });
        let list = list.filter(|list| [3, 4].contains(&list.len()) && list.iter().any(|n| *n > 0));
        let list = list.ok_or_else(|| self.fail(key, "it is no list of three or four numbers"))?;
        let all: usize = list.iter().sum();
        let pairs = self.optional_size("rope.dimension_count")?.map_or_else(|| self.head_dim(), Ok)? / 2;
        let still = (0..pairs).map(|pair| pair % all).find(|at| *at >= 3 * list[at % 3]);
        if let Some(pair) = still {
            return Err(self.fail(key, format!("{list:?} leaves pair {pair} without an axis: it would not turn")));
        }
        table.insert("mrope_section".into(), json!(list[..3]));
        table.insert("mrope_interleaved".into(), json!(true));
        Ok(())
    }

    /// The part of each head that turns, where the family has such a setting.
    fn turning_part(&self) -> Result<Option<f64>> {
        let (key, head_dim) = ("rope.dimension_count", self.head_dim()?);
        let turning = self.optional_size(key)?.unwrap_or(head_dim);
        match self.family.rotation.part {
            None if turning == head_dim => Ok(None),
            Some(_) if turning <= head_dim => {
                let part = turning as f64 / head_dim as f64;
                // Whoever reads it multiplies and cuts the fraction off.
                Ok(Some(if (head_dim as f64 * part) as usize == turning { part } else { part.next_up() }))
            }
            _ => Err(self.fail(key, format!("rotating {turning} of {head_dim} dimensions is not supported"))),
        }
    }

    /// Base of the rotation of layers with a window.
    fn window_theta(&self, theta: f64) -> Result<f64> {
        let key = "rope.freq_base_swa";
        match (self.optional_number(key)?, self.architecture.window_theta) {
            (None, usual) => Ok(usual.unwrap_or(theta)),
            (Some(local), Some(_)) => Ok(local),
            (Some(local), None) if local == theta => Ok(theta),
            (Some(local), None) => Err(self.fail(key, format!("{local} beside `rope.freq_base` {theta} is not supported"))),
        }
    }

    /// `rope_scaling`; null without.
    fn scaling(&self, theta: f64) -> Result<Json> {
        if let (true, Some(short)) = (self.architecture.longrope, self.tensor(SHORT)) {
            return self.longrope(short);
        }
        let named = self.named_scaling()?;
        match self.tensor(DIVISORS) {
            None => Ok(named),
            Some(_) if named != Json::Null => {
                Err(self.fail("rope.scaling.factor", format!("scaling beside tensor `{DIVISORS}` is not supported")))
            }
            Some(divisors) => self.llama3_scaling(divisors, theta),
        }
    }

    fn llama3_scaling(&self, tensor: &Tensor, theta: f64) -> Result<Json> {
        match explain(&self.factors(tensor)?, theta) {
            Factors::Plain => Ok(Json::Null),
            Factors::Llama3(rule) => Ok(json!({
                "rope_type": "llama3",
                "factor": rule.factor,
                "low_freq_factor": rule.low,
                "high_freq_factor": rule.high,
                "original_max_position_embeddings": rule.original as u64,
            })),
            Factors::Other => {
                Err(self.wrong_factors(tensor, "these frequency factors are not Llama 3's rope scaling; no other is supported"))
            }
        }
    }

    /// One plain number for each pair of elements that turns.
    fn factors(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let pairs = self.optional_size("rope.dimension_count")?.map_or_else(|| self.head_dim(), Ok)? / 2;
        if tensor.shape != [pairs] || tensor.dtype.block() != 1 {
            return Err(self.wrong_factors(tensor, &format!("it must hold {pairs} plain numbers")));
        }
        let mut factors = vec![0f32; pairs];
        decode(tensor.dtype, tensor.data.bytes(), &mut factors);
        Ok(factors)
    }

    fn wrong_factors(&self, tensor: &Tensor, why: &str) -> Error {
        let what = format!("tensor `{}`", tensor.name);
        Error::model(&self.gguf.path, what, why, "use the Hugging Face directory of this model")
    }

    /// Phi 3's: factors of the length before scaling and of longer texts, and what cosines and sines are multiplied with.
    fn longrope(&self, short: &Tensor) -> Result<Json> {
        let long = self.tensor(LONG).ok_or_else(|| self.wrong_factors(short, &format!("`{LONG}` is not there beside it")))?;
        let shortest = |factors: Vec<f32>| factors.iter().map(|x| x.to_string().parse().unwrap_or(1.0)).collect::<Vec<f64>>();
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), json!("longrope"));
        scaling.insert("short_factor".into(), json!(shortest(self.factors(short)?)));
        scaling.insert("long_factor".into(), json!(shortest(self.factors(long)?)));
        scaling.insert("attention_factor".into(), json!(self.set_number("rope.scaling.attn_factor")?.unwrap_or(1.0)));
        scaling.insert("original_max_position_embeddings".into(), json!(self.original()?));
        if let Some(kind) = self.get("rope.scaling.type").filter(|kind| kind.text() != Some("longrope")) {
            let why = format!("{} beside tensor `{SHORT}` is not supported", kind.text().unwrap_or("what is no text"));
            return Err(self.fail("rope.scaling.type", why));
        }
        Ok(Json::Object(scaling))
    }

    /// The length before scaling; the context's where the file has none.
    fn original(&self) -> Result<usize> {
        let original = self.optional_size("rope.scaling.original_context_length")?;
        original.map_or_else(|| self.size("context_length"), Ok)
    }

    /// The scaling that the metadata names, in Hugging Face's spelling. As in llama.cpp the type is `linear` where none is named,
    /// the factor may have its older name, and a factor of 0 is none.
    fn named_scaling(&self) -> Result<Json> {
        let kind = self
            .get("rope.scaling.type")
            .map_or(Ok("linear"), |v| v.text().ok_or_else(|| self.fail("rope.scaling.type", "it is not text")))?;
        let key = ["rope.scaling.factor", "rope.scale_linear"].into_iter().find(|key| self.get(key).is_some());
        let zero = |key: &&str| self.get(key).and_then(MetadataValue::number) == Some(0.0);
        let factor = key.filter(|key| !zero(key)).map_or(Ok(Some(1.0)), |key| self.optional_number(key))?.unwrap_or(1.0);
        match kind {
            "none" => Ok(Json::Null),
            "linear" if factor == 1.0 => Ok(Json::Null),
            "linear" => Ok(json!({ "rope_type": "linear", "factor": factor })),
            "yarn" => self.yarn(factor),
            other => {
                let help = "none, linear and yarn are supported, Llama 3's, and longrope of Phi 3; use another model";
                Err(self.refuse("rope.scaling.type", format!("`{other}` is not supported"), help))
            }
        }
    }

    /// Yarn; `rope.scaling.yarn_log_multiplier` is Mistral's and DeepSeek's `mscale_all_dim` beside an `mscale` of one.
    fn yarn(&self, factor: f64) -> Result<Json> {
        let mut scaling = Map::new();
        let mut put = |key: &str, value: Json| _ = scaling.insert(key.into(), value);
        put("rope_type", json!("yarn"));
        put("factor", json!(factor));
        put("original_max_position_embeddings", json!(self.original()?));
        if self.architecture.yarn_exact {
            put("truncate", json!(false));
        }
        let all = if self.architecture.yarn_keys { self.set_number("rope.scaling.yarn_log_multiplier")? } else { None };
        if self.architecture.yarn_keys {
            put("beta_fast", json!(self.optional_number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0)));
            put("beta_slow", json!(self.optional_number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0)));
        }
        match all {
            Some(all) => {
                put("mscale", json!(1.0));
                put("mscale_all_dim", json!(all));
            }
            None => {
                let by = self.set_number("rope.scaling.attn_factor")?.unwrap_or(1.0);
                put("attention_factor", json!(by * self.usual_attention(factor)?));
            }
        }
        if self.family.rotation.query_scale {
            put("llama_4_scaling_beta", json!(self.number("attention.temperature_scale")?));
            let (key, original) = ("attention.temperature_length", self.original()?);
            if self.optional_size(key)?.is_some_and(|length| length != original) {
                return Err(self.fail(key, format!("another length than the {original} before scaling is not supported")));
            }
        }
        Ok(Json::Object(scaling))
    }

    /// What yarn multiplies cosines and sines with. A file that says so may say nothing else: llama.cpp does not read it.
    fn usual_attention(&self, factor: f64) -> Result<f64> {
        let usual = 0.1 * factor.max(1.0).ln() + 1.0;
        let key = "rope.scaling.yarn_attn_factor";
        match self.optional_number(key)? {
            Some(other) if (other - usual).abs() > 1e-4 => {
                Err(self.fail(key, format!("{other} instead of {usual:.4}, which llama.cpp computes, is not supported")))
            }
            _ => Ok(usual),
        }
    }
}
