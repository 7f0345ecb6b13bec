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
/// A row's bits are the same whatever other rows there are.
pub(super) fn product(c: &mut [f32], stride: usize, sizes: Sizes, a: View, b: View, alpha: f32, add: bool) {
    let Sizes { m, n, k } = sizes;
    let fits = m == 0 || n == 0 || ((m - 1) * stride + n <= c.len() && stride >= n);
    assert!(fits && a.holds(m, k) && b.holds(k, n), "dense product: shapes disagree");
    let [a, b] = [a, b].map(|v| Strided { data: v.data.as_ptr(), down: v.rows, across: v.cols });
    // SAFETY: the assertion bounds every element of the three matrices, and c is borrowed exclusively.
    unsafe { product_at(c.as_mut_ptr(), stride, sizes, a, b, alpha, add) }
}

/// A matrix at an address: elements from one row to the next, and from column to column.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub data: *const f32,
    pub down: usize,
    pub across: usize,
}

/// Terms of a sum that the `gemm` crate adds up before it adds to `c`: left to itself it would choose by the size of the product.
const TERMS: usize = 512;

/// Rows that a product of `n` columns must have so that the crate sums a row as it does in larger ones: a single row is summed in another
/// order, and so are all where rows lie along the sum in both matrices and the product has up to 256 elements.
fn least_rows(n: usize, a: Strided, b: Strided) -> usize {
    let along = a.across == 1 && b.down == 1 && n > 1;
    if along { 256 / n + 1 } else { 2 }.max(2)
}

/// [`product`] at addresses.
///
/// # Safety
/// All three must be valid for these shapes and strides, `c` exclusively.
pub(super) unsafe fn product_at(c: *mut f32, stride: usize, sizes: Sizes, a: Strided, b: Strided, alpha: f32, add: bool) {
    let Sizes { m, n, k } = sizes;
    let least = least_rows(n, a, b);
    if m > 0 && m < least {
        let (mut more, mut to) = (vec![0f32; least * k], vec![0f32; least * n]);
        // SAFETY: m rows of a and of c are valid, as the caller says; the copies hold more.
        unsafe {
            let rows = |i: usize| std::slice::from_raw_parts_mut(c.add(i * stride), n);
            for i in 0..m {
                let row = a.data.add(i * a.down);
                more[i * k..][..k].iter_mut().enumerate().for_each(|(p, x)| *x = *row.add(p * a.across));
                to[i * n..][..n].copy_from_slice(rows(i));
            }
            let a = Strided { data: more.as_ptr(), down: k, across: 1 };
            product_at(to.as_mut_ptr(), n, Sizes { m: least, n, k }, a, b, alpha, add);
            (0..m).for_each(|i| rows(i).copy_from_slice(&to[i * n..][..n]));
        }
        return;
    }
    let terms = k.div_ceil(k.div_ceil(TERMS).max(1)).max(1);
    for k0 in (0..k.max(1)).step_by(terms) {
        // SAFETY: a part of the sum of what the caller vouches for.
        unsafe {
            gemm(
                m,
                n,
                terms.min(k - k0),
                c,
                1,
                stride as isize,
                add || k0 > 0,
                a.data.add(k0 * a.across),
                a.across as isize,
                a.down as isize,
                b.data.add(k0 * b.down),
                b.across as isize,
                b.down as isize,
                1.0,
                alpha,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_same_to_the_bit_whatever_rows_are_beside_it() {
        let numbers = |n: usize, seed: u64| crate::gradient_check::numbers(seed, &[n]).to_vec1::<f32>().unwrap();
        for (n, k) in [(8, 576), (576, 8), (1, 64), (33, 700), (16, 1), (2, 2), (40, 1536), (5, 0)] {
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
