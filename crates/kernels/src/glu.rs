//! SwiGLU, and what GELU in its tanh form is made of.
//!
//! Refuses to know: the matrices around them.

use rayon::prelude::*;

use super::element::Element;
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// √(2/π)
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// `silu(gate) · up`, silu(x) = x / (1 + e⁻ˣ) (Shazeer 2020, "GLU variants", eq. 6 without its matrices); slices of one length.
pub fn swiglu_forward<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
    let lanes = Lanes::in_force();
    host::for_rows(out, 1, |at, out| swiglu_run(lanes, &gate[at..][..out.len()], &up[at..][..out.len()], out));
}

/// The gradients of [`swiglu_forward`] with respect to `gate` and `up`, in their place, given that of its result.
pub fn swiglu_backward_in_place<T: Element>(gate: &mut [T], up: &mut [T], g: &[T]) {
    let (lanes, run) = (Lanes::in_force(), host::rows_per_task(1));
    let tasks = gate.par_chunks_mut(run).zip(up.par_chunks_mut(run)).zip(g.par_chunks(run));
    tasks.for_each(|((gate, up), g)| swiglu_run_back_in_place(lanes, gate, up, g));
}

multiversion! { fn swiglu_run<T: Element>(gate: &[T], up: &[T], out: &mut [T]) = swiglu_body; }
multiversion! {
    fn swiglu_run_back_in_place<T: Element>(gate: &mut [T], up: &mut [T], g: &[T]) = swiglu_back_in_place_body;
}

#[inline(always)]
fn swiglu_body<S: Simd, T: Element>(s: S, gate: &[T], up: &[T], out: &mut [T]) {
    for (gate, up, out) in runs(s, (gate, up, out)) {
        let x = T::load(s, gate);
        T::store(s, s.mul(s.mul(x, T::sigmoid(s, x)), T::load(s, up)), out);
    }
}

/// The gradients of gate and up. silu′(x) = σ·(1 + x·(1 − σ))
#[inline(always)]
fn swiglu_slopes<S: Simd, T: Element>(s: S, gate: S::V, up: S::V, g: S::V) -> (S::V, S::V) {
    let one = s.splat(1.0);
    let sigma = T::sigmoid(s, gate);
    let slope = s.mul(sigma, s.mul_add(gate, s.sub(one, sigma), one));
    (s.mul(s.mul(g, up), slope), s.mul(g, s.mul(gate, sigma)))
}

#[inline(always)]
fn swiglu_back_in_place_body<S: Simd, T: Element>(s: S, gate: &mut [T], up: &mut [T], g: &[T]) {
    for (gate, up, g) in runs(s, (gate, up, g)) {
        let (at_gate, at_up) = swiglu_slopes::<S, T>(s, T::load(s, gate), T::load(s, up), T::load(s, g));
        T::store(s, at_up, up);
        T::store(s, at_gate, gate);
    }
}

/// ½(1 + tanh(u)) = σ(2u), so gelu(x) = x·σ(2u) with u = √(2/π)·(x + 0.044715·x³).
#[inline(always)]
pub(super) fn gelu_gate<S: Simd, T: Element>(s: S, x: S::V) -> S::V {
    let square = s.mul(x, x);
    let u = s.mul(x, s.mul_add(square, s.splat(2.0 * GELU_SCALE * GELU_CUBIC), s.splat(2.0 * GELU_SCALE)));
    T::sigmoid(s, u)
}

/// What the slope has beside σ: gelu′(x) = σ + x·σ·(1 − σ)·2u′ with 2u′ = 2√(2/π)·(1 + 3·0.044715·x²).
#[inline(always)]
pub(super) fn gelu_bend<S: Simd>(s: S, x: S::V, sigma: S::V) -> S::V {
    let inner = s.mul_add(s.mul(x, x), s.splat(6.0 * GELU_SCALE * GELU_CUBIC), s.splat(2.0 * GELU_SCALE));
    s.mul(s.mul(sigma, s.sub(s.splat(1.0), sigma)), s.mul(x, inner))
}

/// The functions in differentiable tensor operations, which tests compare with.
#[cfg(test)]
pub(crate) mod portable {
    use candle_core::Tensor;

    use super::{GELU_CUBIC, GELU_SCALE};
    use crate::error::Result;

    pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        Ok(gate.silu()?.mul(up)?)
    }

    /// `½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` (Hendrycks & Gimpel 2016, section 2): `gelu_new`.
    pub(crate) fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
        let inner = ((x.sqr()?.mul(x)? * f64::from(GELU_CUBIC))? + x)?;
        let tanh = (inner * f64::from(GELU_SCALE))?.tanh()?;
        Ok(((x * 0.5)? * (tanh + 1.0)?)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::super::gradient_check::{self, Tolerance, double, numbers};
    use super::*;

    fn dispatched(gate: &Tensor, up: &Tensor) -> Vec<Vec<f64>> {
        gradient_check::run_slices(&[gate, up], gate.elem_count(), |x, g| {
            let (mut out, mut gate, mut up) = (vec![0f32; g.len()], x[0].clone(), x[1].clone());
            swiglu_forward(&gate, &up, &mut out);
            swiglu_backward_in_place(&mut gate, &mut up, g);
            vec![out, gate, up]
        })
    }

    #[test]
    fn swiglu_agrees_with_its_twin() {
        for len in [7, 3960, 32, 35_000] {
            let (gate, up) = ((numbers(1, &[len]) * 8.0).unwrap(), numbers(2, &[len]));
            let want = gradient_check::run(&[double(&gate), double(&up)], |x| portable::swiglu(&x[0], &x[1]));
            for lanes in Lanes::available() {
                let got = gradient_check::run_slices(&[&gate, &up], len, |x, g| {
                    let (mut out, mut gate, mut up) = (vec![0f32; len], x[0].clone(), x[1].clone());
                    swiglu_run(lanes, &gate, &up, &mut out);
                    swiglu_run_back_in_place(lanes, &mut gate, &mut up, g);
                    vec![out, gate, up]
                });
                gradient_check::same(&got, &want, Tolerance::default(), lanes.name());
            }
            gradient_check::same(&dispatched(&gate, &up), &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let x = Tensor::new(&[-1e4f32, -100.0, -0.0, 100.0, 1e4], &candle_core::Device::Cpu).unwrap();
        let got = dispatched(&x, &x);
        assert!(got.iter().flatten().all(|x| x.is_finite()), "{got:?}");
    }

    #[test]
    fn twins_agree_with_finite_differences() {
        let (a, b) = (double(&numbers(3, &[2, 9])), double(&numbers(4, &[2, 9])));
        gradient_check::finite_differences(&[a.clone(), b], |x| portable::swiglu(&x[0], &x[1]));
        gradient_check::finite_differences(&[a], |x| portable::gelu_tanh(&x[0]));
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (gate, up) = (numbers(7, &[67, 1536]), numbers(8, &[67, 1536]));
        gradient_check::threads_agree(|| dispatched(&gate, &up));
    }
}
