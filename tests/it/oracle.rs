//! An oracle of losses and gradients: a decoder in plain candle operations, in f64, differentiated by candle's own tape.
//!
//! It shares nothing with what it judges but the description of adapters ([`Term`]) and of texts ([`Batch`], [`Targets`]): it reads
//! a directory's `config.json` and weights under their Hugging Face names, and computes each formula as transformers and PEFT state
//! it. Refuses to know: speed, GGUF, kernels.
//!
//! Shapes: b rows, t tokens, n rows · tokens, d width, h heads, g key/value heads, e head size, v vocabulary, i inputs, o outputs,
//! r rank.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor};
use lorakit::model::{Adapt, Batch, Dropout, LowRankPair, Model, Site, Targets, Term};
use lorakit::random;
use serde_json::Value;

use crate::{shared, tiny_models};

/// One of the small models, of any family.
pub(crate) struct Oracle {
    config: Value,
    weights: HashMap<String, Tensor>,
    /// Paths of the sites, by [`Site`].
    sites: Vec<String>,
}

/// What one pass is over.
struct Pass<'a> {
    oracle: &'a Oracle,
    adapt: &'a dyn Adapt,
    batch: &'a Batch,
}

impl Oracle {
    /// The model of that name; of `model`, opened from the same directory, only the numbers of its sites.
    pub(crate) fn new(name: &str, model: &Model) -> Oracle {
        let dir = tiny_models::dir(name);
        let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
        Oracle {
            config: shared::json(&dir.join("config.json")),
            weights: weights.into_iter().map(|(name, weight)| (name, exact(&weight).unwrap())).collect(),
            sites: model.sites().iter().map(|site| site.path.clone()).collect(),
        }
    }

    /// Sum of the cross-entropy over the targets, in nats: a scalar in f64, differentiable in what the adapter trains.
    pub(crate) fn loss_sum(&self, adapt: &dyn Adapt, batch: &Batch, targets: &Targets) -> Tensor {
        let logits = Pass { oracle: self, adapt, batch }.logits().unwrap();
        cross_entropy_sum(&logits, targets).unwrap()
    }

    fn is(&self, family: &str) -> bool {
        self.config["model_type"] == family
    }

    /// A number of the config, under the first name that has one.
    fn number(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| self.config[*name].as_f64())
    }

    fn size(&self, names: &[&str]) -> Option<usize> {
        self.number(names).map(|n| n as usize)
    }

    fn embedding(&self) -> &'static str {
        if self.is("gpt2") { "transformer.wte" } else { "model.embed_tokens" }
    }

    /// The matrix of a linear layer, (o, i); GPT-2's `Conv1D` lies the other way round, a tied head is the embedding.
    fn matrix(&self, path: &str) -> Result<Tensor> {
        let tied = path == "lm_head" && !self.weights.contains_key("lm_head.weight");
        let weight = &self.weights[&format!("{}.weight", if tied { self.embedding() } else { path })];
        if self.is("gpt2") && path != "lm_head" { weight.t() } else { Ok(weight.clone()) }
    }

    /// Angles that a position turns each pair of a head's numbers by (e/2), in f32 as transformers keeps them
    /// (`modeling_rope_utils.py`, `_compute_llama3_parameters`).
    fn frequencies(&self, e: usize) -> Vec<f64> {
        let rope = &self.config["rope_parameters"];
        let base = rope["rope_theta"].as_f64().unwrap();
        let of = |i: usize| {
            let frequency = base.powf(-(2.0 * i as f64) / e as f64);
            if rope["rope_type"] == "default" {
                return frequency;
            }
            assert_eq!(rope["rope_type"], "llama3");
            let [factor, low, high, original] =
                ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
                    .map(|name| rope[name].as_f64().unwrap());
            let turns = original * frequency / (2.0 * std::f64::consts::PI);
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        };
        (0..e / 2).map(|i| f64::from(of(i) as f32)).collect()
    }
}

impl Pass<'_> {
    /// Logits of every position, (n, v).
    fn logits(&self) -> Result<Tensor> {
        let gpt2 = self.oracle.is("gpt2");
        let mut x = self.embed()?;
        for i in 0..self.oracle.size(&["num_hidden_layers", "n_layer"]).unwrap() {
            x = if gpt2 { self.gpt2_block(i, x)? } else { self.llama_block(i, x)? };
        }
        let x = self.norm(if gpt2 { "transformer.ln_f" } else { "model.norm" }, &x)?;
        capped(self.linear("lm_head", &x)?, self.oracle.number(&["final_logit_softcapping"]))
    }

    /// (n, d).
    fn embed(&self) -> Result<Tensor> {
        let path = self.oracle.embedding();
        let ids = Tensor::from_slice(&self.batch.ids, self.batch.ids.len(), &Device::Cpu)?;
        let x = match self.term(path) {
            Some(Term::Full(full)) => exact(full)?.index_select(&ids, 0)?,
            _ => self.oracle.weights[&format!("{path}.weight")].index_select(&ids, 0)?,
        };
        let positions = Tensor::from_slice(&self.batch.positions, self.batch.positions.len(), &Device::Cpu)?;
        match self.oracle.weights.get("transformer.wpe.weight") {
            Some(table) => x + table.index_select(&positions, 0)?,
            None if self.oracle.is("gemma2") => x.dim(1).map(|d| (d as f64).sqrt()).and_then(|root| x * root),
            None => Ok(x),
        }
    }

    /// `GPT2Block`.
    fn gpt2_block(&self, i: usize, x: Tensor) -> Result<Tensor> {
        let path = |name: &str| format!("transformer.h.{i}.{name}");
        let qkv = self.linear(&path("attn.c_attn"), &self.norm(&path("ln_1"), &x)?)?.chunk(3, 1)?;
        let attended = self.attend(i, &qkv[0], &qkv[1], &qkv[2])?;
        let x = (x + self.linear(&path("attn.c_proj"), &attended)?)?;
        let up = self.linear(&path("mlp.c_fc"), &self.norm(&path("ln_2"), &x)?)?;
        x + self.linear(&path("mlp.c_proj"), &self.activation(&up)?)?
    }

    /// `LlamaDecoderLayer`, `Qwen2DecoderLayer`, `Gemma2DecoderLayer`.
    fn llama_block(&self, i: usize, x: Tensor) -> Result<Tensor> {
        let path = |name: &str| format!("model.layers.{i}.{name}");
        let gemma2 = self.oracle.is("gemma2");
        let y = self.norm(&path("input_layernorm"), &x)?;
        let [q, k, v] = ["q", "k", "v"].map(|name| self.linear(&path(&format!("self_attn.{name}_proj")), &y));
        let y = self.linear(&path("self_attn.o_proj"), &self.attend(i, &q?, &k?, &v?)?)?;
        let after = |name: &str, y: Tensor| if gemma2 { self.norm(&path(name), &y) } else { Ok(y) };
        let x = (x + after("post_attention_layernorm", y)?)?;
        let before = if gemma2 { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let y = self.norm(&path(before), &x)?;
        let gate = self.activation(&self.linear(&path("mlp.gate_proj"), &y)?)?;
        let y = self.linear(&path("mlp.down_proj"), &(gate * self.linear(&path("mlp.up_proj"), &y)?)?)?;
        x + after("post_feedforward_layernorm", y)?
    }

    /// Attention of block `i` over queries (n, h·e), keys and values (n, g·e): (n, h·e).
    fn attend(&self, i: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let oracle = self.oracle;
        let h = oracle.size(&["num_attention_heads", "n_head"]).unwrap();
        let g = oracle.size(&["num_key_value_heads"]).unwrap_or(h);
        let (b, t, e) = (self.batch.rows, self.batch.len, q.dim(1)? / h);
        let heads = |x: &Tensor, heads: usize| x.reshape((b, t, heads, e))?.transpose(1, 2)?.contiguous(); // (b, heads, t, e)
        let shared = |x: Tensor| x.unsqueeze(2)?.broadcast_as((b, g, h / g, t, e))?.reshape((b, h, t, e));
        let q = self.turned(heads(q, h)?)?;
        let (k, v) = (shared(self.turned(heads(k, g)?)?)?, shared(heads(v, g)?)?);
        let scale = 1.0 / oracle.number(&["query_pre_attn_scalar"]).unwrap_or(e as f64).sqrt();
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?; // (b, h, t, t)
        let scores = capped(scores, oracle.number(&["attn_logit_softcapping"]))?.broadcast_add(&self.mask(i)?)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&v)?.transpose(1, 2)?.reshape((b * t, h * e))
    }

    /// What is added to the scores of block `i`: nothing where a query sees a key, else −∞; (b, 1, t, t).
    fn mask(&self, i: usize) -> Result<Tensor> {
        let (b, t) = (self.batch.rows, self.batch.len);
        let sliding = self.oracle.config["layer_types"][i] == "sliding_attention";
        let window = if sliding { self.oracle.size(&["sliding_window"]).unwrap() } else { t };
        let sees = |start: u32, query: usize, key: usize| key >= start as usize && key <= query && query - key < window;
        let of = |(at, start): (usize, &u32)| {
            (0..t).map(|key| if sees(*start, at % t, key) { 0.0 } else { f64::NEG_INFINITY }).collect::<Vec<f64>>()
        };
        let all: Vec<f64> = self.batch.starts.iter().enumerate().flat_map(of).collect();
        Tensor::from_vec(all, (b, 1, t, t), &Device::Cpu)
    }

    /// Rotary positions of `x` (b, heads, t, e), where the family has them (Su et al. 2021; halves as in `rotate_half`).
    fn turned(&self, x: Tensor) -> Result<Tensor> {
        if self.oracle.is("gpt2") {
            return Ok(x);
        }
        let e = x.dim(3)?;
        let frequencies = self.oracle.frequencies(e);
        let angles = self.batch.positions.iter().flat_map(|p| frequencies.iter().map(move |f| f64::from(*p) * f)).collect();
        let angles = Tensor::from_vec(angles, (self.batch.rows, 1, self.batch.len, e / 2), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (left, right) = (x.narrow(3, 0, e / 2)?, x.narrow(3, e / 2, e / 2)?);
        let turned = [
            (left.broadcast_mul(&cos)? - right.broadcast_mul(&sin)?)?,
            (right.broadcast_mul(&cos)? + left.broadcast_mul(&sin)?)?,
        ];
        Tensor::cat(&turned, 3)
    }

    /// A layer norm where the file has a bias, else a root-mean-square norm, whose weight Gemma stores less one; `x` (n, d).
    fn norm(&self, path: &str, x: &Tensor) -> Result<Tensor> {
        let weight = &self.oracle.weights[&format!("{path}.weight")];
        let eps = self.oracle.number(&["rms_norm_eps", "layer_norm_epsilon"]).unwrap();
        let unit = |x: &Tensor| x.broadcast_div(&(x.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?);
        match self.oracle.weights.get(&format!("{path}.bias")) {
            Some(bias) => unit(&x.broadcast_sub(&x.mean_keepdim(1)?)?)?.broadcast_mul(weight)?.broadcast_add(bias),
            None if self.oracle.is("gemma2") => unit(x)?.broadcast_mul(&(weight + 1.0)?),
            None => unit(x)?.broadcast_mul(weight),
        }
    }

    fn activation(&self, x: &Tensor) -> Result<Tensor> {
        let name =
            ["hidden_act", "hidden_activation", "activation_function"].iter().find_map(|key| self.oracle.config[*key].as_str());
        match name {
            Some("silu") => x.silu(),
            Some("gelu_new" | "gelu_pytorch_tanh") => gelu_tanh(x),
            other => panic!("{other:?}"),
        }
    }

    /// `x` (n, i) → (n, o), with what the adapter does.
    fn linear(&self, path: &str, x: &Tensor) -> Result<Tensor> {
        let y = match self.term(path) {
            Some(Term::Full(full)) => x.matmul(&exact(full)?.t()?)?,
            Some(Term::LowRank(pair)) => with_pair(&pair, &self.oracle.matrix(path)?, x)?,
            None => x.matmul(&self.oracle.matrix(path)?.t()?)?,
        };
        self.oracle.weights.get(&format!("{path}.bias")).map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }

    fn term(&self, path: &str) -> Option<Term<'_>> {
        self.adapt.term(Site(self.oracle.sites.iter().position(|site| site == path).unwrap()))
    }
}

/// `x` (n, i) by `w` (o, i) and a low-rank pair: `x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ` (PEFT's `lora/layer.py`); with magnitudes times
/// `m / ‖W + s·B·A‖`, whose norm is a constant to the gradient (`lora/dora.py`).
pub(crate) fn with_pair(pair: &LowRankPair, w: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (a, b) = (exact(pair.a)?, exact(pair.b)?);
    let dropped = pair.dropout.map_or(Ok(x.clone()), |dropout| x * mask(dropout, x.dims2()?)?)?;
    let share = (dropped.matmul(&a.t()?)?.matmul(&b.t()?)? * pair.scale)?;
    let y = (x.matmul(&w.t()?)? + share)?;
    let Some(magnitude) = pair.magnitude else { return Ok(y) };
    let direction = (w + (b.matmul(&a)? * pair.scale)?)?.detach();
    let norms = direction.sqr()?.sum(1)?.sqrt()?;
    y.broadcast_mul(&(exact(magnitude.m)? / norms)?)
}

/// Inverted dropout (Srivastava et al. 2014, section 10), each element decided by a hash of its index.
fn mask(dropout: Dropout, shape: (usize, usize)) -> Result<Tensor> {
    let limit = (dropout.p * u64::MAX as f64) as u64;
    let kept = |i: usize| if random::indexed(dropout.key, i as u64) < limit { 0.0 } else { 1.0 / (1.0 - dropout.p) };
    Tensor::from_vec((0..shape.0 * shape.1).map(kept).collect::<Vec<f64>>(), shape, &Device::Cpu)
}

/// Gaussian error linear unit in its form with tanh (Hendrycks and Gimpel 2016).
fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let inner = ((x + (x * x.sqr()?)? * 0.044715)? * (2.0 / std::f64::consts::PI).sqrt())?;
    (x * (inner.tanh()? + 1.0)?)? * 0.5
}

fn capped(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    cap.map_or(Ok(x.clone()), |cap| (x / cap)?.tanh()? * cap)
}

/// `Σ (ln Σ eˣ − x[target])` over the rows that the targets name; `logits` (n, v).
fn cross_entropy_sum(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    let list = |values: &[u32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
    let rows = logits.index_select(&list(&targets.at)?, 0)?;
    let top = rows.max_keepdim(1)?.detach();
    let all = (rows.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?.log()? + top)?;
    (all - rows.gather(&list(&targets.ids)?.unsqueeze(1)?, 1)?)?.sum_all()
}

fn exact(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F64)
}
