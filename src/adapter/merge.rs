//! What an adapter adds to a weight: `W + scale · B·A`, in f32.

use candle_core::Tensor;

use super::Adapter;
use crate::error::Result;
use crate::model::{Adapt, Model, Site, Term};

impl Adapter {
    /// The merged weight of a site as the base stores it (f32; `[outputs, inputs]`, or `[inputs, outputs]` for
    /// Conv1D), or `None` where the adapter does nothing. Peak memory: the weight and its delta.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn merged(&self, model: &Model, site: Site) -> Result<Option<Tensor>> {
        if let Some(Term::Full(full)) = self.term(site) {
            return Ok(Some(full.clone()));
        }
        let Some(pair) = self.low_rank(site) else { return Ok(None) };
        let weight = model.site_weight(site);
        let base = Tensor::from_vec(weight.to_f32(), (weight.rows, weight.cols), &model.device)?;
        let delta = (pair.b.detach().matmul(&pair.a.detach())? * pair.scale)?; // (o, r) · (r, i)
        let delta = if model.sites()[site.0].conv1d { delta.t()?.contiguous()? } else { delta };
        Ok(Some((base + delta)?))
    }
}
