use candle_core::{DType, Tensor};

use super::{BOTH, CPU, agrees, behind, given, tolerance};
use crate::cross_entropy;
use crate::gradient_check::{Tolerance, double, numbers, run, same};
use crate::linear::Side;
use crate::tensors::adamw::{self, Settings, State};
use crate::tensors::{head, linear};

const SIZES: [[usize; 3]; 3] = [[1, 8, 5], [7, 33, 17], [130, 64, 40]];

#[test]
fn products_agree_on_both_sides() {
    for dtype in BOTH {
        for [n, i, o] in SIZES {
            let ((x, exact), (w, exact_w)) = (given(1, &[n, i], dtype), given(2, &[o, i], dtype));
            let want = run(&[exact], |x| Ok(x[0].matmul(&exact_w.t()?)?));
            for out in [DType::F32, dtype] {
                let y = linear::product(&x, &w, Side::Transposed, out).unwrap();
                let dx = linear::product(&behind(&[n, o], dtype), &w, Side::Plain, out).unwrap();
                assert!(y.dtype() == out && dx.dtype() == out);
                agrees(&[&y, &dx], &want, tolerance(dtype), &format!("{n} {i} {o} {dtype:?}"));
            }
        }
    }
}

#[test]
fn pairs_agree() {
    for dtype in BOTH {
        for ([n, i, o], r) in SIZES.into_iter().zip([1, 3, 16]) {
            let (x, exact) = given(1, &[n, i], dtype);
            let (a, b, scale) = (numbers(2, &[r, i]), numbers(3, &[o, r]), 1.7);
            let want = run(&[exact, double(&a), double(&b)], |x| Ok((x[0].matmul(&x[1].t()?)?.matmul(&x[2].t()?)? * scale)?));
            let y = linear::delta(&x, &a, &b, scale).unwrap();
            let back = linear::delta_back(&x, &a, &b, scale, &behind(&[n, o], dtype)).unwrap();
            assert!(back.a.dtype() == DType::F32 && back.b.dtype() == DType::F32 && back.x.dtype() == dtype);
            agrees(&[&y, &back.x, &back.a, &back.b], &want, tolerance(dtype), &format!("{n} {i} {o} {r} {dtype:?}"));
        }
    }
}

/// Loss, log-probabilities and the gradient of hidden states, for pieces of one row, of some and of all.
#[test]
fn head_and_loss_agree() {
    for dtype in BOTH {
        for ([n, d, v], elements) in [([1, 8, 5], 1), ([7, 33, 101], 1), ([7, 33, 101], 303), ([60, 16, 67], 1 << 20)] {
            let ((x, exact), (w, exact_w)) = (given(1, &[n, d], dtype), given(2, &[v, d], dtype));
            let x_exact = exact.clone();
            let ids: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
            let (targets, weights) = (Tensor::new(&ids[..], &CPU).unwrap(), numbers(4, &[n]));
            let factors: Vec<f32> = weights.to_vec1().unwrap();
            let logits = |x: &Tensor| linear::product(x, &w, Side::Transposed, DType::F32);
            let head = head::Head { logits: &logits, vocabulary: v, cap: None };
            // Row by row, so that each has its weight.
            let mut grads = Vec::new();
            let mut losses = Vec::new();
            for (row, factor) in factors.iter().enumerate() {
                let var = candle_core::Var::from_tensor(&x_exact.narrow(0, row, 1).unwrap()).unwrap();
                let logits = var.matmul(&exact_w.t().unwrap()).unwrap();
                let loss = cross_entropy::portable::cross_entropy_sum(&logits, &ids[row..=row]).unwrap();
                let grad = (&loss * f64::from(*factor)).unwrap().backward().unwrap().get(&var).unwrap().clone();
                grads.extend(grad.flatten_all().unwrap().to_vec1::<f64>().unwrap());
                losses.push(loss.to_scalar::<f64>().unwrap());
            }
            let mut dx = Vec::new();
            let mut next = 0;
            let got = head::losses_and_gradient_in(&x, &head, (&targets, &weights), elements, &mut |rows, dy| {
                assert!(rows.start == next && dy.dims() == [rows.len(), v] && rows.len() <= (elements / v).max(1));
                next = rows.end;
                dx.push(linear::product(dy, &w.to_dtype(DType::F32)?, Side::Plain, DType::F32)?);
                Ok(())
            })
            .unwrap();
            let logps = head::logps_in(&x, &head, &targets, elements).unwrap();
            let whole = head::logps(&x, &head, &targets).unwrap();
            let want_logps: Vec<f64> = losses.iter().map(|l| -l).collect();
            let what = format!("{n} {d} {v} {elements} {dtype:?}");
            agrees(&[&logps, &Tensor::cat(&dx, 0).unwrap()], &[want_logps.clone(), grads], tolerance(dtype), &what);
            agrees(&[&whole], &[want_logps], tolerance(dtype), &what);
            let got = Tensor::new(got.as_slice(), &CPU).unwrap();
            agrees(&[&got], &[losses], tolerance(dtype), &what);
        }
    }
}

/// The algorithm number by number in f64; gradients are clipped.
#[test]
fn updates_are_those_of_the_algorithm() {
    let s = Settings { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, clip: 0.5 };
    let n = 37;
    let flat = |x: &Tensor| double(x).to_vec1::<f64>().unwrap();
    let start = numbers(1, &[n]);
    let mut state = State::new(start.clone()).unwrap();
    let (mut p, mut m, mut v) = (flat(&start), vec![0f64; n], vec![0f64; n]);
    for step in 1..=4 {
        let g = numbers(10 + step as u64, &[n]);
        state.step(&g, &s).unwrap();
        for (i, g) in flat(&g).into_iter().enumerate() {
            let g = g * s.clip;
            m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g;
            v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
            let (m, v) = (m[i] / (1.0 - s.beta1.powi(step)), v[i] / (1.0 - s.beta2.powi(step)));
            p[i] = p[i] * (1.0 - s.lr * s.weight_decay) - s.lr * m / (v.sqrt() + s.eps);
        }
    }
    let got = [flat(&state.parameters), flat(&state.first), flat(&state.second)];
    same(&got, &[p, m, v], Tolerance { absolute: 1e-7, relative: 1e-6 }, "adamw");
    assert_eq!(state.steps, 4);
    let g = numbers(5, &[1000]);
    let want = flat(&g).iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!((adamw::norm(&g).unwrap() - want).abs() < 1e-5 * want);
}
