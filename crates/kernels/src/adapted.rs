//! A frozen product and its low-rank share as one operation: `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ` (Hu et al. 2021, eq. 3).
//!
//! One node for autograd instead of five, and one output buffer instead of three. Legend: m rows, i inputs, o outputs,
//! r rank. Rows and columns are split in pieces of fixed size, so the result does not depend on the number of threads.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::dense::{Sizes, View, product};
use super::dropout::TokenMask;
use super::few_rows;
use super::host;
use super::linear::{Frozen, Side, decode_product, product_into};
use crate::error::Result;

/// Rows of one task.
const ROWS: usize = 128;
/// Columns of one task where the sum runs over rows.
const COLUMNS: usize = 192;

/// `x` (.., i), `a` (r, i), `b` (o, r) → (.., o), f32 on the CPU; differentiable in all three, not in the frozen matrix.
///
/// # Errors
/// When shapes disagree.
pub fn adapted(x: &Tensor, w: &Arc<Frozen>, side: Side, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let op = Adapted { w: w.clone(), side, scale: scale as f32 };
    Ok(x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op)?)
}

/// A frozen matrix with the low-rank share on top of it, on slices: `a` (r, i), `b` (o, r), contiguous.
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
        add_share(x, i, o, pair, y);
    }
}

/// As [`forward`] in decoding, where reading the matrices is what counts.
pub(super) fn decode(x: &[f32], w: &Frozen, side: Side, pair: Option<LowRankSlices>, y: &mut [f32], add: bool) {
    let (i, _) = layer(w, side);
    match pair {
        None => decode_product(x, x.len() / i, w, side, y, add),
        Some(LowRankSlices { a, b, scale }) => {
            let narrow = || few_rows::narrow(x, i, a, scale);
            let ((), h) = rayon::join(|| decode_product(x, x.len() / i, w, side, y, add), narrow);
            few_rows::widen(&h, a.len() / i, b, y);
        }
    }
}

/// The share alone as [`decode`] adds it: `y (m, o) += s·(x (m, i)·Aᵀ)·Bᵀ`.
pub(super) fn decode_share(x: &[f32], i: usize, pair: LowRankSlices, y: &mut [f32]) {
    let LowRankSlices { a, b, scale } = pair;
    few_rows::widen(&few_rows::narrow(x, i, a, scale), a.len() / i, b, y);
}

/// `y (m, o) += s·(x (m, i)·Aᵀ)·Bᵀ`.
pub(super) fn add_share(x: &[f32], i: usize, o: usize, pair: LowRankSlices, y: &mut [f32]) {
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
        drop.add_share(&g, pair.a, dx);
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

struct Adapted {
    w: Arc<Frozen>,
    side: Side,
    scale: f32,
}

impl Adapted {
    /// Outputs of the layer, once x, A and B are known to fit it.
    fn check(&self, x: &Shape, a: &Shape, b: &Shape) -> candle_core::Result<usize> {
        let (i, o) = layer(&self.w, self.side);
        let r = a.dims2()?.0;
        if x.dims().last() != Some(&i) || a.dims2()? != (r, i) || b.dims2()? != (o, r) {
            candle_core::bail!("adapted product: x {x:?}, A {a:?}, B {b:?} do not fit a layer of {i} → {o}");
        }
        Ok(o)
    }
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-product"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xl: &Layout,
        als: &CpuStorage,
        al: &Layout,
        bs: &CpuStorage,
        bl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let o = self.check(xl.shape(), al.shape(), bl.shape())?;
        let (x, a, b) = (host::slice(xs, xl)?, host::slice(als, al)?, host::slice(bs, bl)?);
        let mut dims = xl.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = o;
        }
        let shape = Shape::from(dims);
        let mut y = vec![0f32; shape.elem_count()];
        forward(x, &self.w, self.side, Some(LowRankSlices { a, b, scale: self.scale }), &mut y, false);
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut dx = x.track_op().then(|| vec![0f32; x.elem_count()]);
        let mut pair = PairGradient { a: vec![0f32; a.elem_count()], b: vec![0f32; b.elem_count()] };
        host::read(x, |x| {
            host::read(a, |a| {
                host::read(b, |b| {
                    host::read(&grad, |dy| {
                        let slices = LowRankSlices { a, b, scale: self.scale };
                        backward(Seen { x, dy }, &self.w, self.side, Some((slices, &mut pair)), dx.as_deref_mut(), false, None);
                        Ok(())
                    })
                })
            })
        })?;
        let dx = dx.map(|dx| host::tensor(dx, x.shape())).transpose()?;
        Ok((dx, Some(host::tensor(pair.a, a.shape())?), Some(host::tensor(pair.b, b.shape())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Compute;
    use crate::linear::{product as frozen, tests::matrix};
    use crate::weight::WeightType;
    use candle_core::Var;

    fn random(shape: (usize, usize)) -> Var {
        Var::from_tensor(&super::super::gradient_check::numbers((shape.0 * 31 + shape.1) as u64, &[shape.0, shape.1])).unwrap()
    }

    fn largest(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// Output and the three gradients against the same thing in candle's own differentiable operations.
    #[test]
    fn agrees_with_separate_operations_in_value_and_gradients() {
        for (m, i, o, r) in [(1, 7, 5, 2), (5, 64, 48, 4), (130, 33, 200, 16), (300, 200, 64, 3)] {
            for side in [Side::Transposed, Side::Plain] {
                let (rows, cols) = if side == Side::Transposed { (o, i) } else { (i, o) };
                let w = Frozen::new(matrix(rows, cols, WeightType::F32).0, Compute::F32);
                let (x, a, b) = (random((m, i)), random((r, i)), random((o, r)));
                let seed = super::super::gradient_check::numbers(9, &[m, o]);
                let run = |y: &Tensor| {
                    let grads = (y * &seed).unwrap().sum_all().unwrap().backward().unwrap();
                    [&x, &a, &b].map(|v| grads.get(v).unwrap().clone())
                };
                let fused = adapted(&x, &w, side, &a, &b, 0.7).unwrap();
                let h = x.matmul(&a.t().unwrap()).unwrap();
                let share = (h.matmul(&b.t().unwrap()).unwrap() * 0.7).unwrap();
                let plain = (frozen(&x, &w, side).unwrap() + share).unwrap();
                let tolerance = 1e-5 * (m.max(i).max(o) as f32);
                assert!(largest(&fused, &plain) < tolerance);
                for (got, want) in run(&fused).iter().zip(&run(&plain)) {
                    assert!(largest(got, want) < tolerance, "m={m} i={i} o={o} r={r} {side:?}: {}", largest(got, want));
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let w = Frozen::new(matrix(200, 96, WeightType::BF16).0, Compute::Auto);
        let (x, a, b) = (random((300, 96)), random((8, 96)), random((200, 8)));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = adapted(&x, &w, Side::Transposed, &a, &b, 2.0).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                [&x, &a, &b].map(|v| grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
            })
        };
        assert_eq!(run(1), run(2));
    }
}
