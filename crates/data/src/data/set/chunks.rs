//! The chunks of a file, several at a time on all threads, and what comes of them in the order of the file.
//!
//! Refuses to know what is done with a chunk.

use rayon::prelude::*;

use crate::data::read::shape::{Facts, Reader};
use crate::data::read::source::{Chunk, Feed};
use crate::error::Result;

/// Chunks that are taken up at a time, for each thread.
const AHEAD: usize = 8;

/// Does `convert` with the chunks, several at a time, and gives `take` what comes of them in their order.
///
/// # Errors
/// Those of reading, of `convert` and of `take`.
pub(crate) fn in_order<T: Send>(
    feed: &mut Feed,
    convert: impl Fn(usize, Chunk) -> Result<T> + Sync,
    mut take: impl FnMut(&Feed, T) -> Result<()>,
) -> Result<()> {
    let mut first = 0;
    loop {
        let mut chunks = Vec::new();
        while chunks.len() < AHEAD * rayon::current_num_threads() {
            match feed.chunk()? {
                Some(chunk) => chunks.push(chunk),
                None => break,
            }
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let many = chunks.len();
        let done: Vec<Result<T>> = chunks.into_par_iter().enumerate().map(|(i, chunk)| convert(first + i, chunk)).collect();
        done.into_iter().try_for_each(|done| take(feed, done?))?;
        first += many;
    }
}

/// The facts of all rows of a file, which is read for them from its beginning.
///
/// # Errors
/// [`crate::Error::Data`] for what cannot be read.
pub(crate) fn facts_of_file(reader: &Reader, feed: &Feed) -> Result<Facts> {
    let (mut all, path) = (Facts::default(), feed.path().to_path_buf());
    in_order(
        &mut feed.again()?,
        |_, chunk| Ok(Facts::of(reader, &chunk.rows(&path)?)),
        |_, facts| {
            all.and(facts);
            Ok(())
        },
    )?;
    Ok(all)
}
