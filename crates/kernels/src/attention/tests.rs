use candle_core::Tensor;

use super::super::gradient_check::{self, Tolerance};
use super::super::simd::Lanes;
use super::*;

/// b, t, h, hkv, dh
const CASES: [[usize; 5]; 12] = [
    [1, 1, 1, 1, 8],
    [2, 37, 9, 3, 64],
    [1, 9, 4, 2, 10],
    [2, 3, 4, 2, 10],
    [3, 4, 2, 1, 8],
    [2, 7, 4, 4, 16],
    [1, 65, 9, 3, 64],
    [2, 100, 6, 2, 24],
    [1, 97, 2, 1, 80],
    [3, 70, 4, 1, 128],
    [1, 49, 2, 2, 7],
    [1, 180, 3, 1, 64],
];

fn inputs([b, t, h, hkv, dh]: [usize; 5]) -> [Tensor; 3] {
    let numbers = |seed, n, h| (gradient_check::numbers(seed, &[b, n, h, dh]) * 2.0).unwrap();
    [numbers(1, t, h), numbers(2, t, hkv), numbers(3, t, hkv)]
}

/// Plain causal, left padding, examples packed one after the other, and queries that see nothing.
fn starts([b, t, ..]: [usize; 5]) -> Vec<(&'static str, Vec<u32>)> {
    let of = |f: &dyn Fn(usize, usize) -> usize| (0..b * t).map(|at| f(at / t, at % t) as u32).collect();
    vec![
        ("causal", of(&|_, _| 0)),
        ("padded", of(&|b, i| (b + 1).min(i))),
        ("packed", of(&|_, i| i / 5 * 5)),
        ("late", of(&|_, i| i / 80 * 80)),
        ("blind", of(&|_, i| if i < 2 { t } else { 1 })),
    ]
}

/// A scale with every window and cap.
fn every_scores(scale: f64) -> Vec<Scores> {
    let windows = [None, Some(1), Some(5), Some(48), Some(1000)];
    let caps = [None, Some(2.0), Some(50.0)];
    windows.into_iter().flat_map(|window| caps.map(|cap| Scores { scale, cap, window })).collect()
}

/// Output and gradients of q, k and v.
fn run([q, k, v]: &[Tensor; 3], starts: &[u32], scores: Scores, lanes: Lanes) -> Vec<Vec<f64>> {
    let (rows, dh) = (q.dims()[0], q.dims()[3]);
    gradient_check::run_slices(&[q, k, v], q.elem_count(), |x, g| {
        let mut slices = Slices::new([&x[0], &x[1], &x[2]], rows, starts, dh, scores);
        slices.op.lanes = lanes;
        let (out, normalisers) = slices.forward();
        let [dq, dk, dv] = slices.backward(&out, g, &normalisers);
        vec![out, dq, dk, dv]
    })
}

#[test]
fn agrees_with_its_twin() {
    for (case, scores) in CASES.into_iter().flat_map(|case| every_scores(0.3).into_iter().map(move |scores| (case, scores))) {
        let inputs = inputs(case);
        for (name, starts) in starts(case) {
            let doubles = inputs.each_ref().map(gradient_check::double);
            let want = gradient_check::run(&doubles, |x| portable::attention(&x[0], &x[1], &x[2], &starts, scores));
            let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
            for lanes in Lanes::available() {
                let got = run(&inputs, &starts, scores, lanes);
                gradient_check::same(&got, &want, tolerance, &format!("{} {name} {case:?} {scores:?}", lanes.name()));
            }
        }
    }
}

#[test]
fn twin_agrees_with_finite_differences() {
    let case = [2, 5, 4, 2, 3];
    let [q, k, v] = inputs(case).map(|x| gradient_check::double(&x));
    for (cap, window) in [(None, None), (Some(2.0), None), (None, Some(2)), (Some(2.0), Some(2))] {
        let scores = Scores { scale: 0.7, cap, window };
        for (_, starts) in starts(case) {
            gradient_check::finite_differences(&[q.clone(), k.clone(), v.clone()], |x| {
                portable::attention(&x[0], &x[1], &x[2], &starts, scores)
            });
        }
    }
}

/// Attention as it is defined, one query after another.
fn by_definition([b, t, h, hkv, dh]: [usize; 5], [q, k, v]: [&[f64]; 3], starts: &[u32], scores: Scores) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    for (row, i, head) in (0..b * t * h).map(|at| (at / h / t, at / h % t, at % h)) {
        let at = ((row * t + i) * h + head) * dh;
        let key = |j: usize| ((row * t + j) * hkv + head / (h / hkv)) * dh;
        let sees = |j: &usize| *j <= i && *j >= starts[row * t + i] as usize && scores.window.is_none_or(|w| i - j < w);
        let seen: Vec<usize> = (0..t).filter(sees).collect();
        let weight = |j: usize| {
            let score = scores.scale * (0..dh).map(|e| q[at + e] * k[key(j) + e]).sum::<f64>();
            scores.cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
        };
        let total: f64 = seen.iter().map(|j| weight(*j)).sum();
        for (j, e) in seen.iter().flat_map(|j| (0..dh).map(move |e| (*j, e))) {
            out[at + e] += weight(j) / total * v[key(j) + e];
        }
    }
    out
}

#[test]
fn twin_agrees_with_the_definition() {
    for case in [[2, 7, 4, 4, 16], [1, 3, 4, 2, 10], [2, 31, 6, 2, 5], [1, 60, 2, 1, 4]] {
        let inputs = inputs(case).map(|x| gradient_check::double(&x));
        let [q, k, v] = inputs.each_ref().map(|x| x.flatten_all().unwrap().to_vec1::<f64>().unwrap());
        for (name, starts) in starts(case) {
            for scores in every_scores(0.3) {
                let want = by_definition(case, [&q, &k, &v], &starts, scores);
                let got = portable::attention(&inputs[0], &inputs[1], &inputs[2], &starts, scores).unwrap();
                let got = got.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let tolerance = Tolerance { absolute: 1e-12, relative: 0.0 };
                gradient_check::same(&[got], &[want], tolerance, &format!("{name} {case:?} {scores:?}"));
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for case in [[2, 131, 6, 3, 64], [1, 300, 3, 1, 24]] {
        let inputs = inputs(case);
        let starts = vec![2; case[0] * case[1]];
        for scores in [Scores::scaled(0.125), Scores { scale: 0.125, cap: Some(3.0), window: Some(60) }] {
            gradient_check::threads_agree(|| run(&inputs, &starts, scores, Lanes::in_force()));
        }
    }
}
