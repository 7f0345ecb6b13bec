//! The places where an adapter may act, and the one seam through which it acts.

use candle_core::Tensor;

use crate::error::Result;

/// A linear layer (or the embedding) of a model, by its place in [`super::Model::sites`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(pub usize);

/// What a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteKind {
    /// A projection of the attention block.
    Attention,
    /// A projection of the feed-forward block.
    Mlp,
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
    /// The weight is stored `[inputs, outputs]` (GPT-2's Conv1D; PEFT's `fan_in_fan_out`).
    pub conv1d: bool,
}

/// A plain low-rank share, `scale · B·A·x`.
#[derive(Debug, Clone, Copy)]
pub struct LowRankPair<'a> {
    /// `(r, inputs)`.
    pub a: &'a Tensor,
    /// `(outputs, r)`.
    pub b: &'a Tensor,
    pub scale: f64,
}

/// An adapter as `forward` sees it. `()` is the base alone.
pub trait Adapt: Sync {
    /// The site's output, given its input `x` (`.., inputs`) and the base's output `y` (`.., outputs`).
    ///
    /// # Errors
    /// When shapes or devices disagree.
    fn apply(&self, site: Site, x: &Tensor, y: Tensor) -> Result<Tensor>;

    /// The pair, where the adapter's share at this site is exactly `scale · B·A·x`: base and share then run as one
    /// operation and `apply` is not asked.
    fn pair(&self, _site: Site) -> Option<LowRankPair<'_>> {
        None
    }

    /// As [`Adapt::pair`], where the share's input goes through dropout first: key and probability of its mask
    /// (`kernels::dropout`).
    fn dropped_pair(&self, _site: Site) -> Option<(LowRankPair<'_>, u64, f64)> {
        None
    }

    /// A full matrix that replaces the site's own (`modules_to_save`), `[outputs, inputs]` for the head and
    /// `[vocabulary, width]` for the embedding.
    fn replacement(&self, _site: Site) -> Option<&Tensor> {
        None
    }

    /// Whether `apply` or `replacement` does anything at this site.
    fn touches(&self, site: Site) -> bool;
}

impl Adapt for () {
    fn apply(&self, _site: Site, _x: &Tensor, y: Tensor) -> Result<Tensor> {
        Ok(y)
    }

    fn touches(&self, _site: Site) -> bool {
        false
    }
}
