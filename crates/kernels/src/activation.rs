//! What stands between the layers of a feed-forward block, with a gate or without, on slices, in either precision.
//!
//! Refuses to know: the matrices around it.

use rayon::prelude::*;

use super::element::{Element, convert_here};
use super::glu::{gelu_bend, gelu_gate, swiglu_backward_in_place, swiglu_forward};
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// The function between the feed-forward's layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Silu,
    /// `½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
    /// `x·Φ(x)`.
    Gelu,
    Relu,
    /// `1/(1 + e⁻ˣ)`.
    Sigmoid,
    /// As a gate `x·σ(alpha·x) · (up + 1)`, with `x` at most `limit` and `up` from −`limit` to `limit` (transformers' `GptOssExperts`).
    Clamped {
        alpha: f32,
        limit: f32,
    },
}

impl Activation {
    /// The function of every element of `x`.
    pub fn forward<T: Element>(self, x: &[T], out: &mut [T]) {
        let lanes = Lanes::in_force();
        host::for_rows(out, 1, |at, out| self.forward_here(lanes, &x[at..][..out.len()], out));
    }

    fn forward_here<T: Element>(self, lanes: Lanes, x: &[T], out: &mut [T]) {
        match self {
            Activation::Silu => silu_run(lanes, x, out),
            Activation::GeluTanh => gelu_run(lanes, x, out),
            Activation::Gelu => gelu_erf_run(lanes, x, out),
            Activation::Relu => each(lanes, x, out, |x| x.max(0.0)),
            Activation::Sigmoid => sigmoid_run(lanes, x, out),
            Activation::Clamped { alpha, limit } => each(lanes, x, out, |x| {
                let x = x.min(limit);
                x / (1.0 + (-alpha * x).exp())
            }),
        }
    }

    /// The gradient with respect to `x`, in its place, given that of [`Activation::forward`]'s result.
    pub fn backward_in_place<T: Element>(self, x: &mut [T], g: &[T]) {
        let (lanes, run) = (Lanes::in_force(), host::rows_per_task(1));
        x.par_chunks_mut(run).zip(g.par_chunks(run)).for_each(|(x, g)| self.backward_here(lanes, x, g));
    }

    fn backward_here<T: Element>(self, lanes: Lanes, x: &mut [T], g: &[T]) {
        match self {
            Activation::Silu => silu_run_back(lanes, x, g),
            Activation::GeluTanh => gelu_run_back(lanes, x, g),
            Activation::Gelu => gelu_erf_run_back(lanes, x, g),
            Activation::Relu => each_back(lanes, x, g, |x| if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::Sigmoid => sigmoid_run_back(lanes, x, g),
            Activation::Clamped { alpha, limit } => each_back(lanes, x, g, |x| {
                if x > limit {
                    return 0.0;
                }
                let sigma = 1.0 / (1.0 + (-alpha * x).exp());
                sigma * (1.0 + alpha * x * (1.0 - sigma))
            }),
        }
    }

    /// `self(gate) · up`, element by element.
    pub fn gate<T: Element>(self, gate: &[T], up: &[T], out: &mut [T]) {
        if self == Activation::Silu {
            return swiglu_forward(gate, up, out);
        }
        let lanes = Lanes::in_force();
        host::for_rows(out, 1, |at, out| {
            let (gate, up) = (&gate[at..][..out.len()], &up[at..][..out.len()]);
            if self == Activation::GeluTanh {
                return gelu_gate_run(lanes, gate, up, out);
            }
            self.forward_here(lanes, gate, out);
            match self.bounds() {
                None => times_run(lanes, up, out),
                Some(limit) => {
                    let mut shifted = [T::default(); PIECE];
                    for (up, out) in up.chunks(PIECE).zip(out.chunks_mut(PIECE)) {
                        let shifted = &mut shifted[..up.len()];
                        each(lanes, up, shifted, |up| up.clamp(-limit, limit) + 1.0);
                        times_run(lanes, shifted, out);
                    }
                }
            }
        });
    }

    /// The gradients of [`Activation::gate`] with respect to `gate` and `up`, in their place, given that of its result.
    pub fn gate_backward_in_place<T: Element>(self, gate: &mut [T], up: &mut [T], g: &[T]) {
        if self == Activation::Silu {
            return swiglu_backward_in_place(gate, up, g);
        }
        let (lanes, run) = (Lanes::in_force(), host::rows_per_task(1));
        gate.par_chunks_mut(run).zip(up.par_chunks_mut(run)).zip(g.par_chunks(run)).for_each(|((gate, up), g)| {
            if self == Activation::GeluTanh {
                return gelu_gate_run_back(lanes, gate, up, g);
            }
            let (mut act, mut behind) = ([T::default(); PIECE], [T::default(); PIECE]);
            for ((gate, up), g) in gate.chunks_mut(PIECE).zip(up.chunks_mut(PIECE)).zip(g.chunks(PIECE)) {
                let (act, behind) = (&mut act[..g.len()], &mut behind[..g.len()]);
                self.forward_here(lanes, gate, act);
                behind.copy_from_slice(g);
                if let Some(limit) = self.bounds() {
                    let mut shifted = [T::default(); PIECE];
                    let shifted = &mut shifted[..up.len()];
                    each(lanes, up, shifted, |up| up.clamp(-limit, limit) + 1.0);
                    times_run(lanes, shifted, behind);
                    // Where it is clamped nothing goes back.
                    each(lanes, up, shifted, |up| if up.abs() > limit { 0.0 } else { 1.0 });
                    times_run(lanes, shifted, act);
                } else {
                    times_run(lanes, up, behind);
                }
                self.backward_here(lanes, gate, behind);
                up.copy_from_slice(g);
                times_run(lanes, act, up);
            }
        });
    }

    /// What `up` is held to before one is added.
    fn bounds(self) -> Option<f32> {
        if let Activation::Clamped { limit, .. } = self { Some(limit) } else { None }
    }
}

/// 1/√(2π)
const INVERSE_ROOT_TWO_PI: f32 = 0.398_942_3;

/// Elements that are taken to f32 at once.
const PIECE: usize = 256;

fn each<T: Element>(lanes: Lanes, x: &[T], out: &mut [T], f: impl Fn(f32) -> f32) {
    let mut scratch = [0f32; PIECE];
    for (x, out) in x.chunks(PIECE).zip(out.chunks_mut(PIECE)) {
        let scratch = &mut scratch[..x.len()];
        convert_here(lanes, x, scratch);
        scratch.iter_mut().for_each(|v| *v = f(*v));
        convert_here(lanes, scratch, out);
    }
}

fn each_back<T: Element>(lanes: Lanes, x: &mut [T], g: &[T], slope: impl Fn(f32) -> f32) {
    let (mut scratch, mut grads) = ([0f32; PIECE], [0f32; PIECE]);
    for (x, g) in x.chunks_mut(PIECE).zip(g.chunks(PIECE)) {
        let (scratch, grads) = (&mut scratch[..x.len()], &mut grads[..x.len()]);
        convert_here(lanes, x, scratch);
        convert_here(lanes, g, grads);
        scratch.iter_mut().zip(grads).for_each(|(v, g)| *v = *g * slope(*v));
        convert_here(lanes, scratch, x);
    }
}

multiversion! { fn silu_run<T: Element>(x: &[T], out: &mut [T]) = silu_body; }
multiversion! { fn silu_run_back<T: Element>(x: &mut [T], g: &[T]) = silu_back_body; }
multiversion! { fn sigmoid_run<T: Element>(x: &[T], out: &mut [T]) = sigmoid_body; }
multiversion! { fn sigmoid_run_back<T: Element>(x: &mut [T], g: &[T]) = sigmoid_back_body; }
multiversion! { fn gelu_run<T: Element>(x: &[T], out: &mut [T]) = gelu_body; }
multiversion! { fn gelu_run_back<T: Element>(x: &mut [T], g: &[T]) = gelu_back_body; }
multiversion! { fn gelu_erf_run<T: Element>(x: &[T], out: &mut [T]) = gelu_erf_body; }
multiversion! { fn gelu_erf_run_back<T: Element>(x: &mut [T], g: &[T]) = gelu_erf_back_body; }
multiversion! { fn gelu_gate_run<T: Element>(gate: &[T], up: &[T], out: &mut [T]) = gelu_gate_body; }
multiversion! { fn gelu_gate_run_back<T: Element>(gate: &mut [T], up: &mut [T], g: &[T]) = gelu_gate_back_body; }
multiversion! {
    /// `y = x · y`.
    fn times_run<T: Element>(x: &[T], y: &mut [T]) = times_body;
}

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
fn sigmoid_body<S: Simd, T: Element>(s: S, x: &[T], out: &mut [T]) {
    for (x, out) in runs(s, (x, out)) {
        T::store(s, T::sigmoid(s, T::load(s, x)), out);
    }
}

/// σ′(x) = σ·(1 − σ)
#[inline(always)]
fn sigmoid_back_body<S: Simd, T: Element>(s: S, x: &mut [T], g: &[T]) {
    for (x, g) in runs(s, (x, g)) {
        let sigma = T::sigmoid(s, T::load(s, x));
        T::store(s, s.mul(T::load(s, g), s.mul(sigma, s.sub(s.splat(1.0), sigma))), x);
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

/// The normal distribution Φ at `x`, and `exp(−x²/2)`; the error function by Abramowitz & Stegun 7.1.26, off by 1.5e-7 at most.
#[inline(always)]
fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let (one, half) = (s.splat(1.0), s.splat(0.5));
    let far = s.max(x, s.sub(s.splat(0.0), x));
    let bell = s.exp(s.mul(s.mul(x, x), s.splat(-0.5)));
    let t = s.div(one, s.mul_add(far, s.splat(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2), one));
    let mut sum = s.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        sum = s.mul_add(sum, t, s.splat(coefficient));
    }
    let tail = s.mul(s.mul(s.mul(sum, t), bell), half);
    let sign = s.max(s.min(s.mul(x, s.splat(1e30)), one), s.splat(-1.0));
    (s.mul_add(sign, s.sub(half, tail), half), bell)
}

#[inline(always)]
fn gelu_erf_body<S: Simd, T: Element>(s: S, x: &[T], out: &mut [T]) {
    for (x, out) in runs(s, (x, out)) {
        let x = T::load(s, x);
        T::store(s, s.mul(x, normal(s, x).0), out);
    }
}

/// Φ(x) + x·Φ′(x)
#[inline(always)]
fn gelu_erf_back_body<S: Simd, T: Element>(s: S, x: &mut [T], g: &[T]) {
    for (x, g) in runs(s, (x, g)) {
        let at = T::load(s, x);
        let (phi, bell) = normal(s, at);
        let slope = s.mul_add(s.mul(at, bell), s.splat(INVERSE_ROOT_TWO_PI), phi);
        T::store(s, s.mul(T::load(s, g), slope), x);
    }
}

#[inline(always)]
fn gelu_gate_body<S: Simd, T: Element>(s: S, gate: &[T], up: &[T], out: &mut [T]) {
    for (gate, up, out) in runs(s, (gate, up, out)) {
        let x = T::load(s, gate);
        T::store(s, s.mul(s.mul(x, gelu_gate::<S, T>(s, x)), T::load(s, up)), out);
    }
}

#[inline(always)]
fn gelu_gate_back_body<S: Simd, T: Element>(s: S, gate: &mut [T], up: &mut [T], g: &[T]) {
    for (gate, up, g) in runs(s, (gate, up, g)) {
        let (x, behind) = (T::load(s, gate), T::load(s, g));
        let sigma = gelu_gate::<S, T>(s, x);
        let slope = s.add(sigma, gelu_bend(s, x, sigma));
        T::store(s, s.mul(s.mul(behind, T::load(s, up)), slope), gate);
        T::store(s, s.mul(behind, s.mul(x, sigma)), up);
    }
}

#[inline(always)]
fn times_body<S: Simd, T: Element>(s: S, x: &[T], y: &mut [T]) {
    for (x, y) in runs(s, (x, y)) {
        T::store(s, s.mul(T::load(s, x), T::load(s, y)), y);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use half::bf16;

    use super::super::gradient_check;
    use super::*;

    const ALL: [Activation; 6] = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::Relu,
        Activation::Sigmoid,
        Activation::Clamped { alpha: 1.3, limit: 0.8 },
    ];

    /// `1/(1 + e⁻ˣ)` as candle differentiates it.
    fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
        (x.neg()?.exp()? + 1.0)?.recip()
    }

    /// What `up` becomes before it is multiplied with.
    fn shifted(kind: Activation, up: f32) -> f32 {
        if let Activation::Clamped { limit, .. } = kind { up.clamp(-limit, limit) + 1.0 } else { up }
    }

    fn candle(kind: Activation, x: &Tensor) -> Tensor {
        match kind {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu(),
            Activation::Gelu => x.gelu_erf(),
            Activation::Relu => x.relu(),
            Activation::Sigmoid => sigmoid(x),
            Activation::Clamped { alpha, limit } => {
                let x = x.minimum(f64::from(limit)).unwrap();
                &x * sigmoid(&(&x * f64::from(alpha)).unwrap()).unwrap()
            }
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

    /// GELU in its tanh form, with every set of instructions, against its formula: candle's own slope has six digits.
    #[test]
    fn gelu_agrees_with_its_twin_and_extremes_stay_finite() {
        for len in [7, 3960, 32, 35_000] {
            let x = (gradient_check::numbers(1, &[len]) * 6.0).unwrap();
            let want = gradient_check::run(&[gradient_check::double(&x)], |x| super::super::glu::portable::gelu_tanh(&x[0]));
            for lanes in Lanes::available() {
                let got = gradient_check::run_slices(&[&x], len, |x, g| {
                    let (mut out, mut dx) = (vec![0f32; len], x[0].clone());
                    Activation::GeluTanh.forward_here(lanes, &x[0], &mut out);
                    Activation::GeluTanh.backward_here(lanes, &mut dx, g);
                    vec![out, dx]
                });
                gradient_check::same(&got, &want, gradient_check::Tolerance::default(), lanes.name());
            }
        }
        let far = [-1e4f32, -100.0, -0.0, 100.0, 1e4];
        for kind in ALL {
            let (mut out, mut dx) = ([0f32; 5], far);
            kind.forward(&far, &mut out);
            kind.backward_in_place(&mut dx, &[1.0; 5]);
            assert!(out.iter().chain(&dx).all(|v| v.is_finite()), "{kind:?}: {out:?} {dx:?}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x = gradient_check::numbers(7, &[67 * 1536]);
        for kind in ALL {
            gradient_check::threads_agree(|| {
                gradient_check::run_slices(&[&x], x.elem_count(), |x, g| {
                    let (mut out, mut dx) = (vec![0f32; g.len()], x[0].clone());
                    kind.forward(&x[0], &mut out);
                    kind.backward_in_place(&mut dx, g);
                    vec![out, dx]
                })
            });
        }
    }

    /// A gate is its function times `up`, there and back, in both precisions.
    #[test]
    fn gates_are_functions_times_up() {
        let of = |seed| (gradient_check::numbers(seed, &[4099]) * 4.0).unwrap().to_vec1::<f32>().unwrap();
        let half = |v: &[f32]| v.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>();
        let full = |v: &[bf16]| v.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
        let (gate, up, g) = (full(&half(&of(5))), full(&half(&of(6))), full(&half(&of(7))));
        for kind in ALL {
            let mut act = vec![0f32; gate.len()];
            kind.forward(&gate, &mut act);
            let mut d_gate = gate.clone();
            kind.backward_in_place(&mut d_gate, &g.iter().zip(&up).map(|(g, up)| g * shifted(kind, *up)).collect::<Vec<_>>());
            let times = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
            let moved: Vec<f32> = up.iter().map(|up| shifted(kind, *up)).collect();
            let bounded = |up: f32| matches!(kind, Activation::Clamped { limit, .. } if up.abs() > limit);
            let d_up: Vec<f32> = times(&act, &g).iter().zip(&up).map(|(d, up)| if bounded(*up) { 0.0 } else { *d }).collect();
            let want = [times(&act, &moved), d_gate, d_up];
            let close = |got: [&[f32]; 3], part: f32| {
                let pairs = got.iter().zip(&want).flat_map(|(got, want)| got.iter().zip(want));
                pairs.into_iter().all(|(a, b)| (a - b).abs() < part * b.abs().max(0.5))
            };
            let (mut out, mut a, mut b) = (vec![0f32; gate.len()], gate.clone(), up.clone());
            kind.gate(&gate, &up, &mut out);
            kind.gate_backward_in_place(&mut a, &mut b, &g);
            assert!(close([&out, &a, &b], 1e-5), "{kind:?}");
            let (mut out, mut a, mut b) = (vec![bf16::ZERO; gate.len()], half(&gate), half(&up));
            kind.gate(&half(&gate), &half(&up), &mut out);
            kind.gate_backward_in_place(&mut a, &mut b, &half(&g));
            assert!(close([&full(&out), &full(&a), &full(&b)], 4e-2), "{kind:?} in bf16");
        }
    }
}
