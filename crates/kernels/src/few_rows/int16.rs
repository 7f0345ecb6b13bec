//! A few rows of x as whole numbers in i16 times rows of quantised blocks where they lie (`vpmaddwd`, i32 sums), for AVX2.
//!
//! Every 32 elements of x share a scale, their largest over 32767: x is rounded to 2⁻¹⁶ of it, `W` not at all. A block's
//! sum is exact, and the sums of blocks are added in one order whatever rows are worked on beside it.
//! Refuses to know: row orders, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::unpack::{self, GROUP, IntFormat};
use super::{AHEAD, FewRowsOutput, WeightType};
use crate::simd::Lanes;

/// Rows of x that are worked on at once, at most.
const AT_ONCE: usize = 4;
/// Below this, 32767 over the largest is no longer a number: such elements count as zero.
const SMALLEST: f32 = 1e-30;

/// A group of x.
#[derive(Clone)]
#[repr(C, align(64))]
struct Line {
    numbers: [i16; GROUP],
    scale: [f32; 8],
    /// The sum of the group times the format's offset in lane 1, where a format has what is added; zeros beside it.
    sum: [f32; 8],
}

/// Whether this path is the one for weights of `dtype`.
pub(super) fn takes(dtype: WeightType) -> bool {
    let blocks = !matches!(dtype, WeightType::F32 | WeightType::F16 | WeightType::BF16);
    blocks && matches!(Lanes::in_force(), Lanes::Avx2(_)) && is_x86_feature_detected!("f16c")
}

/// The product for a `dtype` that it [`takes`].
pub(super) fn product(x: &[f32], to: &FewRowsOutput) {
    match to.w.dtype {
        WeightType::Q4_0 => each::<unpack::Q4_0>(x, to),
        WeightType::Q4_1 => each::<unpack::Q4_1>(x, to),
        WeightType::Q5_0 => each::<unpack::Q5_0>(x, to),
        WeightType::Q5_1 => each::<unpack::Q5_1>(x, to),
        WeightType::Q8_0 => each::<unpack::Q8_0>(x, to),
        WeightType::Q4K => each::<unpack::Q4K>(x, to),
        WeightType::Q5K => each::<unpack::Q5K>(x, to),
        WeightType::Q6K => each::<unpack::Q6K>(x, to),
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => unreachable!("the caller multiplies these in f32"),
    }
}

fn each<F: IntFormat>(x: &[f32], to: &FewRowsOutput) {
    assert!(x.len() == to.m * to.w.cols && to.w.cols.is_multiple_of(F::BLOCK), "a few rows: shapes");
    // SAFETY: AVX2 and FMA come with the lanes in force, F16C was asked for in `takes`; x is whole groups of 32.
    let lines: Vec<Line> = x.as_chunks::<GROUP>().0.iter().map(|x| unsafe { line(x, F::OFFSET) }).collect();
    let stride = to.stride();
    to.tasks(
        || (),
        |(), rows| {
            let mut row = rows.start;
            while row < rows.end {
                let left = rows.end - row;
                let at = to.bytes(row).as_ptr();
                // SAFETY: the features as above; so many rows of whole blocks are left of the matrix, and the lines
                // are those of m rows of as many groups.
                row += unsafe {
                    match (to.m, left) {
                        (1, 4..) => {
                            put(
                                to,
                                row,
                                0,
                                &tile::<F, 4, 1>(std::array::from_fn(|r| at.wrapping_add(r * stride)), stride, &lines),
                            );
                            4
                        }
                        (_, 2..) => strip::<F, 2>(at, stride, &lines, row, to),
                        _ => strip::<F, 1>(at, stride, &lines, row, to),
                    }
                };
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
    let mut line = Line { numbers: [0; GROUP], scale: [0.0; 8], sum: [0.0; 8] };
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
        line.scale = [f32::NAN; 8];
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
    line.scale = [scale; 8];
    line.sum[1] = _mm_cvtsi128_si32(one) as f32 * scale * offset;
    line
}

/// `R` rows of `W` from `at` on with all rows of x; returns `R`.
///
/// # Safety
/// As [`tile`]; `lines` are those of `to.m` rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strip<F: IntFormat, const R: usize>(
    at: *const u8,
    stride: usize,
    lines: &[Line],
    row: usize,
    to: &FewRowsOutput,
) -> usize {
    let rows: [*const u8; R] = std::array::from_fn(|r| at.wrapping_add(r * stride));
    let groups = lines.len() / to.m;
    for (first, lines) in (0..to.m).step_by(AT_ONCE).zip(lines.chunks(AT_ONCE * groups)) {
        // SAFETY: as the contract says.
        unsafe {
            match lines.len() / groups {
                1 => put(to, row, first, &tile::<F, R, 1>(rows, stride, lines)),
                2 => put(to, row, first, &tile::<F, R, 2>(rows, stride, lines)),
                3 => put(to, row, first, &tile::<F, R, 3>(rows, stride, lines)),
                _ => put(to, row, first, &tile::<F, R, 4>(rows, stride, lines)),
            }
        }
    }
    R
}

fn put<const R: usize, const M: usize>(to: &FewRowsOutput, row: usize, first: usize, sums: &[[f32; M]; R]) {
    sums.iter().enumerate().for_each(|(r, sums)| to.put(row + r, first, sums));
}

/// `R` rows of `W` with `M` rows of x.
///
/// # Safety
/// Requires AVX2, FMA and F16C; each row holds as many blocks as a row of `lines` has.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<F: IntFormat, const R: usize, const M: usize>(
    rows: [*const u8; R],
    stride: usize,
    lines: &[Line],
) -> [[f32; M]; R] {
    let (groups, each, ahead) = (lines.len() / M, F::BLOCK / GROUP, (R * stride).max(AHEAD));
    let mut acc = [[_mm256_setzero_ps(); M]; R];
    let mut b = 0;
    while b * each < groups {
        let mut g = 0;
        while g < each {
            let at = b * each + g;
            let mut r = 0;
            while r < R {
                // SAFETY: a hint reads nothing; block and lines lie inside the row and the lines.
                unsafe {
                    let block = rows[r].wrapping_add(b * F::BYTES);
                    _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(ahead + g * (F::BYTES / each)).cast());
                    let (w, scales) = (F::group(block, g), F::scales(block, g));
                    let mut i = 0;
                    while i < M {
                        let x = lines.as_ptr().add(i * groups + at);
                        let numbers = (*x).numbers.as_ptr().cast::<__m256i>();
                        let low = _mm256_madd_epi16(w[0], _mm256_load_si256(numbers));
                        let high = _mm256_madd_epi16(w[1], _mm256_load_si256(numbers.add(1)));
                        let dot = _mm256_cvtepi32_ps(_mm256_add_epi32(low, high));
                        let scale = _mm256_mul_ps(_mm256_moveldup_ps(scales), _mm256_load_ps((*x).scale.as_ptr()));
                        acc[r][i] = _mm256_fmadd_ps(dot, scale, acc[r][i]);
                        if F::OFFSET != 0.0 {
                            acc[r][i] = _mm256_fmadd_ps(scales, _mm256_load_ps((*x).sum.as_ptr()), acc[r][i]);
                        }
                        i += 1;
                    }
                }
                r += 1;
            }
            g += 1;
        }
        b += 1;
    }
    acc.map(|acc| acc.map(|acc| sum(acc)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
}
