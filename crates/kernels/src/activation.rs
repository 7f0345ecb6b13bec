//! What stands between the two layers of a feed-forward block without a gate, on slices, in either precision.
//!
//! Refuses to know: the matrices around it.

use candle_core::cpu::erf::erf_f32;
use rayon::prelude::*;

use super::element::{Element, convert_here};
use super::glu::{gelu_bend, gelu_gate};
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// The function between the feed-forward's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// `½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
    /// `x·Φ(x)`.
    Gelu,
    Relu,
}

impl Activation {
    /// The function of every element of `x`.
    pub fn forward<T: Element>(self, x: &[T], out: &mut [T]) {
        let lanes = Lanes::in_force();
        host::for_rows(out, 1, |at, out| {
            let x = &x[at..][..out.len()];
            match self {
                Activation::Silu => silu_run(lanes, x, out),
                Activation::GeluTanh => gelu_run(lanes, x, out),
                Activation::Gelu => each(lanes, x, out, |x| x * phi(x)),
                Activation::Relu => each(lanes, x, out, |x| x.max(0.0)),
            }
        });
    }

    /// The gradient with respect to `x`, in its place, given that of [`Activation::forward`]'s result.
    pub fn backward_in_place<T: Element>(self, x: &mut [T], g: &[T]) {
        let (lanes, run) = (Lanes::in_force(), host::rows_per_task(1));
        x.par_chunks_mut(run).zip(g.par_chunks(run)).for_each(|(x, g)| match self {
            Activation::Silu => silu_run_back(lanes, x, g),
            Activation::GeluTanh => gelu_run_back(lanes, x, g),
            // Φ′(x) is the normal density.
            Activation::Gelu => each_back(lanes, x, g, |x| phi(x) + x * (-0.5 * x * x).exp() * INVERSE_ROOT_TWO_PI),
            Activation::Relu => each_back(lanes, x, g, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        });
    }
}

/// 1/√(2π)
const INVERSE_ROOT_TWO_PI: f32 = 0.398_942_3;

/// The normal distribution.
fn phi(x: f32) -> f32 {
    0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Elements that are taken to f32 at once.
const PIECE: usize = 256;

fn each<T: Element>(lanes: Lanes, x: &[T], out: &mut [T], f: impl Fn(f32) -> f32) {
    let mut room = [0f32; PIECE];
    for (x, out) in x.chunks(PIECE).zip(out.chunks_mut(PIECE)) {
        let room = &mut room[..x.len()];
        convert_here(lanes, x, room);
        room.iter_mut().for_each(|v| *v = f(*v));
        convert_here(lanes, room, out);
    }
}

fn each_back<T: Element>(lanes: Lanes, x: &mut [T], g: &[T], slope: impl Fn(f32) -> f32) {
    let (mut room, mut grads) = ([0f32; PIECE], [0f32; PIECE]);
    for (x, g) in x.chunks_mut(PIECE).zip(g.chunks(PIECE)) {
        let (room, grads) = (&mut room[..x.len()], &mut grads[..x.len()]);
        convert_here(lanes, x, room);
        convert_here(lanes, g, grads);
        room.iter_mut().zip(grads).for_each(|(v, g)| *v = *g * slope(*v));
        convert_here(lanes, room, x);
    }
}

multiversion! { fn silu_run<T: Element>(x: &[T], out: &mut [T]) = silu_body; }
multiversion! { fn silu_run_back<T: Element>(x: &mut [T], g: &[T]) = silu_back_body; }
multiversion! { fn gelu_run<T: Element>(x: &[T], out: &mut [T]) = gelu_body; }
multiversion! { fn gelu_run_back<T: Element>(x: &mut [T], g: &[T]) = gelu_back_body; }

#[inline(always)]
fn silu_body<S: Simd, T: Element>(s: S, x: &[T], out: &mut [T]) {
    for (x, out) in runs(s, (x, out)) {
        let x = T::load(s, x);
        T::store(s, s.mul(x, T::sigmoid(s, x)), out);
    }
}

/// silu′(x) = σ·(1 + x·(1 − σ))
#[inline(always)]
fn silu_back_body<S: Simd, T: Element>(s: S, x: &mut [T], g: &[T]) {
    let one = s.splat(1.0);
    for (x, g) in runs(s, (x, g)) {
        let at = T::load(s, x);
        let sigma = T::sigmoid(s, at);
        let slope = s.mul(sigma, s.mul_add(at, s.sub(one, sigma), one));
        T::store(s, s.mul(T::load(s, g), slope), x);
    }
}

#[inline(always)]
fn gelu_body<S: Simd, T: Element>(s: S, x: &[T], out: &mut [T]) {
    for (x, out) in runs(s, (x, out)) {
        let x = T::load(s, x);
        T::store(s, s.mul(x, gelu_gate::<S, T>(s, x)), out);
    }
}

#[inline(always)]
fn gelu_back_body<S: Simd, T: Element>(s: S, x: &mut [T], g: &[T]) {
    for (x, g) in runs(s, (x, g)) {
        let at = T::load(s, x);
        let sigma = gelu_gate::<S, T>(s, at);
        T::store(s, s.mul(T::load(s, g), s.add(sigma, gelu_bend(s, at, sigma))), x);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use half::bf16;

    use super::super::gradient_check;
    use super::*;

    const ALL: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

    fn candle(kind: Activation, x: &Tensor) -> Tensor {
        match kind {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu(),
            Activation::Gelu => x.gelu_erf(),
            Activation::Relu => x.relu(),
        }
        .unwrap()
    }

    /// Values and slopes against candle's own operations in f64, in both precisions.
    #[test]
    fn agrees_with_candle_in_value_and_slope() {
        let x = (gradient_check::numbers(3, &[1, 4099]) * 6.0).unwrap();
        let g = gradient_check::numbers(4, &[1, 4099]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_dtype(candle_core::DType::F32).unwrap().to_vec1::<f32>().unwrap();
        for kind in ALL {
            let var = candle_core::Var::from_tensor(&gradient_check::double(&x)).unwrap();
            let y = candle(kind, var.as_tensor());
            let grads = (&y * gradient_check::double(&g)).unwrap().sum_all().unwrap().backward().unwrap();
            let (want, want_dx) = (flat(&y), flat(grads.get(&var).unwrap()));
            let (xs, gs) = (flat(&x), flat(&g));
            let mut out = vec![0f32; xs.len()];
            kind.forward(&xs, &mut out);
            let mut dx = xs.clone();
            kind.backward_in_place(&mut dx, &gs);
            let close =
                |got: &[f32], want: &[f32], part: f32| got.iter().zip(want).all(|(a, b)| (a - b).abs() < part * b.abs().max(0.1));
            assert!(close(&out, &want, 3e-6) && close(&dx, &want_dx, 2e-5), "{kind:?}");
            let half = |v: &[f32]| v.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>();
            let full = |v: &[bf16]| v.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
            let (xs, gs) = (half(&xs), half(&gs));
            let (mut out, mut dx) = (vec![bf16::ZERO; xs.len()], xs.clone());
            kind.forward(&xs, &mut out);
            kind.backward_in_place(&mut dx, &gs);
            // The same rounded inputs through the exact path.
            let mut exact = vec![0f32; xs.len()];
            kind.forward(&full(&xs), &mut exact);
            let mut slope = full(&xs);
            kind.backward_in_place(&mut slope, &full(&gs));
            assert!(close(&full(&out), &exact, 2e-2) && close(&full(&dx), &slope, 2e-2), "{kind:?} in bf16");
        }
    }
}
