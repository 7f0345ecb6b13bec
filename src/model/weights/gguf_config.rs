//! The `config.json` of a GGUF model, under the names of its family's row. Refuses to know: rotations, tensors' data.

use serde_json::{Map, Value as Json, json};

use super::gguf::MetadataValue;
use super::gguf_families::WindowMissing;
use super::gguf_metadata::Metadata;
use crate::error::{Error, Result};
use crate::model::family::{Bias, Factor, HeadDim, NormKind, Parallel, ScoreScale, Unturned, Windows};

/// Which layers see only the newest keys, and how many of them.
pub(super) struct LayerWindows {
    pub slide: Vec<bool>,
    pub window: Option<usize>,
}

/// More than any file has tensors.
const MAX_LAYERS: usize = 1 << 16;

impl Metadata<'_> {
    /// The config but for rotations.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key or tensor that is missing, impossible or not supported.
    pub(super) fn config(&self) -> Result<Map<String, Json>> {
        let mut config = Map::new();
        let (family, keys) = (self.family, &self.family.keys);
        let mut put = |key: &str, value: Json| _ = config.insert(key.into(), value);
        put("architectures", json!([family.class]));
        put("model_type", json!(family.model_type));
        for (count, key) in [(&keys.width, "embedding_length"), (&keys.positions, "context_length")] {
            put(count.written(), json!(self.size(key)?));
        }
        put(keys.layers.written(), json!(self.layers()?));
        put(keys.ffn.written(), json!(self.feed_forward()?.0));
        if self.size("block_count")? > MAX_LAYERS {
            return Err(self.fail("block_count", format!("the limit is {MAX_LAYERS} layers")));
        }
        let heads = self.heads()?;
        put(keys.heads.written(), json!(heads));
        // Of kinds of layers that differ in them: below.
        let kv_heads = if self.is_by_kind() { heads } else { self.kv_heads()? };
        match &keys.kv_heads {
            Some(count) => put(count.written(), json!(kv_heads)),
            None if kv_heads == heads => {}
            None => return Err(self.fail("attention.head_count_kv", format!("it must be {heads}, as there are heads"))),
        }
        match (keys.head_dim, self.head_dim()?) {
            (HeadDim::Key(_) | HeadDim::Keys(_), head_dim) => put("head_dim", json!(head_dim)),
            (HeadDim::Derived, head_dim) if head_dim * heads == self.size("embedding_length")? => {}
            (HeadDim::Derived, head_dim) => {
                return Err(self.fail("attention.key_length", format!("{heads} heads of {head_dim} are not the width")));
            }
        }
        put(keys.vocab.written(), json!(self.vocabulary()?));
        let (epsilon, _) = keys.epsilon;
        put(epsilon, json!(self.number(self.epsilon_key())?));
        put(keys.activation.0, json!(keys.activation.1));
        put("tie_word_embeddings", json!(self.tensor("output.weight").is_none()));
        for (id, key) in
            [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")]
        {
            put(id, self.token_id(key).map_or(Json::Null, Json::from));
        }
        self.put_parts(&mut config)?;
        self.put_experts(&mut config)?;
        self.put_scales(&mut config)?;
        self.put_windows(&mut config)?;
        self.put_delta(&mut config)?;
        if self.is_by_kind() {
            let slide = self.layer_windows(self.size("block_count")?)?.slide;
            self.put_kinds(&mut config, &slide)?;
        }
        Ok(config)
    }

    fn vocabulary(&self) -> Result<usize> {
        let embedding = self.tensor("token_embd.weight").ok_or_else(|| {
            let help = "the file holds no model (a vocabulary only?); fetch the model itself";
            Error::model(&self.gguf.path, "tensor `token_embd.weight`", "it is not there", help)
        })?;
        Ok(embedding.shape[0])
    }

    fn epsilon_key(&self) -> &'static str {
        match self.family.norm {
            NormKind::Rms | NormKind::RmsLessOne => "attention.layer_norm_rms_epsilon",
            NormKind::Layer | NormKind::LayerUnbiased => "attention.layer_norm_epsilon",
        }
    }

    fn token_id(&self, key: &str) -> Option<u64> {
        let id = self.gguf.metadata.get(&format!("tokenizer.ggml.{key}")).and_then(MetadataValue::count);
        id.filter(|n| *n < u64::from(u32::MAX))
    }

    /// What the tensors of the first layer say: biases, norms of heads, one norm for both halves of a block.
    fn put_parts(&self, config: &mut Map<String, Json>) -> Result<()> {
        let family = self.family;
        let biases: [(Bias, &[&str]); 3] = [
            (family.qkv_bias, &["attn_q.bias", "attn_qkv.bias"]),
            (family.output_bias, &["attn_output.bias"]),
            (family.mlp_bias, &["ffn_up.bias"]),
        ];
        for (bias, parts) in biases {
            let Bias::Config(key, _) = bias else { continue };
            let there = parts.iter().any(|part| self.first_layer_has(part)) || config.get(key) == Some(&json!(true));
            config.insert(key.into(), json!(there));
        }
        if let Some(key) = family.head_norms.as_ref().and_then(|norms| norms.key) {
            config.insert(key.into(), json!(self.first_layer_has("attn_q_norm.weight")));
        }
        let key = "use_parallel_residual";
        match family.parallel {
            Parallel::Never | Parallel::OneNorm => {}
            // llama.cpp goes by the tensor: converters set the key where a model has both norms.
            Parallel::OneNormIf(name, _) => {
                self.optional_flag(key)?;
                config.insert(name.into(), json!(!self.first_layer_has("ffn_norm.weight")));
            }
            Parallel::TwoNormsIf(name, _) => {
                let both = self.optional_flag(key)?.ok_or_else(|| self.fail(key, "it is not there"))?;
                config.insert(name.into(), json!(both));
            }
        }
        Ok(())
    }

    /// Factors and soft caps.
    fn put_scales(&self, config: &mut Map<String, Json>) -> Result<()> {
        let (family, head_dim) = (self.family, self.head_dim()?);
        let mut put = |key: &str, value: Json| _ = config.insert(key.into(), value);
        for (factor, key) in [(family.scales.embedding, "embedding_scale"), (family.scales.residual, "residual_scale")] {
            if let Factor::Times(name, _) | Factor::Over(name, _) = factor {
                put(name, json!(self.set_number(key)?.unwrap_or(1.0)));
            }
        }
        if let Factor::Times(name, _) | Factor::Over(name, _) = family.scales.logits {
            put(name, json!(self.number("logit_scale")?));
        }
        match family.scales.scores {
            ScoreScale::HeadDim | ScoreScale::One | ScoreScale::Gpt2 => {}
            ScoreScale::Times(name, _) => {
                let plain = 1.0 / (head_dim as f64).sqrt();
                put(name, json!(self.set_number("attention.scale")?.unwrap_or(plain)));
            }
            ScoreScale::OverRoot(name, _) => {
                let by_width = self.architecture.scaled_by_width == Some(self.size("block_count")?);
                put(name, json!(if by_width { self.size("embedding_length")? / self.heads()? } else { head_dim }));
            }
        }
        if let Some([scores, logits]) = family.keys.caps {
            if let Some(usual) = scores {
                put("attn_logit_softcapping", json!(self.optional_number("attn_logit_softcapping")?.unwrap_or(usual)));
            }
            let key = "final_logit_softcapping";
            put(key, json!(if self.get(key).is_none() { logits } else { self.set_number(key)? }));
        }
        Ok(())
    }

    /// Windows and layers that do not turn.
    fn put_windows(&self, config: &mut Map<String, Json>) -> Result<()> {
        let (key, layers, positions) = ("attention.sliding_window", self.layers()?, self.size("context_length")?);
        let mut put = |key: &str, value: Json| _ = config.insert(key.into(), value);
        match self.family.windows {
            Windows::Never | Windows::AllIf(_) | Windows::From(..) | Windows::Unturned => match self
                .get(key)
                .map(MetadataValue::count)
            {
                None | Some(Some(0)) => {}
                // A window as long as the context is none.
                Some(Some(window)) if window >= positions as u64 => {}
                _ => return Err(self.fail(key, format!("attention over a window of the {positions} positions is not supported"))),
            },
            Windows::All(_) => put("sliding_window", json!(self.window()?)),
            Windows::AllBut(..) | Windows::AllButAndLast(..) => {
                let LayerWindows { slide, window } = self.layer_windows(layers)?;
                let name = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
                put("layer_types", json!(slide.iter().map(name).collect::<Vec<_>>()));
                put("sliding_window", json!(window.unwrap_or(positions)));
            }
        }
        if let (Unturned::Listed, Some(every)) = (self.family.rotation.unturned, self.architecture.unturned) {
            let turns = |layer: usize| usize::from(!layer.is_multiple_of(every));
            put("no_rope_layer_interval", json!(every));
            put("no_rope_layers", json!((1..=layers).map(turns).collect::<Vec<_>>()));
        }
        Ok(())
    }

    /// The window; 0 is none.
    fn window(&self) -> Result<Option<usize>> {
        match self.get("attention.sliding_window").map(MetadataValue::count) {
            Some(Some(0)) => Ok(None),
            _ => self.optional_size("attention.sliding_window"),
        }
    }

    /// The window of each layer of a family that has both kinds.
    fn layer_windows(&self, layers: usize) -> Result<LayerWindows> {
        let key = "attention.sliding_window";
        let window = match (self.window()?, self.architecture.window) {
            (Some(window), _) => Some(window),
            (None, _) if self.get(key).is_some() => None,
            (None, WindowMissing::Is(usual)) => Some(usual),
            (None, WindowMissing::Everything) => None,
            (None, WindowMissing::Error) => return Err(self.fail(key, "it is not there")),
        };
        let slide = self.pattern(layers)?;
        if matches!(self.family.windows, Windows::AllButAndLast(..)) && slide.last() == Some(&true) {
            let why = "a last layer with a window is not supported for this architecture";
            return Err(self.refuse("attention.sliding_window_pattern", why, "use a published model of this architecture"));
        }
        Ok(LayerWindows { slide: slide.into_iter().map(|slides| slides && window.is_some()).collect(), window })
    }

    /// Layers with a window: the family's rule, or the file's own (`llama_hparams::set_swa_pattern`).
    fn pattern(&self, layers: usize) -> Result<Vec<bool>> {
        let key = "attention.sliding_window_pattern";
        let rule = |every: usize| (1..=layers).map(|layer| every == 0 || !layer.is_multiple_of(every)).collect();
        let usual = match self.family.windows {
            Windows::AllBut(every, ..) | Windows::AllButAndLast(every, _) => every,
            _ => 0,
        };
        let Some(value) = self.get(key) else { return Ok(rule(usual)) };
        if let Some(every) = value.count() {
            return Ok(rule(usize::try_from(every).unwrap_or(usize::MAX)));
        }
        let list: Option<Vec<bool>> = value.array().and_then(|list| list.iter().map(MetadataValue::flag).collect());
        let list = list.filter(|list| list.len() == layers);
        list.ok_or_else(|| self.fail(key, format!("it is neither a number nor a list of {layers} truth values")))
    }
}
