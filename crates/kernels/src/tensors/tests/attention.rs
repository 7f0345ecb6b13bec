use std::ops::Range;

use candle_core::{D, DType, Tensor};

use super::{BOTH, CPU, agrees, behind, given, tolerance};
use crate::attention::Slices;
use crate::error::Result;
use crate::gradient_check::{Tolerance, double, run, spans};
use crate::tensors::attention::{Behind, Packed, Ramp, Scores, backward, cached, forward};

/// Scores (h, t, t) of one text with all its heads, hidden ones at −1e30.
fn plain_scores(q: &Tensor, k: &Tensor, scores: Scores) -> candle_core::Result<Tensor> {
    let (t, h, e) = q.dims3()?;
    let shared = h / k.dim(1)?;
    let k = k.unsqueeze(2)?.broadcast_as((t, h / shared, shared, e))?.reshape((t, h, e))?.permute((1, 2, 0))?;
    let mut s = (q.transpose(0, 1)?.contiguous()?.matmul(&k.contiguous()?)? * scores.scale)?;
    if let Some(cap) = scores.cap {
        s = ((s / cap)?.tanh()? * cap)?;
    }
    let seen = |i: usize, j: usize| j <= i && scores.window.is_none_or(|w| i - j < w);
    let mask: Vec<f64> = (0..t * t).map(|at| if seen(at / t, at % t) { 0.0 } else { -1e30 }).collect();
    s.broadcast_add(&Tensor::from_vec(mask, (t, t), &CPU)?)
}

/// Attention of whole matrices of scores, text by text.
fn plain([q, k, v]: [&Tensor; 3], spans: &[Range<usize>], scores: Scores) -> Result<Tensor> {
    let text = |span: &Range<usize>| -> candle_core::Result<Tensor> {
        let [q, k, v] = [q, k, v].map(|x| x.narrow(0, span.start, span.len()));
        let (q, k, v) = (q?, k?, v?);
        let (t, h, e) = q.dims3()?;
        let (g, s) = (k.dim(1)?, plain_scores(&q, &k, scores)?);
        let p = s.broadcast_sub(&s.detach().max_keepdim(D::Minus1)?)?.exp()?;
        let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
        let v = v.unsqueeze(2)?.broadcast_as((t, g, h / g, e))?.reshape((t, h, e))?.transpose(0, 1)?;
        p.matmul(&v.contiguous()?)?.transpose(0, 1)?.contiguous()
    };
    let texts = spans.iter().filter(|s| !s.is_empty()).map(text).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&texts, 0)?)
}

/// `log Σ exp(scores)` (h, n).
fn plain_normalisers(q: &Tensor, k: &Tensor, spans: &[Range<usize>], scores: Scores) -> Vec<f64> {
    let text = |span: &Range<usize>| {
        let part = |x: &Tensor| x.narrow(0, span.start, span.len()).unwrap();
        plain_scores(&part(q), &part(k), scores).unwrap().log_sum_exp(D::Minus1).unwrap()
    };
    let texts: Vec<Tensor> = spans.iter().filter(|s| !s.is_empty()).map(text).collect();
    Tensor::cat(&texts, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

struct Case<'a> {
    lengths: &'a [usize],
    /// Heads, heads of keys, size of a head.
    heads: [usize; 3],
    tile: usize,
}

fn check(case: &Case, scores: Scores, dtype: DType) {
    let (spans, [h, g, e]) = (spans(case.lengths), case.heads);
    let n: usize = case.lengths.iter().sum();
    let ((q, exact_q), (k, exact_k), (v, exact_v)) =
        (given(1, &[n, h, e], dtype), given(2, &[n, g, e], dtype), given(3, &[n, g, e], dtype));
    let mut want = run(&[exact_q.clone(), exact_k.clone(), exact_v], |x| plain([&x[0], &x[1], &x[2]], &spans, scores));
    want.push(plain_normalisers(&exact_q, &exact_k, &spans, scores));
    let ramp = Ramp::of(&CPU, case.tile).unwrap();
    let texts = Packed::new(&spans, scores, &ramp).unwrap();
    let (out, normalisers) = forward([&q, &k, &v], None, &texts).unwrap();
    let gradient = behind(&[n, h, e], dtype);
    let behind = Behind { out: &out, normalisers: &normalisers, gradient: &gradient };
    let [dq, dk, dv] = backward([&q, &k, &v], behind, &texts).unwrap();
    assert!([&out, &dq, &dk, &dv].iter().all(|x| x.dtype() == dtype) && normalisers.dtype() == DType::F32);
    let what = format!("{:?} {:?} tile {} {scores:?} {dtype:?}", case.lengths, case.heads, case.tile);
    agrees(&[&out, &dq, &dk, &dv, &normalisers], &want, tolerance(dtype), &what);
}

const WINDOWS: [Option<usize>; 6] = [None, Some(1), Some(7), Some(16), Some(50), Some(usize::MAX)];
const CAPS: [Option<f64>; 2] = [None, Some(1.5)];

/// Texts shorter and longer than a tile, with every window and cap.
#[test]
fn small_tiles_agree() {
    let lengths: [&[usize]; 4] = [&[1, 2, 5, 37, 3, 70], &[16, 16, 33], &[7, 0, 8, 1, 48], &[1]];
    for (lengths, heads) in lengths.into_iter().zip([[4, 2, 8], [3, 1, 6], [2, 2, 5], [6, 3, 4]]) {
        for window in WINDOWS {
            for cap in CAPS {
                let scores = Scores { scale: 0.8, cap, window };
                BOTH.into_iter().for_each(|dtype| check(&Case { lengths, heads, tile: 16 }, scores, dtype));
            }
        }
    }
}

#[test]
fn long_texts_agree_whatever_the_tile() {
    let (lengths, heads) = (&[1, 2, 5, 130, 700][..], [4, 2, 8]);
    let plain = Scores { scale: 0.5, cap: None, window: None };
    let both = Scores { scale: 0.5, cap: Some(2.0), window: Some(600) };
    check(&Case { lengths, heads, tile: 16 }, plain, DType::F32);
    check(&Case { lengths, heads, tile: 512 }, plain, DType::F32);
    check(&Case { lengths, heads, tile: 512 }, plain, DType::BF16);
    check(&Case { lengths, heads, tile: 512 }, both, DType::F32);
    check(&Case { lengths, heads, tile: 256 }, Scores { window: Some(300), ..both }, DType::F32);
}

/// Scores far beyond what exp holds in f32.
#[test]
fn large_scores_stay_numbers() {
    let (q, k, v) = (given(1, &[40, 2, 8], DType::F32), given(2, &[40, 2, 8], DType::F32), given(3, &[40, 2, 8], DType::F32));
    let scores = Scores { scale: 400.0, cap: None, window: None };
    let spans = spans(&[40]);
    let texts = Packed::new(&spans, scores, &Ramp::of(&CPU, 16).unwrap()).unwrap();
    let (out, _) = forward([&q.0, &k.0, &v.0], None, &texts).unwrap();
    let want = plain([&q.1, &k.1, &v.1], &spans, scores).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    agrees(&[&out], &[want], Tolerance { absolute: 1e-3, relative: 1e-3 }, "large scores");
}

/// The newest queries over all keys of a text are the last rows of its whole attention.
#[test]
fn cached_keys_give_the_last_rows() {
    let s = 100;
    for dtype in BOTH {
        let (q, k, v) = (given(1, &[s, 4, 8], dtype), given(2, &[s, 2, 8], dtype), given(3, &[s, 2, 8], dtype));
        for window in WINDOWS {
            for cap in CAPS {
                let scores = Scores { scale: 0.8, cap, window };
                let want = plain([&q.1, &k.1, &v.1], &spans(&[s]), scores).unwrap();
                for m in [1, 3, 16, 41, s] {
                    let want = want.narrow(0, s - m, m).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                    let newest = q.0.narrow(0, s - m, m).unwrap();
                    let out = cached([&newest, &k.0, &v.0], None, scores, &Ramp::of(&CPU, 16).unwrap()).unwrap();
                    assert!(out.dims() == [m, 4, 8] && out.dtype() == dtype);
                    agrees(&[&out], &[want], tolerance(dtype), &format!("{m} of {s}, {scores:?} {dtype:?}"));
                }
            }
        }
    }
}

/// With sinks, whole texts and the newest tokens of one are as the kernel over slices has them.
#[test]
fn sinks_agree_with_slices() {
    let (lengths, [h, g, e]) = (&[1, 2, 5, 37, 3, 70][..], [6, 2, 8]);
    let (spans, n) = (spans(lengths), lengths.iter().sum());
    let given_sinks = [0.5, -2.0, 3.0, -1000.0, 6.0, 200.0];
    let sinks = Tensor::new(&given_sinks, &CPU).unwrap().to_dtype(DType::F32).unwrap();
    let starts: Vec<u32> = spans.iter().flat_map(|s| std::iter::repeat_n(s.start as u32, s.len())).collect();
    let flat = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<f64>>();
    for (dtype, window, cap) in BOTH.into_iter().flat_map(|d| [(d, None, None), (d, Some(7), Some(1.5)), (d, Some(1), None)]) {
        let scores = Scores { scale: 0.8, cap, window };
        let [q, k, v] = [(1, h), (2, g), (3, g)].map(|(seed, heads)| given(seed, &[n, heads, e], dtype).0);
        let (gradient, ramp) = (behind(&[n, h, e], dtype), Ramp::of(&CPU, 16).unwrap());
        let texts = Packed::new(&spans, scores, &ramp).unwrap();
        let (out, normalisers) = forward([&q, &k, &v], Some(&sinks), &texts).unwrap();
        let left = Behind { out: &out, normalisers: &normalisers, gradient: &gradient };
        let [dq, dk, dv] = backward([&q, &k, &v], left, &texts).unwrap();
        let slices = [flat(&q), flat(&k), flat(&v)];
        let slices = Slices::new(slices.each_ref().map(|x| &x[..]), 1, &starts, e, scores);
        let slices = slices.with_sinks(Some(&given_sinks.map(|s| s as f32)));
        let (want, saved) = slices.forward();
        let grads = slices.backward(&want, &flat(&gradient), &saved);
        let last = spans[5].clone();
        let newest = want[(last.end - 20) * h * e..].to_vec();
        let all: Vec<Vec<f64>> = [want].into_iter().chain(grads).map(wide).collect();
        let what = format!("{scores:?} {dtype:?}");
        agrees(&[&out, &dq, &dk, &dv], &all, tolerance(dtype), &what);
        let [k, v] = [&k, &v].map(|x| x.narrow(0, last.start, last.len()).unwrap());
        let q = q.narrow(0, last.end - 20, 20).unwrap();
        let out = cached([&q, &k, &v], Some(&sinks), scores, &ramp).unwrap();
        agrees(&[&out], &[wide(newest)], tolerance(dtype), &what);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let ramp = Ramp::of(&CPU, 16).unwrap();
    let scores = Scores { scale: 1.0, cap: None, window: None };
    let error = |e: Result<Packed>| e.err().unwrap().to_string();
    assert!(error(Packed::new(&[0..3, 4..5], scores, &ramp)).contains("4..5 does not follow token 3"));
    assert!(error(Packed::new(&spans(&[3]), Scores { window: Some(0), ..scores }, &ramp)).contains("window of no keys"));
    let texts = Packed::new(&[0..3, 3..5], scores, &ramp).unwrap();
    let x = |n: usize, h: usize| double(&given(1, &[n, h, 4], DType::F32).0).to_dtype(DType::F32).unwrap();
    assert!(forward([&x(4, 2), &x(4, 1), &x(4, 1)], None, &texts).unwrap_err().to_string().contains("5 tokens"));
    assert!(forward([&x(5, 3), &x(5, 2), &x(5, 2)], None, &texts).unwrap_err().to_string().contains("[5, 3, 4]"));
    let sinks = Tensor::zeros(3, DType::F32, &CPU).unwrap();
    let five = [&x(5, 2), &x(5, 2), &x(5, 2)];
    assert!(forward(five, Some(&sinks), &texts).unwrap_err().to_string().contains("sinks of [3] for 2 heads"));
    assert!(
        cached([&x(6, 2), &x(5, 2), &x(5, 2)], None, scores, &ramp).unwrap_err().to_string().contains("6 queries over 5 keys")
    );
}
