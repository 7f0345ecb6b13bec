//! A frozen product and its low-rank delta as one operation: `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ` (Hu et al. 2021, eq. 3).
//!
//! Legend: m rows, i inputs, o outputs,
//! r rank. Rows and columns are split in pieces of fixed size, so the result does not depend on the number of threads.

use rayon::prelude::*;

use super::dense::{Sizes, View, product};
use super::dropout::TokenMask;
use super::linear::{Frozen, Side, decode_product, product_into};
use super::skinny_gemm;

/// Rows of one task.
const ROWS: usize = 128;
/// Columns of one task where the sum runs over rows.
const COLUMNS: usize = 192;

/// A frozen matrix with the low-rank delta on top of it, on slices: `a` (r, i), `b` (o, r), contiguous.
#[derive(Clone, Copy)]
pub struct LowRankSlices<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub scale: f32,
}

/// Gradients of a pair: `a` (r, i) and `b` (o, r), added to what they hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairGradient {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
}

/// Inputs and outputs of the layer.
pub(super) fn layer(w: &Frozen, side: Side) -> (usize, usize) {
    match side {
        Side::Transposed => (w.weight.cols, w.weight.rows),
        Side::Plain => (w.weight.rows, w.weight.cols),
    }
}

/// `y (m, o) = x (m, i)·Wᵀ + s·(x·Aᵀ)·Bᵀ`; with `add`, added to what `y` holds.
pub(super) fn forward(x: &[f32], w: &Frozen, side: Side, pair: Option<LowRankSlices>, y: &mut [f32], add: bool) {
    let (i, o) = layer(w, side);
    product_into(x, x.len() / i, w, side, y, add);
    if let Some(pair) = pair {
        add_delta(x, i, o, pair, y);
    }
}

/// As [`forward`] in decoding, where reading the matrices is what counts.
pub(super) fn decode(x: &[f32], w: &Frozen, side: Side, pair: Option<LowRankSlices>, y: &mut [f32], add: bool) {
    let (i, _) = layer(w, side);
    match pair {
        None => decode_product(x, x.len() / i, w, side, y, add),
        Some(LowRankSlices { a, b, scale }) => {
            let narrow = || skinny_gemm::narrow(x, i, a, scale);
            let ((), h) = rayon::join(|| decode_product(x, x.len() / i, w, side, y, add), narrow);
            skinny_gemm::widen(&h, a.len() / i, b, y);
        }
    }
}

/// The delta alone as [`decode`] adds it: `y (m, o) += s·(x (m, i)·Aᵀ)·Bᵀ`.
pub(super) fn decode_delta(x: &[f32], i: usize, pair: LowRankSlices, y: &mut [f32]) {
    let LowRankSlices { a, b, scale } = pair;
    skinny_gemm::widen(&skinny_gemm::narrow(x, i, a, scale), a.len() / i, b, y);
}

/// `y (m, o) += s·(x (m, i)·Aᵀ)·Bᵀ`.
pub(super) fn add_delta(x: &[f32], i: usize, o: usize, pair: LowRankSlices, y: &mut [f32]) {
    let LowRankSlices { a, b, scale } = pair;
    let r = a.len() / i;
    y.par_chunks_mut(ROWS * o).zip(x.par_chunks(ROWS * i)).for_each(|(y, x)| {
        let m = x.len() / i;
        let mut h = vec![0f32; m * r];
        // h (m, r) = x (m, i) · Aᵀ (i, r); y (m, o) += s · h (m, r) · Bᵀ (r, o)
        product(&mut h, r, Sizes { m, n: r, k: i }, View::rows(x, i), View::transposed(a, i), 1.0, false);
        product(y, o, Sizes { m, n: o, k: r }, View::rows(&h, r), View::transposed(b, r), scale, true);
    });
}

/// What a layer saw: its input (m, i), and the gradient of its output (m, o).
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub x: &'a [f32],
    pub dy: &'a [f32],
}

/// The gradients of [`forward`]: `dx (m, i)` is set, or added to with `add`, unless it is `None`; with `g = s·dy·B` and
/// `h = s·x·Aᵀ`, `dx = dy·W + g·A`, `dA += gᵀ·x`, `dB += dyᵀ·h`. With `drop`, `x` is what dropout left of the layer's
/// input, and `g·A` goes back through the mask.
pub(super) fn backward(
    seen: Seen,
    w: &Frozen,
    side: Side,
    pair: Option<(LowRankSlices, &mut PairGradient)>,
    mut dx: Option<&mut [f32]>,
    add: bool,
    drop: Option<TokenMask>,
) {
    let Seen { x, dy } = seen;
    let (i, o) = layer(w, side);
    let m = dy.len() / o;
    if let Some(dx) = dx.as_deref_mut() {
        product_into(dy, m, w, side.other(), dx, add);
    }
    let Some((pair, gradient)) = pair else { return };
    let (g, h) = through(x, dy, i, o, pair);
    let r = pair.a.len() / i;
    if let (Some(dx), Some(drop)) = (dx.as_deref_mut(), drop) {
        drop.add_delta(&g, pair.a, dx);
    } else if let Some(dx) = dx {
        dx.par_chunks_mut(ROWS * i).zip(g.par_chunks(ROWS * r)).for_each(|(dx, g)| {
            product(dx, i, Sizes { m: g.len() / r, n: i, k: r }, View::rows(g, r), View::rows(pair.a, i), 1.0, true);
        });
    }
    // dB (o, r), by rows of it; dA (r, i) as its transpose (i, r), by rows of that.
    gradient.b.par_chunks_mut(COLUMNS * r).enumerate().for_each(|(task, db)| {
        let dy_t = View { data: &dy[task * COLUMNS..], rows: 1, cols: o };
        product(db, r, Sizes { m: db.len() / r, n: r, k: m }, dy_t, View::rows(&h, r), 1.0, true);
    });
    let mut da_t = vec![0f32; i * r];
    da_t.par_chunks_mut(COLUMNS * r).enumerate().for_each(|(task, da_t)| {
        let x_t = View { data: &x[task * COLUMNS..], rows: 1, cols: i };
        product(da_t, r, Sizes { m: da_t.len() / r, n: r, k: m }, x_t, View::rows(&g, r), 1.0, false);
    });
    for (at, row) in da_t.chunks_exact(r).enumerate() {
        for (rank, value) in row.iter().enumerate() {
            gradient.a[rank * i + at] += *value;
        }
    }
}

/// `g (m, r) = s·dy·B` and `h (m, r) = s·x·Aᵀ`.
fn through(x: &[f32], dy: &[f32], i: usize, o: usize, pair: LowRankSlices) -> (Vec<f32>, Vec<f32>) {
    let (m, r) = (dy.len() / o, pair.a.len() / i);
    let (mut g, mut h) = (vec![0f32; m * r], vec![0f32; m * r]);
    g.par_chunks_mut(ROWS * r).zip(h.par_chunks_mut(ROWS * r)).enumerate().for_each(|(task, (g, h))| {
        let m = g.len() / r;
        let (x, dy) = (&x[task * ROWS * i..][..m * i], &dy[task * ROWS * o..][..m * o]);
        product(g, r, Sizes { m, n: r, k: o }, View::rows(dy, o), View::rows(pair.b, r), pair.scale, false);
        product(h, r, Sizes { m, n: r, k: i }, View::rows(x, i), View::transposed(pair.a, i), pair.scale, false);
    });
    (g, h)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::gradient_check::{self, Tolerance, double, numbers};
    use super::*;
    use crate::device::Compute;
    use crate::linear::tests::matrix;
    use crate::weight::WeightType;

    const SCALE: f32 = 0.7;

    /// Output and gradients of `inputs`: x (m, i), A (r, i), B (o, r).
    fn run(inputs: &[&Tensor; 3], w: &Frozen, side: Side) -> Vec<Vec<f64>> {
        let (m, (_, o)) = (inputs[0].dims()[0], layer(w, side));
        gradient_check::run_slices(inputs, m * o, |inputs, dy| {
            let [x, a, b] = inputs else { unreachable!("three") };
            let pair = LowRankSlices { a, b, scale: SCALE };
            let (mut y, mut dx) = (vec![0f32; m * o], vec![0f32; x.len()]);
            let mut gradient = PairGradient { a: vec![0f32; a.len()], b: vec![0f32; b.len()] };
            forward(x, w, side, Some(pair), &mut y, false);
            backward(Seen { x, dy }, w, side, Some((pair, &mut gradient)), Some(&mut dx), false, None);
            vec![y, dx, gradient.a, gradient.b]
        })
    }

    #[test]
    fn agrees_with_separate_operations_in_value_and_gradients() {
        for (m, i, o, r) in [(1, 7, 5, 2), (5, 64, 48, 4), (130, 33, 200, 16), (300, 200, 64, 3)] {
            for side in [Side::Transposed, Side::Plain] {
                let (rows, cols) = if side == Side::Transposed { (o, i) } else { (i, o) };
                let (weight, values) = matrix(rows, cols, WeightType::F32);
                let plain = double(&Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap());
                let plain = if side == Side::Transposed { plain.t().unwrap() } else { plain };
                let (x, a, b) = (numbers(1, &[m, i]), numbers(2, &[r, i]), numbers(3, &[o, r]));
                let want = gradient_check::run(&[double(&x), double(&a), double(&b)], |x| {
                    let delta = (x[0].matmul(&x[1].t()?)?.matmul(&x[2].t()?)? * f64::from(SCALE))?;
                    Ok((x[0].matmul(&plain)? + delta)?)
                });
                let got = run(&[&x, &a, &b], &Frozen::new(weight, Compute::F32), side);
                let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
                gradient_check::same(&got, &want, tolerance, &format!("m={m} i={i} o={o} r={r} {side:?}"));
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let w = Frozen::new(matrix(200, 96, WeightType::BF16).0, Compute::Auto);
        let (x, a, b) = (numbers(1, &[300, 96]), numbers(2, &[8, 96]), numbers(3, &[200, 8]));
        gradient_check::threads_agree(|| run(&[&x, &a, &b], &w, Side::Transposed));
    }
}
