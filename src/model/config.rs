//! `config.json` → the numbers a model needs, as transformers' config classes read it: the same names, the same defaults.
//!
//! [`settings`] says what becomes of a key that the family's row does not read. Both spellings are read: the older flat keys
//! (`rope_theta`, `rope_scaling`) and those of transformers 5 (`rope_parameters`). Refuses to know: tensors.

use std::path::Path;

use serde_json::Value;

use super::config_encoder::{self, EncoderSizes};
use super::config_layers::Layers;
use super::config_reader::{ConfigReader, RESTORE};
use super::config_shapes::LayerShapes;
use super::families::FAMILIES;
use super::family::{Bias, Count, Factor, Family, HeadDim, Parallel};
use super::rope_parameters;
use super::settings::{self, Ignored};
use crate::error::{Error, Result, nearest};
use crate::kernels::activation::Activation;
use crate::kernels::attention::{HeadShape, Scores};
use crate::kernels::delta_rule::DeltaSizes;
use crate::kernels::rope::Rotary;

/// A checked model configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub family: &'static Family,
    pub vocab: usize,
    pub width: usize,
    /// Of a model with an encoder its decoder's.
    pub layers: usize,
    /// Of layers that are like most.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// Heads of each block, those of an encoder first, as all that is told of each is.
    pub shapes: Vec<HeadShape>,
    /// Whose keys and values each layer reads.
    pub keys_of: Vec<usize>,
    /// Whether a layer's values are made of what its keys are.
    pub keys_as_values: Vec<bool>,
    /// Width of each layer's feed-forward.
    pub ffns: Vec<usize>,
    /// Layers with a delta rule in place of attention, and its sizes.
    pub delta: Option<(Vec<bool>, DeltaSizes)>,
    /// Numbers that each layer is given of a token beside the stream, and of how many tokens.
    pub layer_inputs: Option<[usize; 2]>,
    pub norm_eps: f64,
    pub activation: Activation,
    /// Of each block.
    pub scores: Vec<Scores>,
    /// The rotations there are.
    pub rotations: Vec<Rotary>,
    /// Which of them each block has; none does not turn.
    pub rotation_of: Vec<Option<usize>>,
    /// Of layers with a choice of feed-forwards.
    pub experts: Option<ExpertSizes>,
    /// What reads a text before the `layers`, which only answer then.
    pub encoder: Option<EncoderSizes>,
    /// Queries and keys have norms.
    pub head_norms: bool,
    /// Attention and feed-forward read the same sum; `Some(true)`: and the same norm.
    pub parallel: Option<bool>,
    /// Factors of embeddings, of what a block adds, and of logits.
    pub embedding_scale: f64,
    pub residual_scale: f64,
    pub logit_scale: f64,
    /// Soft cap of logits.
    pub final_cap: Option<f64>,
    pub max_positions: usize,
    /// The head shares the embedding's matrix.
    pub tied: bool,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// The JSON it was read from.
    pub json: Value,
    /// Keys that were left out of account because a user asked for it; sentences.
    pub notes: Vec<String>,
}

/// A choice of feed-forwards.
#[derive(Debug, Clone)]
pub struct ExpertSizes {
    pub count: usize,
    /// That a token meets.
    pub chosen: usize,
    pub ffn: usize,
    /// The weights of a token's experts sum to one.
    pub renormalised: bool,
    /// Whether each layer has them.
    pub layers: Vec<bool>,
}

/// Names in transformers (`activations.py`) of what there are kernels for.
const ACTIVATIONS: &[(Activation, &[&str])] = &[
    (Activation::Silu, &["silu", "swish"]),
    (Activation::GeluTanh, &["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"]),
    (Activation::Gelu, &["gelu", "gelu_python"]),
    (Activation::Relu, &["relu"]),
];

/// Keys that several fields follow from.
impl ConfigReader<'_> {
    fn family(&self) -> Result<&'static Family> {
        let found = self.get("model_type").and_then(Value::as_str).unwrap_or("");
        FAMILIES.iter().find(|f| f.model_type == found).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|f| f.model_type).collect();
            let hint = nearest(found, known.iter().copied()).map(|n| format!("; nearest: `{n}`")).unwrap_or_default();
            Error::unsupported(
                self.path,
                "config `model_type`",
                format!("`{found}` is not a family this version knows"),
                format!("use a model of one of: {}{hint}", known.join(", ")),
            )
        })
    }

    fn activation(&self, family: &Family) -> Result<Activation> {
        if let Some([(alpha, usual), (limit, most)]) = family.keys.clamped {
            let [alpha, limit] = [self.factor_or(alpha, usual)?, self.factor_or(limit, most)?].map(|v| v as f32);
            return Ok(Activation::Clamped { alpha, limit });
        }
        let (key, default) = family.keys.activation;
        let name = match self.get(key) {
            None => default,
            Some(value) => value.as_str().ok_or_else(|| self.fail(key, format!("expected a name, found {value}"), RESTORE))?,
        };
        if family.keys.gelu_is_tanh && name == "gelu" {
            return Ok(Activation::GeluTanh);
        }
        self.activation_of(family, key, name)
    }

    /// The activation that the value `name` of a key stands for.
    pub(super) fn activation_of(&self, family: &Family, key: &str, name: &str) -> Result<Activation> {
        ACTIVATIONS.iter().find(|(_, names)| names.contains(&name)).map(|(activation, _)| *activation).ok_or_else(|| {
            let names: Vec<&str> = ACTIVATIONS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
            let why = format!("activation `{name}` is not supported for {}", family.model_type);
            self.fail(key, why, format!("use a model with one of: {}", names.join(", ")))
        })
    }

    /// The size of a head.
    fn head_dim(&self, family: &Family, width: usize, heads: usize) -> Result<usize> {
        let stated = match family.keys.head_dim {
            HeadDim::Key(missing) => self.count(&Count(&["head_dim"], missing))?,
            HeadDim::Keys(keys) => self.count(keys)?,
            HeadDim::Derived => None,
        };
        let derived = || match width.is_multiple_of(heads) {
            true => Ok(width / heads),
            false => {
                let names = family.keys.heads.0;
                let key = names.iter().find(|k| self.get(k).is_some()).or(names.last()).unwrap_or(&"num_attention_heads");
                let (sizes, first) = (family.keys.width.0, family.keys.width.0[0]);
                let size = sizes.iter().find(|k| self.get(k).is_some()).unwrap_or(&first);
                Err(self.fail(key, format!("{width} dimensions (`{size}`) cannot be divided among {heads} heads"), RESTORE))
            }
        };
        let found = stated.map_or_else(derived, Ok)?;
        let says = self.get("head_dim").filter(|v| family.keys.head_dim == HeadDim::Derived && !v.is_null());
        match says {
            Some(says) if says.as_f64() != Some(found as f64) => {
                let why = format!("{says} is not the width divided among the heads, {found}, which {} takes", family.model_type);
                Err(self.fail("head_dim", why, RESTORE))
            }
            _ if family.positions.is_none() && family.encoder.is_none() && !found.is_multiple_of(2) => {
                Err(self.fail("head_dim", format!("rotary positions need an even size, found {found}"), RESTORE))
            }
            _ => Ok(found),
        }
    }

    fn kv_heads(&self, family: &Family, heads: usize) -> Result<usize> {
        let Some(count) = &family.keys.kv_heads else {
            // The class has no such key, and files may say what is so anyway.
            return match self.get("num_key_value_heads").filter(|v| v.as_f64() != Some(heads as f64)) {
                None | Some(Value::Null) => Ok(heads),
                Some(other) => Err(self.fail(
                    "num_key_value_heads",
                    format!("{other} heads of keys are not supported for {}: it has {heads} of each", family.model_type),
                    RESTORE,
                )),
            };
        };
        match self.count(count)?.unwrap_or(heads) {
            shared if heads.is_multiple_of(shared) => Ok(shared),
            shared => Err(self.fail(count.0[0], format!("{heads} heads do not divide by {shared}"), RESTORE)),
        }
    }

    fn factor(&self, factor: Factor, width: usize) -> Result<f64> {
        Ok(match factor {
            Factor::One => 1.0,
            Factor::RootOfWidth => (width as f64).sqrt(),
            Factor::Times(key, default) => self.factor_or(key, default)?,
            Factor::Over(key, default) => 1.0 / self.factor_or(key, default)?,
        })
    }

    fn parallel(&self, parallel: Parallel) -> Result<Option<bool>> {
        Ok(match parallel {
            Parallel::Never => None,
            Parallel::OneNorm => Some(true),
            Parallel::OneNormIf(key, default) => self.flag(key, default)?.then_some(true),
            Parallel::TwoNormsIf(key, default) => self.flag(key, default)?.then_some(false),
        })
    }

    fn bias(&self, bias: Bias) -> Result<bool> {
        match bias {
            Bias::Always => Ok(true),
            Bias::Never => Ok(false),
            Bias::Config(key, default) => self.flag(key, default),
        }
    }

    /// transformers' `Qwen3MoeDecoderLayer` says which layers have experts.
    fn experts(&self, family: &Family, layers: usize, ffn: usize) -> Result<Option<ExpertSizes>> {
        let Some(names) = &family.experts else { return Ok(None) };
        if let Some(beside) = &names.beside
            && !self.flag(beside.key, false)?
        {
            let sizes = [Some(&names.count), Some(&names.chosen), names.ffn.as_ref()];
            sizes.into_iter().flatten().try_for_each(|size| self.count(size).map(|_| ()))?;
            return Ok(None);
        }
        let (count, chosen) = (self.size(&names.count)?, self.size(&names.chosen)?);
        if chosen > count {
            return Err(self.fail(names.chosen.0[0], format!("{chosen} of {count} experts cannot be met"), RESTORE));
        }
        let renormalised = names.renormalised.map_or(Ok(true), |(key, usual)| self.flag(key, usual))?;
        let own = names.ffn.as_ref().map(|key| self.size(key)).transpose()?;
        let (every, without) = match names.sparse {
            true => (self.count_or("decoder_sparse_step", 1)?, self.numbers_or_none("mlp_only_layers")?),
            false => (1, Vec::new()),
        };
        let layers = (0..layers).map(|i| (i + 1).is_multiple_of(every) && !without.contains(&(i as f64))).collect();
        Ok(Some(ExpertSizes { count, chosen, ffn: own.unwrap_or(ffn), renormalised, layers }))
    }

    /// What layers are given beside the stream.
    fn layer_inputs(&self, family: &Family) -> Result<Option<[usize; 2]>> {
        let Some(names) = &family.layer_inputs else { return Ok(None) };
        let (key, usual) = names.width;
        let vocab = self.size(&names.vocab)?;
        match self.get(key) {
            Some(Value::Null) => Ok(None),
            Some(none) if none.as_f64() == Some(0.0) => Ok(None),
            _ => Ok(Some([self.count_or(key, usual)?, vocab])),
        }
    }

    /// The blocks that have delta rules, and the sizes of these.
    fn delta(&self, family: &Family, kinds: &Layers) -> Result<Option<(Vec<bool>, DeltaSizes)>> {
        let Some(names) = &family.delta else { return Ok(None) };
        if self.activation(family)? != Activation::Silu {
            return Err(self.fail(
                family.keys.activation.0,
                "it is behind the convolution of delta rules as well, where only silu is supported",
                RESTORE,
            ));
        }
        let [key_heads, value_heads] = [self.size(&names.key_heads)?, self.size(&names.value_heads)?];
        if !value_heads.is_multiple_of(key_heads) {
            let why = format!("{value_heads} heads of values do not divide among {key_heads} of keys");
            return Err(self.fail(names.value_heads.0[0], why, RESTORE));
        }
        let [key_dim, value_dim] = [self.size(&names.key_dim)?, self.size(&names.value_dim)?];
        let sizes = DeltaSizes { key_heads, value_heads, key_dim, value_dim, kernel: self.size(&names.kernel)? };
        Ok(Some((kinds.delta(), sizes)))
    }

    fn norm_eps(&self, family: &Family) -> Result<f64> {
        let (key, usual) = family.keys.epsilon;
        match self.number_or(key, usual)? {
            below if below < 0.0 => Err(self.fail(key, format!("{below} is below zero"), RESTORE)),
            epsilon => Ok(epsilon),
        }
    }

    fn head_norms(&self, family: &Family) -> Result<bool> {
        match &family.head_norms {
            None => Ok(false),
            Some(norms) => norms.key.map_or(Ok(true), |key| self.flag(key, false)),
        }
    }
}

impl Config {
    /// Checks a `config.json`; `path` is for messages. Missing keys are what transformers' config class of the family says.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing, impossible or not supported; [`Error::Unsupported`] naming one whose meaning
    /// is not known.
    pub fn from_json(json: &Value, path: &Path) -> Result<Config> {
        Config::from_json_ignoring(json, path, &[])
    }

    /// As [`Config::from_json`]; keys of `ignored` (`key`, or `table.key`) may be there without being known, which
    /// [`Config::notes`] tell.
    ///
    /// # Errors
    /// As [`Config::from_json`]; when one of `ignored` is there and known.
    pub fn from_json_ignoring(json: &Value, path: &Path, ignored: &[String]) -> Result<Config> {
        let r = ConfigReader::new(json, path, "");
        let ignored = &Ignored::new(ignored);
        let family = r.family()?;
        let keys = &family.keys;
        let (width, heads, layers) = (r.size(&keys.width)?, r.size(&keys.heads)?, r.size(&keys.layers)?);
        let positions = r.size(&keys.positions)?;
        let head_dim = r.head_dim(family, width, heads)?;
        let stacks = config_encoder::read(&r, family, layers, width)?;
        let (encoder, layers) = (stacks.encoder, stacks.decoder);
        let kinds = Layers::read(&r, family, layers + encoder.as_ref().map_or(0, |e| e.layers))?;
        let ffn = r.count(&keys.ffn)?.unwrap_or(4 * width);
        let usual = HeadShape { heads, kv_heads: r.kv_heads(family, heads)?, head_dim };
        let windowed = kinds.windowed();
        let LayerShapes { shapes, keys_of, keys_as_values, ffns } = LayerShapes::read(&r, family, &windowed, usual, ffn)?;
        let full = windowed.iter().position(|windowed| !windowed).map_or(head_dim, |i| shapes[i].head_dim);
        let rotations = rope_parameters::rotations(&r, family, [full, head_dim], positions, ignored)?;
        let mut config = Config {
            family,
            vocab: r.size(&keys.vocab)?,
            width,
            layers,
            heads,
            kv_heads: usual.kv_heads,
            head_dim,
            ffn,
            encoder,
            shapes,
            keys_of,
            keys_as_values,
            ffns,
            delta: r.delta(family, &kinds)?,
            layer_inputs: r.layer_inputs(family)?,
            experts: r.experts(family, windowed.len(), ffn)?,
            norm_eps: r.norm_eps(family)?,
            activation: stacks.activation.map_or_else(|| r.activation(family), Ok)?,
            scores: kinds.scores(&r, family, head_dim)?,
            rotation_of: kinds.rotations(rotations.kinds.len()),
            rotations: rotations.kinds,
            head_norms: r.head_norms(family)?,
            parallel: r.parallel(family.parallel)?,
            embedding_scale: r.factor(family.scales.embedding, width)?,
            residual_scale: r.factor(family.scales.residual, width)?,
            logit_scale: stacks.logit_scale * r.factor(family.scales.logits, width)?,
            final_cap: match keys.caps {
                Some([_, usual]) => r.cap("final_logit_softcapping", usual)?,
                None => None,
            },
            max_positions: rotations.positions,
            tied: r.flag("tie_word_embeddings", keys.tied)?,
            qkv_bias: r.bias(family.qkv_bias)?,
            output_bias: r.bias(family.output_bias)?,
            mlp_bias: r.bias(family.mlp_bias)?,
            json: json.clone(),
            notes: Vec::new(),
        };
        settings::refuse_unread(&r, family, ignored)?;
        config.notes = ignored.notes(&r)?;
        Ok(config)
    }
}

impl Config {
    /// Blocks that are an encoder's.
    pub fn encoder_layers(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.layers)
    }

    /// The sizes of each block's delta rule, where it has one.
    pub fn delta_layers(&self) -> impl Iterator<Item = Option<DeltaSizes>> {
        (0..self.shapes.len()).map(|layer| self.delta.as_ref().filter(|(layers, _)| layers[layer]).map(|(_, sizes)| *sizes))
    }

    /// Whether a layer has a delta rule in place of attention.
    pub fn is_delta(&self, layer: usize) -> bool {
        self.delta.as_ref().is_some_and(|(layers, _)| layers[layer])
    }

    /// Whether a block keeps keys and values of its own for the tokens that follow: none that reads those of another one, has a state
    /// instead, or is an encoder's.
    pub fn keeps_keys(&self, block: usize) -> bool {
        self.keys_of[block] == block && !self.is_delta(block) && block >= self.encoder_layers()
    }

    /// Numbers that a token's keys and values have, over all blocks that keep some.
    pub fn cached_width(&self) -> usize {
        let own = self.shapes.iter().enumerate().filter(|(i, _)| self.keeps_keys(*i));
        own.map(|(_, shape)| shape.widths()[1..].iter().sum::<usize>()).sum()
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
