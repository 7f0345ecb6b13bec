//! Products with a frozen matrix in single precision: blocks of it are decoded into f32 and handed to the `gemm` crate.
//!
//! Work is split by output columns in pieces of fixed size, and each piece is summed in a fixed order by one task, so
//! the result does not depend on the number of threads, and a row's not on how many others there are.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

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
            product(m, count, k, x.as_ptr(), k, Strided { data: block.as_ptr(), down: 1, across: k }, { out }.0.add(n0), n, add)
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
                product(
                    m,
                    count,
                    rows,
                    dy.as_ptr().add(n0),
                    n,
                    Strided { data: block.as_ptr(), down: count, across: 1 },
                    { out }.0.add(k0),
                    k,
                    add || n0 > 0,
                )
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

/// The right matrix (k, n) of a product: elements from one place of the sum to the next, and from column to column.
#[derive(Clone, Copy)]
struct Strided {
    data: *const f32,
    down: usize,
    across: usize,
}

/// `c[m, n] (+)= a[m, k] · b[k, n]`, row-major `a` and `c`, any strides of `b`. A row's bits are the same whatever other
/// rows there are: the `gemm` crate sums a single row in another order, so it is given that row twice.
///
/// # Safety
/// All three must be valid for these shapes and strides, `c` exclusively.
#[allow(clippy::too_many_arguments, reason = "the matrices and the sizes of one product")]
unsafe fn product(m: usize, n: usize, k: usize, a: *const f32, a_rs: usize, b: Strided, c: *mut f32, c_rs: usize, add: bool) {
    if m == 1 {
        // SAFETY: one row of a and of c is valid, as the caller says; the copies hold two.
        unsafe {
            let row = std::slice::from_raw_parts(a, k);
            let to = std::slice::from_raw_parts_mut(c, n);
            let (twice, mut both) = ([row, row].concat(), [&*to, &*to].concat());
            product(2, n, k, twice.as_ptr(), k, b, both.as_mut_ptr(), n, add);
            to.copy_from_slice(&both[..n]);
        }
        return;
    }
    // SAFETY: passed on from the caller.
    unsafe {
        gemm(
            m,
            n,
            k,
            c,
            1,
            c_rs as isize,
            add,
            a,
            1,
            a_rs as isize,
            b.data,
            b.across as isize,
            b.down as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        )
    }
}
