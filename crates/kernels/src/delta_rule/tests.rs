use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::super::gradient_check::{self, Tolerance, double, numbers, spans};
use super::twin::Twin;
use super::*;
use crate::tensors::delta_rule::{self as tensors, DeltaState, DeltaTensors};

const SMALL: DeltaSizes = DeltaSizes { key_heads: 2, value_heads: 4, key_dim: 4, value_dim: 6, kernel: 3 };
const OTHERS: [DeltaSizes; 3] = [
    DeltaSizes { key_heads: 1, value_heads: 1, key_dim: 1, value_dim: 2, kernel: 1 },
    DeltaSizes { key_heads: 3, value_heads: 3, key_dim: 16, value_dim: 9, kernel: 4 },
    DeltaSizes { key_heads: 2, value_heads: 6, key_dim: 33, value_dim: 20, kernel: 2 },
];
const LENGTHS: [usize; 7] = [1, 2, 0, 63, 64, 65, 150];
const EPS: f64 = 1e-6;

/// [`forward`] in room that holds anything.
fn result(layer: &DeltaLayer, spans: &[Range<usize>], parts: [&[f32]; 4], out: &mut [f32]) {
    let n = out.len() / layer.sizes.values();
    forward(layer, spans, parts, &mut vec![f32::NAN; n * layer.sizes.room()], out);
}

/// [`backward`] in room that holds anything.
fn gradients(layer: &DeltaLayer, spans: &[Range<usize>], parts: [&[f32]; 4], d_out: &[f32]) -> [Vec<f32>; 4] {
    let n = d_out.len() / layer.sizes.values();
    let (mut d_out, mut d_qkv) = (d_out.to_vec(), vec![f32::NAN; parts[0].len()]);
    let [a, b] = backward(layer, spans, parts, &mut vec![f32::NAN; n * layer.sizes.room()], [&mut d_out, &mut d_qkv]);
    [d_qkv, d_out, a, b]
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Weights and inputs of one case.
struct Case {
    sizes: DeltaSizes,
    /// conv, a_log, dt_bias, norm
    weights: [Tensor; 4],
    /// qkv, z, a, b
    parts: [Tensor; 4],
}

impl Case {
    /// `forget` is added to `a_log`: large, and tokens forget all that was before them.
    fn new(sizes: DeltaSizes, n: usize, forget: f64) -> Case {
        let heads = sizes.value_heads;
        let weights = [
            numbers(11, &[sizes.channels(), sizes.kernel]),
            (numbers(12, &[heads]) + forget).unwrap(),
            numbers(13, &[heads]),
            numbers(14, &[sizes.value_dim]),
        ];
        let parts = [(1, sizes.channels()), (2, sizes.values()), (3, heads), (4, heads)];
        Case { sizes, weights, parts: parts.map(|(seed, width)| (numbers(seed, &[n, width]) * 2.0).unwrap()) }
    }

    fn twin(&self) -> Twin {
        Twin { sizes: self.sizes, weights: self.weights.each_ref().map(double), eps: EPS }
    }

    fn tensors(&self) -> DeltaTensors {
        let [conv, a_log, dt_bias, norm] = self.weights.clone();
        DeltaTensors { conv, a_log, dt_bias, norm, eps: EPS, sizes: self.sizes }
    }

    fn with<R>(&self, f: impl FnOnce(&DeltaLayer) -> R) -> R {
        let [conv, a_log, dt_bias, norm] = self.weights.each_ref().map(flat);
        f(&DeltaLayer { conv: &conv, a_log: &a_log, dt_bias: &dt_bias, norm: &norm, eps: EPS as f32, sizes: self.sizes })
    }

    /// The result and the gradients of the inputs, chunked, on slices.
    fn run(&self, spans: &[Range<usize>]) -> Vec<Vec<f64>> {
        let values = self.parts[1].elem_count();
        self.with(|layer| {
            gradient_check::run_slices(&self.parts.each_ref(), values, |x, g| {
                let parts = [&x[0][..], &x[1], &x[2], &x[3]];
                let mut out = vec![f32::NAN; values];
                result(layer, spans, parts, &mut out);
                [out].into_iter().chain(gradients(layer, spans, parts, g)).collect()
            })
        })
    }

    /// The result of the rows at `span` as one text in pieces of `len`, behind `state`.
    fn extended(&self, state: &mut [f32], span: Range<usize>, len: usize) -> Vec<f32> {
        let parts = self.parts.each_ref().map(|x| flat(&x.narrow(0, span.start, span.len()).unwrap()));
        let widths = [self.sizes.channels(), self.sizes.values(), self.sizes.value_heads, self.sizes.value_heads];
        let mut out = vec![f32::NAN; span.len() * self.sizes.values()];
        for (i, out) in out.chunks_mut(len * self.sizes.values()).enumerate() {
            let tokens = i * len..i * len + out.len() / self.sizes.values();
            let piece = |at: usize| &parts[at][tokens.start * widths[at]..tokens.end * widths[at]];
            let mut room = vec![f32::NAN; tokens.len() * self.sizes.room()];
            self.with(|layer| extend(layer, state, [piece(0), piece(1), piece(2), piece(3)], &mut room, out));
        }
        out
    }
}

fn close(got: &[f32], want: &[f32], what: &str) {
    let wide = |x: &[f32]| vec![x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()];
    gradient_check::same(&wide(got), &wide(want), Tolerance { absolute: 1e-5, relative: 0.0 }, what);
}

fn loose() -> Tolerance {
    Tolerance { absolute: 2e-5, relative: 2e-5 }
}

#[test]
fn twin_agrees_with_finite_differences() {
    for sizes in [DeltaSizes { key_dim: 2, value_dim: 3, ..SMALL }, DeltaSizes { key_heads: 1, value_heads: 1, ..SMALL }] {
        let case = Case::new(sizes, 7, 0.0);
        let twin = case.twin();
        gradient_check::finite_differences(&case.parts.each_ref().map(double), |x| twin.forward(&spans(&[5, 2]), x));
    }
}

#[test]
fn chunks_agree_with_the_twin_there_and_back() {
    for (sizes, forget) in OTHERS.into_iter().chain([SMALL]).flat_map(|sizes| [-4.0, 0.0, 3.0].map(|forget| (sizes, forget))) {
        let spans = spans(&LENGTHS);
        let case = Case::new(sizes, LENGTHS.iter().sum(), forget);
        let twin = case.twin();
        let want = gradient_check::run(&case.parts.each_ref().map(double), |x| twin.forward(&spans, x));
        gradient_check::same(&case.run(&spans), &want, loose(), &format!("{sizes:?} {forget}"));
    }
}

/// Keys that are all alike make the largest corrections.
#[test]
fn chunks_agree_where_keys_are_alike() {
    let mut case = Case::new(SMALL, 150, -6.0);
    case.parts[0] = ((&case.parts[0] * 0.01).unwrap() + 1.0).unwrap();
    case.parts[3] = (&case.parts[3] + 6.0).unwrap();
    let spans = spans(&[150]);
    let twin = case.twin();
    let want = gradient_check::run(&case.parts.each_ref().map(double), |x| twin.forward(&spans, x));
    gradient_check::same(&case.run(&spans), &want, Tolerance { absolute: 2e-4, relative: 2e-4 }, "alike");
}

#[test]
fn chunks_agree_with_token_by_token() {
    for (sizes, forget) in OTHERS.into_iter().chain([SMALL]).flat_map(|sizes| [-4.0, 0.0, 3.0].map(|forget| (sizes, forget))) {
        let (spans, n) = (spans(&LENGTHS), LENGTHS.iter().sum());
        let case = Case::new(sizes, n, forget);
        let parts = case.parts.each_ref().map(flat);
        let mut out = vec![f32::NAN; n * sizes.values()];
        case.with(|layer| result(layer, &spans, parts.each_ref().map(|x| &x[..]), &mut out));
        for span in spans {
            let got = case.extended(&mut vec![0.0; sizes.state()], span.clone(), 1);
            close(&got, rows_of(&out, &span, sizes.values()), &format!("{sizes:?} {span:?} {forget}"));
        }
    }
}

#[test]
fn pieces_of_any_length_give_the_same() {
    for sizes in OTHERS.into_iter().chain([SMALL]) {
        let case = Case::new(sizes, 150, -1.0);
        let mut whole = vec![0.0; sizes.state()];
        let want = case.extended(&mut whole, 0..150, 150);
        for len in [1, 2, 3, 8, 9, 64, 100] {
            let mut state = vec![0.0; sizes.state()];
            close(&case.extended(&mut state, 0..150, len), &want, &format!("{sizes:?} by {len}"));
            close(&state, &whole, &format!("state of {sizes:?} by {len}"));
            assert_eq!(state[..sizes.tail()], whole[..sizes.tail()]);
        }
    }
}

#[test]
fn neither_company_nor_threads_change_a_bit() {
    for sizes in OTHERS {
        let spans = spans(&[70, 3, 130]);
        let case = Case::new(sizes, 203, 0.0);
        gradient_check::threads_agree(|| case.run(&spans));
        let all = case.run(&spans);
        for span in &spans {
            let part = |x: &Tensor, seed: bool| {
                let x = if seed { numbers(99, &[x.elem_count()]).reshape(x.shape()).unwrap() } else { x.clone() };
                flat(&x.narrow(0, span.start, span.len()).unwrap())
            };
            let parts = case.parts.each_ref().map(|x| part(x, false));
            let parts = parts.each_ref().map(|x| &x[..]);
            let (mut out, whole) = (vec![f32::NAN; parts[1].len()], self::spans(&[span.len()]));
            let alone = case.with(|layer| {
                result(layer, &whole, parts, &mut out);
                gradients(layer, &whole, parts, &part(&case.parts[1], true))
            });
            for (got, all) in [out].iter().chain(&alone).zip(&all) {
                let width = all.len() / 203;
                let want: Vec<f32> = all[span.start * width..span.end * width].iter().map(|x| *x as f32).collect();
                assert!(*got == want, "{sizes:?} {span:?}");
            }
        }
    }
}

#[test]
fn tensors_agree_with_the_twin_there_and_back() {
    for (sizes, forget) in OTHERS.into_iter().chain([SMALL]).zip([-4.0, 0.0, 3.0, 0.0]) {
        let (lengths, layer_spans) = ([1, 0, 65, 130], spans(&[1, 0, 65, 130]));
        let n = lengths.iter().sum();
        let case = Case::new(sizes, n, forget);
        let (twin, layer) = (case.twin(), case.tensors());
        for dtype in [DType::F32, DType::BF16] {
            let parts = case.parts.each_ref().map(|x| x.to_dtype(dtype).unwrap());
            let d_out = numbers(99, &[n, sizes.values()]);
            let want = gradient_check::run(&parts.each_ref().map(double), |x| twin.forward(&layer_spans, x));
            let out = tensors::forward(&layer, &layer_spans, parts.each_ref()).unwrap();
            let grads = tensors::backward(&layer, &layer_spans, parts.each_ref(), &d_out).unwrap();
            let all = [&out].into_iter().chain(&grads);
            assert!(all.clone().all(|x| x.dtype() == dtype && !x.track_op()));
            let got: Vec<Vec<f64>> = all.map(|x| double(x).flatten_all().unwrap().to_vec1().unwrap()).collect();
            let rounded = Tolerance { absolute: 1e-3, relative: 5e-3 };
            let tolerance = if dtype == DType::F32 { loose() } else { rounded };
            gradient_check::same(&got, &want, tolerance, &format!("{sizes:?} {forget} {dtype:?}"));
        }
    }
}

#[test]
fn tensors_extend_as_slices_do() {
    for sizes in OTHERS.into_iter().chain([SMALL]) {
        let case = Case::new(sizes, 100, -1.0);
        let layer = case.tensors();
        let mut of_slices = vec![0.0; sizes.state()];
        let want = case.extended(&mut of_slices, 0..100, 100);
        let mut state = DeltaState::zero(sizes, &Device::Cpu).unwrap();
        let mut out = Vec::new();
        for tokens in spans(&[1, 1, 30, 68]) {
            let parts = case.parts.each_ref().map(|x| x.narrow(0, tokens.start, tokens.len()).unwrap());
            let (piece, behind) = tensors::extend(&layer, &state, parts.each_ref()).unwrap();
            out.extend(flat(&piece));
            state = behind;
        }
        close(&out, &want, &format!("{sizes:?}"));
        close(&[flat(&state.tail), flat(&state.memory)].concat(), &of_slices, &format!("state of {sizes:?}"));
    }
}

/// The result and the gradients of qkv, z, a and b from transformers 5.24: `Qwen3_5GatedDeltaNet` with `torch_chunk_gated_delta_rule`, its
/// projections replaced by the inputs themselves. Of n elements, those at n·p/7 for p < 7 and the last, then the sum of absolute values.
const TRANSFORMERS: [[f64; 9]; 5] = [
    [
        1.321626e-01,
        2.753899e-01,
        -1.996430e-01,
        6.274667e-04,
        -2.634903e-02,
        1.417872e-01,
        -1.544539e-01,
        4.387304e-01,
        2.652332e+02,
    ],
    [
        -3.949666e-02,
        -8.684689e-03,
        -1.006433e-02,
        -2.076066e-02,
        -5.333332e-03,
        4.379265e-03,
        -1.710122e-02,
        1.923856e-02,
        2.310575e+03,
    ],
    [
        -1.205742e-02,
        -9.296219e-03,
        1.496497e-01,
        -2.034631e-03,
        -2.550122e-01,
        -2.462039e-01,
        7.216661e-02,
        -7.261247e-02,
        2.250381e+02,
    ],
    [
        -2.203832e-08,
        -1.007041e-02,
        5.328645e-02,
        3.512175e-03,
        6.554138e-03,
        2.134672e-02,
        2.767575e-02,
        -6.213192e-02,
        8.943293e+00,
    ],
    [
        -4.058504e-03,
        -7.255525e-02,
        4.725370e-02,
        2.803499e-02,
        -1.955589e-02,
        9.378764e-03,
        -4.515867e-03,
        -3.103114e-02,
        9.753916e+00,
    ],
];

#[test]
fn agrees_with_transformers() {
    let number = |i: usize, seed: usize| (((i * 7919 + seed * 1031) % 2003) as f64 / 1001.0 - 1.0) as f32;
    let of = |seed: usize, len: usize| (0..len).map(|i| number(i, seed)).collect::<Vec<_>>();
    let (s, t) = (SMALL, 70);
    let heads = s.value_heads;
    let parts = [of(1, t * s.channels()), of(2, t * s.values()), of(3, t * heads), of(4, t * heads)];
    let (conv, a_log, dt_bias, norm) = (of(5, s.channels() * s.kernel), of(6, heads), of(7, heads), of(8, s.value_dim));
    let layer = DeltaLayer { conv: &conv, a_log: &a_log, dt_bias: &dt_bias, norm: &norm, eps: 1e-6, sizes: s };
    let parts = parts.each_ref().map(|x| &x[..]);
    let mut out = vec![f32::NAN; t * s.values()];
    result(&layer, &spans(&[t]), parts, &mut out);
    let grads = gradients(&layer, &spans(&[t]), parts, &of(9, t * s.values()));
    for (which, (got, want)) in [out].iter().chain(&grads).zip(&TRANSFORMERS).enumerate() {
        let (n, largest) = (got.len(), got.iter().fold(0f32, |a, x| a.max(x.abs())));
        for (p, want) in want[..8].iter().enumerate() {
            let at = if p < 7 { n * p / 7 } else { n - 1 };
            let got = f64::from(got[at]);
            assert!((got - want).abs() <= 1e-5 * f64::from(largest).max(1.0), "{which} at {at}: {got}, want {want}");
        }
        let sum: f64 = got.iter().map(|x| f64::from(x.abs())).sum();
        assert!((sum / want[8] - 1.0).abs() < 1e-5, "{which}: sum {sum}, want {}", want[8]);
    }
}
