//! Loss and gradients of low-rank pairs without a tape: the same mathematics as the decoder's forward and candle's
//! backward, written out block by block over plain buffers (CPU).
//!
//! candle's `backward` makes a zero tensor and an addition for every incoming gradient; here each gradient is written
//! where it is needed. Activations are f32, or bf16 where every matrix is multiplied in bf16. Examples go through a few
//! at a time, one after another without padding; nothing below the lowest adapted block is kept or propagated; blocks
//! keep what their way back needs, or only their input and run again ([`Recompute`]). Configurations that this does not
//! cover take the differentiable decoder, which is also what this is tested against.
//!
//! Shapes: n tokens, d width, h heads, g key/value heads, e head size, f feed-forward.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `texts`, `workspace` | examples one after another; buffers used again |
//! | 1 | `block` | one block, there and back |
//! | 2 | `memory` | what a call holds |

mod block;
mod memory;
mod texts;
mod workspace;

use std::time::{Duration, Instant};

use candle_core::Tensor;
use rayon::prelude::*;

use super::Model;
use super::decoder::{Block, Mlp, Norm, Qkv};
use super::site::{self, Adapt, Site};
use crate::error::Result;
use crate::kernels::dropout::DropoutMask;
use crate::kernels::element::convert;
use crate::kernels::engine::StepPair;
use crate::kernels::norm;
use block::{BlockActivations, Given, Gradients, WayBack};
pub use memory::DirectMemory;
use texts::PackedTexts;
use workspace::{Buffer, Pooled};
pub use workspace::{Recompute, Workspace};

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

/// The work of one call.
struct GradientCall<'a> {
    groups: &'a [PackedTexts],
    factor: f64,
    /// By site.
    pairs: &'a [Option<StepPair>],
    masks: &'a [Option<DropoutMask>],
}

impl Model {
    /// `factor ·` the summed cross-entropy of `rows` and its gradient with respect to every pair of `adapt`, or `None`
    /// where only the decoder covers model, device or adapter. `trained(row, i)` tells whether token `i` is a target.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn direct_gradients(
        &self,
        room: &mut Workspace,
        adapt: &dyn Adapt,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
        factor: f64,
    ) -> Result<Option<Direct>> {
        let Some(pairs) = self.plain_pairs(adapt) else { return Ok(None) };
        let half = self.multiplies_in_bf16();
        let values = pairs.par_iter().map(|p| p.as_ref().map(|p| read(p, half)).transpose()).collect::<Result<Vec<_>>>()?;
        let masks: Vec<Option<DropoutMask>> = pairs.iter().map(|p| p.as_ref()?.mask).collect();
        let mut gradients: Vec<_> = values.iter().map(|v| v.as_ref().map(StepPair::zero)).collect();
        let groups: Vec<PackedTexts> = texts::groups(rows).iter().map(|group| PackedTexts::new(rows, group, trained)).collect();
        let work = GradientCall { groups: &groups, factor, pairs: &values, masks: &masks };
        // On a thread of the pool: from outside, each of the thousands of parallel loops would wait to be picked up.
        let (loss, times) = rayon::scope(|_| match half {
            #[cfg(target_arch = "x86_64")]
            true => self.direct_all::<half::bf16>(room, &work, &mut gradients),
            _ => self.direct_all::<f32>(room, &work, &mut gradients),
        })?;
        let mut out = Vec::new();
        for (site, (pair, gradient)) in pairs.iter().zip(gradients).enumerate() {
            if let (Some(pair), Some(g)) = (pair, gradient) {
                let (a, b) = (pair.a.shape().clone(), pair.b.shape().clone());
                out.push((Site(site), Tensor::from_vec(g.a, a, &self.device)?, Tensor::from_vec(g.b, b, &self.device)?));
            }
        }
        Ok(Some(Direct { loss, pairs: out, times }))
    }

    /// Whether activations are bf16: every matrix is multiplied so, and no width is odd.
    fn multiplies_in_bf16(&self) -> bool {
        let linears = self.blocks.iter().flat_map(Block::linears).map(|l| &l.linear).chain([&self.head.linear]);
        cfg!(target_arch = "x86_64")
            && self.shared.head_dim.is_multiple_of(2)
            && linears.into_iter().all(|l| l.matrix.is_bf16() && (l.inputs() | l.outputs()).is_multiple_of(2))
    }

    /// Whether every block is of the kind written out here, on this device.
    fn covered(&self) -> bool {
        let kind =
            |b: &Block| matches!((&b.qkv, &b.mlp, &b.attention_norm), (Qkv::Split { .. }, Mlp::Gated { .. }, Norm::Rms { .. }));
        self.device.is_cpu() && self.embedding.positions.is_none() && self.blocks.iter().all(kind)
    }

    /// The pairs by site, if that is all the adapter does and every block is of the kind written out here.
    fn plain_pairs(&self, adapt: &dyn Adapt) -> Option<Vec<Option<Plain>>> {
        let plain = |i: usize| {
            let site = Site(i);
            let dropped = || adapt.dropped_pair(site).map(|(pair, key, p)| (pair, Some(DropoutMask::new(key, p))));
            let pair = adapt.pair(site).map(|pair| (pair, None)).or_else(dropped);
            let touched = adapt.touches(site);
            let owned = |(p, mask): (site::LowRankPair, _)| Plain { a: p.a.detach(), b: p.b.detach(), scale: p.scale, mask };
            (touched == pair.is_some()).then(|| pair.map(owned))
        };
        let pairs: Option<Vec<_>> = (0..self.sites.len()).map(plain).collect();
        pairs.filter(|p| self.covered() && p[self.head.site.0].is_none() && p.iter().any(Option::is_some))
    }

    /// The lowest adapted block.
    fn lowest(&self, adapted: impl Fn(Site) -> bool) -> usize {
        self.blocks.iter().position(|b| b.linears().iter().any(|l| adapted(l.site))).unwrap_or(0)
    }

    /// All groups of examples, one after another. Returns the loss, times the factor.
    fn direct_all<T: Pooled>(
        &self,
        room: &mut Workspace,
        work: &GradientCall,
        gradients: &mut Gradients,
    ) -> Result<(f64, Times)> {
        let (mut loss, mut times) = (0.0, Times::default());
        room.fit(work.groups.iter().map(PackedTexts::tokens).max().unwrap_or(0));
        for texts in work.groups.iter().filter(|t| !t.targets.is_empty()) {
            loss += work.factor * self.direct_group::<T>(room, work, texts, gradients, &mut times)?;
        }
        Ok((loss, times))
    }

    /// One group of examples: forward, head, backward. Returns the summed cross-entropy.
    fn direct_group<T: Pooled>(
        &self,
        room: &mut Workspace,
        work: &GradientCall,
        texts: &PackedTexts,
        gradients: &mut Gradients,
        times: &mut Times,
    ) -> Result<f64> {
        let started = Instant::now();
        let lowest = self.lowest(|site| work.pairs[site.0].is_some());
        let given = Given { pairs: work.pairs, masks: work.masks, texts, shared: &self.shared };
        let again = self.recomputes::<T>(room.recompute, texts.tokens(), lowest);
        let mut x = self.embed(&(), &texts.batch)?.flatten_all()?.to_vec1::<f32>()?; // (n, d)
        let mut behind: Vec<BlockTrace<T>> = Vec::with_capacity(self.blocks.len() - lowest);
        for (i, block) in self.blocks.iter().enumerate() {
            let before = (again && i >= lowest).then(|| {
                let mut before = room.take::<f32>(texts.tokens(), self.config.width);
                before.copy_from_slice(&x);
                before
            });
            let kept = block.direct_forward::<T>(&given, room, &mut x)?;
            match before {
                Some(before) => {
                    kept.give_to(room);
                    behind.push(BlockTrace::Input(before));
                }
                None if i >= lowest => behind.push(BlockTrace::All(Box::new(kept))),
                None => kept.give_to(room),
            }
        }
        let (loss, mut dx) = self.direct_head::<T>(room, &x, texts, work.factor as f32)?;
        drop(x);
        times.forward += started.elapsed();
        let started = Instant::now();
        let mut rounded = room.take::<T>(texts.tokens(), self.config.width);
        convert(&dx, &mut rounded);
        for (i, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let kept = match behind.pop() {
                Some(BlockTrace::All(kept)) => *kept,
                Some(BlockTrace::Input(mut x)) => {
                    let kept = block.direct_forward::<T>(&given, room, &mut x)?;
                    room.give(x);
                    kept
                }
                None => break,
            };
            let mut way =
                WayBack { given: &given, gradients: &mut *gradients, room: &mut *room, dx: &mut dx, rounded: &mut rounded };
            block.direct_backward(&mut way, kept, i > lowest)?;
        }
        room.give(rounded);
        room.give(dx);
        times.backward += started.elapsed();
        Ok(loss)
    }

    /// Final norm, head and loss at the targets: the summed loss and `factor ·` its gradient at the last block's output.
    fn direct_head<T: Pooled>(
        &self,
        room: &mut Workspace,
        x: &[f32],
        texts: &PackedTexts,
        factor: f32,
    ) -> Result<(f64, Buffer<f32>)> {
        let (d, targets) = (self.config.width, &texts.targets);
        let (weight, eps) = self.final_norm.rms()?;
        let mut chosen = Vec::with_capacity(targets.len() * d);
        targets.at.iter().for_each(|at| chosen.extend_from_slice(&x[*at as usize * d..][..d]));
        let mut normed = vec![T::default(); chosen.len()];
        norm::rms_forward(&chosen, &weight, eps, &mut normed);
        let linear = &self.head.linear;
        let mut d_normed = vec![0f32; chosen.len()];
        let mut logits = room.room::<T>();
        let (head, side) = (&*linear.matrix, linear.side);
        let loss = T::head_loss(&normed, head, side, &targets.ids, factor, &mut d_normed, &mut logits);
        room.give_room(logits);
        let mut d_chosen = vec![0f32; chosen.len()];
        norm::rms_backward(&chosen, &d_normed, &weight, eps, &mut d_chosen);
        let mut dx = room.take::<f32>(texts.tokens(), d);
        dx.fill(0.0);
        for (at, g) in targets.at.iter().zip(d_chosen.chunks_exact(d)) {
            dx[*at as usize * d..][..d].copy_from_slice(g);
        }
        Ok((loss, dx))
    }
}

/// What is left of a block for the way back.
enum BlockTrace<T> {
    All(Box<BlockActivations<T>>),
    /// Its input (n, d), exactly: running it again gives the same bits.
    Input(Buffer<f32>),
}

/// A pair of the adapter, and dropout on its input.
struct Plain {
    a: Tensor,
    b: Tensor,
    scale: f64,
    mask: Option<DropoutMask>,
}

fn read(pair: &Plain, half: bool) -> Result<StepPair> {
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    Ok(StepPair::new(flat(&pair.a)?, flat(&pair.b)?, pair.a.dim(0)?, pair.scale as f32, half))
}
