//! What comes of a load: examples, prompts and an account of every row.
//!
//! Refuses to know how rows are read and where their tokens lie.

use std::path::PathBuf;
use std::sync::Arc;

use super::column::Column;
use super::examples::{Examples, PromptColumns, Prompts, RowColumns};
use super::mixture::Mixture;
use super::report::Report;
use crate::error::Result;
use crate::recipe::Data;

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

/// Columns and account of a load, before rows are [`Examples`].
pub(crate) struct Columns {
    pub(crate) rows: RowColumns,
    pub(crate) train: Column<u32>,
    pub(crate) heldout: Column<u32>,
    pub(crate) prompts: PromptColumns,
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
