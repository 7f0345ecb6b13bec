//! Gradients of what an adapter trains, summed over the groups of a micro-batch.

use candle_core::Tensor;

use super::super::Model;
use super::super::site::{Adapt, Site, Term};
use super::prepared::PreparedAdapter;
use crate::error::Result;
use crate::kernels::adapted::PairGradient;
use crate::kernels::columns::ColumnScale;
use crate::kernels::engine::StepPair;

/// The gradient of what is trained at a site.
#[derive(Debug)]
pub enum SiteGradient {
    /// Of A `(r, inputs)`, B `(outputs, r)`, and of the magnitudes `(outputs)` where there are any.
    Pair(Tensor, Tensor, Option<Tensor>),
    /// Of a matrix trained in full, in its shape.
    Full(Tensor),
}

/// Gradients by site.
pub(super) type LossGradients = Vec<(Site, SiteGradient)>;

/// Sums of gradients.
#[derive(Default)]
pub(super) struct Sums {
    /// By site.
    pub sites: Vec<SiteSums>,
    /// (v, d)
    pub head: Option<Vec<f32>>,
    /// (v, d)
    pub embedding: Option<Vec<f32>>,
}

/// Of what is trained at a site.
#[derive(Default)]
pub(super) struct SiteSums {
    pub pair: Option<PairGradient>,
    pub magnitude: Option<Vec<f32>>,
}

impl Sums {
    /// Zeros for everything that `adapter` trains.
    pub(super) fn zero(model: &Model, adapter: &PreparedAdapter) -> Sums {
        let zeros = |site: Site| match adapter.term(site) {
            Some(Term::Full(full)) => Some(vec![0f32; full.elem_count()]),
            _ => None,
        };
        let site = |(pair, columns): (&Option<StepPair>, &Option<ColumnScale>)| SiteSums {
            pair: pair.as_ref().map(StepPair::zero),
            magnitude: columns.as_ref().map(|c| vec![0.0; c.factors().len()]),
        };
        let sites = adapter.pairs.iter().zip(&adapter.columns).map(site).collect();
        Sums { sites, head: zeros(model.head.site), embedding: zeros(model.embedding.site) }
    }

    /// As tensors, by site.
    pub(super) fn gradients(self, model: &Model, adapter: &PreparedAdapter) -> Result<LossGradients> {
        let mut gradients = Vec::new();
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &model.device);
        for (site, sum) in self.sites.into_iter().enumerate() {
            if let (Some(Term::LowRank(pair)), Some(g)) = (adapter.term(Site(site)), sum.pair) {
                let m = sum.magnitude.zip(pair.magnitude).map(|(sum, magnitude)| tensor(sum, magnitude.m)).transpose()?;
                gradients.push((Site(site), SiteGradient::Pair(tensor(g.a, pair.a)?, tensor(g.b, pair.b)?, m)));
            }
        }
        for (site, sum) in [(model.embedding.site, self.embedding), (model.head.site, self.head)] {
            if let (Some(Term::Full(like)), Some(sum)) = (adapter.term(site), sum) {
                gradients.push((site, SiteGradient::Full(tensor(sum, like)?)));
            }
        }
        Ok(gradients)
    }
}

/// `sum += g`.
pub(super) fn add(sum: &mut Option<SiteGradient>, g: SiteGradient) -> Result<()> {
    use SiteGradient::{Full, Pair};
    let both = |a: Option<Tensor>, b: Option<Tensor>| -> Result<Option<Tensor>> {
        Ok(match (a, b) {
            (Some(a), Some(b)) => Some((a + b)?),
            (a, b) => a.or(b),
        })
    };
    *sum = Some(match (sum.take(), g) {
        (Some(Pair(a, b, m)), Pair(da, db, dm)) => Pair((a + da)?, (b + db)?, both(m, dm)?),
        (Some(Full(w)), Full(dw)) => Full((w + dw)?),
        (_, g) => g,
    });
    Ok(())
}
