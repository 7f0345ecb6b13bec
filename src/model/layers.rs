//! What a model is made of, as data: linear layers, norms, blocks, and what all blocks share.
//!
//! Refuses to know: what is computed with them, which is [`super::pass`]'s.

use std::sync::Arc;

use candle_core::Tensor;

use super::linear::FrozenLinear;
use super::site::Site;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::distance::DistanceBias;
use crate::kernels::attention::{HeadShape, Scores};
use crate::kernels::delta_rule::{DeltaLayer, DeltaSizes};
use crate::kernels::linear::Frozen;
use crate::kernels::norm::FrozenNorm;
use crate::kernels::rope::RopeTable;
use crate::kernels::tensors::delta_rule::DeltaTensors;

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
    pub(super) fn new(tensor: Tensor) -> Result<NormVector> {
        Ok(NormVector { values: tensor.flatten_all()?.to_vec1()?, tensor })
    }
}

impl NormVector {
    pub(super) fn values(&self) -> &[f32] {
        &self.values
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
    /// Values are what the keys are made of.
    KeysAsValues {
        q: SiteLinear,
        k: SiteLinear,
    },
    /// Keys and values are those of an earlier block.
    QueriesAlone {
        q: SiteLinear,
    },
}

/// The block's second half.
#[derive(Debug)]
pub(super) enum Mlp {
    Dense(FeedForward),
    Experts(Experts),
    Both(Box<DenseAndExperts>),
}

/// A feed-forward: layers that read its input, and one that reads what these make.
#[derive(Debug)]
pub(super) struct FeedForward {
    pub inner: Inner,
    pub activation: Activation,
    pub down: SiteLinear,
}

/// The layers that read a feed-forward's input.
#[derive(Debug)]
pub(super) enum Inner {
    Gated {
        gate: SiteLinear,
        up: SiteLinear,
    },
    /// One layer's outputs are `groups` times a piece of the gate and of up.
    Fused {
        gate_up: SiteLinear,
        groups: usize,
    },
    Plain {
        up: SiteLinear,
    },
}

/// Feed-forwards of which each token goes through a few.
#[derive(Debug)]
pub(super) struct Experts {
    /// (E, d).
    pub router: SiteLinear,
    /// Of what the router reads, where that is not what the experts do.
    pub router_norm: Option<Norm>,
    pub each: Vec<FeedForward>,
    /// That a token meets.
    pub chosen: usize,
    /// The weights of a token's experts sum to one.
    pub renormalised: bool,
    /// What the weights of each are multiplied with then.
    pub scales: Option<Vec<f32>>,
}

/// A feed-forward for all tokens and experts, whose sum is normed (Gemma 4).
#[derive(Debug)]
pub(super) struct DenseAndExperts {
    pub dense: FeedForward,
    /// Of what it gives.
    pub dense_norm: Norm,
    pub experts: Experts,
    /// Of what the experts read, and of what they give.
    pub experts_norms: [Norm; 2],
}

/// A third part of a block: what the layer is given of each token beside the stream, gated by the stream (Gemma 3n, Gemma 4).
#[derive(Debug)]
pub(super) struct LayerGate {
    /// (p, d)
    pub gate: SiteLinear,
    pub activation: Activation,
    /// (d, p)
    pub projection: SiteLinear,
    pub norm: Norm,
}

/// What layers are given beside the stream: an embedding of their own, and a projection of the common one.
#[derive(Debug)]
pub(super) struct LayerInputs {
    /// (v, L·p)
    pub embedding: Arc<Frozen>,
    pub embedding_scale: f32,
    /// (L·p, d)
    pub projection: SiteLinear,
    pub projection_scale: f32,
    /// Of each layer's part of the projection.
    pub norm: Norm,
    /// Of the sum.
    pub scale: f32,
    /// Numbers p that a layer is given of a token.
    pub width: usize,
}

/// Which keys queries see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Those of their own text up to their place, in a model without an encoder.
    Text,
    /// An encoder's: all of their own text.
    Source,
    /// Its decoder's: those of their own text up to their place.
    Target,
    /// Its decoder's: all of what the encoder read of their text.
    Across,
}

/// What happens to queries, keys and values behind their projections.
#[derive(Debug)]
pub(super) struct Attention {
    /// Which block's this is, an encoder's first.
    pub layer: usize,
    /// Whose keys and values are read: this block's, or an earlier one's.
    pub keys_of: usize,
    /// Later blocks read the keys and values of this one.
    pub lends: bool,
    pub shape: HeadShape,
    /// Of queries, keys and values, before they are turned.
    pub norms: [Option<Norm>; 3],
    /// Which of the model's rotations; none without positions.
    pub rope: Option<usize>,
    pub scores: Scores,
    /// A logit of each query head that nothing stands behind (Xiao et al. 2023).
    pub sinks: Option<NormVector>,
    pub sight: Sight,
    /// What is added to scores by how far a key is, its stack's.
    pub distances: Option<Arc<DistanceBias>>,
}

impl Attention {
    /// Whether keys and values are those of an earlier block.
    pub(super) fn borrows(&self) -> bool {
        self.keys_of != self.layer
    }
}

/// How the tokens of a text come together.
#[derive(Debug)]
pub(super) enum Mixer {
    Attention(AttentionLayers),
    Delta(DeltaNet),
}

/// Attention with its projections.
#[derive(Debug)]
pub(super) struct AttentionLayers {
    pub qkv: Qkv,
    /// What makes queries makes a gate of each head's output behind them.
    pub gated: bool,
    pub attention: Attention,
    pub output: SiteLinear,
}

/// A decoder's attention over what the encoder made.
#[derive(Debug)]
pub(super) struct Cross {
    pub norm: Norm,
    pub q: SiteLinear,
    /// Of what the encoder made.
    pub kv: [SiteLinear; 2],
    pub attention: Attention,
    pub output: SiteLinear,
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

/// A gated delta rule with its projections ([`crate::kernels::delta_rule`]).
#[derive(Debug)]
pub(super) struct DeltaNet {
    /// Which block's this is.
    pub layer: usize,
    /// Queries, keys and values in one; the gate of the output; forgetting; and strength.
    pub inner: [SiteLinear; 4],
    pub output: SiteLinear,
    /// (channels, kernel)
    pub conv: NormVector,
    /// (value heads)
    pub a_log: NormVector,
    pub dt_bias: NormVector,
    /// (value dim)
    pub norm: NormVector,
    pub eps: f64,
    pub sizes: DeltaSizes,
}

impl DeltaNet {
    /// On slices.
    pub(super) fn frozen(&self) -> DeltaLayer<'_> {
        DeltaLayer {
            conv: self.conv.values(),
            a_log: self.a_log.values(),
            dt_bias: self.dt_bias.values(),
            norm: self.norm.values(),
            eps: self.eps as f32,
            sizes: self.sizes,
        }
    }

    /// On a device.
    pub(super) fn tensors(&self) -> DeltaTensors {
        let [conv, a_log, dt_bias, norm] = [&self.conv, &self.a_log, &self.dt_bias, &self.norm].map(|v| v.tensor.clone());
        DeltaTensors { conv, a_log, dt_bias, norm, eps: self.eps, sizes: self.sizes }
    }

    /// Numbers of a token that its projections make.
    pub(super) fn widths(&self) -> [usize; 4] {
        [self.sizes.channels(), self.sizes.values(), self.sizes.value_heads, self.sizes.value_heads]
    }
}

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    /// Which it is, an encoder's first.
    pub layer: usize,
    pub attention_norm: Norm,
    pub mixer: Mixer,
    /// Of what attention gives, before it is added.
    pub post_attention_norm: Option<Norm>,
    /// Between the mixer and the feed-forward.
    pub cross: Option<Cross>,
    pub mlp_norm: Norm,
    pub mlp: Mlp,
    /// Of what the feed-forward gives, before it is added.
    pub post_mlp_norm: Option<Norm>,
    /// Attention and feed-forward read the same input.
    pub parallel: bool,
    pub layer_gate: Option<LayerGate>,
    /// What the block's output is multiplied with.
    pub scale: Option<f32>,
}

/// Sizes and tables that all blocks share.
#[derive(Debug)]
pub(super) struct SharedTables {
    /// Of the kinds of layers there are.
    pub ropes: Vec<RopeTable>,
    /// What embeddings are multiplied with.
    pub embedding_scale: Option<f32>,
    /// Soft cap of logits.
    pub final_cap: Option<f64>,
}

impl Block {
    /// Every linear layer, in the order of the sites.
    pub(super) fn linears(&self) -> Vec<&SiteLinear> {
        let mut all = match &self.mixer {
            Mixer::Attention(layers) => layers.inner().into_iter().chain([&layers.output]).collect(),
            Mixer::Delta(net) => net.inner.iter().chain([&net.output]).collect::<Vec<_>>(),
        };
        all.extend(self.cross.iter().flat_map(|cross| [&cross.q, &cross.kv[0], &cross.kv[1], &cross.output]));
        match &self.mlp {
            Mlp::Dense(dense) => all.extend(dense.linears()),
            Mlp::Experts(experts) => all.extend(experts.linears()),
            Mlp::Both(both) => {
                all.extend(both.dense.linears());
                all.extend(both.experts.linears());
            }
        }
        all.extend(self.layer_gate.iter().flat_map(|part| [&part.gate, &part.projection]));
        all
    }

    /// Attention over its own text, and over what an encoder made.
    pub(super) fn attentions(&self) -> impl Iterator<Item = &Attention> {
        let own = if let Mixer::Attention(layers) = &self.mixer { Some(&layers.attention) } else { None };
        own.into_iter().chain(self.cross.as_ref().map(|cross| &cross.attention))
    }
}

impl AttentionLayers {
    /// The projections that read the block's normed input: q, k and v, all of them in one, or some alone.
    pub(super) fn inner(&self) -> Vec<&SiteLinear> {
        match &self.qkv {
            Qkv::Split { q, k, v } => vec![q, k, v],
            Qkv::Fused { qkv, .. } => vec![qkv],
            Qkv::KeysAsValues { q, k } => vec![q, k],
            Qkv::QueriesAlone { q } => vec![q],
        }
    }
}

impl Experts {
    fn linears(&self) -> impl Iterator<Item = &SiteLinear> {
        std::iter::once(&self.router).chain(self.each.iter().flat_map(FeedForward::linears))
    }
}

impl FeedForward {
    /// The layers that read its input: gate and up, both in one, or up alone.
    pub(super) fn inner(&self) -> Vec<&SiteLinear> {
        match &self.inner {
            Inner::Gated { gate, up } => vec![gate, up],
            Inner::Fused { gate_up, .. } => vec![gate_up],
            Inner::Plain { up } => vec![up],
        }
    }

    fn linears(&self) -> Vec<&SiteLinear> {
        let mut all = self.inner();
        all.push(&self.down);
        all
    }
}
