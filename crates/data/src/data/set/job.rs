//! What is to be loaded, and what comes of it.
//!
//! Refuses to know how rows are read and where their tokens lie.

use std::path::PathBuf;
use std::sync::Arc;

use super::column::Column;
use super::examples::{Examples, Prompts};
use super::examples::{PromptRows, Rows};
use super::mixture::Mixture;
use super::report::Report;
use crate::data::render::renderer::Renderer;
use crate::error::Result;
use crate::recipe;
use crate::recipe::{Data, Keep, Source};

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
pub(crate) struct Job<'a> {
    pub(crate) data: &'a Data,
    pub(crate) renderer: &'a Renderer,
    pub(crate) max_length: usize,
    pub(crate) seed: u64,
    /// There are held-out rows alone.
    pub(crate) judge: bool,
    pub(crate) hear: &'a dyn Fn(Progress),
}

impl Job<'_> {
    /// Every source, in the order in which they are read.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.data.train.iter().chain(self.data.replayed()).chain(&self.data.heldout)
    }

    /// What is said of the rows, but for the content of their files, where tokens are kept, and how often an epoch has which:
    /// that is planned anew from their lengths.
    pub(crate) fn settings(&self) -> String {
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
pub(crate) struct Columns {
    pub(crate) rows: Rows,
    pub(crate) train: Column<u32>,
    pub(crate) heldout: Column<u32>,
    pub(crate) prompts: PromptRows,
    pub(crate) report: Report,
}

impl Columns {
    /// # Errors
    /// As [`Mixture::plan`].
    pub(crate) fn loaded(self, data: &Data) -> Result<Loaded> {
        let rows = Arc::new(self.rows);
        let train = Examples::of(Arc::clone(&rows), Some(self.train));
        // Sources of held-out rows lie behind those of training rows, or have none of these.
        let mixture = Mixture::plan(data, (0..train.len()).map(|i| (train.source(i), train.length(i))))?;
        let (heldout, heldout_prompts) = (Examples::of(rows, Some(self.heldout)), Prompts::of(self.prompts));
        Ok(Loaded { train, heldout, heldout_prompts, mixture, report: self.report, kept: None })
    }
}
