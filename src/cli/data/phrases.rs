//! What the report on rows says alike on the terminal and on the page: a place, a leak's share, a score's reasons.

use std::path::PathBuf;

use crate::curate::{CurationReport, File, Leak, Low, RowPlace};

/// A place as `file:line`.
pub(super) fn place(files: &[PathBuf], place: RowPlace) -> String {
    let path = files.get(place.source as usize).map(|p| p.display().to_string()).unwrap_or_default();
    format!("{path}:{}", place.line)
}

/// The files of the rows, by number.
pub(super) fn paths(s: &CurationReport) -> Vec<PathBuf> {
    s.files.iter().map(|f| f.path.clone()).collect()
}

/// The shape of a file's rows.
pub(super) fn shape(file: &File) -> String {
    format!("{:?}", file.shape).to_lowercase()
}

/// How much of a held-out row is there.
pub(super) fn share(leak: &Leak) -> String {
    if leak.whole { "whole".to_string() } else { format!("{:.0} %", 100.0 * leak.overlap) }
}

/// What was added to a score and taken from it.
pub(super) fn reasons(low: &Low) -> String {
    let reason = |(reason, x): &(&'static str, f32)| format!("{} {x:+.2}", reason.replace('_', " "));
    low.quality.reasons.iter().map(reason).collect::<Vec<_>>().join(", ")
}
