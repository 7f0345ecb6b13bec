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
/// A row's bits are the same whatever other rows there are: a single one, which the `gemm` crate sums in another order, is given twice.
pub(super) fn product(c: &mut [f32], stride: usize, sizes: Sizes, a: View, b: View, alpha: f32, add: bool) {
    let Sizes { m, n, k } = sizes;
    let room = m == 0 || n == 0 || ((m - 1) * stride + n <= c.len() && stride >= n);
    assert!(room && a.holds(m, k) && b.holds(k, n), "dense product: shapes disagree");
    if m == 1 {
        let row: Vec<f32> = (0..k).map(|p| a.data[p * a.cols]).collect();
        let (twice, mut both) = ([&row[..], &row].concat(), [&c[..n], &c[..n]].concat());
        product(&mut both, n, Sizes { m: 2, n, k }, View::rows(&twice, k), b, alpha, add);
        c[..n].copy_from_slice(&both[..n]);
        return;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_same_to_the_bit_whatever_rows_are_beside_it() {
        let numbers = |n: usize, seed: u64| crate::gradient_check::numbers(seed, &[n]).to_vec1::<f32>().unwrap();
        for (n, k) in [(8, 576), (576, 8), (1, 64), (33, 700), (16, 1), (2, 2)] {
            let (a, b) = (numbers(130 * k, 1), numbers(n * k, 2));
            let run = |from: usize, m: usize, add: bool| {
                let mut c = numbers(130 * n, 3)[from * n..][..m * n].to_vec();
                product(&mut c, n, Sizes { m, n, k }, View::rows(&a[from * k..][..m * k], k), View::transposed(&b, k), 0.7, add);
                c
            };
            for add in [false, true] {
                let all = run(0, 130, add);
                for m in [1, 2, 3, 5, 8, 17, 64, 129] {
                    for from in [0, 1, 130 - m] {
                        assert_eq!(run(from, m, add), all[from * n..][..m * n], "{m} rows of {n} × {k} from {from}, add {add}");
                    }
                }
            }
        }
    }
}
