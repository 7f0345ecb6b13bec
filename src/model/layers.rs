//! What a model is made of, as data: linear layers, norms, blocks, and what all blocks share.
//!
//! Refuses to know: what is computed with them, which is [`super::pass`]'s.

use std::sync::Arc;

use candle_core::Tensor;

use super::linear::FrozenLinear;
use super::site::Site;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Scores;
use crate::kernels::attention::distance::DistanceBias;
use crate::kernels::norm::FrozenNorm;
use crate::kernels::rope::RopeTable;

/// A linear layer at a site.
#[derive(Debug)]
pub(super) struct SiteLinear {
    pub site: Site,
    pub linear: FrozenLinear,
}

/// A frozen norm, or what a family has in its place.
#[derive(Debug, Clone)]
pub(super) enum Norm {
    Weighted {
        weight: NormVector,
        /// Of a layer norm; a root-mean-square norm has none.
        bias: Option<NormVector>,
        /// Elements that are normed together.
        width: usize,
        eps: f64,
    },
    /// A factor; one is nothing at all.
    Scale(f32),
}

/// Weights of a norm on the model's device, and as plain numbers.
#[derive(Debug, Clone)]
pub(super) struct NormVector {
    /// `(width)`, or `(rows, width)` where rows that follow one another have weights of their own.
    pub tensor: Tensor,
    values: Vec<f32>,
}

impl NormVector {
    fn new(tensor: Tensor) -> Result<NormVector> {
        Ok(NormVector { values: tensor.flatten_all()?.to_vec1()?, tensor })
    }
}

impl Norm {
    /// Over the last dimension of `weight`; a layer norm where there is a bias.
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>, eps: f64) -> Result<Norm> {
        let width = weight.dim(candle_core::D::Minus1)?;
        Ok(Norm::Weighted { weight: NormVector::new(weight)?, bias: bias.map(NormVector::new).transpose()?, width, eps })
    }

    /// On slices.
    pub(super) fn frozen(&self) -> FrozenNorm<'_> {
        match self {
            Norm::Scale(by) => FrozenNorm::Scale { by: *by },
            Norm::Weighted { weight, bias, width, eps } => {
                let (weight, width, eps) = (weight.values.as_slice(), *width, *eps as f32);
                match bias {
                    None => FrozenNorm::Rms { weight, width, eps },
                    Some(bias) => FrozenNorm::Layer { weight, bias: &bias.values, width, eps },
                }
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Qkv {
    Split {
        q: SiteLinear,
        k: SiteLinear,
        v: SiteLinear,
    },
    /// Outputs are `groups` times a piece of the queries, of the keys and of the values.
    Fused {
        qkv: SiteLinear,
        groups: usize,
    },
}

#[derive(Debug)]
pub(super) enum Mlp {
    Gated {
        gate: SiteLinear,
        up: SiteLinear,
        down: SiteLinear,
    },
    /// Gate and up are the halves of one layer's outputs.
    GatedFused {
        gate_up: SiteLinear,
        down: SiteLinear,
    },
    Plain {
        up: SiteLinear,
        down: SiteLinear,
    },
    Experts(Experts),
}

/// Feed-forwards of which each token goes through a few.
#[derive(Debug)]
pub(super) struct Experts {
    /// (E, d), never adapted.
    pub router: FrozenLinear,
    pub each: Vec<Expert>,
    /// That a token meets.
    pub chosen: usize,
    /// The weights of a token's experts sum to one.
    pub renormalised: bool,
}

/// A gated feed-forward.
#[derive(Debug)]
pub(super) struct Expert {
    pub gate: SiteLinear,
    pub up: SiteLinear,
    pub down: SiteLinear,
}

/// What happens to queries, keys and values between their projections and attention.
#[derive(Debug)]
pub(super) struct Turn {
    /// Of queries, keys and values, before they are turned.
    pub norms: [Option<Norm>; 3],
    /// Which of the model's rotations; none without positions.
    pub rope: Option<usize>,
}

/// Which keys queries see in a model with an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeysOf {
    /// An encoder's: all of their own text.
    Source,
    /// A decoder's: those of their own text up to their place.
    Target,
    /// A decoder's: all of what the encoder read of their text.
    Across,
}

/// How a block's queries see keys in a model with an encoder.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub keys: KeysOf,
    /// What `q·k` is multiplied with.
    pub scale: f64,
    /// Of its stack.
    pub bias: Option<Arc<DistanceBias>>,
}

/// A decoder's attention over what the encoder made.
#[derive(Debug)]
pub(super) struct Cross {
    pub norm: Norm,
    pub q: SiteLinear,
    /// Of what the encoder made.
    pub kv: [SiteLinear; 2],
    pub output: SiteLinear,
    pub sight: Sight,
}

/// What reads a text before the decoder answers: the first blocks of a model.
#[derive(Debug)]
pub(super) struct Encoder {
    pub blocks: usize,
    /// Behind them.
    pub norm: Norm,
    /// What the decoder's texts begin with.
    pub start: u32,
}

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    pub attention_norm: Norm,
    pub qkv: Qkv,
    pub turn: Turn,
    pub scores: Scores,
    /// In place of scores, in a model with an encoder.
    pub sight: Option<Sight>,
    pub output: SiteLinear,
    /// Of what attention gives, before it is added.
    pub post_attention_norm: Option<Norm>,
    /// Between attention and feed-forward.
    pub cross: Option<Cross>,
    pub mlp_norm: Norm,
    pub mlp: Mlp,
    /// Of what the feed-forward gives, before it is added.
    pub post_mlp_norm: Option<Norm>,
    /// Attention and feed-forward read the same input.
    pub parallel: bool,
}

/// Sizes and tables that all blocks share.
#[derive(Debug)]
pub(super) struct SharedTables {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub activation: Activation,
    /// Of the kinds of layers there are.
    pub ropes: Vec<RopeTable>,
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
            Qkv::Fused { qkv, .. } => vec![qkv],
        };
        all.push(&self.output);
        all.extend(self.cross.iter().flat_map(|cross| [&cross.q, &cross.kv[0], &cross.kv[1], &cross.output]));
        match &self.mlp {
            Mlp::Gated { gate, up, down } => all.extend([gate, up, down]),
            Mlp::GatedFused { gate_up, down } => all.extend([gate_up, down]),
            Mlp::Plain { up, down } => all.extend([up, down]),
            Mlp::Experts(experts) => all.extend(experts.each.iter().flat_map(|e| [&e.gate, &e.up, &e.down])),
        }
        all
    }
}
