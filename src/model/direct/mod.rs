//! Loss and gradients of low-rank pairs without a tape: the same mathematics as the decoder's forward and candle's
//! backward, written out block by block over plain buffers (CPU, f32).
//!
//! candle's `backward` makes a zero tensor and an addition for every incoming gradient; here each gradient is written
//! where it is needed. Rows go through a few at a time, so that what is kept for the backward pass stays small; nothing
//! below the lowest adapted block is kept or propagated. Configurations that this does not cover (see [`covers`]) take
//! the differentiable decoder, which is also what this is tested against.
//!
//! Shapes: n tokens, d width, h heads, g key/value heads, e head size, f feed-forward.

mod block;

use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::batch::Batch;
use super::decoder::{Mlp, Norm, Qkv};
use super::site::{Adapt, Site};
use super::{Model, Targets};
use crate::error::Result;
use crate::kernels::adapted::{LowRankSlices, PairGradient};
use crate::kernels::{head_loss, norm};
use block::{Gradients, Kept, Pairs, Rows};

/// Tokens that go through the model at once: enough to pay for packing the weights, few enough to keep (about 0.7 MB a
/// token for a 135M model).
const TOKENS: usize = 1024;

/// The loss and what its gradient is at each adapted site.
#[derive(Debug)]
pub struct Direct {
    /// Sum of the cross-entropies over the targets, times the factor asked for.
    pub loss: f64,
    /// Gradients of A `(r, inputs)` and B `(outputs, r)`, times the factor asked for.
    pub pairs: Vec<(Site, Tensor, Tensor)>,
    /// Time of the forward part (with head and loss) and of the backward part.
    pub times: Times,
}

/// Where the time of [`Model::direct_gradients`] went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub forward: Duration,
    pub backward: Duration,
}

impl Model {
    /// `factor ·` the summed cross-entropy of `rows` and its gradient with respect to every pair of `adapt`, or `None`
    /// where only the decoder covers model, device or adapter. `trained(row, i)` tells whether token `i` is a target.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn direct_gradients(
        &self,
        adapt: &dyn Adapt,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
        factor: f64,
        pad: u32,
    ) -> Result<Option<Direct>> {
        let Some(pairs) = self.plain_pairs(adapt) else { return Ok(None) };
        let values = pairs.iter().map(|p| p.as_ref().map(Owned::read).transpose()).collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = values.iter().map(|v| v.as_ref().map(Owned::slices)).collect();
        let zero = |v: &Owned| PairGradient { a: vec![0.0; v.a.len()], b: vec![0.0; v.b.len()] };
        let mut gradients: Vec<_> = values.iter().map(|v| v.as_ref().map(zero)).collect();
        let (mut loss, mut times) = (0.0, Times::default());
        for group in groups(rows) {
            let texts: Vec<&[u32]> = group.iter().map(|i| rows[*i]).collect();
            let batch = Batch::right_padded(&texts, pad);
            let targets = Targets::shifted(&batch, |row, i| i < texts[row].len() && trained(group[row], i));
            if !targets.is_empty() {
                loss += factor * self.direct_group(&views, &mut gradients, (&batch, &targets), factor as f32, &mut times)?;
            }
        }
        let mut out = Vec::new();
        for (site, (pair, gradient)) in pairs.iter().zip(gradients).enumerate() {
            if let (Some((a, b, _)), Some(g)) = (pair, gradient) {
                let (a, b) = (a.shape().clone(), b.shape().clone());
                out.push((Site(site), Tensor::from_vec(g.a, a, &self.device)?, Tensor::from_vec(g.b, b, &self.device)?));
            }
        }
        Ok(Some(Direct { loss, pairs: out, times }))
    }

    /// The pairs by site, if that is all the adapter does and every block is of the kind written out here.
    fn plain_pairs(&self, adapt: &dyn Adapt) -> Option<Vec<Option<(Tensor, Tensor, f64)>>> {
        let kind = |b: &super::decoder::Block| {
            matches!((&b.qkv, &b.mlp, &b.attention_norm), (Qkv::Split { .. }, Mlp::Gated { .. }, Norm::Rms { .. }))
        };
        let covered = self.device.is_cpu() && self.embedding.positions.is_none() && self.blocks.iter().all(kind);
        let plain = |i: usize| {
            let site = Site(i);
            let pair = adapt.pair(site);
            let touched = adapt.touches(site);
            (touched == pair.is_some()).then(|| pair.map(|p| (p.a.detach(), p.b.detach(), p.scale)))
        };
        let pairs: Option<Vec<_>> = (0..self.sites.len()).map(plain).collect();
        pairs.filter(|p| covered && p[self.head.site.0].is_none() && p.iter().any(Option::is_some))
    }

    /// One group of rows: forward, head, backward. Returns the summed cross-entropy.
    fn direct_group(
        &self,
        pairs: &Pairs,
        gradients: &mut Gradients,
        (batch, targets): (&Batch, &Targets),
        factor: f32,
        times: &mut Times,
    ) -> Result<f64> {
        let started = Instant::now();
        let lowest = self.blocks.iter().position(|b| b.linears().iter().any(|l| pairs[l.site.0].is_some())).unwrap_or(0);
        let rows = Rows { batch, shared: &self.shared };
        let mut x = self.embed(&(), batch)?.flatten_all()?.to_vec1::<f32>()?; // (n, d)
        let mut kept: Vec<Kept> = Vec::with_capacity(self.blocks.len() - lowest);
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, keep) = block.direct_forward(pairs, &rows, x, i >= lowest)?;
            x = y;
            kept.extend(keep);
        }
        let (loss, mut dx) = self.direct_head(&x, targets, factor)?;
        drop(x);
        times.forward += started.elapsed();
        let started = Instant::now();
        for (i, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let Some(keep) = kept.pop() else { break };
            block.direct_backward(pairs, gradients, &rows, keep, &mut dx, i > lowest)?;
        }
        times.backward += started.elapsed();
        Ok(loss)
    }

    /// Final norm, head and loss at the targets: the summed loss and `factor ·` its gradient at the last block's output.
    fn direct_head(&self, x: &[f32], targets: &Targets, factor: f32) -> Result<(f64, Vec<f32>)> {
        let d = self.config.width;
        let Norm::Rms { weight, eps } = &self.final_norm else { unreachable!("`plain_pairs` covers RMS norms only") };
        let weight = weight.to_vec1::<f32>()?;
        let mut chosen = Vec::with_capacity(targets.len() * d);
        targets.at.iter().for_each(|at| chosen.extend_from_slice(&x[*at as usize * d..][..d]));
        let mut normed = vec![0f32; chosen.len()];
        norm::rms_forward(&chosen, &weight, *eps as f32, &mut normed);
        let linear = &self.head.linear;
        let mut d_normed = vec![0f32; chosen.len()];
        let loss = head_loss::head_loss_slices(&normed, &linear.matrix, linear.side, &targets.ids, Some(&mut d_normed));
        d_normed.iter_mut().for_each(|g| *g *= factor);
        norm::rms_backward(&chosen, &d_normed, &weight, *eps as f32, &mut normed);
        let mut dx = vec![0f32; x.len()];
        for (at, g) in targets.at.iter().zip(normed.chunks_exact(d)) {
            dx[*at as usize * d..][..d].copy_from_slice(g);
        }
        Ok((loss, dx))
    }
}

/// Indices of rows in groups of similar length, at most [`TOKENS`] padded tokens each (or one row).
fn groups(rows: &[&[u32]]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|i| (rows[*i].len(), *i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            // The newest row is the longest of its group, so the group is padded to it.
            Some(group) if (group.len() + 1) * rows[i].len() <= TOKENS => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}

/// The values of a pair, read once a step.
struct Owned {
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f32,
}

impl Owned {
    fn read((a, b, scale): &(Tensor, Tensor, f64)) -> Result<Owned> {
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        Ok(Owned { a: flat(a)?, b: flat(b)?, scale: *scale as f32 })
    }

    fn slices(&self) -> LowRankSlices<'_> {
        LowRankSlices { a: &self.a, b: &self.b, scale: self.scale }
    }
}
