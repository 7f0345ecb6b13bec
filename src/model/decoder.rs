//! The one decoder: pre-norm blocks of attention and feed-forward, chosen by configuration.
//!
//! Shapes: b rows, t tokens, d width, h heads, g key/value heads, e head size, f feed-forward.

use candle_core::Tensor;

use super::batch::Batch;
use super::linear::FrozenLinear;
use super::site::{Adapt, Site, Term};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::norm::FrozenNorm;
use crate::kernels::{attention, glu, norm, rope};

/// What a forward pass is given besides tokens: the adapter.
pub struct Ctx<'a> {
    pub adapt: &'a dyn Adapt,
}

impl<'a> Ctx<'a> {
    pub fn new(adapt: &'a dyn Adapt) -> Ctx<'a> {
        Ctx { adapt }
    }
}

/// A linear layer at a site.
#[derive(Debug)]
pub(super) struct SiteLinear {
    pub site: Site,
    pub linear: FrozenLinear,
}

impl SiteLinear {
    /// `(.., inputs)` → `(.., outputs)` with what the adapter does.
    pub(super) fn forward(&self, adapt: &dyn Adapt, x: &Tensor) -> Result<Tensor> {
        match adapt.term(self.site) {
            None => self.linear.forward(x),
            Some(Term::LowRank(pair)) => {
                let y = match x.device().is_cpu() && pair.dropout.is_none() {
                    true => self.linear.unbiased_adapted(x, pair.a, pair.b, pair.scale)?,
                    false => pair.add(x, &self.linear.unbiased(x)?)?,
                };
                let y = pair.factors()?.map(|c| y.broadcast_mul(&c)).transpose()?.unwrap_or(y);
                self.linear.with_bias(y)
            }
            Some(Term::Full(full)) => {
                let (dims, inputs) = (x.dims(), full.dim(1)?);
                let y = x.reshape((x.elem_count() / inputs, inputs))?.matmul(&full.t()?)?; // (n, i) · (i, o)
                Ok(y.reshape([&dims[..dims.len() - 1], &[full.dim(0)?]].concat())?)
            }
        }
    }
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

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.bias {
            None => norm::rms_norm(x, &self.weight.tensor, self.eps),
            Some(bias) => norm::layer_norm(x, &self.weight.tensor, &bias.tensor, self.eps),
        }
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
    pub scores: attention::Scores,
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
    pub rope: Option<rope::RopeTable>,
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
    /// `x` (b, t, d) → (b, t, d).
    pub(super) fn taped(&self, shared: &SharedTables, batch: &Batch, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let attended = self.attend(shared, batch, ctx, &self.attention_norm.forward(x)?)?;
        let x = (x + normed(&self.post_attention_norm, attended)?)?;
        let fed = self.feed(shared.activation, ctx.adapt, &self.mlp_norm.forward(&x)?)?;
        Ok((x + normed(&self.post_mlp_norm, fed)?)?)
    }

    fn attend(&self, shared: &SharedTables, batch: &Batch, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let (h, g, e) = (shared.heads, shared.kv_heads, shared.head_dim);
        let (b, t) = (batch.rows, batch.len);
        let (q, k, v) = match &self.qkv {
            Qkv::Split { q, k, v } => (q.forward(ctx.adapt, x)?, k.forward(ctx.adapt, x)?, v.forward(ctx.adapt, x)?),
            Qkv::Fused(qkv) => {
                let y = qkv.forward(ctx.adapt, x)?; // (b, t, h·e + 2·g·e)
                let part = |start, len| y.narrow(2, start, len)?.contiguous();
                (part(0, h * e)?, part(h * e, g * e)?, part((h + g) * e, g * e)?)
            }
        };
        let mut q = q.reshape((b, t, h, e))?; // (b, t, h, e)
        let mut k = k.reshape((b, t, g, e))?; // (b, t, g, e)
        let v = v.reshape((b, t, g, e))?;
        if let Some(table) = &shared.rope {
            q = rope::rope(&q, table, &batch.positions)?;
            k = rope::rope(&k, table, &batch.positions)?;
        }
        let y = attention::attention(&q, &k, &v, &batch.starts, self.scores)?; // (b, t, h, e)
        self.output.forward(ctx.adapt, &y.reshape((b, t, h * e))?)
    }

    fn feed(&self, activation: Activation, adapt: &dyn Adapt, x: &Tensor) -> Result<Tensor> {
        let act = |x: Tensor| match activation {
            Activation::Silu => Ok(x.silu()?),
            Activation::GeluTanh => glu::gelu_tanh(&x),
            Activation::Gelu => Ok(x.gelu_erf()?),
            Activation::Relu => Ok(x.relu()?),
        };
        match &self.mlp {
            Mlp::Gated { gate, up, down } => {
                let (gate, up) = (gate.forward(adapt, x)?, up.forward(adapt, x)?); // (b, t, f)
                let y = if activation == Activation::Silu { glu::swiglu(&gate, &up)? } else { (act(gate)? * up)? };
                down.forward(adapt, &y)
            }
            Mlp::Plain { up, down } => down.forward(adapt, &act(up.forward(adapt, x)?)?), // (b, t, f)
        }
    }
}

fn normed(norm: &Option<Norm>, x: Tensor) -> Result<Tensor> {
    norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
}
