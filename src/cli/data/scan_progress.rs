//! Progress of looking at rows and of writing them; between any two the user may ask to stop.

use crate::cli::progress::{ProgressDisplay, Unit};
use crate::cli::stop;
use crate::curate::{self, Scan, ScanSettings};
use crate::error::Result;

/// Looks at all rows once.
///
/// # Errors
/// What is wrong with a file; the user asked to stop.
pub(super) fn scan(settings: &ScanSettings) -> Result<Scan> {
    // The words of the rows are in a temporary file, which has to go.
    stop::save_first();
    let mut progress = ProgressDisplay::new("rows", 0, Unit::Items);
    curate::scan(settings, &mut |rows| {
        progress.set(rows as u64, "");
        stop::go_on()
    })
}

/// Progress of the search for copies.
pub(super) fn searching() -> impl FnMut(usize, usize) -> Result<()> {
    let mut progress: Option<ProgressDisplay> = None;
    move |done, total| {
        let progress = progress.get_or_insert_with(|| ProgressDisplay::new("looking for copies", total as u64, Unit::Items));
        progress.set(done as u64, "");
        stop::go_on()
    }
}

/// Progress of writing `rows` rows.
pub(super) fn writing(rows: usize) -> impl FnMut(usize) -> Result<()> {
    let mut progress = ProgressDisplay::new("writing", rows as u64, Unit::Items);
    move |written| {
        progress.set(written as u64, "");
        stop::go_on()
    }
}
