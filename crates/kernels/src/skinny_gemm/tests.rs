//! Every type of weight, number of rows and level of the processor against the definition.

use std::io::Write;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};

use super::*;
use crate::cpu::{Level, lacks_bf16, level};
use crate::files::Mapped;
use crate::quantized::tests::KINDS;

/// Rows of x that go through in several parts.
const MANY: usize = 40;

fn numbers(seed: usize, n: usize) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed as u64);
    (0..n).map(|_| rng.random_range(-2.0..3.0)).collect()
}

fn mapped(bytes: &[u8], dtype: WeightType, (rows, cols): (usize, usize), order: RowOrder) -> Weight {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let data = Mapped::open(file.path()).unwrap();
    let half = data.bytes().len() / 2;
    match order {
        RowOrder::InTurn => {
            Weight { data: data.slice(0, half).unwrap(), second: data.slice(half, half), dtype, rows, cols, order }
        }
        _ => Weight { data, second: None, dtype, rows, cols, order },
    }
}

fn plain(rows: usize, cols: usize, dtype: WeightType) -> Weight {
    let values = numbers(rows * 31 + cols, rows * cols);
    let bytes: Vec<u8> = match dtype {
        WeightType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        WeightType::BF16 => values.iter().flat_map(|v| ::half::bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| ::half::f16::from_f32(*v).to_le_bytes()).collect(),
    };
    mapped(&bytes, dtype, (rows, cols), RowOrder::Plain)
}

fn quantised(rows: usize, cols: usize, (dtype, theirs): (WeightType, GgmlDType), order: RowOrder) -> Weight {
    let values = Tensor::from_vec(numbers(rows + cols, rows * cols), (rows, cols), &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&values, theirs).unwrap();
    mapped(&tensor.data().unwrap(), dtype, (rows, cols), order)
}

/// Blocks of MXFP4 with scales of about one.
fn mxfp4(rows: usize, blocks: usize, order: RowOrder) -> Weight {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64((rows + blocks) as u64);
    let bytes: Vec<u8> =
        (0..rows * blocks * 17).map(|i| if i % 17 == 0 { rng.random_range(120..130) } else { rng.random() }).collect();
    mapped(&bytes, WeightType::Mxfp4, (rows, 32 * blocks), order)
}

/// Matrices of every type: odd shapes where the type has no blocks, rows that fill no whole run, one of each order.
fn matrices() -> Vec<Weight> {
    let mut all = Vec::new();
    for (rows, cols) in [(1, 1), (3, 31), (9, 33), (17, 130), (101, 576)] {
        all.extend([WeightType::F32, WeightType::F16, WeightType::BF16].map(|dtype| plain(rows, cols, dtype)));
    }
    for kind in KINDS {
        let block = kind.0.block();
        for (rows, blocks) in [(1, 1), (11, 3), (23, 18)] {
            all.push(quantised(rows, blocks * block, kind, RowOrder::Plain));
        }
        all.push(quantised(24, 2 * block, kind, RowOrder::Interleaved { heads: 3 }));
        all.push(quantised(38, 2 * block, kind, RowOrder::InTurn));
        all.push(quantised(30, 2 * block, kind, RowOrder::Tiled { first: 6, groups: 3, size: 2 }));
    }
    all.extend([mxfp4(11, 3, RowOrder::Plain), mxfp4(46, 18, RowOrder::InTurn)]);
    let bf16 = plain(22, 40, WeightType::BF16);
    all.push(mapped(bf16.data.bytes(), bf16.dtype, (bf16.rows, bf16.cols), RowOrder::InTurn));
    all
}

/// `x·Wᵀ` in f64, and the sum of the sizes of its parts.
fn definition(x: &[f32], w: &[f32], k: usize) -> Vec<(f64, f64)> {
    let dot = |x: &[f32], w: &[f32]| {
        let parts = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
        parts.fold((0.0, 0.0), |(sum, size), part| (sum + part, size + part.abs()))
    };
    x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w))).collect()
}

fn check(got: &[f32], want: &[(f64, f64)], tolerance: f64, what: &str) {
    for (i, (got, (want, size))) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() <= tolerance * size, "{what}, element {i}: {got}, want {want}");
    }
}

fn name(w: &Weight, m: usize) -> String {
    format!("{m} rows times {:?} of {}×{}, {:?}", w.dtype, w.rows, w.cols, w.order)
}

/// Whether x becomes whole numbers on this processor although it multiplies in bf16.
fn in_bytes(dtype: WeightType) -> bool {
    #[cfg(target_arch = "x86_64")]
    return vnni::takes(dtype);
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[test]
fn every_type_and_number_of_rows_agrees_with_the_definition_at_every_level() {
    for w in matrices() {
        let values = w.to_f32();
        for m in 1..=MOST {
            let x = numbers(m, m * w.cols);
            let want = definition(&x, &values, w.cols);
            for lanes in Lanes::available() {
                let mut y = vec![f32::NAN; m * w.rows];
                with_lanes(lanes, &x, &SkinnyOutput { out: SharedOutput(y.as_mut_ptr()), m, w: &w, add: false });
                check(&y, &want, 2e-6, &format!("{}, {}", name(&w, m), lanes.name()));
            }
        }
    }
}

/// With x that bf16 holds exactly, only the sums are rounded: nothing of W may be.
#[test]
fn bf16_products_round_x_and_nothing_else() {
    if lacks_bf16("products of few rows in bf16") {
        return;
    }
    for w in matrices().into_iter().filter(|w| !in_bytes(w.dtype)) {
        let values = w.to_f32();
        for m in 1..=MOST {
            let x: Vec<f32> = numbers(m, m * w.cols).iter().map(|v| ::half::bf16::from_f32(*v).to_f32()).collect();
            let mut y = vec![f32::NAN; m * w.rows];
            product(&x, m, &w, true, &mut y, false);
            check(&y, &definition(&x, &values, w.cols), 2e-6, &name(&w, m));
        }
    }
}

#[test]
fn neither_threads_nor_other_rows_change_a_bit() {
    for w in matrices() {
        for rounded in [false, true] {
            let x = numbers(5, MANY * w.cols);
            let run = |threads: usize, m: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut y = vec![0f32; m * w.rows];
                pool.install(|| product(&x[..m * w.cols], m, &w, rounded, &mut y, false));
                y
            };
            let all = run(1, MANY);
            for m in (1..=MOST).chain([MOST + 1, 33, MANY]) {
                assert!(run(3, m) == all[..m * w.rows], "{}, rounded {rounded}", name(&w, m));
            }
        }
    }
}

/// Where x is rounded to whole numbers, a product is off by at most half a step of each group times the sizes of its
/// elements of W, besides the rounding of sums.
#[test]
fn whole_numbers_are_off_by_their_rounding_at_most() {
    let takes = |w: &&Weight| w.dtype.block() > 1 && (level() < Level::Avx512Bf16 || in_bytes(w.dtype));
    for w in matrices().iter().filter(takes) {
        let values = w.to_f32();
        for m in 1..=MOST {
            // Elements of very different sizes, and groups of zeros.
            let size = |i: usize| [1.0, 1e-3, 300.0, 0.0][i / 32 % 4] * if i.is_multiple_of(37) { 50.0 } else { 1.0 };
            let x: Vec<f32> = numbers(m, m * w.cols).iter().enumerate().map(|(i, x)| x * size(i)).collect();
            let mut y = vec![f32::NAN; m * w.rows];
            product(&x, m, w, true, &mut y, false);
            let want = definition(&x, &values, w.cols);
            for (at, (got, (want, size))) in y.iter().zip(want).enumerate() {
                let (x, w_row) = (&x[at / w.rows * w.cols..][..w.cols], &values[at % w.rows * w.cols..][..w.cols]);
                let groups = x.chunks(32).zip(w_row.chunks(32)).map(|(x, w)| {
                    let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
                    f64::from(largest) / 65534.0 * w.iter().map(|w| f64::from(w.abs())).sum::<f64>()
                });
                let bound = groups.sum::<f64>() * 1.01 + 4e-6 * size + 1e-30;
                assert!((f64::from(*got) - want).abs() <= bound, "{}, element {at}: {got}, want {want}", name(w, m));
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for w in matrices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = numbers(4, 3 * w.cols);
            x[2 * w.cols - 1] = bad;
            let mut y = vec![0f32; 3 * w.rows];
            product(&x, 3, &w, true, &mut y, false);
            for (i, y) in y.chunks_exact(w.rows).enumerate() {
                assert!(y.iter().all(|y| y.is_finite() != (i == 1)), "{} with {bad}: row {i}", name(&w, 3));
            }
        }
    }
}

#[test]
fn a_product_is_added_to_what_is_there() {
    for w in matrices() {
        for rounded in [false, true] {
            let x = numbers(6, 3 * w.cols);
            let (mut set, mut added) = (vec![f32::NAN; 3 * w.rows], vec![1.5f32; 3 * w.rows]);
            product(&x, 3, &w, rounded, &mut set, false);
            product(&x, 3, &w, rounded, &mut added, true);
            assert!(set.iter().zip(&added).all(|(set, added)| 1.5 + set == *added), "{}, rounded {rounded}", name(&w, 3));
        }
    }
}

#[test]
fn the_low_rank_share_agrees_with_the_definition_and_nothing_else_changes_it() {
    for (i, o, r) in [(1, 1, 1), (40, 9, 3), (33, 600, 4), (130, 1100, 17)] {
        let (x, a, b) = (numbers(1, MANY * i), numbers(2, r * i), numbers(3, o * r));
        let run = |threads: usize, m: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = vec![1f32; m * o];
            let h = narrow(&x[..m * i], i, &a, 0.5);
            pool.install(|| widen(&h, r, &b, &mut y));
            (h, y)
        };
        let (h, y) = run(1, MANY);
        let halves: Vec<f32> = a.iter().map(|v| v * 0.5).collect();
        check(&h, &definition(&x, &halves, i), 2e-6, "h");
        let want: Vec<(f64, f64)> = definition(&h, &b, r).iter().map(|(sum, size)| (1.0 + sum, 1.0 + size)).collect();
        check(&y, &want, 2e-6, "y");
        for m in (1..=MOST).chain([MOST + 1, 33, MANY]) {
            assert!(run(3, m) == (h[..m * r].to_vec(), y[..m * o].to_vec()), "{m} rows of {i} → {o}, rank {r}");
        }
    }
}
