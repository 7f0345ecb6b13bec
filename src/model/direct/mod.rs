//! Loss and gradients of an adapter without a tape: the same mathematics as the decoder's forward and candle's
//! backward, written out block by block over plain buffers (CPU), for every family and everything an adapter trains.
//!
//! candle's `backward` makes a zero tensor and an addition for every incoming gradient; here each gradient is written
//! where it is needed. Activations are f32, or bf16 where every matrix is multiplied in bf16. Examples go through a few
//! at a time, one after another without padding; nothing below the lowest adapted block is kept or propagated; blocks
//! keep what their way back needs, or only their input and run again ([`Recompute`]). Tested against the differentiable
//! decoder.
//!
//! Shapes: n tokens, d width, h heads, g key/value heads, e head size, f feed-forward.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `texts`, `prepared` | examples one after another; an adapter as the kernels take it |
//! | 1 | `workspace` | buffers used again |
//! | 2 | `block` | one block, there and back |
//! | 3 | `memory`, `logps`, `extend` | what a call holds; log-probabilities without a way back; new tokens behind cached ones |

mod block;
mod extend;
mod logps;
mod memory;
mod prepared;
mod texts;
mod workspace;

use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::Model;
use super::decoder::Block;
use super::site::{Adapt, LowRankPair, Site, Term};
use crate::error::Result;
use crate::kernels::adapted_head::{HeadGradients, adapted_head_loss};
use crate::kernels::dropout::TokenMask;
use crate::kernels::element::convert;
use crate::kernels::engine::{Attended, Layer, Phase};
use crate::kernels::host;
use crate::kernels::linear::Side;
use block::{Acting, BlockActivations, Given, SiteSums, WayBack};
pub use extend::Chunk;
pub use memory::DirectMemory;
pub use prepared::PreparedAdapter;
use texts::PackedTexts;
use workspace::{Buffer, Pooled};
pub use workspace::{Recompute, Workspace};

/// The loss and what its gradient is at each adapted site.
#[derive(Debug)]
pub struct Direct {
    /// Sum of the cross-entropies over the targets, times the factor asked for.
    pub loss: f64,
    /// Gradients by site, times the factor asked for.
    pub gradients: Vec<(Site, SiteGradient)>,
    /// Time of the forward part (with head and loss) and of the backward part.
    pub times: Times,
}

/// The gradient of what is trained at a site.
#[derive(Debug)]
pub enum SiteGradient {
    /// Of A `(r, inputs)`, B `(outputs, r)`, and of the magnitudes `(outputs)` where there are any.
    Pair(Tensor, Tensor, Option<Tensor>),
    /// Of a matrix trained in full, in its shape.
    Full(Tensor),
}

/// Where the time of [`Model::direct_gradients`] went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub forward: Duration,
    pub backward: Duration,
}

/// Sums of gradients.
struct Sums {
    /// By site.
    sites: Vec<SiteSums>,
    /// (v, d)
    head: Option<Vec<f32>>,
    /// (v, d)
    embedding: Option<Vec<f32>>,
}

impl Model {
    /// `factor ·` the summed cross-entropy of `rows` and its gradient with respect to everything that `adapt` trains.
    /// `trained(row, i)` tells whether token `i` is a target. On the CPU only.
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
    ) -> Result<Direct> {
        debug_assert!(self.device.is_cpu());
        let adapter = self.prepare(adapt)?;
        let zeros = |t: &Tensor| vec![0f32; t.elem_count()];
        let mut sums = Sums {
            sites: adapter
                .pairs
                .iter()
                .zip(&adapter.columns)
                .map(|(pair, c)| SiteSums::zero(pair.as_ref(), c.as_ref()))
                .collect(),
            head: full(adapt, self.head.site).map(zeros),
            embedding: full(adapt, self.embedding.site).map(zeros),
        };
        let groups: Vec<PackedTexts> = texts::groups(rows).iter().map(|group| PackedTexts::new(rows, group, trained)).collect();
        // On a thread of the pool: from outside, each of the thousands of parallel loops would wait to be picked up.
        let (loss, times) = rayon::scope(|_| match self.multiplies_in_bf16() {
            #[cfg(target_arch = "x86_64")]
            true => self.direct_all::<half::bf16>(room, &adapter, &groups, factor, &mut sums),
            _ => self.direct_all::<f32>(room, &adapter, &groups, factor, &mut sums),
        })?;
        let mut gradients = Vec::new();
        for (site, sum) in sums.sites.into_iter().enumerate() {
            if let (Some(pair), Some(g)) = (pair(adapt, Site(site)), sum.pair) {
                let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &self.device);
                let m = sum.magnitude.zip(pair.magnitude).map(|(sum, magnitude)| tensor(sum, magnitude.m)).transpose()?;
                gradients.push((Site(site), SiteGradient::Pair(tensor(g.a, pair.a)?, tensor(g.b, pair.b)?, m)));
            }
        }
        for (site, sum) in [(self.embedding.site, sums.embedding), (self.head.site, sums.head)] {
            if let (Some(like), Some(sum)) = (full(adapt, site), sum) {
                gradients.push((site, SiteGradient::Full(Tensor::from_vec(sum, like.shape(), &self.device)?)));
            }
        }
        Ok(Direct { loss, gradients, times })
    }

    /// Whether activations are bf16: every matrix is multiplied so, no width is odd, and no block caps its scores or has a window.
    fn multiplies_in_bf16(&self) -> bool {
        let linears = self.blocks.iter().flat_map(Block::linears).map(|l| &l.linear).chain([&self.head.linear]);
        cfg!(target_arch = "x86_64")
            && self.shared.head_dim.is_multiple_of(2)
            && self.blocks.iter().all(|b| b.scores.only_scaled())
            && linears.into_iter().all(|l| l.matrix.is_bf16() && (l.inputs() | l.outputs()).is_multiple_of(2))
    }

    /// The lowest block that gradients go back to: all of them for an adapted embedding, none for a head alone.
    fn lowest(&self, adapted: impl Fn(Site) -> bool) -> usize {
        if adapted(self.embedding.site) {
            return 0;
        }
        self.blocks.iter().position(|b| b.linears().iter().any(|l| adapted(l.site))).unwrap_or(self.blocks.len())
    }

    /// All groups of examples, one after another. Returns the loss, times the factor.
    fn direct_all<T: Pooled>(
        &self,
        room: &mut Workspace,
        adapter: &PreparedAdapter,
        groups: &[PackedTexts],
        factor: f64,
        sums: &mut Sums,
    ) -> Result<(f64, Times)> {
        let (mut loss, mut times) = (0.0, Times::default());
        room.fit(groups.iter().map(PackedTexts::tokens).max().unwrap_or(0));
        for texts in groups.iter().filter(|t| !t.targets.is_empty()) {
            loss += factor * self.direct_group::<T>(room, adapter, texts, factor as f32, sums, &mut times)?;
        }
        Ok((loss, times))
    }

    /// One group of examples: forward, head, backward. Returns the summed cross-entropy.
    fn direct_group<T: Pooled>(
        &self,
        room: &mut Workspace,
        adapter: &PreparedAdapter,
        texts: &PackedTexts,
        factor: f32,
        sums: &mut Sums,
        times: &mut Times,
    ) -> Result<f64> {
        let started = Instant::now();
        let lowest = self.lowest(|site| adapter.acts(site));
        let acting = [(0..texts.tokens(), adapter)];
        let given = self.given(&acting, texts);
        let again = self.recomputes::<T>(room.recompute, texts.tokens(), lowest, adapter);
        let mut x = self.embed_rows(&acting, &texts.batch.ids, &texts.batch.positions)?; // (n, d)
        let mut behind: Vec<BlockTrace<T>> = Vec::with_capacity(self.blocks.len() - lowest);
        for (i, block) in self.blocks.iter().enumerate() {
            let before = (again && i >= lowest).then(|| {
                let mut before = room.take::<f32>(texts.tokens(), self.config.width);
                before.copy_from_slice(&x);
                before
            });
            let kept = block.direct_forward::<T>(&given, room, &mut self.attend_texts(block, texts), &mut x)?;
            match before {
                Some(before) => {
                    kept.give_to(room);
                    behind.push(BlockTrace::Input(before));
                }
                None if i >= lowest => behind.push(BlockTrace::All(Box::new(kept))),
                None => kept.give_to(room),
            }
        }
        let (loss, mut dx) = self.direct_head::<T>(room, adapter, &x, texts, factor, sums)?;
        drop(x);
        times.forward += started.elapsed();
        let started = Instant::now();
        let mut rounded = room.take::<T>(texts.tokens(), self.config.width);
        convert(&dx, &mut rounded);
        for (i, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let kept = match behind.pop() {
                Some(BlockTrace::All(kept)) => *kept,
                Some(BlockTrace::Input(mut x)) => {
                    let kept = block.direct_forward::<T>(&given, room, &mut self.attend_texts(block, texts), &mut x)?;
                    room.give(x);
                    kept
                }
                None => break,
            };
            let (gradients, room) = (&mut sums.sites, &mut *room);
            let mut way = WayBack { given: &given, texts, gradients, room, dx: &mut dx, rounded: &mut rounded };
            block.direct_backward(&mut way, kept, i > lowest || sums.embedding.is_some())?;
        }
        if let Some(embedding) = &mut sums.embedding {
            let rows = texts.batch.ids.iter().zip(dx.chunks_exact(self.config.width));
            rows.for_each(|(id, g)| {
                let row = &mut embedding[*id as usize * g.len()..][..g.len()];
                row.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
            });
        }
        room.give(rounded);
        room.give(dx);
        times.backward += started.elapsed();
        Ok(loss)
    }

    fn given<'a>(&'a self, acting: &'a Acting<'a>, texts: &'a PackedTexts) -> Given<'a> {
        Given { acting, phase: Phase::Blocked, positions: &texts.batch.positions, rows: &texts.rows, shared: &self.shared }
    }

    /// Attention of whole texts, each to itself.
    fn attend_texts<'a, T: Pooled>(
        &'a self,
        block: &'a Block,
        texts: &'a PackedTexts,
    ) -> impl FnMut([&[T]; 3], &mut [T]) -> Attended + 'a {
        let spans = texts.spans(&self.shared, block.scores);
        move |qkv, out| T::attend(&spans, qkv, out)
    }

    /// The embeddings of tokens, (n, d).
    ///
    /// # Errors
    /// On an id outside the vocabulary or a position outside the model's range.
    fn embed_rows(&self, acting: &Acting, ids: &[u32], positions: &[u32]) -> Result<Vec<f32>> {
        self.check(ids, positions)?;
        let d = self.config.width;
        let mut x = vec![0f32; ids.len() * d];
        for (rows, adapter) in acting {
            let each = ids[rows.clone()].iter().zip(x[rows.start * d..rows.end * d].chunks_exact_mut(d));
            match &adapter.full_embedding {
                None => each.for_each(|(id, x)| self.embedding.weight.read(*id as usize, 0, x)),
                Some(full) => host::read(full, |full| {
                    each.for_each(|(id, x)| x.copy_from_slice(&full[*id as usize * d..][..d]));
                    Ok(())
                })?,
            }
        }
        if let Some(table) = &self.embedding.positions {
            let mut place = vec![0f32; d];
            for (position, x) in positions.iter().zip(x.chunks_exact_mut(d)) {
                table.read(*position as usize, 0, &mut place);
                x.iter_mut().zip(&place).for_each(|(x, p)| *x += p);
            }
        }
        Ok(x)
    }

    /// The head with what the adapter does there; `rows` are those of its input for dropout.
    fn head_layer<'a>(&'a self, adapter: &'a PreparedAdapter, rows: &'a [u64]) -> Layer<'a> {
        let site = self.head.site.0;
        let (matrix, side) = match &adapter.full_head {
            Some(full) => (&**full, Side::Transposed),
            None => (&*self.head.linear.matrix, self.head.linear.side),
        };
        let drop = adapter.masks[site].map(|mask| TokenMask { mask, rows });
        Layer { matrix, side, pair: adapter.pairs[site].as_ref(), drop }
    }

    /// Final norm, head and loss at the targets: the summed loss and `factor ·` its gradient at the last block's output.
    fn direct_head<T: Pooled>(
        &self,
        room: &mut Workspace,
        adapter: &PreparedAdapter,
        x: &[f32],
        texts: &PackedTexts,
        factor: f32,
        sums: &mut Sums,
    ) -> Result<(f64, Buffer<f32>)> {
        let (d, targets) = (self.config.width, &texts.targets);
        let norm = self.final_norm.frozen();
        let chosen = chosen(x, d, &targets.at);
        let (linear, site) = (&self.head.linear, self.head.site.0);
        let mut d_normed = vec![0f32; chosen.len()];
        let loss = if let (None, None) = (&adapter.pairs[site], &adapter.full_head) {
            let mut normed = vec![T::default(); chosen.len()];
            norm.forward(&chosen, &mut normed);
            let mut logits = room.room::<T>();
            let loss = T::head_loss(&normed, &linear.matrix, linear.side, &targets.ids, factor, &mut d_normed, &mut logits);
            room.give_room(logits);
            loss
        } else {
            let mut normed = vec![0f32; chosen.len()];
            norm.forward(&chosen, &mut normed);
            let rows: Vec<u64> = targets.at.iter().map(|at| texts.rows[*at as usize]).collect();
            let layer = self.head_layer(adapter, &rows);
            let SiteSums { pair, magnitude } = &mut sums.sites[site];
            let (pair, magnitude) = (pair.as_mut(), magnitude.as_deref_mut());
            let gradients = HeadGradients { x: &mut d_normed, pair, full: sums.head.as_deref_mut(), magnitude };
            adapted_head_loss(&normed, layer, adapter.columns[site].as_ref(), &targets.ids, factor, gradients)
        };
        let mut d_chosen = vec![0f32; chosen.len()];
        norm.backward(&chosen, &d_normed, &mut d_chosen);
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

fn pair(adapt: &dyn Adapt, site: Site) -> Option<LowRankPair<'_>> {
    if let Some(Term::LowRank(pair)) = adapt.term(site) { Some(pair) } else { None }
}

fn full(adapt: &dyn Adapt, site: Site) -> Option<&Tensor> {
    if let Some(Term::Full(full)) = adapt.term(site) { Some(full) } else { None }
}

/// Rows of `x` (.., d).
fn chosen(x: &[f32], d: usize, at: &[u32]) -> Vec<f32> {
    at.iter().flat_map(|at| &x[*at as usize * d..][..d]).copied().collect()
}
