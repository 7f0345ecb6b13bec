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

/// Sinks far below scores, among them, above them, and so far above that nothing else has weight.
pub(super) fn sinks(heads: usize) -> Vec<f32> {
    [0.5, -2.0, 3.0, 1.0, -1000.0, 6.0, 200.0].into_iter().cycle().take(heads).collect()
}

/// Output and gradients of q, k and v.
fn run([q, k, v]: &[Tensor; 3], starts: &[u32], scores: Scores, sinks: Option<&[f32]>, lanes: Lanes) -> Vec<Vec<f64>> {
    let (rows, dh) = (q.dims()[0], q.dims()[3]);
    gradient_check::run_slices(&[q, k, v], q.elem_count(), |x, g| {
        let mut slices = Slices::new([&x[0], &x[1], &x[2]], rows, starts, dh, scores).with_sinks(sinks);
        slices.op.lanes = lanes;
        let (out, normalisers) = slices.forward();
        let [dq, dk, dv] = slices.backward(&out, g, &normalisers);
        vec![out, dq, dk, dv]
    })
}

fn agrees(case: [usize; 5], scores: Scores, sinks: Option<&[f32]>) {
    let inputs = inputs(case);
    let doubles = inputs.each_ref().map(gradient_check::double);
    for (name, starts) in starts(case) {
        let want = gradient_check::run(&doubles, |x| portable::attention([&x[0], &x[1], &x[2]], &starts, scores, sinks));
        let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
        for lanes in Lanes::available() {
            let got = run(&inputs, &starts, scores, sinks, lanes);
            let what = format!("{} {name} {case:?} {scores:?} sinks {sinks:?}", lanes.name());
            gradient_check::same(&got, &want, tolerance, &what);
        }
    }
}

#[test]
fn agrees_with_its_twin() {
    for (case, scores) in CASES.into_iter().flat_map(|case| every_scores(0.3).into_iter().map(move |scores| (case, scores))) {
        agrees(case, scores, None);
    }
}

#[test]
fn sinks_agree_with_the_twin() {
    for case in [[1, 1, 1, 1, 8], [2, 37, 9, 3, 64], [3, 4, 2, 1, 8], [1, 97, 7, 1, 10], [2, 100, 6, 2, 24]] {
        for (cap, window) in [(None, None), (None, Some(5)), (Some(2.0), None), (Some(50.0), Some(48))] {
            agrees(case, Scores { scale: 0.3, cap, window }, Some(&sinks(case[2])));
        }
    }
}

/// −30 takes nothing of the weight, 5 much of it; −∞ changes no bit.
#[test]
fn a_sink_takes_weight_as_far_as_it_reaches() {
    let case = [2, 37, 6, 3, 16];
    let inputs = inputs(case);
    for (name, starts) in starts(case) {
        for scores in every_scores(0.3) {
            let with = |sink: Option<f32>| {
                run(&inputs, &starts, scores, sink.map(|sink| [sink; 6]).as_ref().map(|s| &s[..]), Lanes::in_force())
            };
            let none = with(None);
            let apart = |sink: f32| {
                let sunk = with(Some(sink));
                let pairs = none.iter().flatten().zip(sunk.iter().flatten());
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
            };
            assert!(apart(-30.0) < 1e-6, "{name} {scores:?}: {}", apart(-30.0));
            assert!(apart(5.0) > 0.1, "{name} {scores:?}: {}", apart(5.0));
            assert!(apart(f32::NEG_INFINITY) == 0.0, "{name} {scores:?}");
        }
    }
}

#[test]
fn twin_agrees_with_finite_differences() {
    let case = [2, 5, 4, 2, 3];
    let [q, k, v] = inputs(case).map(|x| gradient_check::double(&x));
    for (cap, window) in [(None, None), (Some(2.0), None), (None, Some(2)), (Some(2.0), Some(2))] {
        let scores = Scores { scale: 0.7, cap, window };
        for ((_, starts), sinks) in
            starts(case).into_iter().flat_map(|s| [None, Some([0.5, -2.0, 3.0, 1.0])].map(|x| (s.clone(), x)))
        {
            gradient_check::finite_differences(&[q.clone(), k.clone(), v.clone()], |x| {
                portable::attention([&x[0], &x[1], &x[2]], &starts, scores, sinks.as_ref().map(|s| &s[..]))
            });
        }
    }
}

/// Attention as it is defined, one query after another.
fn by_definition(
    [b, t, h, hkv, dh]: [usize; 5],
    [q, k, v]: [&[f64]; 3],
    starts: &[u32],
    scores: Scores,
    sinks: Option<&[f32]>,
) -> Vec<f64> {
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
        let total = seen.iter().map(|j| weight(*j)).sum::<f64>() + sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
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
            let given = sinks(case[2]);
            for (scores, sinks) in every_scores(0.3).into_iter().flat_map(|s| [None, Some(&given[..])].map(|sinks| (s, sinks))) {
                let want = by_definition(case, [&q, &k, &v], &starts, scores, sinks);
                let got = portable::attention(inputs.each_ref(), &starts, scores, sinks).unwrap();
                let got = got.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let tolerance = Tolerance { absolute: 1e-12, relative: 0.0 };
                gradient_check::same(&[got], &[want], tolerance, &format!("{name} {case:?} {scores:?} sinks {sinks:?}"));
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
            gradient_check::threads_agree(|| run(&inputs, &starts, scores, Some(&sinks(case[2])), Lanes::in_force()));
        }
    }
}
