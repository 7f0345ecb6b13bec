//! A few rows of x as whole numbers in i16 times rows of quantised blocks (`vpmaddwd`, i32 sums), for AVX2.
//!
//! Every 32 elements of x share a scale, their largest over 32767: x is rounded to 2⁻¹⁶ of it, `W` not at all. Eight rows
//! of `W`, one a lane, are unpacked some groups at a time, and every row of x goes over them while they are in the
//! first-level cache. The sum of numbers that share their scales is exact, and a lane adds these sums in order,
//! whatever rows are worked on beside it.
//! Refuses to know: row orders, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::unpack::{self, GROUP, IntFormat, SIDE};
use super::{AHEAD, SkinnyOutput, WeightType};
use crate::simd::Lanes;

/// Rows of x that are worked on at once, at most.
const AT_ONCE: usize = 4;
/// Strips of [`SIDE`] rows of `W` that are worked on at once: each number of x is then read once for sixteen rows.
const STRIPS: usize = 2;
/// Groups of `W` that are unpacked at once: whole blocks of every type.
const RUN: usize = 16;
/// Pairs of numbers in a group.
const PAIRS: usize = GROUP / 2;
/// Below this, 32767 over the largest is no longer a number: such elements count as zero.
const SMALLEST: f32 = 1e-30;

/// A group of x.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Line {
    numbers: [i16; GROUP],
    scale: f32,
    /// The sum of the group times the format's offset.
    sum: f32,
}

/// Groups of [`SIDE`] rows of `W`, a row in each lane.
struct Run {
    /// Two neighbours of each row.
    pairs: [[__m256i; PAIRS]; RUN],
    /// What [`IntFormat::scales`] says.
    scales: [[__m256; 2]; RUN],
}

/// Whether this path is the one for weights of `dtype`.
pub(super) fn takes(dtype: WeightType) -> bool {
    let blocks = !matches!(dtype, WeightType::F32 | WeightType::F16 | WeightType::BF16);
    blocks && matches!(Lanes::in_force(), Lanes::Avx2(_)) && is_x86_feature_detected!("f16c")
}

/// The product for a `dtype` that it [`takes`].
pub(super) fn product(x: &[f32], to: &SkinnyOutput) {
    match to.w.dtype {
        WeightType::Q4_0 => each::<unpack::Q4_0>(x, to),
        WeightType::Q4_1 => each::<unpack::Q4_1>(x, to),
        WeightType::Q5_0 => each::<unpack::Q5_0>(x, to),
        WeightType::Q5_1 => each::<unpack::Q5_1>(x, to),
        WeightType::Q8_0 => each::<unpack::Q8_0>(x, to),
        WeightType::Q4K => each::<unpack::Q4K>(x, to),
        WeightType::Q5K => each::<unpack::Q5K>(x, to),
        WeightType::Q6K => each::<unpack::Q6K>(x, to),
        WeightType::Mxfp4 => each::<unpack::Mxfp4>(x, to),
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => unreachable!("the caller multiplies these in f32"),
    }
}

fn each<F: IntFormat>(x: &[f32], to: &SkinnyOutput) {
    assert!(x.len() == to.m * to.w.cols && to.w.cols.is_multiple_of(F::BLOCK), "a few rows: shapes");
    // SAFETY: AVX2 and FMA come with the lanes in force, F16C was asked for in `takes`; x is whole groups of 32.
    let lines: Vec<Line> = x.as_chunks::<GROUP>().0.iter().map(|x| unsafe { line(x, F::OFFSET) }).collect();
    let stride = to.stride();
    to.tasks(
        || vec![[[0.0; SIDE]; STRIPS]; to.m],
        |sums, rows| {
            let each = if to.m == 1 { SIDE } else { STRIPS * SIDE };
            for row in rows.clone().step_by(each) {
                let (at, last) = (to.bytes(row).as_ptr(), rows.end - row - 1);
                let pointers = |strip: usize| std::array::from_fn(|r| at.wrapping_add((strip * SIDE + r).min(last) * stride));
                sums.fill([[0.0; SIDE]; STRIPS]);
                // SAFETY: the features as above; all these are whole rows of the matrix (the last one again where fewer
                // are left), and the lines are those of m rows of as many groups.
                unsafe {
                    match sums.as_mut_slice() {
                        [[sums, _]] => *sums = alone::<F>(pointers(0), stride, &lines),
                        sums if last < SIDE => strips::<F, 1>([pointers(0)], stride, &lines, sums),
                        sums => strips::<F, STRIPS>([pointers(0), pointers(1)], stride, &lines, sums),
                    }
                }
                to.put_lanes(row..rows.end.min(row + each), 0, sums);
            }
        },
    );
}

/// A group of x as whole numbers.
///
/// # Safety
/// Requires AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn line(x: &[f32; GROUP], offset: f32) -> Line {
    let mut line = Line { numbers: [0; GROUP], scale: 0.0, sum: 0.0 };
    let mut v = [_mm256_setzero_ps(); 4];
    let mut largest = _mm256_setzero_si256();
    let mut i = 0;
    while i < 4 {
        // SAFETY: 32 elements.
        v[i] = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) };
        // Sizes of floats are ordered as their bits are, NaN above infinity.
        let size = _mm256_and_si256(_mm256_castps_si256(v[i]), _mm256_set1_epi32(i32::MAX));
        largest = _mm256_max_epu32(largest, size);
        i += 1;
    }
    let half = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
    let pair = _mm_max_epu32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let one = _mm_max_epu32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair));
    let largest = f32::from_bits(_mm_cvtsi128_si32(one).cast_unsigned());
    if !largest.is_finite() {
        line.scale = f32::NAN;
        return line;
    }
    if largest < SMALLEST {
        return line;
    }
    let inverse = _mm256_set1_ps(32767.0 / largest);
    let whole = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
    let packed = |a, b| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
    let (low, high) = (packed(whole[0], whole[1]), packed(whole[2], whole[3]));
    // SAFETY: 32 numbers.
    unsafe {
        _mm256_storeu_si256(line.numbers.as_mut_ptr().cast(), low);
        _mm256_storeu_si256(line.numbers.as_mut_ptr().add(16).cast(), high);
    }
    let total = _mm256_add_epi32(_mm256_add_epi32(whole[0], whole[1]), _mm256_add_epi32(whole[2], whole[3]));
    let half = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
    let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair));
    let scale = largest / 32767.0;
    line.scale = scale;
    line.sum = _mm_cvtsi128_si32(one) as f32 * scale * offset;
    line
}

/// Adds to `sums`, one for each row of x, what the first `N` strips of eight rows of `W` give with the rows of x.
///
/// # Safety
/// Requires AVX2, FMA and F16C; each row of `W` holds as many groups as a row of `lines`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strips<F: IntFormat, const N: usize>(
    rows: [[*const u8; SIDE]; N],
    stride: usize,
    lines: &[Line],
    sums: &mut [[[f32; SIDE]; STRIPS]],
) {
    let groups = lines.len() / sums.len();
    let mut runs = [const { MaybeUninit::<Run>::uninit() }; N];
    for from in (0..groups).step_by(RUN) {
        let count = RUN.min(groups - from);
        // SAFETY: blocks and lines lie inside their rows; `tile` reads the groups that were unpacked.
        unsafe {
            for (run, rows) in runs.iter_mut().zip(&rows) {
                for g in 0..count {
                    let (blocks, inside) = blocks::<F>(rows, N * stride, from + g);
                    (*run.as_mut_ptr()).pairs[g] = unpack::side_by_side::<F>(&blocks, inside);
                    (*run.as_mut_ptr()).scales[g] = F::scales(&blocks, inside);
                }
            }
            let runs = std::array::from_fn(|i| runs[i].assume_init_ref());
            for (first, sums) in (0..).step_by(AT_ONCE).zip(sums.chunks_mut(AT_ONCE)) {
                let x = lines.as_ptr().add(first * groups + from);
                match sums.len() {
                    1 => tile::<F, 1, N>(runs, count, x, groups, sums),
                    2 => tile::<F, 2, N>(runs, count, x, groups, sums),
                    3 => tile::<F, 3, N>(runs, count, x, groups, sums),
                    _ => tile::<F, AT_ONCE, N>(runs, count, x, groups, sums),
                }
            }
        }
    }
}

/// The blocks that hold group `g` of `rows`, and which group of theirs it is; what lies ahead is fetched.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks<F: IntFormat>(rows: &[*const u8; SIDE], stride: usize, g: usize) -> ([*const u8; SIDE], usize) {
    let (each, ahead) = (F::BLOCK / GROUP, (SIDE * stride).max(AHEAD));
    let mut blocks = *rows;
    for block in &mut blocks {
        *block = block.wrapping_add(g / each * F::BYTES);
        _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(ahead + g % each * (F::BYTES / each)).cast());
    }
    (blocks, g % each)
}

/// What [`strip`] gives for a single row of x, to the bit: here its numbers stay in their registers.
///
/// # Safety
/// As [`strip`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn alone<F: IntFormat>(rows: [*const u8; SIDE], stride: usize, lines: &[Line]) -> [f32; SIDE] {
    let mut acc = _mm256_setzero_ps();
    for (g, line) in lines.iter().enumerate() {
        let (blocks, inside) = blocks::<F>(&rows, stride, g);
        let mut dots = [[_mm256_setzero_si256(); SIDE]; 2];
        // SAFETY: as the contract says.
        let scales = unsafe {
            let numbers = line.numbers.as_ptr().cast::<__m256i>();
            let x = [_mm256_loadu_si256(numbers), _mm256_loadu_si256(numbers.add(1))];
            for (r, block) in blocks.iter().enumerate() {
                let w = F::group(*block, inside);
                let products = [_mm256_madd_epi16(w[0], x[0]), _mm256_madd_epi16(w[1], x[1])];
                if F::PARTS == 1 {
                    dots[0][r] = _mm256_add_epi32(products[0], products[1]);
                } else {
                    [dots[0][r], dots[1][r]] = products;
                }
            }
            F::scales(&blocks, inside)
        };
        let mut part = 0;
        while part < F::PARTS {
            let scale = _mm256_mul_ps(scales[part], _mm256_set1_ps(line.scale));
            acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals(dots[part])), scale, acc);
            part += 1;
        }
        if F::OFFSET != 0.0 {
            acc = _mm256_fmadd_ps(scales[1], _mm256_set1_ps(line.sum), acc);
        }
    }
    let mut sums = [0.0; SIDE];
    // SAFETY: eight lanes.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), acc) };
    sums
}

/// The sum of each vector, in its lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn totals(v: [__m256i; SIDE]) -> __m256i {
    let low = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let high = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// `count` groups of `N` runs with those of `M` rows of x from `x` on, which are `stride` lines apart.
///
/// # Safety
/// Requires AVX2, FMA and F16C; so many groups, lines and sums there are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<F: IntFormat, const M: usize, const N: usize>(
    runs: [&Run; N],
    count: usize,
    x: *const Line,
    stride: usize,
    sums: &mut [[[f32; SIDE]; STRIPS]],
) {
    // SAFETY: as the contract says.
    unsafe {
        let sums: &mut [[[f32; SIDE]; STRIPS]; M] = sums.as_mut_array().unwrap_unchecked();
        let mut g = 0;
        while g < count {
            let x: [*const Line; M] = std::array::from_fn(|i| x.add(i * stride + g));
            let mut part = 0;
            while part < F::PARTS {
                let mut dots = [[_mm256_setzero_si256(); N]; M];
                let mut p = part * PAIRS / F::PARTS;
                while p < (part + 1) * PAIRS / F::PARTS {
                    let mut w = [_mm256_setzero_si256(); N];
                    let mut n = 0;
                    while n < N {
                        w[n] = *runs[n].pairs.get_unchecked(g).get_unchecked(p);
                        n += 1;
                    }
                    let mut i = 0;
                    while i < M {
                        let pair = _mm256_set1_epi32(*(*x[i]).numbers.as_ptr().cast::<i32>().add(p));
                        n = 0;
                        while n < N {
                            dots[i][n] = _mm256_add_epi32(dots[i][n], _mm256_madd_epi16(w[n], pair));
                            n += 1;
                        }
                        i += 1;
                    }
                    p += 1;
                }
                let mut i = 0;
                while i < M {
                    let (scale, sum) = (_mm256_set1_ps((*x[i]).scale), _mm256_set1_ps((*x[i]).sum));
                    let mut n = 0;
                    while n < N {
                        let scales = runs[n].scales.get_unchecked(g);
                        let mut acc = _mm256_loadu_ps(sums[i][n].as_ptr());
                        acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i][n]), _mm256_mul_ps(scales[part], scale), acc);
                        if F::OFFSET != 0.0 {
                            acc = _mm256_fmadd_ps(scales[1], sum, acc);
                        }
                        _mm256_storeu_ps(sums[i][n].as_mut_ptr(), acc);
                        n += 1;
                    }
                    i += 1;
                }
                part += 1;
            }
            g += 1;
        }
    }
}
