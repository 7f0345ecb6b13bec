//! A factor for every output of a layer, and what it learns: the magnitudes of DoRA (Liu et al. 2024, eq. 5), whose
//! direction `W + s·B·A` is divided by its norm.
//!
//! Legend: n tokens, i inputs, o outputs, r rank.

use std::sync::Arc;

use rayon::prelude::*;

use super::adapted;
use super::dense::{Sizes, View, product};
use super::element::{Element, convert_here};
use super::engine::Dest;
use super::host;
use super::linear::{Frozen, Side, product_slice};
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::device::Compute;

/// Rows of one task where sums run over rows.
const ROWS: usize = 64;

/// A frozen matrix with the norms of its outputs.
#[derive(Debug, Clone)]
pub struct OutputNorms {
    matrix: Arc<Frozen>,
    side: Side,
    /// ‖W‖² of each output (o).
    squares: Arc<[f32]>,
}

impl OutputNorms {
    /// Reads the whole matrix once.
    pub fn new(matrix: &Frozen, side: Side) -> OutputNorms {
        let weight = &matrix.weight;
        let row_values = |row: usize| {
            let mut values = vec![0f32; weight.cols];
            weight.read(row, 0, &mut values);
            values
        };
        let squares: Vec<f32> = match side {
            Side::Transposed => {
                let sum = |row| row_values(row).iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() as f32;
                (0..weight.rows).into_par_iter().map(sum).collect()
            }
            Side::Plain => {
                let mut sums = vec![0f64; weight.cols];
                for row in 0..weight.rows {
                    sums.iter_mut().zip(row_values(row)).for_each(|(sum, v)| *sum += f64::from(v) * f64::from(v));
                }
                sums.into_iter().map(|sum| sum as f32).collect()
            }
        };
        // The direction is exact whatever products are made in.
        OutputNorms { matrix: Frozen::new(weight.clone(), Compute::F32), side, squares: squares.into() }
    }

    /// ‖W‖ of each output.
    pub fn base(&self) -> Vec<f32> {
        self.squares.iter().map(|square| square.sqrt()).collect()
    }

    /// ‖W + scale·B·A‖ of each output, without making the sum: `‖W‖² + 2s·⟨B, W·Aᵀ⟩ + s²·B·(A·Aᵀ)·Bᵀ`; `a` (r, i),
    /// `b` (o, r).
    pub fn with(&self, a: &[f32], b: &[f32], scale: f32) -> Vec<f32> {
        let (inputs, outputs) = adapted::layer(&self.matrix, self.side);
        let r = a.len() / inputs;
        let mut along = vec![0f32; r * outputs]; // A·Wᵀ (r, o)
        product_slice(a, r, &self.matrix, self.side, &mut along);
        let mut gram = vec![0f32; r * r]; // A·Aᵀ
        product(&mut gram, r, Sizes { m: r, n: r, k: inputs }, View::rows(a, inputs), View::transposed(a, inputs), 1.0, false);
        let scale = f64::from(scale);
        let norm = |(o, b): (usize, &[f32])| {
            let cross: f64 = b.iter().enumerate().map(|(k, b)| f64::from(*b) * f64::from(along[k * outputs + o])).sum();
            let own = |(k, x): (usize, &f32)| {
                let row = b.iter().zip(&gram[k * r..]).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum::<f64>();
                f64::from(*x) * row
            };
            let own: f64 = b.iter().enumerate().map(own).sum();
            (f64::from(self.squares[o]) + 2.0 * scale * cross + scale * scale * own).max(0.0).sqrt() as f32
        };
        b.par_chunks_exact(r).enumerate().map(norm).collect()
    }
}

/// What the outputs of one layer are multiplied with, (o) each.
#[derive(Debug, Clone)]
pub struct ColumnScale {
    /// The trained magnitude over the norm of the direction.
    factors: Vec<f32>,
    norms: Vec<f32>,
}

impl ColumnScale {
    /// `magnitude` over `norms`; no gradient goes through the norms (section 4.3 of the paper, and PEFT's `detach`).
    pub fn new(magnitude: &[f32], norms: Vec<f32>) -> ColumnScale {
        ColumnScale { factors: magnitude.iter().zip(&norms).map(|(m, n)| m / n).collect(), norms }
    }

    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// Norms of the directions.
    pub fn norms(&self) -> &[f32] {
        &self.norms
    }

    /// `z (n, o)` by the factors, to its place.
    pub fn apply<T: Element>(&self, z: &[T], dest: Dest<T>) {
        let (lanes, width) = (Lanes::in_force(), self.factors.len());
        let of = |row: usize, len: usize| &z[row * width..][..len];
        match dest {
            Dest::Set(y) => host::for_rows(y, width, |row, y| times_rows(lanes, of(row, y.len()), &self.factors, y)),
            Dest::Store(y) => host::for_rows(y, width, |row, y| times_rows(lanes, of(row, y.len()), &self.factors, y)),
            Dest::Add(y) => host::for_rows(y, width, |row, y| add_times_rows(lanes, of(row, y.len()), &self.factors, y)),
        }
    }

    /// Adds the gradient of the magnitude, `Σ dy ∘ z / ‖direction‖` over the rows, to `sum` (o).
    pub fn add_gradient<T: Element>(&self, dy: &[T], z: &[T], sum: &mut [f32]) {
        let (lanes, width) = (Lanes::in_force(), sum.len());
        let tasks = dy.par_chunks(ROWS * width).zip(z.par_chunks(ROWS * width));
        let parts: Vec<Vec<f32>> = tasks
            .map(|(dy, z)| {
                let (mut part, mut left, mut right) = (vec![0f32; width], vec![0f32; width], vec![0f32; width]);
                for (dy, z) in dy.chunks_exact(width).zip(z.chunks_exact(width)) {
                    convert_here(lanes, dy, &mut left);
                    convert_here(lanes, z, &mut right);
                    part.iter_mut().zip(left.iter().zip(&right)).for_each(|(part, (l, r))| *part += l * r);
                }
                part
            })
            .collect();
        for part in parts {
            sum.iter_mut().zip(part.iter().zip(&self.norms)).for_each(|(sum, (part, norm))| *sum += part / norm);
        }
    }
}

multiversion! { fn times_rows<X: Element, T: Element>(x: &[X], c: &[f32], y: &mut [T]) = times_body; }
multiversion! { fn add_times_rows<X: Element>(x: &[X], c: &[f32], y: &mut [f32]) = add_times_body; }

#[inline(always)]
fn times_body<S: Simd, X: Element, T: Element>(s: S, x: &[X], c: &[f32], y: &mut [T]) {
    for (x, y) in x.chunks_exact(c.len()).zip(y.chunks_exact_mut(c.len())) {
        for (x, c, y) in runs(s, (x, c, y)) {
            T::store(s, s.mul(X::load(s, x), s.load(c)), y);
        }
    }
}

#[inline(always)]
fn add_times_body<S: Simd, X: Element>(s: S, x: &[X], c: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(c.len()).zip(y.chunks_exact_mut(c.len())) {
        for (x, c, y) in runs(s, (x, c, y)) {
            s.store(s.mul_add(X::load(s, x), s.load(c), s.load(y)), y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::numbers;
    use crate::linear::tests::matrix;
    use crate::weight::WeightType;

    /// Against the norm of the sum, made in f64.
    #[test]
    fn norms_are_those_of_the_sum() {
        let (r, scale) = (3, 0.7f32);
        for (rows, cols, side) in [(40, 64, Side::Transposed), (33, 17, Side::Transposed), (64, 40, Side::Plain)] {
            let (weight, values) = matrix(rows, cols, WeightType::F32);
            let norms = OutputNorms::new(&Frozen::new(weight, Compute::Auto), side);
            let (inputs, outputs) = if side == Side::Transposed { (cols, rows) } else { (rows, cols) };
            let a = numbers(5, &[r * inputs]).to_vec1::<f32>().unwrap();
            let b = numbers(6, &[outputs * r]).to_vec1::<f32>().unwrap();
            let got = norms.with(&a, &b, scale);
            for (o, got) in got.iter().enumerate() {
                let at = |i: usize| if side == Side::Transposed { values[o * cols + i] } else { values[i * cols + o] };
                let delta = |i: usize| (0..r).map(|k| f64::from(b[o * r + k]) * f64::from(a[k * inputs + i])).sum::<f64>();
                let square: f64 = (0..inputs).map(|i| (f64::from(at(i)) + f64::from(scale) * delta(i)).powi(2)).sum();
                assert!((f64::from(*got) - square.sqrt()).abs() < 1e-5 * square.sqrt(), "{side:?} {o}: {got}");
            }
            let base = norms.with(&a, &vec![0.0; b.len()], scale);
            assert!(base.iter().zip(norms.base()).all(|(x, y)| (x - y).abs() < 1e-6 * y), "{side:?}");
        }
    }

    #[test]
    fn outputs_are_scaled_and_the_gradient_is_summed_over_rows() {
        let (n, o) = (130, 37);
        let flat = |seed: u64, len: usize| numbers(seed, &[len]).to_vec1::<f32>().unwrap();
        let (z, dy, magnitude) = (flat(1, n * o), flat(2, n * o), flat(3, o));
        let norms: Vec<f32> = flat(4, o).iter().map(|v| v.abs() + 0.5).collect();
        let scale = ColumnScale::new(&magnitude, norms.clone());
        let (mut set, mut added) = (vec![0f32; n * o], z.clone());
        scale.apply(&z, Dest::Set(&mut set));
        scale.apply(&z, Dest::Add(&mut added));
        let mut sum = vec![1f32; o];
        scale.add_gradient(&dy, &z, &mut sum);
        for (at, z) in z.iter().enumerate() {
            let want = z * magnitude[at % o] / norms[at % o];
            assert!((set[at] - want).abs() < 1e-5 && (added[at] - want - z).abs() < 1e-5);
        }
        for (column, sum) in sum.iter().enumerate() {
            let want: f32 = (0..n).map(|row| dy[row * o + column] * z[row * o + column]).sum::<f32>() / norms[column];
            assert!((sum - 1.0 - want).abs() < 1e-4, "{sum} {want}");
        }
    }
}
