//! A small f32 matrix product over strided slices, for the pieces that attention is made of.
//!
//! Refuses to know: threads, tensors, and matrices large enough to need cache blocking.

use super::simd::{Simd, multiversion};

/// The left matrix: element (i, p) lies at `i · row + p · column`, so a transposed matrix is one too.
#[derive(Clone, Copy)]
pub(super) struct StridedLeft<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// The right matrix: element (p, j) lies at `p · row + j`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub data: &'a [f32],
    pub row: usize,
}

/// The product: element (i, j) lies at `i · row + j`.
pub(super) struct StridedProduct<'a> {
    pub data: &'a mut [f32],
    pub row: usize,
}

/// `c (m, n) = a (m, k) · b (k, n)`, added to what `c` holds when `add` is set.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub add: bool,
}

multiversion! {
    /// The product of `size`; every element is summed over k in order. Panics when a slice is too short for it.
    pub(super) fn matmul(size: Size, a: StridedLeft<'_>, b: Right<'_>, c: StridedProduct<'_>) = matmul_body;
}

/// Rows of a tile: 6 rows of sums fill 24 of 32 AVX-512 registers, or 12 of 16 AVX2 registers.
pub(super) const ROWS: usize = 6;

#[inline(always)]
fn matmul_body<S: Simd>(s: S, size: Size, a: StridedLeft<'_>, b: Right<'_>, c: StridedProduct<'_>) {
    let Size { m, k, n, add } = size;
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            (0..m).for_each(|i| c.data[i * c.row..][..n].fill(0.0));
        }
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.column < a.data.len(), "left matrix is too short");
    assert!((k - 1) * b.row + n <= b.data.len(), "right matrix is too short");
    assert!((m - 1) * c.row + n <= c.data.len(), "product is too short");
    let mut j = 0;
    while j < n {
        // As many whole vectors as fit a tile, else the last partial one.
        let vectors = ((n - j) / S::LANES).min(S::COLUMNS);
        let width = if vectors > 0 { vectors * S::LANES } else { n - j };
        let mut i = 0;
        while i < m {
            let rows = ROWS.min(m - i);
            let a = StridedLeft { data: &a.data[i * a.row..], ..a };
            let b = Right { data: &b.data[j..], ..b };
            let c = StridedProduct { data: &mut c.data[i * c.row + j..], row: c.row };
            // SAFETY: the assertions above bound every element of the `rows × width` tile at (i, j).
            unsafe { strip(s, rows, width, k, add, a, b, c) };
            i += rows;
        }
        j += width;
    }
}

/// One tile of `rows × width`. The caller vouches that all its elements are inside the slices.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the three matrices and the sizes of one tile")]
unsafe fn strip<S: Simd>(
    s: S,
    rows: usize,
    width: usize,
    k: usize,
    add: bool,
    a: StridedLeft<'_>,
    b: Right<'_>,
    c: StridedProduct<'_>,
) {
    // SAFETY: passed on from the caller; `width` is whole vectors where a whole-vector tile is chosen.
    unsafe {
        match (rows, width / S::LANES) {
            (ROWS, 4) => tile::<S, ROWS, 4>(s, k, add, a, b, c),
            (5, 4) => tile::<S, 5, 4>(s, k, add, a, b, c),
            (4, 4) => tile::<S, 4, 4>(s, k, add, a, b, c),
            (3, 4) => tile::<S, 3, 4>(s, k, add, a, b, c),
            (2, 4) => tile::<S, 2, 4>(s, k, add, a, b, c),
            (1, 4) => tile::<S, 1, 4>(s, k, add, a, b, c),
            (ROWS, 3) => tile::<S, ROWS, 3>(s, k, add, a, b, c),
            (ROWS, 2) => tile::<S, ROWS, 2>(s, k, add, a, b, c),
            (5, 2) => tile::<S, 5, 2>(s, k, add, a, b, c),
            (4, 2) => tile::<S, 4, 2>(s, k, add, a, b, c),
            (3, 2) => tile::<S, 3, 2>(s, k, add, a, b, c),
            (2, 2) => tile::<S, 2, 2>(s, k, add, a, b, c),
            (1, 2) => tile::<S, 1, 2>(s, k, add, a, b, c),
            (ROWS, 1) => tile::<S, ROWS, 1>(s, k, add, a, b, c),
            _ => any_tile(s, rows, width, k, add, a, b, c),
        }
    }
}

/// A tile of R rows and N whole vectors, its sums in registers.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const N: usize>(
    s: S,
    k: usize,
    add: bool,
    a: StridedLeft<'_>,
    b: Right<'_>,
    c: StridedProduct<'_>,
) {
    let mut sums = [[s.splat(0.0); N]; R];
    for p in 0..k {
        // SAFETY: row p of b has N whole vectors, as the caller of `strip` vouches.
        let right: [S::V; N] = std::array::from_fn(|j| unsafe {
            s.load(b.data.get_unchecked(p * b.row + j * S::LANES..p * b.row + (j + 1) * S::LANES))
        });
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: element (i, p) of a is inside, as the caller of `strip` vouches.
            let left = s.splat(unsafe { *a.data.get_unchecked(i * a.row + p * a.column) });
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = s.mul_add(left, right, *sum);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, sum) in sums.into_iter().enumerate() {
            let to = &mut c.data[i * c.row + j * S::LANES..][..S::LANES];
            let sum = if add { s.add(s.load(to), sum) } else { sum };
            s.store(sum, to);
        }
    }
}

/// The rest: few rows, or a width that is not one of the fast ones; a vector of one row at a time.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the three matrices and the sizes of one tile")]
fn any_tile<S: Simd>(
    s: S,
    rows: usize,
    width: usize,
    k: usize,
    add: bool,
    a: StridedLeft<'_>,
    b: Right<'_>,
    c: StridedProduct<'_>,
) {
    for i in 0..rows {
        for j in (0..width).step_by(S::LANES) {
            let lanes = S::LANES.min(width - j);
            let mut sum = s.splat(0.0);
            for p in 0..k {
                let right = s.load(&b.data[p * b.row + j..][..lanes]);
                sum = s.mul_add(s.splat(a.data[i * a.row + p * a.column]), right, sum);
            }
            let to = &mut c.data[i * c.row + j..][..lanes];
            let sum = if add { s.add(s.load(to), sum) } else { sum };
            s.store(sum, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Lanes;
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0) - 1.0).collect()
    }

    #[test]
    fn agrees_with_the_definition_at_every_level_and_size() {
        for lanes in Lanes::available() {
            for (m, k, n) in [(1, 1, 1), (6, 64, 64), (7, 5, 65), (13, 48, 80), (48, 64, 70), (3, 9, 8), (5, 0, 4), (12, 3, 33)] {
                for (transposed, add) in [(false, false), (true, true)] {
                    check(lanes, m, k, n, transposed, add);
                }
            }
        }
    }

    fn check(lanes: Lanes, m: usize, k: usize, n: usize, transposed: bool, add: bool) {
        let (row, column) = if transposed { (1, m + 2) } else { (k + 3, 1) };
        let a = numbers((m + 3) * (k + 3), 1);
        let b = numbers(k * (n + 5) + n, 2);
        let before = numbers(m * (n + 1), 3);
        let mut c = before.clone();
        let left = StridedLeft { data: &a, row, column };
        let product = StridedProduct { data: &mut c, row: n + 1 };
        matmul(lanes, Size { m, k, n, add }, left, Right { data: &b, row: n + 5 }, product);
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|p| f64::from(a[i * row + p * column]) * f64::from(b[p * (n + 5) + j])).sum();
                let want = sum + if add { f64::from(before[i * (n + 1) + j]) } else { 0.0 };
                let got = f64::from(c[i * (n + 1) + j]);
                assert!((got - want).abs() < 1e-4, "{} {m}x{k}x{n} at ({i},{j}): {got}, want {want}", lanes.name());
            }
        }
        // Nothing between the rows is touched.
        assert!((0..m).all(|i| c[i * (n + 1) + n] == before[i * (n + 1) + n]));
    }
}
