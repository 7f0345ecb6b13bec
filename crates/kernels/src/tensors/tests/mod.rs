//! Every operation, forward and back, against candle's autograd of a plain formula in f64.

use candle_core::{DType, Device, Tensor};

use crate::gradient_check::{self, Tolerance, double, numbers};

mod attention;
mod over;
mod products;
mod rows;

/// What each precision is allowed, of the largest value.
fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F32 => Tolerance { absolute: 5e-6, relative: 1e-5 },
        _ => Tolerance { absolute: 2e-3, relative: 2e-2 },
    }
}

/// Numbers in [−1, 1) that `dtype` holds exactly, and these in f64.
fn given(seed: u64, shape: &[usize], dtype: DType) -> (Tensor, Tensor) {
    let x = numbers(seed, shape).to_dtype(dtype).unwrap();
    let exact = double(&x);
    (x, exact)
}

/// The gradient of the output that `gradient_check::run` goes back with, which `dtype` may round.
fn behind(shape: &[usize], dtype: DType) -> Tensor {
    numbers(99, shape).to_dtype(dtype).unwrap()
}

/// Results agree with the reference; none is taped.
fn agrees(got: &[&Tensor], want: &[Vec<f64>], tolerance: Tolerance, what: &str) {
    assert!(got.iter().all(|x| !x.track_op()), "{what}: taped");
    let got: Vec<Vec<f64>> = got.iter().map(|x| double(x).flatten_all().unwrap().to_vec1().unwrap()).collect();
    gradient_check::same(&got, want, tolerance, what);
}

const BOTH: [DType; 2] = [DType::F32, DType::BF16];
const CPU: Device = Device::Cpu;
