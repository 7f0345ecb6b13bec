//! What came of a curation, for the terminal: how many rows are kept, how many dropped and why.
//!
//! Refuses to know how rows are chosen.

use crate::curate::{CurateOut, KeepChoice, Scan, Wishes};

/// A curation that is done.
pub(super) struct Curated<'a> {
    pub(super) scan: &'a Scan,
    pub(super) choice: &'a KeepChoice,
    pub(super) wishes: &'a Wishes,
    pub(super) out: &'a CurateOut,
    /// Places that were masked.
    pub(super) masked: usize,
}

impl Curated<'_> {
    /// What is said of it.
    pub(super) fn told(&self) -> String {
        let Curated { scan, choice, wishes, out, masked } = self;
        let rows: usize = scan.files.iter().map(|f| f.rows).sum();
        let mut text = format!("{rows} rows read = {} kept + {} dropped\n", choice.rows_kept(), choice.removed.len());
        for (reason, n) in choice.by_reason() {
            text += &format!("  {n:>8} dropped: {}\n", reason.replace('_', " "));
        }
        if let Some(k) = wishes.best.filter(|k| *k > choice.rows_kept()) {
            text += &format!("  there were not {k} rows to choose from\n");
        }
        if *masked > 0 {
            text += &format!("  {masked:>8} places masked\n");
        }
        text + &format!("kept rows: {}\nevery dropped row and its reason: {}\n", out.path.display(), out.sidecar().display())
    }
}
