//! Products with a frozen matrix in single precision: blocks of it are decoded into f32 and handed to the `gemm` crate.
//!
//! Work is split by output columns in pieces of fixed size, and each piece is summed in a fixed order by one task, so
//! the result does not depend on the number of threads, and a row's not on how many others there are.

use rayon::prelude::*;

use super::dense::{Sizes, Strided, product_at};
use super::host::SharedOutput;
use super::weight::Weight;

/// Output columns of one task: an even number of equal pieces of at most 256, so that no thread waits for the other's last
/// one. A function of the width alone.
fn columns(n: usize) -> usize {
    const MOST: usize = 256;
    n.div_ceil(2 * n.div_ceil(2 * MOST).max(1)).next_multiple_of(16)
}

/// Rows of `W` decoded at once in [`nn`].
const ROWS: usize = 256;

/// `y[m, n] (+)= x[m, k] · W[n, k]ᵀ`.
pub(super) fn nt(x: &[f32], m: usize, w: &Weight, y: &mut [f32], add: bool) {
    let (n, k) = (w.rows, w.cols);
    assert!(x.len() == m * k && y.len() == m * n, "nt: shapes disagree");
    let out = SharedOutput(y.as_mut_ptr());
    let columns = columns(n);
    (0..n.div_ceil(columns)).into_par_iter().for_each_init(Vec::new, |block, task| {
        let (n0, count) = (task * columns, columns.min(n - task * columns));
        decode_rows(w, n0, count, 0, k, block);
        // SAFETY: reads x and block inside their bounds; writes columns n0..n0+count of y, which no other task writes.
        unsafe {
            let (x, block) = (rows_at(x.as_ptr(), k), Strided { data: block.as_ptr(), down: 1, across: k });
            product_at({ out }.0.add(n0), n, Sizes { m, n: count, k }, x, block, 1.0, add)
        }
    });
}

/// `dx[m, k] (+)= dy[m, n] · W[n, k]`.
pub(super) fn nn(dy: &[f32], m: usize, w: &Weight, dx: &mut [f32], add: bool) {
    let (n, k) = (w.rows, w.cols);
    assert!(dy.len() == m * n && dx.len() == m * k, "nn: shapes disagree");
    let out = SharedOutput(dx.as_mut_ptr());
    // Pieces of a row are whole blocks of a quantised one.
    let columns = columns(k).next_multiple_of(w.dtype.block());
    (0..k.div_ceil(columns)).into_par_iter().for_each_init(Vec::new, |block, task| {
        let (k0, count) = (task * columns, columns.min(k - task * columns));
        for n0 in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - n0);
            decode_rows(w, n0, rows, k0, count, block);
            // SAFETY: reads dy columns n0..n0+rows and block; writes columns k0..k0+count of dx, this task's own.
            unsafe {
                let (dy, block) = (rows_at(dy.as_ptr().add(n0), n), rows_at(block.as_ptr(), count));
                product_at({ out }.0.add(k0), k, Sizes { m, n: count, k: rows }, dy, block, 1.0, add || n0 > 0);
            }
        }
    });
}

/// Rows `n0..n0+rows`, columns `k0..k0+cols` of `w` into `out` (row-major), widening to whole blocks where needed.
fn decode_rows(w: &Weight, n0: usize, rows: usize, k0: usize, cols: usize, out: &mut Vec<f32>) {
    out.resize(rows * cols, 0.0);
    for (r, chunk) in out.chunks_exact_mut(cols).enumerate() {
        w.read(n0 + r, k0, chunk);
    }
}

/// A row-major matrix of `width` columns.
fn rows_at(data: *const f32, width: usize) -> Strided {
    Strided { data, down: width, across: 1 }
}
