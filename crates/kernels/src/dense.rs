//! Small products of plain f32 matrices, on one thread: the building block of the low-rank products.

use gemm::{Parallelism, gemm};

/// A matrix inside a slice: element (i, j) is at `i · rows + j · cols`.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
}

impl<'a> View<'a> {
    /// Row-major with `width` columns.
    pub(super) const fn rows(data: &'a [f32], width: usize) -> View<'a> {
        View { data, rows: width, cols: 1 }
    }

    /// The transpose of a row-major matrix with `width` columns.
    pub(super) const fn transposed(data: &'a [f32], width: usize) -> View<'a> {
        View { data, rows: 1, cols: width }
    }

    fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rows + (n - 1) * self.cols < self.data.len()
    }
}

/// The sizes of a product: `c (m, n)`, and `k` terms a sum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// `c[m, n] = alpha · a[m, k] · b[k, n]`, or `c += …` when `add`; `c` is row-major with `stride` elements from row to row.
pub(super) fn product(c: &mut [f32], stride: usize, sizes: Sizes, a: View, b: View, alpha: f32, add: bool) {
    let Sizes { m, n, k } = sizes;
    let room = m == 0 || n == 0 || ((m - 1) * stride + n <= c.len() && stride >= n);
    assert!(room && a.holds(m, k) && b.holds(k, n), "dense product: shapes disagree");
    let (lhs, rhs) = ((a.cols as isize, a.rows as isize), (b.cols as isize, b.rows as isize));
    // SAFETY: the assertion bounds every element of the three matrices, and c is borrowed exclusively.
    unsafe {
        gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            lhs.0,
            lhs.1,
            b.data.as_ptr(),
            rhs.0,
            rhs.1,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
