//! Output head and cross-entropy where the head itself is trained, as a low-rank pair or as a whole matrix; and
//! log-probabilities alone, of any head.
//!
//! As in [`super::linear_cross_entropy`], logits exist for a few rows at a time. Always f32: what a trained head learns is not rounded.
//! Legend: n rows, d width, v vocabulary.

use std::ops::Range;

use rayon::prelude::*;

use super::adapted::{self, PairGradient};
use super::columns::ColumnScale;
use super::cross_entropy::{WeightedTargets, row_loss};
use super::dense::{Sizes, View, product};
use super::dropout::TokenMask;
use super::engine::{Back, Dest, Engine, Layer, Phase};
use super::linear_cross_entropy::{CHUNK, capped_row_loss};
use super::simd::Lanes;
use super::soft_cap::soft_cap;

/// Rows of the whole matrix in one task.
const ROWS: usize = 256;

/// Where gradients go; those of the trained values are added to what is there.
pub struct HeadGradients<'a> {
    /// Of the hidden states (n, d), set.
    pub x: &'a mut [f32],
    pub pair: Option<&'a mut PairGradient>,
    /// Of the whole matrix (v, d).
    pub full: Option<&'a mut [f32]>,
    /// Of the magnitudes (v).
    pub magnitude: Option<&'a mut [f32]>,
}

/// What is done to a head's outputs to make them logits.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    pub columns: Option<&'a ColumnScale>,
    /// Soft cap, after everything.
    pub cap: Option<f32>,
}

/// Log-probability of each target, in nats; `x` (n, d).
pub fn head_logps(x: &[f32], head: Layer, finish: Finish, targets: &[u32]) -> Vec<f32> {
    let (d, vocab) = adapted::layer(head.matrix, head.side);
    let lanes = Lanes::in_force();
    let mut logits = vec![0f32; CHUNK.min(targets.len()) * vocab];
    let mut logps = Vec::with_capacity(targets.len());
    for (i, targets) in targets.chunks(CHUNK).enumerate() {
        let logits = &mut logits[..targets.len() * vocab];
        chunk_logits(x, head, finish, i * CHUNK..i * CHUNK + targets.len(), d, logits);
        let rows = logits.par_chunks_mut(vocab).zip(targets);
        logps.par_extend(rows.map(|(row, target)| -row_loss(lanes, row, *target as usize, false)));
    }
    logps
}

/// Logits of some rows; what they were before the factors, where there are any.
fn chunk_logits(x: &[f32], head: Layer, finish: Finish, rows: Range<usize>, d: usize, logits: &mut [f32]) -> Option<Vec<f32>> {
    let drop = head.drop.map(|drop| TokenMask { rows: &drop.rows[rows.clone()], ..drop });
    f32::forward(Phase::Blocked, &x[rows.start * d..rows.end * d], &[Layer { drop, ..head }], vec![Dest::Set(logits)]);
    let unscaled = finish.columns.map(|columns| {
        let z = logits.to_vec();
        columns.apply(&z, Dest::Set(logits));
        z
    });
    if let Some(cap) = finish.cap {
        soft_cap(logits, cap);
    }
    unscaled
}

/// Cross-entropy of every row of `x` (n, d) through the head, in nats; gradients are those of their sum by the weights.
pub fn adapted_linear_cross_entropy(
    x: &[f32],
    head: Layer,
    finish: Finish,
    targets: WeightedTargets,
    mut gradients: HeadGradients,
) -> Vec<f32> {
    let (d, vocab) = adapted::layer(head.matrix, head.side);
    let mut logits = vec![0f32; CHUNK.min(targets.ids.len()) * vocab];
    let mut losses = Vec::with_capacity(targets.ids.len());
    for (i, (targets, weights)) in targets.ids.chunks(CHUNK).zip(targets.weights.chunks(CHUNK)).enumerate() {
        let n = targets.len();
        let (rows, logits) = (i * CHUNK..i * CHUNK + n, &mut logits[..n * vocab]);
        let unscaled = chunk_logits(x, head, finish, rows.clone(), d, logits);
        let x = &x[rows.start * d..rows.end * d];
        let layer = Layer { drop: head.drop.map(|drop| TokenMask { rows: &drop.rows[rows], ..drop }), ..head };
        let rows = logits.par_chunks_mut(vocab).zip(targets.par_iter().zip(weights));
        losses.par_extend(rows.map(|(row, (target, weight))| {
            let loss = capped_row_loss(row, *target as usize, finish.cap, true);
            row.iter_mut().for_each(|g| *g *= weight);
            loss
        }));
        if let Some((columns, mut z)) = finish.columns.zip(unscaled) {
            if let Some(sum) = gradients.magnitude.as_deref_mut() {
                columns.add_gradient(logits, &z, sum);
            }
            z.copy_from_slice(logits);
            columns.apply(&z, Dest::Set(logits));
        }
        if let Some(full) = gradients.full.as_deref_mut() {
            // (v, n) · (n, d), by rows of the matrix.
            full.par_chunks_mut(ROWS * d).enumerate().for_each(|(task, dw)| {
                let dy_t = View { data: &logits[task * ROWS..], rows: 1, cols: vocab };
                product(dw, d, Sizes { m: dw.len() / d, n: d, k: n }, dy_t, View::rows(x, d), 1.0, true);
            });
        }
        let dx = Dest::Set(&mut gradients.x[i * CHUNK * d..][..n * d]);
        f32::backward(vec![Back { layer, x, dy: logits, gradient: gradients.pair.as_deref_mut() }], Some(dx));
    }
    losses
}
