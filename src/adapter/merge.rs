//! What an adapter makes of a weight: `W + scale · B·A`, in f32; of a DoRA adapter, its directions times its magnitudes.

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
        let delta = (pair.b.detach().contiguous()?.matmul(&pair.a.detach())? * pair.scale)?; // (o, r) · (r, i)
        let conv1d = model.sites()[site.0].conv1d;
        let delta = if conv1d { delta.t()?.contiguous()? } else { delta };
        let sum = (base + delta)?;
        let Some(Term::LowRank(term)) = self.term(site) else { return Ok(Some(sum)) };
        match term.factors()? {
            None => Ok(Some(sum)),
            // (o, 1) or (1, o), as the outputs lie.
            Some(c) => Ok(Some(sum.broadcast_mul(&c.detach().unsqueeze(if conv1d { 0 } else { 1 })?)?)),
        }
    }
}
