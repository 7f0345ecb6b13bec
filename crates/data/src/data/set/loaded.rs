//! What comes of a load: examples, prompts and an account of every row.
//!
//! Refuses to know how rows are read and where their tokens lie.

use std::path::PathBuf;
use std::sync::Arc;

use super::column::Column;
use super::examples::{Examples, PromptColumns, Prompts, RowColumns};
use super::report::Report;

/// The data of a run.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub train: Examples,
    pub heldout: Examples,
    /// One for each held-out example that has a prompt, in the same order.
    pub heldout_prompts: Prompts,
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
    /// The rows as examples.
    pub(crate) fn loaded(self) -> Loaded {
        let rows = Arc::new(self.rows);
        let train = Examples::of(Arc::clone(&rows), Some(self.train));
        let (heldout, heldout_prompts) = (Examples::of(rows, Some(self.heldout)), Prompts::of(self.prompts));
        Loaded { train, heldout, heldout_prompts, report: self.report, kept: None }
    }
}
