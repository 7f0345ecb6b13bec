//! A frozen product and its low-rank share as one operation: `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ` (Hu et al. 2021, eq. 3).
//!
//! One node for autograd instead of five, and one output buffer instead of three. Legend: m rows, i inputs, o outputs,
//! r rank. Rows and columns are split in pieces of fixed size, so the result does not depend on the number of threads.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::dense::{View, product};
use super::host;
use super::linear::{Frozen, Side, product_slice};
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

struct Adapted {
    w: Arc<Frozen>,
    side: Side,
    scale: f32,
}

/// m, i, o, r.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    i: usize,
    o: usize,
    r: usize,
}

impl Adapted {
    fn sizes(&self, x: &Shape, a: &Shape, b: &Shape) -> candle_core::Result<Sizes> {
        let (i, o) = match self.side {
            Side::Transposed => (self.w.weight.cols, self.w.weight.rows),
            Side::Plain => (self.w.weight.rows, self.w.weight.cols),
        };
        let r = a.dims2()?.0;
        if x.dims().last() != Some(&i) || a.dims2()? != (r, i) || b.dims2()? != (o, r) {
            candle_core::bail!("adapted product: x {x:?}, A {a:?}, B {b:?} do not fit a layer of {i} → {o}");
        }
        Ok(Sizes { m: x.elem_count() / i.max(1), i, o, r })
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
        let s = self.sizes(xl.shape(), al.shape(), bl.shape())?;
        let (x, a, b) = (host::slice(xs, xl)?, host::slice(als, al)?, host::slice(bs, bl)?);
        let mut y = vec![0f32; s.m * s.o];
        product_slice(x, s.m, &self.w, self.side, &mut y);
        y.par_chunks_mut(ROWS * s.o).zip(x.par_chunks(ROWS * s.i)).for_each(|(y, x)| {
            let m = x.len() / s.i;
            let mut h = vec![0f32; m * s.r];
            // h (m, r) = x (m, i) · Aᵀ (i, r); y (m, o) += s · h (m, r) · Bᵀ (r, o)
            product(&mut h, s.r, (m, s.r, s.i), View::rows(x, s.i), View::transposed(a, s.i), 1.0, false);
            product(y, s.o, (m, s.o, s.r), View::rows(&h, s.r), View::transposed(b, s.r), self.scale, true);
        });
        let mut dims = xl.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = s.o;
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.sizes(x.shape(), a.shape(), b.shape())?;
        let grad = grad.contiguous()?;
        let mut dx = vec![0f32; if x.track_op() { s.m * s.i } else { 0 }];
        let (mut da, mut db) = (vec![0f32; s.r * s.i], vec![0f32; s.o * s.r]);
        host::read(x, |x| {
            host::read(a, |a| {
                host::read(b, |b| {
                    host::read(&grad, |dy| {
                        self.gradients(s, (x, a, b, dy), &mut dx, &mut da, &mut db);
                        Ok(())
                    })
                })
            })
        })?;
        let dx = if x.track_op() { Some(host::tensor(dx, x.shape())?) } else { None };
        Ok((dx, Some(host::tensor(da, a.shape())?), Some(host::tensor(db, b.shape())?)))
    }
}

impl Adapted {
    /// `dx = dy·W + g·A`, `dA = gᵀ·x`, `dB = dyᵀ·(s·h)`, where `g = s·dy·B` and `h = x·Aᵀ`. An empty `dx` is not made.
    fn gradients(
        &self,
        s: Sizes,
        (x, a, b, dy): (&[f32], &[f32], &[f32], &[f32]),
        dx: &mut [f32],
        da: &mut [f32],
        db: &mut [f32],
    ) {
        let (mut g, mut h) = (vec![0f32; s.m * s.r], vec![0f32; s.m * s.r]);
        g.par_chunks_mut(ROWS * s.r).zip(h.par_chunks_mut(ROWS * s.r)).enumerate().for_each(|(task, (g, h))| {
            let m = g.len() / s.r;
            let (x, dy) = (&x[task * ROWS * s.i..][..m * s.i], &dy[task * ROWS * s.o..][..m * s.o]);
            product(g, s.r, (m, s.r, s.o), View::rows(dy, s.o), View::rows(b, s.r), self.scale, false);
            product(h, s.r, (m, s.r, s.i), View::rows(x, s.i), View::transposed(a, s.i), self.scale, false);
        });
        if !dx.is_empty() {
            let back = if self.side == Side::Transposed { Side::Plain } else { Side::Transposed };
            product_slice(dy, s.m, &self.w, back, dx);
            dx.par_chunks_mut(ROWS * s.i).zip(g.par_chunks(ROWS * s.r)).for_each(|(dx, g)| {
                let m = g.len() / s.r;
                product(dx, s.i, (m, s.i, s.r), View::rows(g, s.r), View::rows(a, s.i), 1.0, true);
            });
        }
        // dB (o, r), by rows of it; dA (r, i) as its transpose (i, r), by rows of that.
        db.par_chunks_mut(COLUMNS * s.r).enumerate().for_each(|(task, db)| {
            let dy_t = View { data: &dy[task * COLUMNS..], rows: 1, cols: s.o };
            product(db, s.r, (db.len() / s.r, s.r, s.m), dy_t, View::rows(&h, s.r), 1.0, false);
        });
        let mut da_t = vec![0f32; s.i * s.r];
        da_t.par_chunks_mut(COLUMNS * s.r).enumerate().for_each(|(task, da_t)| {
            let x_t = View { data: &x[task * COLUMNS..], rows: 1, cols: s.i };
            product(da_t, s.r, (da_t.len() / s.r, s.r, s.m), x_t, View::rows(&g, s.r), 1.0, false);
        });
        for (i, row) in da_t.chunks_exact(s.r).enumerate() {
            for (r, value) in row.iter().enumerate() {
                da[r * s.i + i] = *value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Compute;
    use crate::kernels::linear::{product as frozen, tests::matrix};
    use crate::kernels::weight::WeightType;
    use candle_core::{Device, Var};

    fn random(shape: (usize, usize)) -> Var {
        Var::from_tensor(&Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()).unwrap()
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
                let seed = Tensor::randn(0f32, 1.0, (m, o), &Device::Cpu).unwrap();
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
