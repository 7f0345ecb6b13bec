//! What the tests of every kernel do: run it forward and back, and compare.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};

use crate::error::Result;

/// Repeatable numbers in [−1, 1).
pub(super) fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let n = shape.iter().product();
    Tensor::from_vec(std::iter::repeat_with(next).take(n).collect(), shape, &Device::Cpu).unwrap()
}

pub(super) fn double(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

/// The output of `f` and the gradient of every input for a fixed random gradient of the output.
pub(super) fn run(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Vec<f64>> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors).unwrap();
    let seed = numbers(99, out.dims()).to_dtype(out.dtype()).unwrap();
    let grads = (&out * seed).unwrap().sum_all().unwrap().backward().unwrap();
    let flat = |x: &Tensor| double(x).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let mut all = vec![flat(&out)];
    for (i, var) in vars.iter().enumerate() {
        all.push(flat(grads.get(var).unwrap_or_else(|| panic!("input {i} got no gradient"))));
    }
    all
}

/// As [`run`], of a kernel on slices: `f` gets the inputs and the gradient of an output of `len` numbers, and gives the output and the
/// gradient of every input.
pub(super) fn run_slices(inputs: &[&Tensor], len: usize, f: impl Fn(&[Vec<f32>], &[f32]) -> Vec<Vec<f32>>) -> Vec<Vec<f64>> {
    let flat = |x: &&Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let inputs: Vec<Vec<f32>> = inputs.iter().map(flat).collect();
    let all = f(&inputs, &flat(&&numbers(99, &[len])));
    all.into_iter().map(|values| values.into_iter().map(f64::from).collect()).collect()
}

/// How far f32 may be from f64: absolute plus relative.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Tolerance {
        Tolerance { absolute: 4e-6, relative: 4e-6 }
    }
}

/// Output and gradients agree, and each gradient has something in it.
pub(super) fn same(got: &[Vec<f64>], want: &[Vec<f64>], tolerance: Tolerance, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (which, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.len(), want.len(), "{what}: length of {which}");
        let scale = want.iter().fold(0f64, |a, x| a.max(x.abs()));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let allowed = tolerance.absolute + tolerance.relative * scale;
            assert!((g - w).abs() <= allowed, "{what}: {which} (0 = output, then gradients) at {i}: {g}, want {w} ± {allowed:e}");
        }
    }
}

/// The gradients that `f` reports are the slopes of its output. Inputs are f64.
pub(super) fn finite_differences(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let objective = |inputs: &[Tensor]| -> f64 {
        let out = f(inputs).unwrap();
        let seed = double(&numbers(99, out.dims()));
        (out * seed).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    let grads = run(inputs, &f);
    for (which, input) in inputs.iter().enumerate() {
        let values = input.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for i in 0..values.len() {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[i] += by;
                let mut inputs = inputs.to_vec();
                inputs[which] = Tensor::from_vec(values, input.dims(), &Device::Cpu).unwrap();
                objective(&inputs)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let got = grads[which + 1][i];
            assert!((slope - got).abs() < 1e-6 * (1.0 + slope.abs()), "input {which} at {i}: {got}, slope {slope}");
        }
        assert!(grads[which + 1].iter().any(|g| g.abs() > 1e-3), "input {which}: the gradient is zero everywhere");
    }
}

/// One thread and several give the same bits, forward and back.
pub(super) fn threads_agree(run: impl Fn() -> Vec<Vec<f64>> + Sync) {
    let with = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let bits = |all: Vec<Vec<f64>>| -> Vec<u64> { all.into_iter().flatten().map(f64::to_bits).collect() };
        pool.install(|| bits(run()))
    };
    let one = with(1);
    for n in [2, 3] {
        assert!(one == with(n), "{n} threads give other bits than one");
    }
}

/// Texts of `lengths`, one after another.
pub(super) fn spans(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut end = 0;
    let span = |len: &usize| {
        end += len;
        end - len..end
    };
    lengths.iter().map(span).collect()
}
