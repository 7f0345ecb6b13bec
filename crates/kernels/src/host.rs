//! The numbers of a CPU tensor as slices, and their even division over threads.
//!
//! A division depends on sizes alone, never on the number of threads, so results do not either.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Elements that one task handles: large enough to hide its scheduling, small enough to share out.
const TASK: usize = 16 * 1024;

/// A raw pointer to an output that tasks share, each writing only elements of its own.
#[derive(Clone, Copy)]
pub(super) struct SharedOutput(pub *mut f32);
// SAFETY: whoever makes one hands every task its own range of elements, as the type's contract says.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

/// The elements of a contiguous CPU storage.
///
/// # Errors
/// When it is not contiguous, or not f32.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a CPU kernel got a tensor with strides {:?} where it needs a contiguous one", layout.stride()),
    }
}

/// Runs `f` on the elements of a contiguous CPU tensor.
///
/// # Errors
/// As [`slice`], off the CPU, and what `f` returns.
pub fn read<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("a CPU kernel got a tensor on {:?}", x.device().location()),
    }
}

/// Rows of `width` elements that make one task.
pub(super) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Calls `f(first_row, rows)` on runs of whole rows of `out`, in parallel when there is more than one run.
pub(super) fn for_rows<T: Send>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= rows * width {
        return f(0, out);
    }
    out.par_chunks_mut(rows * width).enumerate().for_each(|(i, chunk)| f(i * rows, chunk));
}
