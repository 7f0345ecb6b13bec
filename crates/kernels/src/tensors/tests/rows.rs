use candle_core::{D, DType, Tensor};

use super::{BOTH, CPU, agrees, behind, given, tolerance};
use crate::activation::Activation;
use crate::dropout::{DropoutMask, TokenMask};
use crate::gradient_check::{double, numbers, run};
use crate::tensors::dropout::Masks;
use crate::tensors::rope::Turn;
use crate::tensors::{columns, mlp, norm, pieces, rope};
use crate::{glu, norm::portable};

const SHAPES: [[usize; 2]; 3] = [[1, 8], [7, 33], [130, 64]];

#[test]
fn norms_agree() {
    for dtype in BOTH {
        for shape in SHAPES {
            let (x, exact) = given(1, &shape, dtype);
            let (weight, bias) = (numbers(2, &shape[1..]), numbers(3, &shape[1..]));
            let (w, b) = (double(&weight), double(&bias));
            let dy = behind(&shape, dtype);
            for out in [DType::F32, dtype] {
                let want = run(std::slice::from_ref(&exact), |x| portable::rms_norm(&x[0], &w, 1e-5));
                let got = [norm::rms(&x, &weight, 1e-5, out).unwrap(), norm::rms_back(&x, &weight, 1e-5, &dy, out).unwrap()];
                assert!(got.iter().all(|x| x.dtype() == out));
                agrees(&[&got[0], &got[1]], &want, tolerance(dtype), &format!("rms {shape:?} {dtype:?}"));
                let want = run(std::slice::from_ref(&exact), |x| portable::layer_norm(&x[0], &w, &b, 1e-5));
                let back = norm::layer_back(&x, &weight, 1e-5, &dy, out).unwrap();
                let got = [norm::layer(&x, &weight, &bias, 1e-5, out).unwrap(), back];
                agrees(&[&got[0], &got[1]], &want, tolerance(dtype), &format!("layer {shape:?} {dtype:?}"));
            }
        }
    }
}

/// Turning in f64: `x·cos + rotate_half(x)·sin`, as transformers writes it.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let (half, e) = (cos.dim(1)?, x.dim(2)?);
    let turning = x.narrow(2, 0, 2 * half)?;
    let wide = |t: &Tensor| Tensor::cat(&[t, t], 1)?.unsqueeze(1);
    let rotated = Tensor::cat(&[turning.narrow(2, half, half)?.neg()?, turning.narrow(2, 0, half)?], 2)?;
    let out = (turning.broadcast_mul(&wide(cos)?)? + rotated.broadcast_mul(&wide(sin)?)?)?;
    if 2 * half == e { Ok(out) } else { Tensor::cat(&[out, x.narrow(2, 2 * half, e - 2 * half)?], 2) }
}

#[test]
fn rope_agrees_and_its_inverse_is_the_way_back() {
    for dtype in BOTH {
        for ([n, heads, e], half) in [([1, 1, 2], 1), ([7, 3, 8], 4), ([130, 2, 12], 3)] {
            let (x, exact) = given(1, &[n, heads, e], dtype);
            let angles = (numbers(2, &[n, half]) * 30.0).unwrap();
            let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
            let want = run(&[exact], |x| Ok(turned(&x[0], &double(&cos), &double(&sin))?));
            let y = rope::rope(&x, &cos, &sin, Turn::default()).unwrap();
            let dx = rope::rope(&behind(&[n, heads, e], dtype), &cos, &sin, Turn { inverse: true, interleaved: false }).unwrap();
            agrees(&[&y, &dx], &want, tolerance(dtype), &format!("{n} {heads} {e} {half} {dtype:?}"));
            assert!(y.dtype() == dtype && dx.dtype() == dtype);
            // Neighbours: the same numbers in another order.
            let order: Vec<u32> = (0..half as u32).flat_map(|k| [k, k + half as u32]).chain(2 * half as u32..e as u32).collect();
            let order = Tensor::new(order, x.device()).unwrap();
            let apart = |t: &Tensor| t.index_select(&order, 2).unwrap();
            for inverse in [false, true] {
                let halves = rope::rope(&x, &cos, &sin, Turn { inverse, interleaved: false }).unwrap();
                let neighbours = rope::rope(&apart(&x), &cos, &sin, Turn { inverse, interleaved: true }).unwrap();
                let flat = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(flat(&apart(&halves)), flat(&neighbours));
            }
        }
    }
}

#[test]
fn swiglu_agrees() {
    for dtype in BOTH {
        for shape in SHAPES {
            let wide = |seed| {
                let x = (numbers(seed, &shape) * 5.0).unwrap().to_dtype(dtype).unwrap();
                (double(&x), x)
            };
            let ((exact_gate, gate), (exact_up, up)) = (wide(1), wide(2));
            let want = run(&[exact_gate, exact_up], |x| glu::portable::swiglu(&x[0], &x[1]));
            let y = mlp::swiglu(&gate, &up).unwrap();
            let (d_gate, d_up) = mlp::swiglu_back(&gate, &up, &behind(&shape, dtype)).unwrap();
            agrees(&[&y, &d_gate, &d_up], &want, tolerance(dtype), &format!("{shape:?} {dtype:?}"));
        }
    }
}

#[test]
fn a_gelu_gate_agrees() {
    for dtype in BOTH {
        let wide = |seed| {
            let x = (numbers(seed, &[7, 333]) * 5.0).unwrap().to_dtype(dtype).unwrap();
            (double(&x), x)
        };
        let ((exact_gate, gate), (exact_up, up)) = (wide(1), wide(2));
        let want = run(&[exact_gate, exact_up], |x| Ok((glu::portable::gelu_tanh(&x[0])? * &x[1])?));
        let y = mlp::gated(Activation::GeluTanh, &gate, &up).unwrap();
        let (d_gate, d_up) = mlp::gated_back(Activation::GeluTanh, &gate, &up, &behind(&[7, 333], dtype)).unwrap();
        agrees(&[&y, &d_gate, &d_up], &want, tolerance(dtype), &format!("{dtype:?}"));
    }
}

fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

fn clamped_gate(x: &Tensor, alpha: f32, limit: f32) -> candle_core::Result<Tensor> {
    let x = x.minimum(f64::from(limit))?;
    &x * sigmoid(&(&x * f64::from(alpha))?)?
}

/// A gate held to limits, and what it is multiplied with, in which one is added.
#[test]
fn clamped_gates_agree() {
    for dtype in BOTH {
        let wide = |seed| {
            let x = (numbers(seed, &[7, 333]) * 2.0).unwrap().to_dtype(dtype).unwrap();
            (double(&x), x)
        };
        let ((exact_gate, gate), (exact_up, up)) = (wide(1), wide(2));
        let (alpha, limit) = (1.3, 0.8);
        let want = run(&[exact_gate, exact_up], |x| {
            let up = (x[1].minimum(f64::from(limit))?.maximum(-f64::from(limit))? + 1.0)?;
            Ok((clamped_gate(&x[0], alpha, limit)? * up)?)
        });
        let kind = Activation::Clamped { alpha, limit };
        let y = mlp::gated(kind, &gate, &up).unwrap();
        let (d_gate, d_up) = mlp::gated_back(kind, &gate, &up, &behind(&[7, 333], dtype)).unwrap();
        agrees(&[&y, &d_gate, &d_up], &want, tolerance(dtype), &format!("{dtype:?}"));
    }
}

#[test]
fn activations_agree() {
    for dtype in BOTH {
        let x = (numbers(1, &[7, 333]) * 6.0).unwrap().to_dtype(dtype).unwrap();
        let clamped = Activation::Clamped { alpha: 1.3, limit: 0.8 };
        for kind in [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Sigmoid, clamped] {
            let want = run(&[double(&x)], |x| {
                Ok(match kind {
                    Activation::Silu => x[0].silu()?,
                    Activation::GeluTanh => glu::portable::gelu_tanh(&x[0])?,
                    Activation::Gelu => x[0].gelu_erf()?,
                    Activation::Relu => x[0].relu()?,
                    Activation::Sigmoid => sigmoid(&x[0])?,
                    Activation::Clamped { alpha, limit } => clamped_gate(&x[0], alpha, limit)?,
                })
            });
            let y = mlp::activation(kind, &x).unwrap();
            let dx = mlp::activation_back(kind, &x, &behind(&[7, 333], dtype)).unwrap();
            agrees(&[&y, &dx], &want, tolerance(dtype), &format!("{kind:?} {dtype:?}"));
        }
        // Far out nothing overflows.
        let far = Tensor::new(&[[-300f32, -90.0, 90.0, 300.0]], &CPU).unwrap().to_dtype(dtype).unwrap();
        let ones = far.ones_like().unwrap();
        for kind in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
            let slope =
                double(&mlp::activation_back(kind, &far, &ones).unwrap()).flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(slope, [0.0, 0.0, 1.0, 1.0], "{kind:?}");
        }
    }
}

#[test]
fn columns_agree() {
    for dtype in BOTH {
        for shape in SHAPES {
            let (z, exact) = given(1, &shape, dtype);
            let (magnitude, norms) = (numbers(2, &shape[1..]), (numbers(3, &shape[1..]).abs().unwrap() + 0.5).unwrap());
            let want = run(&[exact, double(&magnitude)], |x| Ok(x[0].broadcast_mul(&(&x[1] / double(&norms))?)?));
            let factors = (&magnitude / &norms).unwrap();
            let y = columns::scaled(&z, &factors).unwrap();
            let (dz, dm) = columns::scaled_back(&z, &behind(&shape, dtype), &factors, &norms).unwrap();
            agrees(&[&y, &dz, &dm], &want, tolerance(dtype), &format!("{shape:?} {dtype:?}"));
            assert!(dm.dtype() == DType::F32);
        }
    }
}

/// Pieces of rows, the last one shorter, are the whole.
#[test]
fn pieces_are_joined() {
    let x = numbers(1, &[23, 3, 4]);
    for elements in [1, 12, 60, 1000] {
        let [same, sums] =
            pieces::by_rows(&[&x, &x], elements, |x| Ok([(&x[0] + &x[1])?, x[0].sum(D::Minus1)?.to_dtype(DType::BF16)?]))
                .unwrap();
        let want = [(&x + &x).unwrap(), x.sum(D::Minus1).unwrap().to_dtype(DType::BF16).unwrap()];
        for (got, want) in [same, sums].iter().zip(&want) {
            assert!(got.dims() == want.dims() && got.dtype() == want.dtype());
            let flat = |x: &Tensor| double(x).flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(flat(got), flat(want), "{elements}");
        }
    }
}

/// The bits of the CPU's masks, of all tokens and of some, for widths that are and are not whole bytes.
#[test]
fn masks_are_those_of_the_cpu() {
    let rows: Vec<u64> = vec![0, 1, 2, 40, 41, 7, 1 << 33];
    let mask = |key, p| TokenMask { mask: DropoutMask::new(key, p), rows: &rows };
    let sites = [Some((mask(3, 0.1), 24)), None, Some((mask(u64::MAX, 0.5), 13))];
    let at = Tensor::new(&[4u32, 0, 6], &CPU).unwrap();
    for dtype in BOTH {
        let masks = Masks::new(&sites, dtype, &CPU).unwrap();
        for (site, of) in sites.iter().enumerate() {
            let Some((mask, width)) = of else {
                assert!(masks.factors(site, None).unwrap().is_none());
                continue;
            };
            let want = Tensor::from_vec(mask.apply(&vec![1f32; rows.len() * width]), (rows.len(), *width), &CPU).unwrap();
            let want = want.to_dtype(dtype).unwrap();
            let flat = |x: Tensor| x.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(flat(masks.factors(site, None).unwrap().unwrap()), flat(want.clone()));
            assert_eq!(flat(masks.factors(site, Some(&at)).unwrap().unwrap()), flat(want.index_select(&at, 0).unwrap()));
        }
    }
}
