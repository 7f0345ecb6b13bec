//! The head, its loss and its way back, in tensor operations.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{DType, Tensor};

use super::super::Targets;
use super::super::site::{Adapt, Term};
use super::machine::Given;
use super::prepared::PreparedAdapter;
use super::sums::SiteGradient;
use super::tensors::Tensors;
use super::tensors_sites::SiteInput;
use crate::error::Result;
use crate::kernels::linear::Side;
use crate::kernels::tensors::head::{self, Head};
use crate::kernels::tensors::linear;

impl Tensors<'_> {
    /// The head's matrix under an adapter, and its side; `own` is the base's, once it was asked for.
    fn head_weight(&self, adapter: &PreparedAdapter, own: &mut Option<Tensor>) -> Result<(Tensor, Side)> {
        let head = &self.model.head;
        if let Some(Term::Full(full)) = adapter.term(head.site) {
            return Ok((full.to_dtype(self.dtype)?, Side::Transposed));
        }
        let whole = own.take().map_or_else(|| self.weight(head), Ok)?;
        *own = Some(whole.clone());
        Ok((whole, head.linear.side))
    }

    /// Logits (c, v) in f32 of normed rows, those of the tokens `at`, under one adapter, before a cap, and what they are before magnitudes.
    fn head_logits(
        &self,
        adapter: &PreparedAdapter,
        (w, side): &(Tensor, Side),
        x: &Tensor,
        at: Option<&Tensor>,
    ) -> Result<[Tensor; 2]> {
        let site = self.model.head.site;
        let acting = [(0..x.dim(0)?, adapter)];
        let z = self.with_pairs((&acting, at), site, x, linear::product(x, w, *side, DType::F32)?)?;
        Ok([self.with_magnitudes(&acting, site, z.clone(), None)?, z])
    }

    fn at(&self, targets: &Targets) -> Result<[Tensor; 2]> {
        let device = &self.model.device;
        Ok([Tensor::new(targets.at.as_slice(), device)?, Tensor::new(targets.ids.as_slice(), device)?])
    }

    /// The loss at each target, the gradient at `x` of their sum by `weights`, and those of a trained head, a piece of the rows at
    /// a time.
    pub(super) fn linear_cross_entropy(
        &self,
        given: &Given,
        x: &Tensor,
        targets: &Targets,
        weights: &[f32],
    ) -> Result<(Vec<f32>, Tensor, Vec<SiteGradient>)> {
        let adapter = given.only();
        let [at, ids] = self.at(targets)?;
        let [chosen, normed] = self.chosen(x, &at)?;
        let weight = self.head_weight(adapter, &mut None)?;
        let weights = Tensor::new(weights, x.device())?;
        let (mut made, mut gradients) = (Vec::new(), Vec::new());
        let logits = self.in_order(adapter, &weight, &at);
        let head = Head { logits: &logits, vocabulary: self.model.config.vocab, cap: self.model.shared.final_cap };
        let losses = head::losses_and_gradient(&normed, &head, &ids, &weights, &mut |piece: Range<usize>, dlogits| {
            let x = normed.narrow(0, piece.start, piece.len())?;
            let at = at.narrow(0, piece.start, piece.len())?;
            let read = SiteInput { site: self.model.head.site, x: Some(&x), at: Some(&at) };
            let z = match &adapter.columns[read.site.0] {
                Some(_) => Some(self.head_logits(adapter, &weight, &x, read.at)?[1].clone()),
                None => None,
            };
            let mut dx = None;
            gradients.extend(self.site_back(adapter, &read, (dlogits, z.as_ref()), Some(&weight), &mut dx)?);
            made.extend(dx);
            Ok(())
        })?;
        let d_chosen = self.norm_gradient(&self.model.final_norm, &chosen, &Tensor::cat(&made, 0)?)?;
        Ok((losses, x.zeros_like()?.index_add(&at, &d_chosen, 0)?, gradients))
    }

    /// Log-probabilities of the targets.
    pub(super) fn head_logps(&self, given: &Given, x: &Tensor, targets: &Targets) -> Result<Vec<f32>> {
        let [at, ids] = self.at(targets)?;
        let [_, normed] = self.chosen(x, &at)?;
        let weight = self.head_weight(given.only(), &mut None)?;
        let logits = self.in_order(given.only(), &weight, &at);
        let head = Head { logits: &logits, vocabulary: self.model.config.vocab, cap: self.model.shared.final_cap };
        Ok(head::logps(&normed, &head, &ids)?.to_vec1()?)
    }

    /// Logits of the tokens `at`, whose rows are asked for in order, piece by piece.
    fn in_order<'b>(
        &'b self,
        adapter: &'b PreparedAdapter,
        weight: &'b (Tensor, Side),
        at: &'b Tensor,
    ) -> impl Fn(&Tensor) -> Result<Tensor> + 'b {
        let begun = Cell::new(0usize);
        move |x| {
            let at = at.narrow(0, begun.get(), x.dim(0)?)?;
            begun.set(begun.get() + x.dim(0)?);
            let [logits, _] = self.head_logits(adapter, weight, x, Some(&at))?;
            Ok(logits)
        }
    }

    /// Logits of chosen rows under what acts on each.
    pub(super) fn row_logits(&self, given: &Given, x: &Tensor, rows: &[usize]) -> Result<Vec<f32>> {
        let (mut all, mut own) = (Vec::new(), None);
        for (tokens, adapter) in given.acting {
            let wanted: Vec<u32> = rows.iter().filter(|row| tokens.contains(row)).map(|row| *row as u32).collect();
            if wanted.is_empty() {
                continue;
            }
            let at = Tensor::new(wanted.as_slice(), x.device())?;
            let [_, normed] = self.chosen(x, &at)?;
            let [logits, _] = self.head_logits(adapter, &self.head_weight(adapter, &mut own)?, &normed, Some(&at))?;
            let logits = head::capped(logits, self.model.shared.final_cap)?;
            all.extend(logits.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }
}
