//! What a model is made of, as data: linear layers, norms, blocks, and what all blocks share.
//!
//! Refuses to know: what is computed with them, which is [`super::pass`]'s.

use candle_core::Tensor;

use super::linear::FrozenLinear;
use super::site::Site;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Scores;
use crate::kernels::norm::FrozenNorm;
use crate::kernels::rope::RopeTable;

/// A linear layer at a site.
#[derive(Debug)]
pub(super) struct SiteLinear {
    pub site: Site,
    pub linear: FrozenLinear,
}

/// A frozen norm.
#[derive(Debug)]
pub(super) struct Norm {
    weight: NormVector,
    /// Of a layer norm; a root-mean-square norm has none.
    bias: Option<NormVector>,
    eps: f64,
}

/// Weights of a norm on the model's device, and as plain numbers.
#[derive(Debug)]
struct NormVector {
    tensor: Tensor,
    values: Vec<f32>,
}

impl NormVector {
    fn new(tensor: Tensor) -> Result<NormVector> {
        Ok(NormVector { values: tensor.to_vec1()?, tensor })
    }
}

impl Norm {
    /// A layer norm where there is a bias.
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>, eps: f64) -> Result<Norm> {
        Ok(Norm { weight: NormVector::new(weight)?, bias: bias.map(NormVector::new).transpose()?, eps })
    }

    /// Weight, bias where there is one, and epsilon, on the model's device.
    pub(super) fn tensors(&self) -> (&Tensor, Option<&Tensor>, f64) {
        (&self.weight.tensor, self.bias.as_ref().map(|b| &b.tensor), self.eps)
    }

    /// On slices.
    pub(super) fn frozen(&self) -> FrozenNorm<'_> {
        let (weight, eps) = (self.weight.values.as_slice(), self.eps as f32);
        match &self.bias {
            None => FrozenNorm::Rms { weight, eps },
            Some(bias) => FrozenNorm::Layer { weight, bias: &bias.values, eps },
        }
    }
}

#[derive(Debug)]
pub(super) enum Qkv {
    Split { q: SiteLinear, k: SiteLinear, v: SiteLinear },
    Fused(SiteLinear),
}

#[derive(Debug)]
pub(super) enum Mlp {
    Gated { gate: SiteLinear, up: SiteLinear, down: SiteLinear },
    Plain { up: SiteLinear, down: SiteLinear },
}

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    pub attention_norm: Norm,
    pub qkv: Qkv,
    pub scores: Scores,
    pub output: SiteLinear,
    /// Of what attention gives, before it is added.
    pub post_attention_norm: Option<Norm>,
    pub mlp_norm: Norm,
    pub mlp: Mlp,
    /// Of what the feed-forward gives, before it is added.
    pub post_mlp_norm: Option<Norm>,
}

/// Sizes and tables that all blocks share.
#[derive(Debug)]
pub(super) struct SharedTables {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub activation: Activation,
    pub rope: Option<RopeTable>,
    /// What embeddings are multiplied with.
    pub embedding_scale: Option<f32>,
    /// Soft cap of logits.
    pub final_cap: Option<f64>,
}

impl SharedTables {
    /// Numbers that queries, keys and values of a token have.
    pub(super) fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }
}

impl Block {
    /// Every linear layer, in the order of the sites.
    pub(super) fn linears(&self) -> Vec<&SiteLinear> {
        let mut all = match &self.qkv {
            Qkv::Split { q, k, v } => vec![q, k, v],
            Qkv::Fused(qkv) => vec![qkv],
        };
        all.push(&self.output);
        match &self.mlp {
            Mlp::Gated { gate, up, down } => all.extend([gate, up, down]),
            Mlp::Plain { up, down } => all.extend([up, down]),
        }
        all
    }
}
