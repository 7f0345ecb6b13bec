//! What a synthesis came to, for the terminal: rows, and how many candidates were kept and why others were not.
//!
//! Refuses to know how rows are made.

use std::path::Path;

use crate::synth::SynthesisSummary;

/// What is said at the end; `out` is the folder of the rows.
pub(super) fn told(summary: &SynthesisSummary, out: &Path) -> String {
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    let mut text = format!(
        "{} rows in {}\n{} replies in {} rounds\n{} of {} instructions kept ({:.1} %), {} of them classification\n\
         {} of {} instances kept ({:.1} %)\n",
        summary.rows,
        out.join("rows.jsonl").display(),
        summary.replies,
        summary.rounds,
        summary.instructions_kept,
        summary.instructions,
        share(summary.instructions_kept, summary.instructions),
        summary.classification,
        summary.rows,
        summary.instances,
        share(summary.rows, summary.instances),
    );
    if !summary.rejected.is_empty() {
        text += "not kept\n";
    }
    let mut rejected: Vec<_> = summary.rejected.iter().collect();
    rejected.sort_by_key(|(reason, n)| (std::cmp::Reverse(**n), **reason));
    for (reason, n) in rejected {
        text += &format!("  {n:>6}  {}\n", reason.text());
    }
    text
}
