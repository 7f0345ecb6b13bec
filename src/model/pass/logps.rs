//! Log-probabilities and logits of texts by the pass that trains, without its way back.

use super::super::{Adapt, Model};
use super::PreparedAdapter;
use super::machine::Machine;
use super::sums::Sums;
use super::texts::{self, PackedTexts};
use super::workspace::{Pooled, Recompute, Workspace};
use crate::error::Result;

impl Model {
    /// Log-probability of each target of each of `rows`, in nats and in the order of its tokens; `trained(row, i)` tells
    /// whether token `i` is a target.
    ///
    /// # Errors
    /// As [`Model::target_logps`].
    pub(in super::super) fn logps(
        &self,
        scratch: &mut Workspace,
        adapter: &PreparedAdapter,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<f32>>> {
        let (groups, mut logps) = (self.texts_of(rows, trained), vec![Vec::new(); rows.len()]);
        scratch.fit(groups.iter().map(PackedTexts::room).max().unwrap_or(0));
        for texts in &groups {
            texts.hand_out(self.logps_of(scratch, adapter, texts)?, &mut logps);
        }
        Ok(logps)
    }

    /// Log-probabilities of the targets of one group.
    pub(super) fn logps_of(&self, scratch: &mut Workspace, adapter: &PreparedAdapter, texts: &PackedTexts) -> Result<Vec<f32>> {
        match self.multiplies_in_bf16() {
            _ if !self.in_kernels() => self.in_tensors_over(adapter, texts, |mut tensors, given| {
                let x = self.through(&mut tensors, given)?;
                tensors.logps(given, &x, &texts.targets)
            }),
            #[cfg(target_arch = "x86_64")]
            true => rayon::scope(|_| self.logps_on_cpu::<half::bf16>(scratch, adapter, texts)),
            _ => rayon::scope(|_| self.logps_on_cpu::<f32>(scratch, adapter, texts)),
        }
    }

    /// Log-probability of each target of each of `rows`, in nats; `trained(row, i)` tells whether token `i` is a target.
    ///
    /// # Errors
    /// On an id outside the vocabulary or a position outside the model's range.
    pub fn target_logps(
        &self,
        adapt: &dyn Adapt,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<f32>>> {
        self.logps(&mut Workspace::new(Recompute::Never), &self.prepare(adapt)?, rows, trained)
    }

    /// Logits after every token of each of `rows`, (its tokens, vocabulary), in f32 activations. An encoder reads the whole of each:
    /// its decoder's first logits are given.
    ///
    /// # Errors
    /// As [`Model::target_logps`].
    pub fn text_logits(&self, adapt: &dyn Adapt, rows: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        self.divided_logits(adapt, rows, &|_, _| false)
    }

    /// As [`Model::text_logits`]; of a model with an encoder those of each token from a row's first target on.
    ///
    /// # Errors
    /// As [`Model::target_logps`].
    pub fn divided_logits(
        &self,
        adapt: &dyn Adapt,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<f32>>> {
        let (adapter, mut logits) = (self.prepare(adapt)?, vec![Vec::new(); rows.len()]);
        let mut scratch = Workspace::new(Recompute::Never);
        for group in texts::groups(rows, texts::TOKENS) {
            let texts = self.packed(rows, &group, trained);
            let all: Vec<usize> = (0..texts.tokens()).collect();
            let found = match self.in_kernels() {
                true => rayon::scope(|_| {
                    scratch.fit(texts.room());
                    self.on_cpu::<f32, _>((&mut scratch, &mut Sums::default()), &adapter, &texts, |cpu, given| {
                        let x = self.through(cpu, given)?;
                        cpu.logits(given, &x, &all)
                    })
                })?,
                false => self.in_tensors_over(&adapter, &texts, |mut tensors, given| {
                    let x = self.through(&mut tensors, given)?;
                    tensors.logits(given, &x, &all)
                })?,
            };
            for (row, logits_of) in texts.whose.iter().zip(found.chunks_exact(self.config.vocab)) {
                logits[*row].extend_from_slice(logits_of);
            }
        }
        Ok(logits)
    }

    fn logps_on_cpu<T: Pooled>(
        &self,
        scratch: &mut Workspace,
        adapter: &PreparedAdapter,
        texts: &PackedTexts,
    ) -> Result<Vec<f32>> {
        self.on_cpu::<T, _>((scratch, &mut Sums::default()), adapter, texts, |cpu, given| {
            let x = self.through(cpu, given)?;
            let logps = cpu.logps(given, &x, &texts.targets)?;
            cpu.free_wide(x);
            Ok(logps)
        })
    }
}
