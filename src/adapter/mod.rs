//! Low-rank adapters: the mathematics, where they act, how they start, and their files.
//!
//! An [`Adapter`] is a value beside the model, handed to `forward` as an argument. Refuses to know: optimisers, data,
//! HTTP.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `config`, `fields`, `expression` | `adapter_config.json`; what becomes of each of its fields; Python's expressions |
//! | 0 | `init`, `merge`, `base_copies` | first values; what is added to a weight; copies of the base in a file |
//! | 1 | `parameters` | which parameters of all experts |
//! | 2 | `parse`, `target` | the file read by PEFT's rules; which sites, with which rank and alpha |
//! | 3 | `fused`, `peft` | pairs on parameters of all experts; PEFT's files, read and written |
//! | 0 | `mix` | several adapters as one |
//! | 4 | `inspect` | what a directory holds, without its base |

mod base_copies;
pub mod config;
mod expression;
mod fields;
mod fused;
mod parameters;
mod parse;
pub mod target;
mod init;
pub mod peft;
pub mod merge;
pub mod mix;
pub mod inspect;

use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};

pub use config::PeftConfig;
use config::SEQ_2_SEQ;
pub use target::{Plan, Target};

use crate::error::Result;
use crate::kernels::columns::OutputNorms;
use crate::model::weights::multimodal;
use crate::model::{Adapt, Dropout, LowRankPair, Magnitude, Model, Site, SiteGradient, SiteInfo, SiteKind, Term};
use crate::{random, recipe};
use fused::FusedPair;

/// The low-rank pair of one site: `y + scale · B·A·x` (Hu et al. 2021, eq. 3).
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `(r, inputs)`.
    pub a: Tensor,
    /// `(outputs, r)`.
    pub b: Tensor,
    /// `alpha / r` (LoRA) or `alpha / sqrt(r)` (rsLoRA).
    pub scale: f64,
    /// Of a DoRA adapter.
    pub magnitude: Option<OutputMagnitude>,
}

/// A trained magnitude for every output of a site (Liu et al. 2024, eq. 5).
#[derive(Debug, Clone)]
pub struct OutputMagnitude {
    /// `(outputs)`.
    pub m: Tensor,
    base: OutputNorms,
    /// Norms of the directions, once A and B no longer change.
    known: Option<Vec<f32>>,
}

/// A trained tensor under the name PEFT gives it.
#[derive(Debug, Clone)]
pub struct Param {
    /// Key in `adapter_model.safetensors`.
    pub key: String,
    pub var: Var,
}

/// One adapter for one model.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub config: PeftConfig,
    /// By [`Site`].
    pairs: Vec<Option<LowRank>>,
    /// By [`Site`]: matrices trained in full.
    full: Vec<Option<Tensor>>,
    /// Every trained tensor, in the order of the sites, A before B.
    params: Vec<Param>,
    /// By [`Site`]: where its A is in `params`, which B and the magnitudes follow, or its full matrix; none where its pair is a part of
    /// a fused one.
    first: Vec<Option<usize>>,
    /// Pairs on parameters of all experts.
    fused: Vec<FusedPair>,
    /// Paths of the sites, for the file.
    paths: Vec<String>,
    /// What its files ask for in vain, to be told to whoever loads it.
    pub notes: Vec<String>,
}

/// PEFT's names of a pair, of its magnitudes, and of a full matrix.
fn keys(path: &str) -> [String; 4] {
    ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "weight"].map(|name| format!("base_model.model.{path}.{name}"))
}

/// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA (Kalajdzievski 2023, eq. 7).
fn scale(config: &PeftConfig, rank: usize, alpha: f64) -> f64 {
    match config.use_rslora {
        true => alpha / (rank as f64).sqrt(),
        false => alpha / rank as f64,
    }
}

impl Adapter {
    /// A fresh adapter for `model` as `recipe` describes it: A random, B zero, so that it changes nothing yet.
    /// `base` is the Hub id that is written into its configuration.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] when a target or pattern matches nothing.
    pub fn new(recipe: &recipe::Adapter, base: Option<String>, model: &Model, seed: u64) -> Result<Adapter> {
        let sites = model.sites();
        let names = attention_names(sites);
        let mut config = PeftConfig::from_recipe(recipe, base, model.config.family.conv1d, &names);
        config.task_type = model.has_encoder().then(|| SEQ_2_SEQ.to_string());
        let plan = Plan::new(&config, sites, &model.fused_parameters())?;
        Adapter::build(config, &plan, model, |key, shape| match key {
            Start::A(path, rank) => init::a(recipe.init, path, rank, shape, seed, &model.device),
            Start::B => Ok(Tensor::zeros(shape, DType::F32, &model.device)?),
            Start::Magnitude(norms) => Ok(Tensor::from_vec(norms.base(), shape.0, &model.device)?),
            Start::Full(site) => init::full(model, site),
        })
    }

    /// Lays an adapter out over the plan's sites, asking `start` for each tensor's first value.
    fn build(
        config: PeftConfig,
        plan: &Plan,
        model: &Model,
        mut start: impl FnMut(Start, (usize, usize)) -> Result<Tensor>,
    ) -> Result<Adapter> {
        let sites = model.sites();
        let (mut pairs, mut full, mut params) = (vec![None; sites.len()], vec![None; sites.len()], Vec::new());
        let mut first = vec![None; sites.len()];
        let mut param = |key: String, value: Tensor| -> Result<Tensor> {
            let var = Var::from_tensor(&value)?;
            let tensor = var.as_tensor().clone();
            params.push(Param { key, var });
            Ok(tensor)
        };
        // DoRA needs the norms of every adapted matrix; each is read once.
        let norms = |t: &Target| config.use_dora.then(|| model.output_norms(t.site));
        let norms: Vec<Option<OutputNorms>> = plan.targets.iter().map(norms).collect();
        let each = if config.use_dora { 3 } else { 2 };
        for (i, (target, norms)) in plan.targets.iter().zip(norms).enumerate() {
            let info = &sites[target.site.0];
            let [key_a, key_b, key_m, _] = keys(&info.path);
            first[target.site.0] = Some(each * i);
            let a = param(key_a, start(Start::A(&info.path, target.rank), (target.rank, info.inputs))?)?;
            let b = param(key_b, start(Start::B, (info.outputs, target.rank))?)?;
            let magnitude = |base: OutputNorms| -> Result<OutputMagnitude> {
                let m = param(key_m, start(Start::Magnitude(&base), (info.outputs, 1))?)?;
                Ok(OutputMagnitude { m, base, known: None })
            };
            let magnitude = norms.map(magnitude).transpose()?;
            pairs[target.site.0] = Some(LowRank { a, b, scale: scale(&config, target.rank, target.alpha), magnitude });
        }
        for (at, site) in plan.full.iter().enumerate() {
            let info = &sites[site.0];
            let shape = full_shape(info);
            first[site.0] = Some(each * plan.targets.len() + at);
            full[site.0] = Some(param(keys(&info.path)[3].clone(), start(Start::Full(*site), shape)?)?);
        }
        let mut fused = Vec::new();
        for target in &plan.fused {
            let at = each * plan.targets.len() + plan.full.len() + 2 * fused.len();
            let pair = FusedPair::new(target, sites, at);
            let ([key_a, key_b, ..], [shape_a, shape_b]) = (keys(&target.module), pair.shapes());
            let a = param(key_a, start(Start::A(&target.module, target.rank), shape_a)?)?;
            let b = param(key_b, start(Start::B, shape_b)?)?;
            for (site, a, b) in pair.views(&a.detach(), &b.detach())? {
                pairs[site.0] = Some(LowRank { a, b, scale: scale(&config, target.rank, target.alpha), magnitude: None });
            }
            fused.push(pair);
        }
        let paths = sites.iter().map(|s| s.path.clone()).collect();
        Ok(Adapter { config, pairs, full, params, first, fused, paths, notes: Vec::new() })
    }

    /// Every trained tensor with its name.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Gradients by site, in the order of [`Adapter::params`].
    ///
    /// # Errors
    /// When those of a fused parameter cannot be put together.
    pub fn by_param(&self, gradients: Vec<(Site, SiteGradient)>) -> Result<Vec<Option<Tensor>>> {
        let (mut by_param, mut parts) = (vec![None; self.params.len()], HashMap::new());
        for (site, gradient) in gradients {
            let Some(at) = self.first.get(site.0).copied().flatten() else {
                if let SiteGradient::Pair(a, b, _) = gradient {
                    parts.insert(site, (a, b));
                }
                continue;
            };
            match gradient {
                SiteGradient::Pair(a, b, m) => {
                    (by_param[at], by_param[at + 1]) = (Some(a), Some(b));
                    if let Some(m) = m {
                        by_param[at + 2] = Some(m);
                    }
                }
                SiteGradient::Full(full) => by_param[at] = Some(full),
            }
        }
        for pair in &self.fused {
            if let Some([a, b]) = pair.gradients(&parts)? {
                (by_param[pair.at], by_param[pair.at + 1]) = (Some(a), Some(b));
            }
        }
        Ok(by_param)
    }

    /// Number of trained values.
    pub fn param_count(&self) -> usize {
        self.params.iter().map(|p| p.var.elem_count()).sum()
    }

    /// Ranks of its pairs.
    pub fn ranks(&self) -> impl Iterator<Item = usize> {
        self.pairs.iter().flatten().map(|pair| pair.a.dims()[0])
    }

    /// The low-rank matrices of a site.
    pub fn low_rank(&self, site: Site) -> Option<&LowRank> {
        self.pairs.get(site.0)?.as_ref()
    }

    /// The same values without variables: nothing that runs with it prepares a gradient. Shares memory with `self`.
    pub fn frozen(&self) -> Adapter {
        let pair = |(site, p): (usize, &Option<LowRank>)| {
            let p = p.as_ref()?;
            let magnitude = p.magnitude.as_ref().map(|magnitude| {
                // What cannot be read now is asked for again, and told, where it is used.
                let norms = || self.term(Site(site)).and_then(|t| if let Term::LowRank(p) = t { p.norms().ok()? } else { None });
                OutputMagnitude { m: magnitude.m.detach(), known: magnitude.known.clone().or_else(norms), ..magnitude.clone() }
            });
            Some(LowRank { a: p.a.detach(), b: p.b.detach(), scale: p.scale, magnitude })
        };
        Adapter {
            pairs: self.pairs.iter().enumerate().map(pair).collect(),
            full: self.full.iter().map(|f| f.as_ref().map(Tensor::detach)).collect(),
            ..self.clone()
        }
    }

    /// The adapter as it acts during training: with dropout, whose masks depend on seed, step, micro-step and site only.
    pub fn training(&self, seed: u64, step: u64, micro: u64) -> Training<'_> {
        Training { adapter: self, seed, step, micro }
    }

    /// What PEFT makes of it otherwise than lorakit, in words; it is to be told wherever the adapter is written.
    pub fn told(&self, model: &Model) -> Option<String> {
        fused::told(model, self.single(), !self.fused.is_empty())
    }

    /// Sites with a pair of their own.
    fn single(&self) -> impl Iterator<Item = Site> {
        (0..self.pairs.len()).filter(|site| self.pairs[*site].is_some() && self.first[*site].is_some()).map(Site)
    }

    /// Last components of the paths of the adapted sites, as PEFT writes an expanded `all-linear`.
    fn adapted_names(&self) -> Vec<String> {
        let mut names: Vec<String> = (self.single())
            .map(|site| &self.paths[site.0])
            .map(|path| match path.starts_with(multimodal::PREFIX) {
                // The last part alone would name modules of the parts that see as well.
                true => path.clone(),
                false => parameters::last(path).to_string(),
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// What [`Adapter::build`] asks for.
enum Start<'a> {
    /// Of the module with this path, of this rank.
    A(&'a str, usize),
    B,
    Magnitude(&'a OutputNorms),
    Full(Site),
}

fn full_shape(info: &SiteInfo) -> (usize, usize) {
    match info.kind {
        SiteKind::Embedding => (info.inputs, info.outputs),
        _ => (info.outputs, info.inputs),
    }
}

/// The shortest suffixes that name the attention projections and nothing else.
fn attention_names(sites: &[SiteInfo]) -> Vec<&str> {
    let tail = |path: &'_ str, n: usize| path.rmatch_indices('.').nth(n - 1).map_or(0, |(i, _)| i + 1);
    let mut names: Vec<&str> = Vec::new();
    for s in sites.iter().filter(|s| s.kind == SiteKind::Attention) {
        let short = &s.path[tail(&s.path, 1)..];
        let shared = sites.iter().any(|o| o.kind != SiteKind::Attention && o.path[tail(&o.path, 1)..] == *short);
        let name = if shared { &s.path[tail(&s.path, 2)..] } else { short };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl Adapt for Adapter {
    fn term(&self, site: Site) -> Option<Term<'_>> {
        match self.low_rank(site) {
            Some(LowRank { a, b, scale, magnitude }) => {
                let magnitude = magnitude.as_ref().map(|m| Magnitude { m: &m.m, base: &m.base, known: m.known.as_deref() });
                Some(Term::LowRank(LowRankPair { a, b, scale: *scale, dropout: None, magnitude }))
            }
            None => self.full.get(site.0)?.as_ref().map(Term::Full),
        }
    }
}

/// An adapter with dropout on the input of its pairs.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    adapter: &'a Adapter,
    seed: u64,
    step: u64,
    micro: u64,
}

impl Adapt for Training<'_> {
    fn term(&self, site: Site) -> Option<Term<'_>> {
        let p = self.adapter.config.lora_dropout;
        match self.adapter.term(site)? {
            Term::LowRank(pair) if p > 0.0 => {
                let key = random::number(self.seed, "dropout", &[self.step, self.micro, site.0 as u64]);
                Some(Term::LowRank(LowRankPair { dropout: Some(Dropout { key, p }), ..pair }))
            }
            term => Some(term),
        }
    }
}
