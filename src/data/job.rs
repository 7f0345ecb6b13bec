//! What is to be loaded, and what comes of it.
//!
//! Refuses to know how rows are read and where their tokens lie.

use std::path::PathBuf;
use std::sync::Arc;

use super::column::Column;
use super::examples::{PromptRows, Rows};
use super::mixture::Mixture;
use super::pack::Fill;
use super::report::Report;
use super::{Examples, Prompts, Renderer};
use crate::error::Result;
use crate::recipe::{self, Data, Keep, Source};

/// The data of a run.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub train: Examples,
    pub heldout: Examples,
    /// One for each held-out example that has a prompt, in the same order.
    pub heldout_prompts: Prompts,
    /// How often an epoch has which of `train`.
    pub mixture: Mixture,
    pub report: Report,
    /// Where the tokens are kept for the next time.
    pub kept: Option<PathBuf>,
}

impl Loaded {
    /// How full the packed rows of a run are; `None` when the recipe does not pack. Of a mixture, those of the first epoch.
    pub fn fill(&self, train: &recipe::Train) -> Option<Fill> {
        train.packing.then(|| {
            let lengths = self.train.lengths();
            let drawn = match self.mixture.is_plain() {
                true => lengths,
                false => self.mixture.draws(train.seed, 0).into_iter().map(|example| lengths[example]).collect(),
            };
            Fill::of(&drawn, train.max_length)
        })
    }
}

/// How far a [`load`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read of all files, and how many there are.
    pub bytes: u64,
    pub total: u64,
    pub rows: usize,
    pub tokens: u64,
}

/// What is to be loaded.
pub(super) struct Job<'a> {
    pub(super) data: &'a Data,
    pub(super) renderer: &'a Renderer,
    pub(super) max_length: usize,
    pub(super) seed: u64,
    /// There are held-out rows alone.
    pub(super) judge: bool,
    pub(super) hear: &'a dyn Fn(Progress),
}

impl Job<'_> {
    /// Every source, in the order in which they are read.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.data.train.iter().chain(self.data.replayed()).chain(&self.data.heldout)
    }

    /// What is said of the rows, but for the content of their files, where tokens are kept, and how often an epoch has which:
    /// that is planned anew from their lengths.
    pub(super) fn settings(&self) -> String {
        let mut data = Data { cache: Keep::Default, mixture: recipe::Mixture::default(), ..self.data.clone() };
        data.replay.iter_mut().for_each(|replay| replay.fraction = 0.0);
        let replayed = data.replay.iter_mut().flat_map(|replay| &mut replay.sources);
        for source in data.train.iter_mut().chain(replayed) {
            (source.weight, source.rows, source.epochs) = (None, None, None);
        }
        format!("{data:?} {} {} {}", self.max_length, self.seed, self.judge)
    }
}

/// Columns and account of a load, before rows are [`Examples`].
pub(super) struct Columns {
    pub(super) rows: Rows,
    pub(super) train: Column<u32>,
    pub(super) heldout: Column<u32>,
    pub(super) prompts: PromptRows,
    pub(super) report: Report,
}

impl Columns {
    /// # Errors
    /// As [`Mixture::plan`].
    pub(super) fn loaded(self, data: &Data) -> Result<Loaded> {
        let rows = Arc::new(self.rows);
        let train = Examples::of(Arc::clone(&rows), Some(self.train));
        // Sources of held-out rows lie behind those of training rows, or have none of these.
        let mixture = Mixture::plan(data, (0..train.len()).map(|i| (train.source(i), train.length(i))))?;
        let (heldout, heldout_prompts) = (Examples::of(rows, Some(self.heldout)), Prompts::of(self.prompts));
        Ok(Loaded { train, heldout, heldout_prompts, mixture, report: self.report, kept: None })
    }
}
