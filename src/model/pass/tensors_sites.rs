//! The linear layers with what acts on them, forward and back, in tensor operations.

use candle_core::{DType, Tensor};

use super::super::layers::SiteLinear;
use super::super::site::{Adapt, LowRankPair, Site, Term};
use super::machine::{Acting, Given, Sites, Unscaled};
use super::prepared::PreparedAdapter;
use super::sums::{self, SiteGradient};
use super::tensors::Tensors;
use crate::error::Result;
use crate::kernels::linear::Side;
use crate::kernels::tensors::{columns, linear};

/// What a site read: `x` (n, i), where something trained there needs it, of the tokens `at` (n) of the pass, or of all.
pub(super) struct SiteInput<'a> {
    pub site: Site,
    pub x: Option<&'a Tensor>,
    pub at: Option<&'a Tensor>,
}

impl Tensors<'_> {
    pub(super) fn weight(&self, site: &SiteLinear) -> Result<Tensor> {
        Ok(site.linear.matrix.expanded(&self.model.device, self.dtype)?)
    }

    /// Which tokens of the pass `given` is, where it is not all.
    fn of_part(&self, given: &Given) -> Result<Option<Tensor>> {
        Ok(given.chosen.map(|chosen| Tensor::new(chosen, &self.model.device)).transpose()?)
    }

    /// The input of a pair at `site`, and the mask that made it; `x` has the tokens `at`, or all.
    fn dropped(&self, at: Option<&Tensor>, site: Site, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let Some(mask) = self.masks.factors(site.0, at)? else { return Ok((x.clone(), None)) };
        let mask = mask.to_dtype(x.dtype())?;
        Ok(((x * &mask)?, Some(mask)))
    }

    /// `y` (n, o) with what the pairs at `site` make of `x` (n, i), without magnitudes; `x` has the tokens `at`, or all.
    pub(super) fn with_pairs(
        &self,
        (acting, at): (&Acting, Option<&Tensor>),
        site: Site,
        x: &Tensor,
        y: Tensor,
    ) -> Result<Tensor> {
        let mut parts = Vec::new();
        for (rows, adapter) in acting {
            let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            parts.push(match pair(adapter, site) {
                None => own(&y)?,
                Some(pair) => {
                    let (x, _) = self.dropped(at, site, &own(x)?.contiguous()?)?;
                    (own(&y)? + linear::delta(&x, pair.a, pair.b, pair.scale)?.to_dtype(DType::F32)?)?
                }
            });
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? })
    }

    /// `y` (n, o) by the magnitudes at `site`; what was there before them is kept where there is one adapter.
    pub(super) fn with_magnitudes(
        &self,
        acting: &Acting,
        site: Site,
        y: Tensor,
        unscaled: Option<&mut Unscaled<Self>>,
    ) -> Result<Tensor> {
        if acting.iter().all(|(_, adapter)| adapter.columns[site.0].is_none()) {
            return Ok(y);
        }
        if let Some(unscaled) = unscaled {
            unscaled.push((site, y.to_dtype(self.dtype)?));
        }
        let mut parts = Vec::new();
        for (rows, adapter) in acting {
            let own = y.narrow(0, rows.start, rows.len())?;
            parts.push(match &adapter.columns[site.0] {
                None => own,
                Some(scale) => columns::scaled(&own.contiguous()?, &self.numbers(scale.factors())?)?,
            });
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? })
    }

    fn numbers(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, values.len(), &self.model.device)?)
    }

    /// `x` (n, i) through one site, in f32.
    pub(super) fn through_site(
        &self,
        given: &Given,
        site: &SiteLinear,
        x: &Tensor,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Tensor> {
        let y = linear::product(x, &self.weight(site)?, site.linear.side, DType::F32)?;
        let at = self.of_part(given)?;
        let y = self.with_pairs((given.acting, at.as_ref()), site.site, x, y)?;
        let y = self.with_magnitudes(given.acting, site.site, y, Some(unscaled))?;
        Ok(match &site.linear.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// In f32 whatever the activations are: which expert comes first hangs on the last digits.
    pub(super) fn router_logits(&self, given: &Given, router: &SiteLinear, x: &Tensor) -> Result<Vec<f32>> {
        let (linear, x) = (&router.linear, x.to_dtype(DType::F32)?);
        let weight = linear.matrix.expanded(&self.model.device, DType::F32)?;
        let y = linear::product(&x, &weight, linear.side, DType::F32)?;
        let y = self.with_pairs((given.acting, None), router.site, &x, y)?;
        let y = linear.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
        Ok(y.flatten_all()?.to_vec1()?)
    }

    /// The way back of [`Tensors::router_logits`]: adds the gradient of `x` (n, d) to `dx`.
    pub(super) fn router_back(
        &mut self,
        given: &Given,
        router: &SiteLinear,
        x: &Tensor,
        d_logits: &[f32],
        dx: &mut Tensor,
    ) -> Result<()> {
        let linear = &router.linear;
        let d = Tensor::from_slice(d_logits, (given.tokens(), linear.outputs()), dx.device())?;
        let weight = linear.matrix.expanded(&self.model.device, DType::F32)?;
        *dx = (&*dx + linear::product(&d, &weight, linear.side.other(), DType::F32)?)?;
        let Some(pair) = pair(given.only(), router.site) else { return Ok(()) };
        let (x, mask) = self.dropped(None, router.site, &x.to_dtype(DType::F32)?)?;
        let g = linear::delta_back(&x, pair.a, pair.b, pair.scale, &d)?;
        *dx = (&*dx + mask.map(|mask| &g.x * mask).unwrap_or(Ok(g.x))?)?;
        sums::add(&mut self.sums[router.site.0], SiteGradient::Pair(g.a, g.b, None))
    }

    /// Adds the gradients of what is trained at sites with a common input; with `wanted`, the gradient of that in f32.
    pub(super) fn back(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Tensor>,
        unscaled: &Unscaled<Self>,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let mut dx: Option<Tensor> = None;
        let at = self.of_part(given)?;
        for (site, dy) in sites {
            let weight = if wanted { Some((self.weight(site)?, site.linear.side)) } else { None };
            let z = unscaled.iter().find(|(kept, _)| *kept == site.site).map(|(_, z)| z);
            let read = SiteInput { site: site.site, x, at: at.as_ref() };
            if let Some(g) = self.site_back(given.only(), &read, (dy, z), weight.as_ref(), &mut dx)? {
                sums::add(&mut self.sums[site.site.0], g)?;
            }
        }
        Ok(dx)
    }

    /// The gradient of what is trained at a site from that of its output, `dy`; with its `weight`, that of the input is added to `dx`
    /// (f32). `z` is the output before magnitudes, where there are any.
    pub(super) fn site_back(
        &self,
        adapter: &PreparedAdapter,
        read: &SiteInput,
        (dy, z): (&Tensor, Option<&Tensor>),
        weight: Option<&(Tensor, Side)>,
        dx: &mut Option<Tensor>,
    ) -> Result<Option<SiteGradient>> {
        let (mut dz, mut magnitude) = (dy.clone(), None);
        if let Some((scale, z)) = adapter.columns[read.site.0].as_ref().zip(z) {
            let (inner, dm) = columns::scaled_back(z, dy, &self.numbers(scale.factors())?, &self.numbers(scale.norms())?)?;
            (dz, magnitude) = (inner, Some(dm));
        }
        let dz = dz.to_dtype(self.dtype)?;
        if let Some((w, side)) = weight {
            add_to(dx, linear::product(&dz, w, side.other(), DType::F32)?)?;
        }
        match (adapter.term(read.site), read.x) {
            (Some(Term::Full(_)), Some(x)) => Ok(Some(SiteGradient::Full(dz.t()?.matmul(x)?.to_dtype(DType::F32)?))), // (o, n) · (n, i)
            (Some(Term::LowRank(pair)), Some(x)) => {
                let (x, mask) = self.dropped(read.at, read.site, x)?;
                let g = linear::delta_back(&x, pair.a, pair.b, pair.scale, &dz)?;
                if weight.is_some() {
                    let delta = mask.map(|mask| &g.x * mask).unwrap_or(Ok(g.x))?;
                    add_to(dx, delta.to_dtype(DType::F32)?)?;
                }
                Ok(Some(SiteGradient::Pair(g.a, g.b, magnitude)))
            }
            _ => Ok(None),
        }
    }
}

fn pair(adapter: &PreparedAdapter, site: Site) -> Option<LowRankPair<'_>> {
    if let Some(Term::LowRank(pair)) = adapter.term(site) { Some(pair) } else { None }
}

fn add_to(sum: &mut Option<Tensor>, delta: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + delta)?,
        None => delta,
    });
    Ok(())
}
