//! A few rows of x as whole numbers times rows of quantised blocks of 32 (`vpdpbusd`, i32 sums), for AVX-512 VNNI.
//!
//! Every 32 elements of x share a scale, their largest over 32639: x is rounded to 2⁻¹⁶ of it, `W` not at all. A number of x is
//! 256 · its high byte + its low byte, each signed, so that the bytes of `W` are multiplied as they are, four to a lane. Sixteen rows
//! of `W`, one a lane, are unpacked a group at a time into registers, for up to eight rows of x. The sum over a group is
//! exact, and a lane adds these sums in order, whatever rows are worked on beside it.
//! Refuses to know: row orders, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::{AHEAD, SkinnyOutput, WeightType};
use crate::cpu;

/// Rows of x that are worked on at once, at most.
const AT_ONCE: usize = 8;
/// Rows of `W` side by side: 32-bit lanes.
const SIDE: usize = 16;
/// Elements that share a scale: a block.
const GROUP: usize = 32;
/// Registers that hold a group of [`SIDE`] rows, four neighbours of each row in each.
const FOURS: usize = GROUP / 4;
/// The largest number of x: its high byte is 127.
const LARGEST: f32 = 32639.0;
/// Below this, [`LARGEST`] over the largest is no longer a number: such elements count as zero.
const SMALLEST: f32 = 1e-30;

/// What a strip of `W` gives with each row of x.
type StripSums<const M: usize> = [[[f32; SIDE / 2]; 2]; M];

/// A group of x.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Line {
    high: [i8; GROUP],
    low: [i8; GROUP],
    scale: f32,
    /// The sum of the group.
    sum: f32,
    /// What the integer sum starts with: the format's zero times the sum of the numbers.
    start: i32,
}

/// Up to [`AT_ONCE`] rows of x: in each group a line of every row, `height` of them, those beyond the given rows zero.
struct Lines {
    lines: Vec<Line>,
    height: usize,
}

/// A block type: element = scale · (byte + zero) + minimum.
trait ByteFormat {
    /// Bytes of a block.
    const BYTES: usize;
    const ZERO: i32 = 0;
    /// Whether there are minima.
    const MINS: bool = false;

    /// The unsigned bytes of sixteen blocks, a block in each lane.
    ///
    /// # Safety
    /// Requires AVX-512 F, BW, VL and DQ, as all functions here; `blocks` point at whole blocks.
    unsafe fn bytes(blocks: &[*const u8; SIDE]) -> [__m512i; FOURS];
}

/// Whether this path is the one for weights of `dtype`.
pub(super) fn takes(dtype: WeightType) -> bool {
    static VNNI: OnceLock<bool> = OnceLock::new();
    matches!(dtype, WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q8_0)
        && *VNNI.get_or_init(|| cpu::level() == cpu::Level::Avx512Bf16 && is_x86_feature_detected!("avx512vnni"))
}

/// The product for a `dtype` that it [`takes`].
pub(super) fn product(x: &[f32], to: &SkinnyOutput) {
    match to.w.dtype {
        WeightType::Q4_0 => each::<Q4_0>(x, to),
        WeightType::Q4_1 => each::<Q4_1>(x, to),
        WeightType::Q8_0 => each::<Q8_0>(x, to),
        _ => unreachable!("the caller multiplies these otherwise"),
    }
}

fn each<F: ByteFormat>(x: &[f32], to: &SkinnyOutput) {
    let (k, stride) = (to.w.cols, to.stride());
    assert!(x.len() == to.m * k && k.is_multiple_of(GROUP), "a few rows: shapes");
    let parts: Vec<Lines> = x.chunks(AT_ONCE * k).map(|x| Lines::new(x, k, F::ZERO)).collect();
    to.tasks(
        || (),
        |(), rows| {
            for row in rows.clone().step_by(SIDE) {
                let end = rows.end.min(row + SIDE);
                let at = to.bytes(row).as_ptr();
                let each = std::array::from_fn(|r| at.wrapping_add(r.min(end - row - 1) * stride));
                for (part, first) in parts.iter().zip((0..).step_by(AT_ONCE)) {
                    // SAFETY: the features were asked for in `takes`; all these are whole rows of the matrix (the last one again
                    // where fewer are left), of as many blocks as there are groups of lines.
                    unsafe {
                        match part.height {
                            1 => to.put_lanes(row..end, first, &strip::<F, 1>(&each, stride, part)),
                            2 => to.put_lanes(row..end, first, &strip::<F, 2>(&each, stride, part)),
                            4 => to.put_lanes(row..end, first, &strip::<F, 4>(&each, stride, part)),
                            6 => to.put_lanes(row..end, first, &strip::<F, 6>(&each, stride, part)),
                            _ => to.put_lanes(row..end, first, &strip::<F, AT_ONCE>(&each, stride, part)),
                        }
                    }
                }
            }
        },
    );
}

impl Lines {
    fn new(x: &[f32], k: usize, zero: i32) -> Lines {
        let height = match x.len() / k {
            m @ 0..=2 => m,
            m => m.next_multiple_of(2),
        };
        let nothing = Line { high: [0; GROUP], low: [0; GROUP], scale: 0.0, sum: 0.0, start: 0 };
        let mut lines = vec![nothing; k / GROUP * height];
        for (i, x) in x.chunks_exact(k).enumerate() {
            for (x, lines) in x.as_chunks::<GROUP>().0.iter().zip(lines.chunks_exact_mut(height)) {
                // SAFETY: AVX-512 was asked for in `takes`.
                unsafe { lay(x, zero, &mut lines[i]) };
            }
        }
        Lines { lines, height }
    }
}

/// A group of x as whole numbers, into a line of zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn lay(x: &[f32; GROUP], zero: i32, line: &mut Line) {
    // SAFETY: 32 elements.
    let halves = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
    // Sizes of floats are ordered as their bits are, NaN above infinity.
    let [a, b] = halves.map(|v| _mm512_castps_si512(_mm512_abs_ps(v)));
    let largest = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b)));
    if !largest.is_finite() {
        line.scale = f32::NAN;
        return;
    }
    if largest < SMALLEST {
        return;
    }
    let inverse = _mm512_set1_ps(LARGEST / largest);
    let [a, b] = halves.map(|v| _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
    // The low byte is signed: the high one is rounded, not cut off.
    let high = |v| _mm512_cvtepi32_epi8(_mm512_srai_epi32::<8>(_mm512_add_epi32(v, _mm512_set1_epi32(128))));
    // SAFETY: 32 bytes each.
    unsafe {
        _mm_storeu_si128(line.high.as_mut_ptr().cast(), high(a));
        _mm_storeu_si128(line.high.as_mut_ptr().add(16).cast(), high(b));
        _mm_storeu_si128(line.low.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
        _mm_storeu_si128(line.low.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(b));
    }
    let total = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
    let scale = largest / LARGEST;
    (line.scale, line.sum, line.start) = (scale, total as f32 * scale, total * zero);
}

/// What sixteen rows of `W`, each of `stride` bytes, give with the rows of `x`; the strip after them is fetched.
///
/// # Safety
/// Requires AVX-512 F, BW, VL, DQ and VNNI; each row of `W` holds as many blocks as there are groups of lines, `M` to a group.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn strip<F: ByteFormat, const M: usize>(rows: &[*const u8; SIDE], stride: usize, x: &Lines) -> StripSums<M> {
    let (lines, ahead) = (x.lines.as_chunks::<M>().0, (SIDE * stride).max(AHEAD));
    let mut acc = [_mm512_setzero_ps(); M];
    for (g, lines) in lines.iter().enumerate() {
        let blocks = rows.map(|row| row.wrapping_add(g * F::BYTES));
        let mut at = 0;
        while at < SIDE * F::BYTES {
            _mm_prefetch::<_MM_HINT_T0>(rows[0].wrapping_add(ahead + g * SIDE * F::BYTES + at).cast());
            at += 64;
        }
        // SAFETY: as the contract says.
        let (bytes, heads) = unsafe { (F::bytes(&blocks), heads(&blocks)) };
        let scales = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads));
        let mut i = 0;
        while i < M {
            let line = &lines[i];
            let (mut high, mut low) = (_mm512_setzero_si512(), _mm512_set1_epi32(line.start));
            let mut j = 0;
            while j < FOURS {
                // SAFETY: 32 bytes are eight fours.
                let four = |from: &[i8; GROUP]| _mm512_set1_epi32(unsafe { from.as_ptr().cast::<i32>().add(j).read_unaligned() });
                high = _mm512_dpbusd_epi32(high, bytes[j], four(&line.high));
                low = _mm512_dpbusd_epi32(low, bytes[j], four(&line.low));
                j += 1;
            }
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low));
            acc[i] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scales, _mm512_set1_ps(line.scale)), acc[i]);
            if F::MINS {
                let mins = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(heads)));
                acc[i] = _mm512_fmadd_ps(mins, _mm512_set1_ps(line.sum), acc[i]);
            }
            i += 1;
        }
    }
    // SAFETY: both are sixteen f32.
    acc.map(|acc| unsafe { std::mem::transmute::<__m512, [[f32; SIDE / 2]; 2]>(acc) })
}

/// Sixteen bytes at `at` in each of sixteen blocks, in fours, a block in each lane.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn side_by_side(blocks: &[*const u8; SIDE], at: usize) -> [__m512i; 4] {
    // SAFETY: as the contract says.
    let load = |r: usize| unsafe { _mm_loadu_si128(blocks[r].add(at).cast()) };
    // Every fourth row, so that rows come out in order.
    let fourth = |r: usize| joined(load(r), load(r + 4), load(r + 8), load(r + 12));
    let (a, b, c, d) = (fourth(0), fourth(1), fourth(2), fourth(3));
    let (low, low_too) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (high, high_too) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(low, low_too),
        _mm512_unpackhi_epi64(low, low_too),
        _mm512_unpacklo_epi64(high, high_too),
        _mm512_unpackhi_epi64(high, high_too),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn joined(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
    let half = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(half, c), d)
}

/// The four bytes that each of sixteen blocks begins with.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn heads(blocks: &[*const u8; SIDE]) -> __m512i {
    // SAFETY: as the contract says.
    let head = |r: usize| unsafe { blocks[r].cast::<i32>().read_unaligned() };
    let four = |r: usize| _mm_setr_epi32(head(r), head(r + 1), head(r + 2), head(r + 3));
    joined(four(0), four(4), four(8), four(12))
}

/// Sixteen bytes of nibbles at `at` in each block: the low ones first.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn nibbles(blocks: &[*const u8; SIDE], at: usize) -> [__m512i; FOURS] {
    // SAFETY: as the contract says.
    let [a, b, c, d] = unsafe { side_by_side(blocks, at) };
    let low = |v| _mm512_and_si512(v, _mm512_set1_epi8(15));
    let high = |v| low(_mm512_srli_epi32::<4>(v));
    [low(a), low(b), low(c), low(d), high(a), high(b), high(c), high(d)]
}

/// `d·(q − 8)`.
struct Q4_0;
impl ByteFormat for Q4_0 {
    const BYTES: usize = 18;
    const ZERO: i32 = -8;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn bytes(blocks: &[*const u8; SIDE]) -> [__m512i; FOURS] {
        // SAFETY: as the contract says.
        unsafe { nibbles(blocks, 2) }
    }
}

/// `d·q + m`.
struct Q4_1;
impl ByteFormat for Q4_1 {
    const BYTES: usize = 20;
    const MINS: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn bytes(blocks: &[*const u8; SIDE]) -> [__m512i; FOURS] {
        // SAFETY: as the contract says.
        unsafe { nibbles(blocks, 4) }
    }
}

/// `d·q`, q signed: its top bit turned over is q + 128.
struct Q8_0;
impl ByteFormat for Q8_0 {
    const BYTES: usize = 34;
    const ZERO: i32 = -128;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn bytes(blocks: &[*const u8; SIDE]) -> [__m512i; FOURS] {
        // SAFETY: as the contract says.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (side_by_side(blocks, 2), side_by_side(blocks, 18)) };
        [a, b, c, d, e, f, g, h].map(|v| _mm512_xor_si512(v, _mm512_set1_epi8(-128)))
    }
}
