//! The supervised loss and its gradients; and one group of texts there and back, on whichever machine the model has.

use std::time::{Duration, Instant};

use super::super::Model;
use super::super::site::{Adapt, Site};
use super::cpu::Cpu;
use super::experts::ExpertBalance;
use super::machine::{Given, Machine};
use super::prepared::PreparedAdapter;
use super::sums::{self, SiteGradient, Sums};
use super::tensors::Tensors;
use super::texts::{self, PackedTexts};
use super::trace::Trace;
use super::workspace::{Pooled, Recompute, Workspace};
use crate::error::Result;

/// The loss and what its gradient is at each adapted site.
#[derive(Debug, Default)]
pub struct LossAndGradients {
    /// Sum of the cross-entropies over the targets, times the factor asked for.
    pub loss: f64,
    /// Gradients by site, times the factor asked for.
    pub gradients: Vec<(Site, SiteGradient)>,
    /// How the experts of all layers were met.
    pub balance: ExpertBalance,
    /// Time of the forward part (with head and loss) and of the backward part.
    pub times: Times,
}

/// Where the time of [`Model::gradients`] went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub forward: Duration,
    pub backward: Duration,
}

/// What one adapter learns, over the groups of texts that go under it.
pub(super) struct Learner<'a> {
    model: &'a Model,
    adapter: &'a PreparedAdapter,
    /// The lowest block that gradients go back to.
    lowest: usize,
    sums: Sums,
    /// By site, where a pass is in tensor operations.
    tensors: Vec<Option<SiteGradient>>,
    balance: ExpertBalance,
    pub times: Times,
}

/// A group of texts between its forward part and its way back.
pub(super) enum Held {
    Full(Trace<Cpu<'static, f32>>),
    #[cfg(target_arch = "x86_64")]
    Half(Trace<Cpu<'static, half::bf16>>),
    Tensors(Trace<Tensors<'static>>),
}

impl Model {
    /// `factor ·` the summed cross-entropy of `rows` and its gradient with respect to everything that `adapt` trains.
    /// `trained(row, i)` tells whether token `i` is a target.
    ///
    /// # Errors
    /// On an id outside the vocabulary or a position outside the model's range.
    pub fn gradients(
        &self,
        scratch: &mut Workspace,
        adapt: &dyn Adapt,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
        factor: f64,
    ) -> Result<LossAndGradients> {
        let adapter = self.prepare(adapt)?;
        let (mut learner, mut loss) = (Learner::new(self, &adapter), 0.0);
        let groups = self.texts_of(rows, trained);
        scratch.fit(groups.iter().map(PackedTexts::room).max().unwrap_or(0));
        for texts in &groups {
            let losses = learner.there_and_back(scratch, texts, &vec![factor as f32; texts.targets.len()])?;
            loss += factor * losses.into_iter().map(f64::from).sum::<f64>();
        }
        let (times, balance) = (learner.times, std::mem::take(&mut learner.balance));
        Ok(LossAndGradients { loss, gradients: learner.gradients()?, balance, times })
    }

    /// `rows` in the groups that go through the model at once; those without a target are left out.
    pub(super) fn texts_of(&self, rows: &[&[u32]], trained: &dyn Fn(usize, usize) -> bool) -> Vec<PackedTexts> {
        let most = if self.in_kernels() { texts::TOKENS } else { texts::DEVICE_TOKENS };
        let groups = texts::groups(rows, most).into_iter().map(|group| self.packed(rows, &group, trained));
        groups.filter(|texts| !texts.targets.is_empty()).collect()
    }
}

impl<'a> Learner<'a> {
    pub(super) fn new(model: &'a Model, adapter: &'a PreparedAdapter) -> Learner<'a> {
        let lowest = model.lowest(|site| adapter.acts(site));
        let sums = if model.in_kernels() { Sums::zero(model, adapter) } else { Sums::default() };
        let tensors = model.sites.iter().map(|_| None).collect();
        Learner { model, adapter, lowest, sums, tensors, balance: ExpertBalance::default(), times: Times::default() }
    }

    /// Whether blocks of `tokens` run again on the way back.
    pub(super) fn recomputes(&self, recompute: Recompute, tokens: usize) -> bool {
        self.model.recomputes(recompute, tokens, self.adapter)
    }

    /// Adds the gradients of `Σ weights · −log p`; returns `−log p` of each target, in nats.
    pub(super) fn there_and_back(&mut self, scratch: &mut Workspace, texts: &PackedTexts, weights: &[f32]) -> Result<Vec<f32>> {
        let Learner { model, adapter, lowest, .. } = *self;
        let group = Group { model, texts, lowest };
        let again = self.recomputes(scratch.recompute, texts.room());
        let told = (&mut self.balance, &mut self.times);
        if !model.in_kernels() {
            let (losses, found) = model.in_tensors_over(adapter, texts, |mut m, given| {
                let (balance, times) = told;
                let losses = group.there_and_back(&mut m, given, again, weights, (balance, times))?;
                let waits = Instant::now();
                model.device.synchronize()?;
                times.backward += waits.elapsed();
                Ok((losses, m.into_gradients()))
            })?;
            self.add(found)?;
            return Ok(losses);
        }
        let buffers = (scratch, &mut self.sums);
        rayon::scope(|_| match model.multiplies_in_bf16() {
            #[cfg(target_arch = "x86_64")]
            true => model.on_cpu::<half::bf16, _>(buffers, adapter, texts, |m, given| {
                group.there_and_back(m, given, again, weights, told)
            }),
            _ => model.on_cpu::<f32, _>(buffers, adapter, texts, |m, given| group.there_and_back(m, given, again, weights, told)),
        })
    }

    /// The forward part alone: log-probabilities of the targets in nats, and what the way back needs.
    pub(super) fn there(&mut self, scratch: &mut Workspace, texts: &PackedTexts) -> Result<(Vec<f32>, Held)> {
        let Learner { model, adapter, lowest, .. } = *self;
        let (group, started) = (Group { model, texts, lowest }, Instant::now());
        let buffers = (scratch, &mut self.sums);
        let held = match model.multiplies_in_bf16() {
            _ if !model.in_kernels() => model.in_tensors_over(adapter, texts, |mut m, given| {
                let (logps, trace) = group.there(&mut m, given)?;
                Ok((logps, Held::Tensors(trace.on())))
            }),
            #[cfg(target_arch = "x86_64")]
            true => group.there_on_cpu(buffers, adapter).map(|(logps, trace)| (logps, Held::Half(trace))),
            _ => group.there_on_cpu(buffers, adapter).map(|(logps, trace)| (logps, Held::Full(trace))),
        };
        self.times.forward += started.elapsed();
        held
    }

    /// The way back of what [`Learner::there`] left.
    pub(super) fn back(&mut self, scratch: &mut Workspace, texts: &PackedTexts, held: Held, weights: &[f32]) -> Result<()> {
        let Learner { model, adapter, lowest, .. } = *self;
        let (group, started) = (Group { model, texts, lowest }, Instant::now());
        let buffers = (scratch, &mut self.sums);
        match held {
            Held::Full(trace) => group.back_on_cpu(buffers, adapter, trace, weights)?,
            #[cfg(target_arch = "x86_64")]
            Held::Half(trace) => group.back_on_cpu(buffers, adapter, trace, weights)?,
            Held::Tensors(trace) => {
                let found = model.in_tensors_over(adapter, texts, |mut m, given| {
                    group.back(&mut m, given, trace.on(), weights)?;
                    model.device.synchronize()?;
                    Ok(m.into_gradients())
                })?;
                self.add(found)?;
            }
        }
        self.times.backward += started.elapsed();
        Ok(())
    }

    fn add(&mut self, found: Vec<(Site, SiteGradient)>) -> Result<()> {
        found.into_iter().try_for_each(|(site, g)| sums::add(&mut self.tensors[site.0], g))
    }

    /// By site.
    pub(super) fn gradients(self) -> Result<Vec<(Site, SiteGradient)>> {
        if self.model.in_kernels() {
            return self.sums.gradients(self.model, self.adapter);
        }
        let sites = self.tensors.into_iter().enumerate();
        Ok(sites.filter_map(|(site, g)| Some((Site(site), g?))).collect())
    }
}

/// One group of texts, on any machine.
struct Group<'a> {
    model: &'a Model,
    texts: &'a PackedTexts,
    lowest: usize,
}

impl Group<'_> {
    /// Blocks run `again` on the way back, or keep what they computed.
    fn there_and_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        again: bool,
        weights: &[f32],
        (balance, times): (&mut ExpertBalance, &mut Times),
    ) -> Result<Vec<f32>> {
        let started = Instant::now();
        let trace = self.model.traced(m, given, self.lowest, again)?;
        balance.add(&trace.balance);
        let (losses, back) = self.model.loss_at_head(m, given, trace, &self.texts.targets, weights)?;
        times.forward += started.elapsed();
        let started = Instant::now();
        self.model.blocks_back(m, given, self.lowest, back)?;
        times.backward += started.elapsed();
        Ok(losses)
    }

    fn there<M: Machine>(&self, m: &mut M, given: &Given) -> Result<(Vec<f32>, Trace<M>)> {
        let trace = self.model.traced(m, given, self.lowest, false)?;
        Ok((m.logps(given, &trace.x, &self.texts.targets)?, trace))
    }

    fn back<M: Machine>(&self, m: &mut M, given: &Given, trace: Trace<M>, weights: &[f32]) -> Result<()> {
        let (_, back) = self.model.loss_at_head(m, given, trace, &self.texts.targets, weights)?;
        self.model.blocks_back(m, given, self.lowest, back)
    }

    fn there_on_cpu<T: Pooled>(
        &self,
        buffers: (&mut Workspace, &mut Sums),
        adapter: &PreparedAdapter,
    ) -> Result<(Vec<f32>, Trace<Cpu<'static, T>>)> {
        rayon::scope(|_| {
            self.model.on_cpu::<T, _>(buffers, adapter, self.texts, |m, given| {
                let (logps, trace) = self.there(m, given)?;
                Ok((logps, trace.on()))
            })
        })
    }

    fn back_on_cpu<T: Pooled>(
        &self,
        buffers: (&mut Workspace, &mut Sums),
        adapter: &PreparedAdapter,
        trace: Trace<Cpu<'static, T>>,
        weights: &[f32],
    ) -> Result<()> {
        rayon::scope(|_| {
            self.model.on_cpu::<T, _>(buffers, adapter, self.texts, |m, given| self.back(m, given, trace.on(), weights))
        })
    }
}
