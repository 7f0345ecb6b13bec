//! An adapter in the form that the kernels take, made once when it changes.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::super::Model;
use super::super::site::{Adapt, ContentHash, Dropout, LowRankPair, Magnitude, Site, SiteKind, Term};
use crate::device::Compute;
use crate::error::Result;
use crate::files::Mapped;
use crate::kernels::columns::{ColumnScale, OutputNorms};
use crate::kernels::dropout::DropoutMask;
use crate::kernels::engine::StepPair;
use crate::kernels::host;
use crate::kernels::linear::Frozen;
use crate::kernels::weight::{RowOrder, Weight, WeightType};

/// What an adapter does, by site: pairs rounded and transposed as the kernels want them, factors of DoRA, whole matrices.
/// `model.prepare(&())` is the base alone.
#[derive(Debug)]
pub struct PreparedAdapter {
    /// For kernels.
    pub(super) pairs: Vec<Option<StepPair>>,
    pub(super) masks: Vec<Option<DropoutMask>>,
    pub(super) columns: Vec<Option<ColumnScale>>,
    /// A head in place of the base's.
    pub(super) full_head: Option<Arc<Frozen>>,
    /// An embedding in place of the base's, (v, d).
    pub(super) full_embedding: Option<Tensor>,
    /// What it was made of.
    terms: Vec<Option<OwnTerm>>,
    content: OnceLock<ContentHash>,
}

/// A [`Term`] that holds what it is made of.
#[derive(Debug)]
enum OwnTerm {
    LowRank { a: Tensor, b: Tensor, scale: f64, dropout: Option<Dropout>, magnitude: Option<OwnMagnitude> },
    Full(Tensor),
}

#[derive(Debug)]
struct OwnMagnitude {
    m: Tensor,
    base: OutputNorms,
    known: Option<Vec<f32>>,
}

impl Model {
    /// Prepares `adapt`; tensors are shared, so that what is prepared of an adapter in training is that of this moment.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn prepare(&self, adapt: &dyn Adapt) -> Result<PreparedAdapter> {
        let half = self.multiplies_in_bf16();
        let terms: Vec<Option<Term>> = (0..self.sites.len()).map(|i| adapt.term(Site(i))).collect();
        let pairs: Vec<Option<LowRankPair>> =
            terms.iter().map(|t| if let Some(Term::LowRank(pair)) = t { Some(*pair) } else { None }).collect();
        let full = |site: Site| if let Some(Term::Full(full)) = terms[site.0] { Some(full) } else { None };
        let mask = |p: &Option<LowRankPair>| p.as_ref()?.dropout.map(|d| DropoutMask::new(d.key, d.p));
        let kernels = self.in_kernels();
        Ok(PreparedAdapter {
            masks: pairs.iter().map(mask).collect(),
            columns: pairs.par_iter().map(|p| p.map_or(Ok(None), scale)).collect::<Result<_>>()?,
            pairs: (pairs.par_iter().zip(&self.sites))
                .map(|(p, site)| p.filter(|_| kernels).map(|p| read(p, half && site.kind != SiteKind::Router)).transpose())
                .collect::<Result<_>>()?,
            full_head: full(self.head.site).filter(|_| kernels).map(frozen).transpose()?,
            full_embedding: full(self.embedding.site).cloned(),
            terms: terms.iter().map(|t| t.as_ref().map(|t| OwnTerm::new(t).laid_out()).transpose()).collect::<Result<_>>()?,
            content: OnceLock::new(),
        })
    }
}

impl PreparedAdapter {
    /// What acts, and nothing made of it: for a machine that only counts.
    pub(super) fn unprepared(model: &Model, adapt: &dyn Adapt) -> PreparedAdapter {
        PreparedAdapter {
            pairs: Vec::new(),
            masks: Vec::new(),
            columns: Vec::new(),
            full_head: None,
            full_embedding: None,
            terms: (0..model.sites.len()).map(|i| adapt.term(Site(i)).as_ref().map(OwnTerm::new)).collect(),
            content: OnceLock::new(),
        }
    }

    /// Whether something acts at `site`.
    pub(super) fn acts(&self, site: Site) -> bool {
        self.terms[site.0].is_some()
    }

    /// Whether a pair acts at `site`.
    pub(super) fn has_pair(&self, site: Site) -> bool {
        matches!(self.terms[site.0], Some(OwnTerm::LowRank { .. }))
    }

    /// The hash of what acts, made once. Two adapters with the same one give the same numbers.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn content(&self) -> Result<ContentHash> {
        if let Some(content) = self.content.get() {
            return Ok(*content);
        }
        let mut hash = Sha256::new();
        let mut empty = true;
        for (site, term) in self.terms.iter().enumerate() {
            let Some(term) = term else { continue };
            empty = false;
            hash.update((site as u64).to_le_bytes());
            term.hash(&mut hash)?;
        }
        let content = if empty { [0; 32] } else { hash.finalize().into() };
        // Another thread may have been faster; it found the same.
        Ok(*self.content.get_or_init(|| content))
    }
}

impl OwnTerm {
    fn new(term: &Term) -> OwnTerm {
        match term {
            Term::Full(full) => OwnTerm::Full((*full).clone()),
            Term::LowRank(LowRankPair { a, b, scale, dropout, magnitude }) => OwnTerm::LowRank {
                a: (*a).clone(),
                b: (*b).clone(),
                scale: *scale,
                dropout: *dropout,
                magnitude: magnitude.map(|m| OwnMagnitude {
                    m: m.m.clone(),
                    base: m.base.clone(),
                    known: m.known.map(<[f32]>::to_vec),
                }),
            },
        }
    }

    /// With pairs whose rows lie one after another, for products on any device: a copy where they are a part of a larger tensor.
    fn laid_out(self) -> Result<OwnTerm> {
        Ok(match self {
            OwnTerm::LowRank { a, b, scale, dropout, magnitude } => {
                OwnTerm::LowRank { a: a.contiguous()?, b: b.contiguous()?, scale, dropout, magnitude }
            }
            full => full,
        })
    }

    fn hash(&self, hash: &mut Sha256) -> Result<()> {
        let mut tensor = |kind: u8, t: &Tensor| -> Result<()> {
            let values = t.flatten_all()?.to_vec1::<f32>()?;
            hash.update([kind]);
            hash.update((values.len() as u64).to_le_bytes());
            for part in values.chunks(4096) {
                hash.update(part.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            }
            Ok(())
        };
        match self {
            OwnTerm::Full(full) => tensor(0, full),
            OwnTerm::LowRank { a, b, scale, dropout: _, magnitude } => {
                tensor(1, a)?;
                tensor(2, b)?;
                if let Some(magnitude) = magnitude {
                    tensor(3, &magnitude.m)?;
                }
                hash.update(scale.to_le_bytes());
                Ok(())
            }
        }
    }
}

impl Adapt for PreparedAdapter {
    fn term(&self, site: Site) -> Option<Term<'_>> {
        Some(match self.terms[site.0].as_ref()? {
            OwnTerm::Full(full) => Term::Full(full),
            OwnTerm::LowRank { a, b, scale, dropout, magnitude } => {
                let magnitude = magnitude.as_ref();
                let magnitude = magnitude.map(|m| Magnitude { m: &m.m, base: &m.base, known: m.known.as_deref() });
                Term::LowRank(LowRankPair { a, b, scale: *scale, dropout: *dropout, magnitude })
            }
        })
    }
}

fn read(pair: LowRankPair, half: bool) -> Result<StepPair> {
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    Ok(StepPair::new(flat(pair.a)?, flat(pair.b)?, pair.a.dim(0)?, pair.scale as f32, half))
}

/// What the outputs are multiplied with, of a pair with magnitudes.
fn scale(pair: LowRankPair) -> Result<Option<ColumnScale>> {
    let (Some(magnitude), Some(norms)) = (pair.magnitude, pair.norms()?) else { return Ok(None) };
    Ok(Some(ColumnScale::new(&magnitude.m.to_vec1::<f32>()?, norms)))
}

/// A trained matrix as a frozen one, for one call.
fn frozen(full: &Tensor) -> Result<Arc<Frozen>> {
    let (rows, cols) = full.dims2()?;
    let copied = host::read(&full.contiguous()?, |values| {
        Ok(Mapped::anonymous(size_of_val(values), |bytes| {
            bytes.chunks_exact_mut(size_of::<f32>()).zip(values).for_each(|(to, v)| to.copy_from_slice(&v.to_le_bytes()));
        }))
    });
    let data = copied??;
    let weight = Weight { data, second: None, dtype: WeightType::F32, rows, cols, order: RowOrder::Plain };
    Ok(Frozen::new(weight, Compute::F32))
}
