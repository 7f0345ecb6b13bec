use half::bf16;

use std::ops::Range;

use super::super::{Scores, Slices};
use super::*;

fn numbers(n: usize, seed: u64) -> Vec<bf16> {
    (0..n as u64).map(|i| bf16::from_f32((crate::random::indexed(seed, i) % 4001) as f32 / 1000.0 - 2.0)).collect()
}

fn wide(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|v| v.to_f32()).collect()
}

/// Largest difference in units of the largest value.
fn apart(got: &[f32], want: &[f32]) -> f32 {
    let largest = want.iter().fold(0f32, |a, b| a.max(b.abs()));
    got.iter().zip(want).fold(0f32, |a, (g, w)| a.max((g - w).abs())) / largest
}

/// Lengths of texts, heads, key heads, head size.
const CASES: [(&[usize], usize, usize, usize); 6] = [
    (&[1], 1, 1, 2),
    (&[48, 1, 47, 49], 6, 2, 24),
    (&[256, 256], 9, 3, 64),
    (&[513], 3, 1, 64),
    (&[300, 7], 4, 4, 80),
    (&[97, 259], 2, 1, 128),
];

/// Without and with windows: every block edge, odd ones, longer than texts.
const WINDOWS: [Option<usize>; 9] = [None, Some(1), Some(3), Some(7), Some(48), Some(63), Some(211), Some(255), Some(1000)];

struct HalfCase {
    spans: Vec<Range<usize>>,
    starts: Vec<u32>,
    qkv: [Vec<bf16>; 3],
    grad: Vec<bf16>,
    sizes: (usize, usize, usize),
    scores: Scores,
    sinks: Option<Vec<f32>>,
}

impl HalfCase {
    fn new(lens: &[usize], [h, g, e]: [usize; 3], scores: Scores) -> HalfCase {
        let (mut spans, mut starts) = (Vec::new(), Vec::new());
        for len in lens {
            let first = starts.len();
            starts.extend((0..*len).map(|_| first as u32));
            spans.push(first..starts.len());
        }
        let n = starts.len();
        let qkv = [numbers(n * h * e, 1), numbers(n * g * e, 2), numbers(n * g * e, 3)];
        HalfCase { spans, starts, qkv, grad: numbers(n * h * e, 4), sizes: (h, g, e), scores, sinks: None }
    }

    fn texts(&self) -> Varlen<'_> {
        let (heads, key_heads, head_dim) = self.sizes;
        let (scores, sinks) = (self.scores, self.sinks.as_deref());
        Varlen { spans: &self.spans, starts: &self.starts, heads, key_heads, head_dim, scores, sinks }
    }

    /// The output and the three gradients.
    fn run(&self) -> [Vec<f32>; 4] {
        let [q, k, v] = &self.qkv;
        let mut out = vec![bf16::ZERO; q.len()];
        let normalisers = forward(&self.texts(), [q, k, v], &mut out);
        let mut grads = [(); 3].map(|()| vec![9f32; q.len()]);
        let [dq, dk, dv] = &mut grads;
        let saved = HalfSaved { out: &out, grad: &self.grad, normalisers: &normalisers };
        backward(&self.texts(), [q, k, v], saved, [dq, dk, dv]);
        let [dq, dk, dv] = grads;
        [wide(&out), dq, self.shared(&dk), self.shared(&dv)]
    }

    /// What query heads give to one key head, summed.
    fn shared(&self, x: &[f32]) -> Vec<f32> {
        let (h, g, e) = self.sizes;
        let sum = |heads: &[f32], i: usize| heads.iter().skip(i).step_by(e).sum::<f32>();
        x.chunks_exact(h / g * e).flat_map(|heads| (0..e).map(move |i| sum(heads, i))).collect()
    }
}

/// The output and the three gradients by the kernel in f32.
fn exact(case: &HalfCase) -> [Vec<f32>; 4] {
    let [q, k, v] = [wide(&case.qkv[0]), wide(&case.qkv[1]), wide(&case.qkv[2])];
    let exact = Slices::new([&q, &k, &v], 1, &case.starts, case.sizes.2, case.scores).with_sinks(case.sinks.as_deref());
    let (out, normalisers) = exact.forward();
    let [dq, dk, dv] = exact.backward(&out, &wide(&case.grad), &normalisers);
    [out, dq, dk, dv]
}

fn agrees(lens: &[usize], sizes: [usize; 3], scores: Scores, sinks: Option<Vec<f32>>) {
    let sunk = sinks.is_some();
    let case = HalfCase { sinks, ..HalfCase::new(lens, sizes, scores) };
    for (name, (got, want)) in ["out", "dq", "dk", "dv"].iter().zip(case.run().iter().zip(exact(&case))) {
        // A gradient may be zero but for rounding: a query that sees one key has no slope.
        let alone = !sunk && (lens == [1] || scores.window == Some(1)) && matches!(*name, "dq" | "dk");
        let error = if alone { got.iter().fold(0f32, |a, b| a.max(b.abs())) } else { apart(got, &want) };
        let limit = if alone { 0.1 } else { 0.02 };
        assert!(
            error < limit,
            "{name} of {lens:?}, heads, key heads and their size {sizes:?}, {scores:?}, sinks {sunk}: off by {error}"
        );
    }
}

#[test]
fn agrees_with_the_kernel_in_f32() {
    for (lens, h, g, e) in CASES {
        for window in WINDOWS {
            for cap in [None, Some(2.0), Some(50.0)] {
                agrees(lens, [h, g, e], Scores { scale: 0.3, cap, window }, None);
            }
        }
    }
}

#[test]
fn sinks_agree_with_the_kernel_in_f32() {
    for (lens, h, g, e) in CASES {
        for (window, cap) in [(None, None), (None, Some(2.0)), (Some(1), None), (Some(63), Some(50.0)), (Some(211), None)] {
            agrees(lens, [h, g, e], Scores { scale: 0.3, cap, window }, Some(super::super::tests::sinks(h)));
        }
    }
}

/// 5 takes much of the weight, −1000 nothing of it; −∞ changes no bit.
#[test]
fn a_sink_takes_weight_as_far_as_it_reaches() {
    for (window, cap) in [(None, None), (Some(63), None), (Some(7), Some(3.0))] {
        let with = |sink: Option<f32>| {
            let sinks = sink.map(|sink| vec![sink; 4]);
            HalfCase { sinks, ..HalfCase::new(&[300, 49], [4, 2, 32], Scores { scale: 0.3, cap, window }) }.run()
        };
        let (none, low, high) = (with(None), with(Some(-1000.0)), with(Some(5.0)));
        assert!(none == with(Some(f32::NEG_INFINITY)), "{window:?} {cap:?}");
        for (i, none) in none.iter().enumerate() {
            assert!(apart(&low[i], none) < 0.01 && apart(&high[i], none) > 0.02, "{window:?} {cap:?}: {i}");
        }
    }
}

#[test]
fn agrees_with_the_kernel_in_f32_on_random_cases() {
    for seed in 0..60 {
        let draw = |i: u64, below: usize| crate::random::indexed(900 + seed, i) as usize % below;
        let lens: Vec<usize> = (0..1 + draw(0, 4)).map(|i| 1 + draw(1 + i as u64, 330)).collect();
        let (key_heads, group, pairs) = (1 + draw(10, 2), 1 + draw(11, 3), 1 + draw(12, 20));
        let window = (draw(13, 4) > 0).then(|| 1 + draw(14, 320));
        let cap = (draw(15, 2) > 0).then(|| 1.0 + draw(16, 20) as f64);
        let sinks = (draw(17, 2) > 0).then(|| (0..(key_heads * group) as u64).map(|h| draw(18 + h, 9) as f32 - 4.0).collect());
        agrees(&lens, [key_heads * group, key_heads, 2 * pairs], Scores { scale: 0.3, cap, window }, sinks);
    }
}

/// Keys outside a window are never read: numbers that are not do not spread from there.
#[test]
fn whole_blocks_outside_the_window_are_left_out() {
    let mut case = HalfCase::new(&[900], [2, 1, 16], Scores { window: Some(5), ..Scores::scaled(0.3) });
    for x in case.qkv.iter_mut().skip(1) {
        x[..100 * 16].fill(bf16::NAN);
    }
    let last = 16 * 2 * 850;
    let [out, dq, dk, dv] = case.run();
    assert!([&out[last..], &dq[last..], &dk[last / 2..], &dv[last / 2..]].into_iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for (window, cap) in [(None, None), (Some(77), None), (Some(77), Some(3.0))] {
        let case = HalfCase::new(&[130, 300, 5], [6, 2, 32], Scores { scale: 0.3, cap, window });
        let run = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| case.run());
        assert_eq!(run(1), run(3));
    }
}
