use candle_core::{IndexOp, Tensor, Var};

use super::super::gradient_check::{self, Tolerance};
use super::super::simd::Lanes;
use super::*;

/// b, t, s, h, hkv, dh
const CASES: [[usize; 6]; 10] = [
    [1, 1, 1, 1, 1, 8],
    [2, 1, 37, 9, 3, 64],
    [1, 3, 9, 4, 2, 10],
    [2, 7, 7, 4, 4, 16],
    [1, 65, 65, 9, 3, 64],
    [2, 50, 131, 6, 2, 24],
    [1, 97, 97, 2, 1, 80],
    [3, 5, 70, 4, 1, 128],
    [1, 49, 49, 2, 2, 7],
    [1, 130, 260, 3, 1, 64],
];

fn inputs([b, t, s, h, hkv, dh]: [usize; 6]) -> [Tensor; 3] {
    let numbers = |seed, n, h| (gradient_check::numbers(seed, &[b, n, h, dh]) * 2.0).unwrap();
    [numbers(1, t, h), numbers(2, s, hkv), numbers(3, s, hkv)]
}

/// Plain causal, left padding, examples packed one after the other, and queries that see nothing.
fn starts([b, t, s, ..]: [usize; 6]) -> Vec<(&'static str, Vec<u32>)> {
    let of = |f: &dyn Fn(usize, usize) -> usize| (0..b * t).map(|at| f(at / t, at % t) as u32).collect();
    vec![
        ("causal", of(&|_, _| 0)),
        ("padded", of(&|b, i| (b + 1).min(s - t + i))),
        ("packed", of(&|_, i| (s - t + i) / 5 * 5)),
        ("late", of(&|_, i| (s - t + i) / 80 * 80)),
        ("blind", of(&|_, i| if i < 2 { s } else { 1 })),
    ]
}

/// A scale with every window and cap.
fn every_scores(scale: f64) -> Vec<Scores> {
    let windows = [None, Some(1), Some(5), Some(48), Some(1000)];
    let caps = [None, Some(2.0), Some(50.0)];
    windows.into_iter().flat_map(|window| caps.map(|cap| Scores { scale, cap, window })).collect()
}

#[test]
fn agrees_with_its_twin() {
    for (case, scores) in CASES.into_iter().flat_map(|case| every_scores(0.3).into_iter().map(move |scores| (case, scores))) {
        let [q, k, v] = inputs(case);
        for (name, starts) in starts(case) {
            let doubles = [gradient_check::double(&q), gradient_check::double(&k), gradient_check::double(&v)];
            let want = gradient_check::run(&doubles, |x| portable::attention(&x[0], &x[1], &x[2], &starts, scores));
            let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
            for lanes in Lanes::available() {
                let dims = Dims::of(&q, &k, &v, &starts).unwrap();
                let run = |x: &[Tensor]| attention_at(lanes, dims, [&x[0], &x[1], &x[2]], &starts, scores);
                let got = gradient_check::run(&[q.clone(), k.clone(), v.clone()], run);
                gradient_check::same(&got, &want, tolerance, &format!("{} {name} {case:?} {scores:?}", lanes.name()));
            }
        }
    }
}

#[test]
fn twin_agrees_with_finite_differences() {
    let case = [2, 3, 5, 4, 2, 3];
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
fn by_definition([b, t, s, h, hkv, dh]: [usize; 6], [q, k, v]: [&[f64]; 3], starts: &[u32], scores: Scores) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    for (row, i, head) in (0..b * t * h).map(|at| (at / h / t, at / h % t, at % h)) {
        let at = ((row * t + i) * h + head) * dh;
        let key = |j: usize| ((row * s + j) * hkv + head / (h / hkv)) * dh;
        let own = s - t + i;
        let sees = |j: &usize| *j <= own && *j >= starts[row * t + i] as usize && scores.window.is_none_or(|w| own - j < w);
        let seen: Vec<usize> = (0..s).filter(sees).collect();
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
    for case in [[2, 7, 7, 4, 4, 16], [1, 3, 9, 4, 2, 10], [2, 20, 31, 6, 2, 5], [1, 60, 60, 2, 1, 4]] {
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
    for case in [[2, 131, 131, 6, 3, 64], [2, 1, 513, 9, 3, 64], [1, 200, 300, 3, 1, 24]] {
        let inputs = inputs(case);
        let starts = vec![2; case[0] * case[1]];
        for scores in [Scores::scaled(0.125), Scores { scale: 0.125, cap: Some(3.0), window: Some(60) }] {
            gradient_check::threads_agree(&inputs, |x| attention(&x[0], &x[1], &x[2], &starts, scores));
        }
    }
}

#[test]
fn a_narrowed_cache_is_read_in_place() {
    let [b, t, s, h, hkv, dh] = [2, 6, 20, 4, 2, 16];
    let (q, scores) = (gradient_check::numbers(1, &[b, t, h, dh]), Scores::scaled(0.25));
    let cache = gradient_check::numbers(2, &[b, 64, 2 * hkv, dh]);
    // Keys and values side by side in one buffer that is longer than what is filled.
    let k = cache.narrow(1, 0, s).unwrap().narrow(2, 0, hkv).unwrap();
    let v = cache.narrow(1, 0, s).unwrap().narrow(2, hkv, hkv).unwrap();
    for t in [1, t] {
        let q = q.narrow(1, 0, t).unwrap();
        let starts = vec![1; b * t];
        let viewed = attention(&q, &k, &v, &starts, scores).unwrap();
        let copied = attention(&q.contiguous().unwrap(), &k.contiguous().unwrap(), &v.contiguous().unwrap(), &starts, scores);
        let difference = (viewed - copied.unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0);
    }
}

#[test]
fn transposed_heads_are_accepted() {
    let q = gradient_check::numbers(1, &[1, 2, 7, 8]).transpose(1, 2).unwrap();
    let dense = q.contiguous().unwrap();
    let run =
        |x: &Tensor| attention(x, x, x, &[0; 7], Scores::scaled(0.5)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(run(&q), run(&dense));
    let last = gradient_check::numbers(1, &[1, 7, 8, 2]).transpose(2, 3).unwrap();
    assert_eq!(run(&last), run(&last.contiguous().unwrap()));
}

#[test]
fn a_step_with_a_cache_is_a_row_of_the_whole() {
    let case = [2, 40, 40, 4, 2, 16];
    let [q, k, v] = inputs(case);
    for scores in every_scores(0.25) {
        let whole = attention(&q, &k, &v, &vec![0; 80], scores).unwrap();
        for i in [0, 7, 39] {
            let cached = |x: &Tensor| x.narrow(1, 0, i + 1).unwrap();
            let step = attention(&q.narrow(1, i, 1).unwrap(), &cached(&k), &cached(&v), &[0; 2], scores).unwrap();
            let difference = (step.i((.., 0)).unwrap() - whole.i((.., i)).unwrap()).unwrap();
            assert!(difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 2e-6);
        }
    }
}

#[test]
fn only_tracked_inputs_get_a_gradient_and_nothing_is_kept_without_one() {
    let [q, k, v] = inputs([1, 9, 9, 2, 1, 8]);
    assert!(!attention(&q, &k, &v, &[0; 9], Scores::scaled(0.3)).unwrap().track_op());
    let var = Var::from_tensor(&q).unwrap();
    let grads = attention(var.as_tensor(), &k, &v, &[0; 9], Scores::scaled(0.3)).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&var).is_some() && grads.get(&k).is_none() && grads.get(&v).is_none());
}

#[test]
fn wrong_sizes_are_named() {
    let message = |q: &[usize], k: &[usize], starts: usize| {
        let (q, k) = (gradient_check::numbers(1, q), gradient_check::numbers(2, k));
        attention(&q, &k, &k, &vec![0; starts], Scores::scaled(1.0)).unwrap_err().to_string()
    };
    assert!(message(&[1, 2, 3, 4], &[1, 2, 2, 4], 2).contains("3 heads cannot share 2 key heads"));
    assert!(message(&[1, 3, 2, 4], &[1, 2, 2, 4], 3).contains("3 queries but only 2 keys"));
    assert!(message(&[1, 2, 2, 4], &[1, 2, 2, 4], 1).contains("1 starts for 1 rows of 2 queries"));
    assert!(message(&[1, 2, 2, 4], &[1, 2, 2, 5], 2).contains("q is [1, 2, 2, 4]"));
}
