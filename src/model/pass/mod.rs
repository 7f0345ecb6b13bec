//! The one pass over a model: forward, and where asked backward, for training, scoring, prompts and decoding; never taped.
//!
//! A block is written down once ([`block`]) over a [`machine`], a device and a precision with the operations of a block on it. Each
//! gradient is written where it is needed, nothing below the lowest adapted block is kept or propagated; blocks
//! keep what their way back needs, or only their input and run again ([`Recompute`]). Examples of training go through a few
//! at a time, one after another without padding. Tested against the differentiable decoder.
//!
//! Shapes: n tokens, d width, h heads, g key/value heads, e head size, f feed-forward.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `texts`, `prepared` | examples one after another; an adapter as machines take it |
//! | 1 | `workspace`, `machine`, `sums` | buffers used again; what a block asks of a machine; sums of gradients |
//! | 2 | `block` | one block, there and back |
//! | 3 | `cpu`, `tensors` | the machines: kernels over plain buffers; tensor operations on any device |
//! | 4 | `tensors_sites` | the latter's linear layers and what acts on them |
//! | 5 | `tensors_head` | its head |
//! | 6 | `memory`, `device_memory`, `logps`, `extend` | what a call holds, here and on a device; log-probabilities without a way back; new tokens behind cached ones |

mod block;
mod cpu;
mod device_memory;
mod extend;
mod logps;
mod machine;
mod memory;
mod prepared;
mod sums;
mod tensors;
mod tensors_head;
mod tensors_sites;
mod texts;
mod workspace;

use std::time::{Duration, Instant};

use super::Model;
use super::batch::Batch;
use super::decoder::Block;
use super::site::{Adapt, Site};
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::engine::Phase;
use block::{BlockActivations, WayBack};
use cpu::Cpu;
pub use device_memory::DevicePassMemory;
pub use extend::{Chunk, OwnChunk};
use machine::{Acting, Given, Machine};
pub use memory::PassMemory;
pub use prepared::PreparedAdapter;
pub use sums::SiteGradient;
use sums::Sums;
use tensors::Tensors;
use texts::PackedTexts;
use workspace::Pooled;
pub use workspace::{Recompute, Workspace};

/// The loss and what its gradient is at each adapted site.
#[derive(Debug, Default)]
pub struct LossAndGradients {
    /// Sum of the cross-entropies over the targets, times the factor asked for.
    pub loss: f64,
    /// Gradients by site, times the factor asked for.
    pub gradients: Vec<(Site, SiteGradient)>,
    /// Time of the forward part (with head and loss) and of the backward part.
    pub times: Times,
}

/// Where the time of [`Model::gradients`] went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub forward: Duration,
    pub backward: Duration,
}

impl Model {
    /// `factor ·` the summed cross-entropy of `rows` and its gradient with respect to everything that `adapt` trains.
    /// `trained(row, i)` tells whether token `i` is a target.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn gradients(
        &self,
        room: &mut Workspace,
        adapt: &dyn Adapt,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
        factor: f64,
    ) -> Result<LossAndGradients> {
        let adapter = self.prepare(adapt)?;
        if !self.in_kernels() {
            return self.tensor_gradients(room.recompute, &adapter, rows, trained, factor);
        }
        let groups: Vec<PackedTexts> =
            texts::groups(rows, texts::TOKENS).iter().map(|group| PackedTexts::new(rows, group, trained)).collect();
        let mut sums = Sums::zero(self, &adapter);
        // On a thread of the pool: from outside, each of the thousands of parallel loops would wait to be picked up.
        let (loss, times) = rayon::scope(|_| match self.multiplies_in_bf16() {
            #[cfg(target_arch = "x86_64")]
            true => self.all_groups::<half::bf16>(room, &adapter, &groups, factor, &mut sums),
            _ => self.all_groups::<f32>(room, &adapter, &groups, factor, &mut sums),
        })?;
        Ok(LossAndGradients { loss, gradients: sums.gradients(self, &adapter)?, times })
    }

    /// [`Model::gradients`] in tensor operations.
    fn tensor_gradients(
        &self,
        recompute: Recompute,
        adapter: &PreparedAdapter,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
        factor: f64,
    ) -> Result<LossAndGradients> {
        let (lowest, mut all) = (self.lowest(|site| adapter.acts(site)), LossAndGradients::default());
        let again = self.tensors_run_again(recompute);
        let mut gradients: Vec<Option<SiteGradient>> = self.sites.iter().map(|_| None).collect();
        for group in texts::groups(rows, texts::DEVICE_TOKENS) {
            let texts = PackedTexts::new(rows, &group, trained);
            if texts.targets.is_empty() {
                continue;
            }
            let (loss, found) = self.in_tensors_over(adapter, &texts, |mut tensors, given| {
                let loss = self.group(&mut tensors, given, &texts, (lowest, again), factor as f32, &mut all.times)?;
                let waits = Instant::now();
                self.device.synchronize()?;
                all.times.backward += waits.elapsed();
                Ok((loss, tensors.into_gradients()))
            })?;
            all.loss += factor * loss;
            for (site, g) in found {
                sums::add(&mut gradients[site.0], g)?;
            }
        }
        all.gradients = gradients.into_iter().enumerate().filter_map(|(site, g)| Some((Site(site), g?))).collect();
        Ok(all)
    }

    /// Whether activations are bf16: every matrix is multiplied so, no width is odd, no block caps its scores or has a window, and
    /// logits have no cap.
    fn multiplies_in_bf16(&self) -> bool {
        let linears = self.blocks.iter().flat_map(Block::linears).map(|l| &l.linear).chain([&self.head.linear]);
        cfg!(target_arch = "x86_64")
            && self.shared.head_dim.is_multiple_of(2)
            && self.shared.final_cap.is_none()
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
    fn all_groups<T: Pooled>(
        &self,
        room: &mut Workspace,
        adapter: &PreparedAdapter,
        groups: &[PackedTexts],
        factor: f64,
        sums: &mut Sums,
    ) -> Result<(f64, Times)> {
        let (mut loss, mut times) = (0.0, Times::default());
        let lowest = self.lowest(|site| adapter.acts(site));
        room.fit(groups.iter().map(PackedTexts::tokens).max().unwrap_or(0));
        for texts in groups.iter().filter(|t| !t.targets.is_empty()) {
            let again = self.recomputes::<T>(room.recompute, texts.tokens(), lowest, adapter);
            loss += factor
                * self.on_cpu::<T, _>((&mut *room, &mut *sums), adapter, texts, |cpu, given| {
                    self.group(cpu, given, texts, (lowest, again), factor as f32, &mut times)
                })?;
        }
        Ok((loss, times))
    }

    /// One group of examples: forward, head, backward down to the `lowest` block. Returns the summed cross-entropy.
    fn group<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        texts: &PackedTexts,
        (lowest, again): (usize, bool),
        factor: f32,
        times: &mut Times,
    ) -> Result<f64> {
        let started = Instant::now();
        let mut x = m.embed(given)?;
        let mut behind: Vec<BlockTrace<M>> = Vec::with_capacity(self.blocks.len() - lowest);
        for (i, block) in self.blocks.iter().enumerate() {
            let before = if again && i >= lowest { Some(m.copied(&x)?) } else { None };
            let kept = block.forward(m, given, i, &mut x)?;
            match before {
                Some(before) => {
                    kept.free(m);
                    behind.push(BlockTrace::Input(before));
                }
                None if i >= lowest => behind.push(BlockTrace::All(Box::new(kept))),
                None => kept.free(m),
            }
        }
        let (loss, dx) = m.loss(given, &x, &texts.targets, factor)?;
        m.free_wide(x);
        times.forward += started.elapsed();
        let started = Instant::now();
        let rounded = m.rounded(&dx)?;
        let mut way = WayBack { dx, rounded };
        let embedding = given.only().acts(self.embedding.site);
        for (i, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let kept = match behind.pop() {
                Some(BlockTrace::All(kept)) => *kept,
                Some(BlockTrace::Input(mut x)) => {
                    let kept = block.forward(m, given, i, &mut x)?;
                    m.free_wide(x);
                    kept
                }
                None => break,
            };
            block.backward(m, given, &mut way, kept, i > lowest || embedding)?;
        }
        if embedding {
            m.embed_back(given, &way.dx)?;
        }
        m.free(way.rounded);
        m.free_wide(way.dx);
        times.backward += started.elapsed();
        Ok(loss)
    }

    /// Runs whole texts on the CPU.
    fn on_cpu<T: Pooled, R>(
        &self,
        (room, sums): (&mut Workspace, &mut Sums),
        adapter: &PreparedAdapter,
        texts: &PackedTexts,
        run: impl FnOnce(&mut Cpu<T>, &Given) -> R,
    ) -> R {
        let spans = |scores| texts.spans(&self.shared, scores);
        let mut attend = |_, scores: Scores, qkv: [&[T]; 3], out: &mut [T]| T::attend(&spans(scores), qkv, out);
        let acting = [(0..texts.tokens(), adapter)];
        let mut cpu = Cpu { model: self, room, attend: &mut attend, spans: Some(&spans), sums };
        run(&mut cpu, &self.given(&acting, texts))
    }

    /// Runs whole texts in tensor operations.
    fn in_tensors_over<R>(
        &self,
        adapter: &PreparedAdapter,
        texts: &PackedTexts,
        run: impl FnOnce(Tensors, &Given) -> Result<R>,
    ) -> Result<R> {
        let acting = [(0..texts.tokens(), adapter)];
        let given = self.given(&acting, texts);
        run(Tensors::new(self, &given, Tensors::texts(self, texts)?)?, &given)
    }

    fn given<'a>(&'a self, acting: &'a Acting<'a>, texts: &'a PackedTexts) -> Given<'a> {
        let Batch { ids, positions, .. } = &texts.batch;
        Given { acting, phase: Phase::Blocked, ids, positions, rows: &texts.rows, shared: &self.shared }
    }
}

/// What is left of a block for the way back.
enum BlockTrace<M: Machine> {
    All(Box<BlockActivations<M>>),
    /// Its input (n, d), exactly: running it again gives the same bits.
    Input(M::Wide),
}
