//! The places where an adapter may act, and what it does there.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::columns::OutputNorms;

/// A linear layer (or the embedding) of a model, by its place in [`super::Model::sites`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(pub usize);

/// What a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteKind {
    /// A projection of the attention block.
    Attention,
    /// A projection of the feed-forward block.
    Mlp,
    /// A matrix of one expert, of a tensor of all: no module of its own.
    Expert,
    /// What chooses the experts of a token.
    Router,
    /// The token embedding.
    Embedding,
    /// The output head.
    Head,
}

/// A site's name and shape.
#[derive(Debug, Clone)]
pub struct SiteInfo {
    /// Module path as Hugging Face names it, e.g. `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Index of the block it belongs to.
    pub layer: Option<usize>,
    pub kind: SiteKind,
    /// Input features (for the embedding: the vocabulary).
    pub inputs: usize,
    /// Output features (for the embedding: the model's width).
    pub outputs: usize,
    /// The weight is stored `[inputs, outputs]` (GPT-2's Conv1D, which is PEFT's `fan_in_fan_out`; the experts of gpt-oss).
    pub conv1d: bool,
    /// `target_modules` can name it: it is a linear layer or was one before transformers 5.
    pub module: bool,
    /// `all-linear` takes it.
    pub all_linear: bool,
}

/// What an adapter does at a site.
#[derive(Debug, Clone, Copy)]
pub enum Term<'a> {
    /// A delta on top of the site's own output.
    LowRank(LowRankPair<'a>),
    /// A matrix in place of the site's own (`modules_to_save`): `[outputs, inputs]` for the head, `[vocabulary, width]`
    /// for the embedding.
    Full(&'a Tensor),
}

/// `scale · B·A·x`.
#[derive(Debug, Clone, Copy)]
pub struct LowRankPair<'a> {
    /// `(r, inputs)`.
    pub a: &'a Tensor,
    /// `(outputs, r)`.
    pub b: &'a Tensor,
    pub scale: f64,
    /// On `x`, in training.
    pub dropout: Option<Dropout>,
    /// What the site's output, with the delta and without the bias, is multiplied with (DoRA).
    pub magnitude: Option<Magnitude<'a>>,
}

/// A trained magnitude for every output, in place of the norm of its direction `W + scale · B·A` (Liu et al. 2024, eq. 5).
#[derive(Debug, Clone, Copy)]
pub struct Magnitude<'a> {
    /// `(outputs)`.
    pub m: &'a Tensor,
    /// Of the site's own matrix.
    pub base: &'a OutputNorms,
    /// Norms of the directions, where A and B no longer change.
    pub known: Option<&'a [f32]>,
}

/// A mask of `kernels::dropout`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    pub key: u64,
    /// Probability to drop, above 0.
    pub p: f64,
}

impl LowRankPair<'_> {
    /// Norms of the directions, of a pair with magnitudes; no gradient goes through them.
    ///
    /// # Errors
    /// When A or B cannot be read.
    pub fn norms(&self) -> Result<Option<Vec<f32>>> {
        let Some(magnitude) = self.magnitude else { return Ok(None) };
        if let Some(known) = magnitude.known {
            return Ok(Some(known.to_vec()));
        }
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        Ok(Some(magnitude.base.with(&flat(self.a)?, &flat(self.b)?, self.scale as f32)))
    }

    /// What outputs are multiplied with, `(outputs)`.
    ///
    /// # Errors
    /// As [`LowRankPair::norms`].
    pub fn factors(&self) -> Result<Option<Tensor>> {
        let (Some(magnitude), Some(norms)) = (self.magnitude, self.norms()?) else { return Ok(None) };
        Ok(Some((magnitude.m / Tensor::from_slice(&norms, norms.len(), magnitude.m.device())?)?))
    }
}

/// What names the numbers that act, whatever the adapter is called: SHA-256 over them. The base's is all zeros.
pub type ContentHash = [u8; 32];

/// An adapter as a pass sees it: data, which every way to compute reads. `()` is the base alone.
pub trait Adapt: Sync {
    /// What acts at `site`; nothing where it is the base's alone.
    fn term(&self, site: Site) -> Option<Term<'_>>;
}

impl Adapt for () {
    fn term(&self, _site: Site) -> Option<Term<'_>> {
        None
    }
}
