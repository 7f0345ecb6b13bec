//! Several adapters as one: at every site the weighted sum of their deltas, exactly, as a pair of their ranks' sum.
//!
//! `Σ wᵢ·sᵢ·Bᵢ·Aᵢ = [w₁s₁B₁ … wₙsₙBₙ]·[A₁; …; Aₙ]` (PEFT's `combination_type="cat"`, `tuners/lora/model.py`).

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::model::{Adapt, LowRankPair, Model, PreparedAdapter, Site, Term};

/// The weighted sum of adapters; of one alone, that one at another scale.
#[derive(Debug)]
pub struct Mix {
    /// By [`Site`]: A `(r, inputs)`, B `(outputs, r)` and what their product is multiplied with.
    pairs: Vec<Option<(Tensor, Tensor, f64)>>,
}

impl Mix {
    /// Of adapters by name, each with its weight; those of weight 0 take no part.
    ///
    /// # Errors
    /// [`Error::Usage`] where a weight is not a number, and for an adapter whose deltas do not add: one with magnitudes (DoRA) or matrices
    /// trained in full, at another weight than 1 or beside others.
    pub fn new(parts: &[(&str, &PreparedAdapter, f64)], model: &Model) -> Result<Mix> {
        let parts: Vec<_> = parts.iter().filter(|(_, _, weight)| *weight != 0.0).collect();
        let site = |site: usize| -> Result<Option<(Tensor, Tensor, f64)>> {
            let mut pairs = Vec::new();
            for (name, adapter, weight) in parts.iter().copied() {
                if let Some(term) = adapter.term(Site(site)) {
                    pairs.push(summand(name, term, *weight)?);
                }
            }
            match pairs.as_slice() {
                [] => Ok(None),
                [(a, b, scale)] => Ok(Some(((*a).clone(), (*b).clone(), *scale))),
                many => {
                    let a = Tensor::cat(&many.iter().map(|(a, _, _)| *a).collect::<Vec<_>>(), 0)?;
                    let b = many.iter().map(|(_, b, scale)| *b * *scale).collect::<candle_core::Result<Vec<_>>>()?;
                    Ok(Some((a, Tensor::cat(&b, 1)?.contiguous()?, 1.0)))
                }
            }
        };
        Ok(Mix { pairs: (0..model.sites().len()).map(site).collect::<Result<_>>()? })
    }
}

fn summand<'a>(name: &str, term: Term<'a>, weight: f64) -> Result<(&'a Tensor, &'a Tensor, f64)> {
    let fail = |why: &str| Err(Error::usage(format!("adapter {name}"), why, "use it alone and at scale 1"));
    match term {
        _ if !weight.is_finite() => fail("its weight is not a number"),
        Term::LowRank(LowRankPair { magnitude: Some(_), .. }) => {
            fail("it has magnitudes (DoRA), whose effect is no sum of deltas")
        }
        Term::Full(_) => fail("it has matrices trained in full, whose effect is no sum of deltas"),
        Term::LowRank(LowRankPair { a, b, scale, .. }) => Ok((a, b, scale * weight)),
    }
}

impl Adapt for Mix {
    fn term(&self, site: Site) -> Option<Term<'_>> {
        let (a, b, scale) = self.pairs.get(site.0)?.as_ref()?;
        Some(Term::LowRank(LowRankPair { a, b, scale: *scale, dropout: None, magnitude: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::tiny_model;

    /// `scale · B·A` of every site.
    fn deltas(adapt: &dyn Adapt, model: &Model) -> Vec<Vec<f32>> {
        let delta = |site| match adapt.term(Site(site)) {
            Some(Term::LowRank(p)) => {
                (p.b.matmul(p.a).unwrap() * p.scale).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            }
            _ => Vec::new(),
        };
        (0..model.sites().len()).map(delta).collect()
    }

    #[test]
    fn a_mix_is_the_weighted_sum_of_its_parts() {
        let model = tiny_model::model(1);
        let [x, y] = [5, 6].map(|seed| model.prepare(&tiny_model::adapter(&model, seed)).unwrap());
        let mix = Mix::new(&[("x", &x, 0.25), ("y", &y, -1.5)], &model).unwrap();
        let (dx, dy) = (deltas(&x, &model), deltas(&y, &model));
        assert!(dx.iter().any(|d| !d.is_empty()));
        for ((mixed, x), y) in deltas(&mix, &model).iter().zip(&dx).zip(&dy) {
            assert_eq!(mixed.len(), x.len());
            for ((m, x), y) in mixed.iter().zip(x).zip(y) {
                assert!((m - (0.25 * x - 1.5 * y)).abs() < 1e-5, "{m} {x} {y}");
            }
        }
        let alone = model.prepare(&Mix::new(&[("x", &x, 1.0), ("y", &y, 0.0)], &model).unwrap()).unwrap();
        assert_eq!(alone.content().unwrap(), x.content().unwrap());
        let none = model.prepare(&Mix::new(&[("x", &x, 0.0)], &model).unwrap()).unwrap();
        assert_eq!(none.content().unwrap(), [0; 32]);
        assert!(Mix::new(&[("x", &x, f64::NAN)], &model).is_err());
    }
}
