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

struct HalfCase {
    spans: Vec<Range<usize>>,
    starts: Vec<u32>,
    qkv: [Vec<bf16>; 3],
    grad: Vec<bf16>,
    sizes: (usize, usize, usize),
}

impl HalfCase {
    fn new(lens: &[usize], h: usize, g: usize, e: usize) -> HalfCase {
        let (mut spans, mut starts) = (Vec::new(), Vec::new());
        for len in lens {
            let first = starts.len();
            starts.extend((0..*len).map(|_| first as u32));
            spans.push(first..starts.len());
        }
        let n = starts.len();
        let qkv = [numbers(n * h * e, 1), numbers(n * g * e, 2), numbers(n * g * e, 3)];
        HalfCase { spans, starts, qkv, grad: numbers(n * h * e, 4), sizes: (h, g, e) }
    }

    fn texts(&self) -> Varlen<'_> {
        let (heads, key_heads, head_dim) = self.sizes;
        Varlen { spans: &self.spans, starts: &self.starts, heads, key_heads, head_dim, scores: Scores::scaled(0.3) }
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

#[test]
fn agrees_with_the_kernel_in_f32() {
    for (lens, h, g, e) in CASES {
        let case = HalfCase::new(lens, h, g, e);
        let [q, k, v] = [wide(&case.qkv[0]), wide(&case.qkv[1]), wide(&case.qkv[2])];
        let exact = Slices::new([&q, &k, &v], 1, &case.starts, e, Scores::scaled(0.3));
        let (out, normalisers) = exact.forward();
        let grads = exact.backward(&out, &wide(&case.grad), &normalisers);
        let got = case.run();
        for (name, got, want) in
            [("out", &got[0], &out), ("dq", &got[1], &grads[0]), ("dk", &got[2], &grads[1]), ("dv", &got[3], &grads[2])]
        {
            // A gradient may be zero but for rounding: a query that sees one key has no slope.
            let alone = lens == [1] && matches!(name, "dq" | "dk");
            let error = if alone { got.iter().fold(0f32, |a, b| a.max(b.abs())) } else { apart(got, want) };
            assert!(error < 0.02, "{name} of {lens:?}, {h} heads, {g} key heads of {e}: off by {error}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let case = HalfCase::new(&[130, 300, 5], 6, 2, 32);
    let run = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| case.run());
    assert_eq!(run(1), run(3));
}
