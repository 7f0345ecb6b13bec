//! The two activations of the supported feed-forward blocks: SwiGLU and GELU in its tanh form.
//!
//! Refuses to know: the matrices around them.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::element::Element;
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::error::Result;

/// `silu(gate) · up`, silu(x) = x / (1 + e⁻ˣ) (Shazeer 2020, "GLU variants", eq. 6 without its matrices).
///
/// Both have one shape, which the result has too. Errors when the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        Err(candle_core::Error::Msg(format!("swiglu: gate has shape {:?}, up has {:?}", gate.dims(), up.dims())))?;
    }
    if !host::fused(gate) || !host::fused(up) {
        return portable::swiglu(gate, up);
    }
    Ok(gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu { lanes: Lanes::in_force() })?)
}

/// `½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, element by element (Hendrycks & Gimpel 2016, section 2): `gelu_new`.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if !host::fused(x) {
        return portable::gelu_tanh(x);
    }
    Ok(x.contiguous()?.apply_op1(GeluTanh { lanes: Lanes::in_force() })?)
}

/// √(2/π)
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// The same functions in differentiable tensor operations, for any device.
pub mod portable {
    use super::*;

    /// See [`super::swiglu`].
    pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        Ok(gate.silu()?.mul(up)?)
    }

    /// See [`super::gelu_tanh`].
    pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
        let inner = ((x.sqr()?.mul(x)? * f64::from(GELU_CUBIC))? + x)?;
        let tanh = (inner * f64::from(GELU_SCALE))?.tanh()?;
        Ok(((x * 0.5)? * (tanh + 1.0)?)?)
    }
}

/// [`swiglu`] on slices of one length.
pub fn swiglu_forward<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
    swiglu_forward_at(Lanes::in_force(), gate, up, out);
}

fn swiglu_forward_at<T: Element>(lanes: Lanes, gate: &[T], up: &[T], out: &mut [T]) {
    host::for_rows(out, 1, |at, out| swiglu_run(lanes, &gate[at..][..out.len()], &up[at..][..out.len()], out));
}

/// The gradients of [`swiglu_forward`] with respect to `gate` and `up`, in their place, given that of its result.
pub fn swiglu_backward_in_place<T: Element>(gate: &mut [T], up: &mut [T], g: &[T]) {
    let (lanes, run) = (Lanes::in_force(), host::rows_per_task(1));
    let tasks = gate.par_chunks_mut(run).zip(up.par_chunks_mut(run)).zip(g.par_chunks(run));
    tasks.for_each(|((gate, up), g)| swiglu_run_back_in_place(lanes, gate, up, g));
}

fn swiglu_backward_at(lanes: Lanes, gate: &[f32], up: &[f32], g: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    let run = host::rows_per_task(1);
    let tasks = d_gate.par_chunks_mut(run).zip(d_up.par_chunks_mut(run));
    let tasks = tasks.zip(gate.par_chunks(run)).zip(up.par_chunks(run)).zip(g.par_chunks(run));
    tasks.for_each(|((((d_gate, d_up), gate), up), g)| swiglu_run_back(lanes, gate, up, g, d_gate, d_up));
}

struct SwiGlu {
    lanes: Lanes,
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (gate, up) = (host::slice(gate, layout)?, host::slice(up, up_layout)?);
        let mut out = vec![0.0; gate.len()];
        swiglu_forward_at(self.lanes, gate, up, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut d_gate = vec![0.0; gate.elem_count()];
        let mut d_up = vec![0.0; gate.elem_count()];
        host::read(gate, |gate| {
            host::read(up, |up| {
                host::read(&grad, |g| {
                    swiglu_backward_at(self.lanes, gate, up, g, &mut d_gate, &mut d_up);
                    Ok(())
                })
            })
        })?;
        let d_gate = gate.track_op().then(|| host::tensor(d_gate, gate.shape())).transpose()?;
        let d_up = up.track_op().then(|| host::tensor(d_up, up.shape())).transpose()?;
        Ok((d_gate, d_up))
    }
}

struct GeluTanh {
    lanes: Lanes,
}

impl CustomOp1 for GeluTanh {
    fn name(&self) -> &'static str {
        "gelu_tanh"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = host::slice(storage, layout)?;
        let mut out = vec![0.0; x.len()];
        host::for_rows(&mut out, 1, |at, out| gelu_run(self.lanes, &x[at..][..out.len()], out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut out = vec![0.0; x.elem_count()];
        host::read(x, |x| {
            host::read(&grad, |g| {
                host::for_rows(&mut out, 1, |at, out| {
                    gelu_run_back(self.lanes, &x[at..][..out.len()], &g[at..][..out.len()], out);
                });
                Ok(())
            })
        })?;
        Ok(Some(host::tensor(out, x.shape())?))
    }
}

multiversion! { fn swiglu_run<T: Element>(gate: &[T], up: &[T], out: &mut [T]) = swiglu_body; }
multiversion! {
    fn swiglu_run_back_in_place<T: Element>(gate: &mut [T], up: &mut [T], g: &[T]) = swiglu_back_in_place_body;
}
multiversion! {
    fn swiglu_run_back(gate: &[f32], up: &[f32], g: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) = swiglu_back_body;
}
multiversion! { fn gelu_run(x: &[f32], out: &mut [f32]) = gelu_body; }
multiversion! { fn gelu_run_back(x: &[f32], g: &[f32], dx: &mut [f32]) = gelu_back_body; }

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
fn swiglu_back_body<S: Simd>(s: S, gate: &[f32], up: &[f32], g: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    for (gate, up, g, d_gate, d_up) in runs(s, (gate, up, g, d_gate, d_up)) {
        let (at_gate, at_up) = swiglu_slopes::<S, f32>(s, s.load(gate), s.load(up), s.load(g));
        s.store(at_up, d_up);
        s.store(at_gate, d_gate);
    }
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

#[inline(always)]
fn gelu_body<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    for (x, out) in runs(s, (x, out)) {
        let x = s.load(x);
        s.store(s.mul(x, gelu_gate::<S, f32>(s, x)), out);
    }
}

#[inline(always)]
fn gelu_back_body<S: Simd>(s: S, x: &[f32], g: &[f32], dx: &mut [f32]) {
    for (x, g, dx) in runs(s, (x, g, dx)) {
        let x = s.load(x);
        let sigma = gelu_gate::<S, f32>(s, x);
        s.store(s.mul(s.load(g), s.add(sigma, gelu_bend(s, x, sigma))), dx);
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{self, Tolerance};
    use super::*;

    #[test]
    fn swiglu_agrees_with_its_twin() {
        for shape in [&[1usize, 1, 7][..], &[3, 40, 33], &[2, 16], &[5, 7000]] {
            let gate = (gradient_check::numbers(1, shape) * 8.0).unwrap();
            let up = gradient_check::numbers(2, shape);
            let want = gradient_check::run(&[gradient_check::double(&gate), gradient_check::double(&up)], |x| {
                portable::swiglu(&x[0], &x[1])
            });
            for lanes in Lanes::available() {
                let got = gradient_check::run(&[gate.clone(), up.clone()], |x| Ok(x[0].apply_op2(&x[1], SwiGlu { lanes })?));
                gradient_check::same(&got, &want, Tolerance::default(), lanes.name());
            }
            let got = gradient_check::run(&[gate, up], |x| swiglu(&x[0], &x[1]));
            gradient_check::same(&got, &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn gelu_agrees_with_its_twin() {
        for shape in [&[1usize, 1, 7][..], &[3, 40, 33], &[2, 16], &[5, 7000]] {
            let x = (gradient_check::numbers(1, shape) * 6.0).unwrap();
            let want = gradient_check::run(&[gradient_check::double(&x)], |x| portable::gelu_tanh(&x[0]));
            for lanes in Lanes::available() {
                let got = gradient_check::run(std::slice::from_ref(&x), |x| Ok(x[0].apply_op1(GeluTanh { lanes })?));
                gradient_check::same(&got, &want, Tolerance::default(), lanes.name());
            }
            let got = gradient_check::run(&[x], |x| gelu_tanh(&x[0]));
            gradient_check::same(&got, &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let x = Tensor::new(&[-1e4f32, -100.0, -0.0, 100.0, 1e4], &candle_core::Device::Cpu).unwrap();
        for (got, name) in [
            (gradient_check::run(&[x.clone(), x.clone()], |x| swiglu(&x[0], &x[1])), "swiglu"),
            (gradient_check::run(&[x.clone(), x.clone()], |x| portable::swiglu(&x[0], &x[1])), "portable swiglu"),
            (gradient_check::run(std::slice::from_ref(&x), |x| gelu_tanh(&x[0])), "gelu"),
        ] {
            assert!(got.iter().flatten().all(|x| x.is_finite()), "{name}: {got:?}");
        }
    }

    #[test]
    fn twins_agree_with_finite_differences() {
        let (a, b) = (
            gradient_check::double(&gradient_check::numbers(3, &[2, 9])),
            gradient_check::double(&gradient_check::numbers(4, &[2, 9])),
        );
        gradient_check::finite_differences(&[a.clone(), b], |x| portable::swiglu(&x[0], &x[1]));
        gradient_check::finite_differences(&[a], |x| portable::gelu_tanh(&x[0]));
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (gate, up) = (gradient_check::numbers(7, &[67, 1536]), gradient_check::numbers(8, &[67, 1536]));
        gradient_check::threads_agree(&[gate.clone(), up], |x| swiglu(&x[0], &x[1]));
        gradient_check::threads_agree(&[gate], |x| gelu_tanh(&x[0]));
    }

    #[test]
    fn only_the_tracked_input_gets_a_gradient() {
        let gate = candle_core::Var::from_tensor(&gradient_check::numbers(1, &[2, 3])).unwrap();
        let up = gradient_check::numbers(2, &[2, 3]);
        let grads = swiglu(gate.as_tensor(), &up).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&gate).is_some() && grads.get(&up).is_none());
    }
}
