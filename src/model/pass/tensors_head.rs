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
use crate::error::Result;
use crate::kernels::linear::Side;
use crate::kernels::tensors::head::{self, Head};
use crate::kernels::tensors::{columns, linear};

impl Tensors<'_> {
    /// The head's matrix and its side.
    fn head_weight(&self, adapter: &PreparedAdapter) -> Result<(Tensor, Side)> {
        let head = &self.model.head;
        Ok(match adapter.term(head.site) {
            Some(Term::Full(full)) => (full.to_dtype(self.dtype)?, Side::Transposed),
            _ => (self.weight(head)?, head.linear.side),
        })
    }

    /// Logits (c, v) in f32 of normed rows under one adapter, before a cap, and what they are before magnitudes.
    fn head_logits(&self, adapter: &PreparedAdapter, rows: &[u64], x: &Tensor) -> Result<[Tensor; 2]> {
        let site = self.model.head.site;
        let (w, side) = self.head_weight(adapter)?;
        let acting = [(0..x.dim(0)?, adapter)];
        let z = self.with_pairs((&acting, rows), site, x, linear::product(x, &w, side, DType::F32)?)?;
        Ok([self.with_magnitudes(&acting, site, z.clone(), None)?, z])
    }

    /// The gradient of normed rows `x` (c, d) from that of their logits, and that of a trained head.
    fn head_back(
        &self,
        adapter: &PreparedAdapter,
        rows: &[u64],
        x: &Tensor,
        dlogits: &Tensor,
    ) -> Result<(Tensor, Option<SiteGradient>)> {
        let site = self.model.head.site;
        let (w, side) = self.head_weight(adapter)?;
        let (mut dz, mut magnitude) = (dlogits.clone(), None);
        if let Some(scale) = &adapter.columns[site.0] {
            let [_, z] = self.head_logits(adapter, rows, x)?;
            let (inner, dm) = columns::scaled_back(&z, dlogits, &self.numbers(scale.factors())?, &self.numbers(scale.norms())?)?;
            (dz, magnitude) = (inner, Some(dm));
        }
        let dz = dz.to_dtype(self.dtype)?;
        let dx = linear::product(&dz, &w, side.other(), DType::F32)?;
        match adapter.term(site) {
            Some(Term::Full(_)) => {
                let dw = dz.t()?.matmul(x)?.to_dtype(DType::F32)?; // (v, c) · (c, d)
                Ok((dx, Some(SiteGradient::Full(dw))))
            }
            Some(Term::LowRank(pair)) => {
                let (input, mask) = self.dropped(rows, adapter, site, x)?;
                let g = linear::delta_back(&input, pair.a, pair.b, pair.scale, &dz)?;
                let share = mask.map(|mask| &g.x * mask).unwrap_or(Ok(g.x))?;
                Ok(((dx + share.to_dtype(DType::F32)?)?, Some(SiteGradient::Pair(g.a, g.b, magnitude))))
            }
            None => Ok((dx, None)),
        }
    }

    fn at(&self, targets: &Targets) -> Result<[Tensor; 2]> {
        let device = &self.model.device;
        Ok([Tensor::new(targets.at.as_slice(), device)?, Tensor::new(targets.ids.as_slice(), device)?])
    }

    /// The loss at each target, the gradient at `x` of their sum by `weights`, and those of a trained head, a piece of the rows at
    /// a time.
    pub(super) fn head_loss(
        &self,
        given: &Given,
        x: &Tensor,
        targets: &Targets,
        weights: &[f32],
    ) -> Result<(Vec<f32>, Tensor, Vec<SiteGradient>)> {
        let adapter = given.only();
        let [at, ids] = self.at(targets)?;
        let [chosen, normed] = self.chosen(x, &at)?;
        let rows: Vec<u64> = targets.at.iter().map(|at| given.rows[*at as usize]).collect();
        let weights = Tensor::new(weights, x.device())?;
        let (mut made, mut gradients) = (Vec::new(), Vec::new());
        let logits = self.in_order(adapter, &rows);
        let head = Head { logits: &logits, vocabulary: self.model.config.vocab, cap: self.model.shared.final_cap };
        let losses = head::losses_and_gradient(&normed, &head, &ids, &weights, &mut |piece: Range<usize>, dlogits| {
            let x = normed.narrow(0, piece.start, piece.len())?;
            let (dx, gradient) = self.head_back(adapter, &rows[piece], &x, dlogits)?;
            made.push(dx);
            gradients.extend(gradient);
            Ok(())
        })?;
        let d_chosen = self.norm_gradient(&self.model.final_norm, &chosen, &Tensor::cat(&made, 0)?)?;
        Ok((losses, x.zeros_like()?.index_add(&at, &d_chosen, 0)?, gradients))
    }

    /// Log-probabilities of the targets.
    pub(super) fn head_logps(&self, given: &Given, x: &Tensor, targets: &Targets) -> Result<Vec<f32>> {
        let [at, ids] = self.at(targets)?;
        let [_, normed] = self.chosen(x, &at)?;
        let rows: Vec<u64> = targets.at.iter().map(|at| given.rows[*at as usize]).collect();
        let logits = self.in_order(given.only(), &rows);
        let head = Head { logits: &logits, vocabulary: self.model.config.vocab, cap: self.model.shared.final_cap };
        Ok(head::logps(&normed, &head, &ids)?.to_vec1()?)
    }

    /// Logits of rows that are asked for in order, piece by piece.
    fn in_order<'b>(&'b self, adapter: &'b PreparedAdapter, rows: &'b [u64]) -> impl Fn(&Tensor) -> Result<Tensor> + 'b {
        let begun = Cell::new(0usize);
        move |x| {
            let piece = begun.get()..begun.get() + x.dim(0)?;
            begun.set(piece.end);
            let [logits, _] = self.head_logits(adapter, &rows[piece], x)?;
            Ok(logits)
        }
    }

    /// Logits of chosen rows under what acts on each.
    pub(super) fn row_logits(&self, given: &Given, x: &Tensor, rows: &[usize]) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for (tokens, adapter) in given.acting {
            let own: Vec<u32> = rows.iter().filter(|row| tokens.contains(row)).map(|row| *row as u32).collect();
            if own.is_empty() {
                continue;
            }
            let at = Tensor::new(own.as_slice(), x.device())?;
            let [_, normed] = self.chosen(x, &at)?;
            let [logits, _] = self.head_logits(adapter, &[], &normed)?;
            let logits = head::capped(logits, self.model.shared.final_cap)?;
            all.extend(logits.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }
}
