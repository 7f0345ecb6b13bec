//! A few rows of bf16 times rows of a frozen matrix where they lie (`vdpbf16ps`, f32 sums).
//!
//! Numbers of quantised blocks become whole numbers in bf16, which is exact; the sum over a block is scaled by its own
//! scale, so `W` is not rounded anywhere. Every result is summed in one order, whatever rows are worked on beside it.
//! Refuses to know: row orders, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use half::bf16;

use super::expand::{BlockFormat, GROUP, Scales};
use crate::simd::first;
use crate::tile_bf16::as_bf16;

/// A few rows of x, each element rounded to bf16: groups of 32 elements, in each group row after row (`height` of them,
/// those beyond the given ones zero), in each row the order that the format's numbers are unpacked in.
pub(super) struct Bf16Rows {
    lines: Vec<[bf16; GROUP]>,
    /// Sums of the groups, row after row, `padded` of them a row.
    sums: Vec<f32>,
    padded: usize,
    height: usize,
}

impl Bf16Rows {
    /// `x` (m, k) in parts of `height` rows.
    pub(super) fn each(x: &[f32], k: usize, height: usize, order: &[u16; GROUP]) -> Vec<Bf16Rows> {
        x.chunks(k * height).map(|x| Bf16Rows::new(x, k, height, order)).collect()
    }

    /// Up to `height` rows; `order[i]` is the element of a group that lies at place `i`.
    fn new(x: &[f32], k: usize, height: usize, order: &[u16; GROUP]) -> Bf16Rows {
        let groups = k.div_ceil(GROUP);
        let padded = groups.next_multiple_of(16);
        let mut lines = vec![[bf16::ZERO; GROUP]; groups * height];
        let mut sums = vec![0f32; padded * height];
        for (i, x) in x.chunks_exact(k).enumerate() {
            for (g, x) in x.chunks(GROUP).enumerate() {
                // SAFETY: AVX-512 BF16 was detected by the caller of this module.
                sums[i * padded + g] = unsafe { lay(x, order, &mut lines[g * height + i]) };
            }
        }
        Bf16Rows { lines, sums, padded, height }
    }

    fn lines(&self, groups: usize, height: usize) -> *const [bf16; GROUP] {
        assert!(self.height == height && self.lines.len() == groups * height && self.padded >= groups, "a few rows: shapes");
        self.lines.as_ptr()
    }
}

/// Up to 32 elements of x rounded to bf16 and put in `order`, those missing zero; their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn lay(x: &[f32], order: &[u16; GROUP], line: &mut [bf16; GROUP]) -> f32 {
    let mask = if x.len() >= GROUP { u32::MAX } else { (1u32 << x.len()) - 1 };
    // SAFETY: the mask keeps to the elements that exist; order and line are 64 bytes each.
    unsafe {
        let low = _mm512_maskz_loadu_ps(mask as u16, x.as_ptr());
        let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.as_ptr().wrapping_add(16));
        let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        let ones = _mm512_set1_epi16(bf16::ONE.to_bits().cast_signed());
        let placed = _mm512_permutexvar_epi16(_mm512_loadu_si512(order.as_ptr().cast()), rounded);
        _mm512_storeu_si512(line.as_mut_ptr().cast(), placed);
        _mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), as_bf16(rounded), as_bf16(ones)))
    }
}

/// What a run of `R` rows of `W` gives with `M` rows of x.
pub(super) type Sums<const R: usize, const M: usize> = [[f32; M]; R];

/// `R` rows of bf16, each of `k` elements. `ahead` bytes from each row lies one that will be needed soon.
///
/// # Safety
/// Requires AVX-512 F, BW, VL and BF16; every row holds `k` elements.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
pub(super) unsafe fn floats<const R: usize, const M: usize>(
    rows: [*const u8; R],
    k: usize,
    ahead: usize,
    x: &Bf16Rows,
) -> Sums<R, M> {
    let lines = x.lines(k.div_ceil(GROUP), M);
    let mut acc = [[_mm512_setzero_ps(); M]; R];
    let mut g = 0;
    while g * GROUP < k {
        let left = k - g * GROUP;
        let mask = first(left);
        let mut r = 0;
        while r < R {
            let at = rows[r].wrapping_add(g * GROUP * 2);
            // SAFETY: a hint reads nothing; the mask keeps to the elements that exist; the lines were counted above.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead).cast());
                let w = if left >= GROUP { _mm512_loadu_si512(at.cast()) } else { _mm512_maskz_loadu_epi16(mask, at.cast()) };
                let mut i = 0;
                while i < M {
                    let x = _mm512_loadu_si512(lines.add(g * M + i).cast());
                    acc[r][i] = _mm512_dpbf16_ps(acc[r][i], as_bf16(w), as_bf16(x));
                    i += 1;
                }
            }
            r += 1;
        }
        g += 1;
    }
    reduced(&acc)
}

/// What is added to every element of a group, times the sum of x over the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn add_mins<const M: usize>(mins: &[f32], x: &Bf16Rows, acc: &mut [__m512; M]) {
    assert!(x.padded >= mins.len() && x.sums.len() >= x.padded * M, "sums of groups: shapes");
    for at in (0..mins.len()).step_by(16) {
        let left = mins.len() - at;
        let mask: u16 = if left >= 16 { 0xffff } else { ((1u32 << left) - 1) as u16 };
        // SAFETY: the mask keeps to the minima that exist; sums come in whole sixteens, those beyond the groups zero.
        unsafe {
            let min = _mm512_maskz_loadu_ps(mask, mins.as_ptr().add(at));
            let mut i = 0;
            while i < M {
                acc[i] = _mm512_fmadd_ps(min, _mm512_loadu_ps(x.sums.as_ptr().add(i * x.padded + at)), acc[i]);
                i += 1;
            }
        }
    }
}

/// [`floats`] for `R` rows of blocks.
///
/// # Safety
/// As [`floats`]; `k` is whole blocks.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn quantised<F: BlockFormat, const R: usize, const M: usize>(
    rows: [*const u8; R],
    k: usize,
    ahead: usize,
    x: &Bf16Rows,
    scratch: &mut Scales,
) -> Sums<R, M> {
    let (blocks, groups, each) = (k / F::BLOCK, k / GROUP, F::BLOCK / GROUP);
    let lines = x.lines(groups, M);
    // SAFETY: as the contract says.
    unsafe { scratch.fill::<F>(&rows, blocks) };
    let mut acc = [[_mm512_setzero_ps(); M]; R];
    // SAFETY: all offsets lie inside the rows, the lines and the scales, counted above.
    unsafe {
        let tables = F::tables();
        let mut b = 0;
        while b < blocks {
            let mut r = 0;
            while r < R {
                let block = rows[r].wrapping_add(b * F::BYTES);
                let mut line = 0;
                while line < F::BYTES {
                    _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(ahead + line).cast());
                    line += 64;
                }
                let mut g = 0;
                while g < each {
                    let at = b * each + g;
                    let w = as_bf16(F::group(&tables, block, g));
                    let scale = F::scale(scratch.scales.as_ptr().add((r * groups + at) * F::PER_GROUP));
                    let mut i = 0;
                    while i < M {
                        let x = _mm512_loadu_si512(lines.add(at * M + i).cast());
                        let dot = _mm512_dpbf16_ps(_mm512_setzero_ps(), w, as_bf16(x));
                        acc[r][i] = _mm512_fmadd_ps(dot, scale, acc[r][i]);
                        i += 1;
                    }
                    g += 1;
                }
                r += 1;
            }
            b += 1;
        }
        if F::MINS {
            let mut r = 0;
            while r < R {
                add_mins(&scratch.mins[r * groups..][..groups], x, &mut acc[r]);
                r += 1;
            }
        }
    }
    reduced(&acc)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn reduced<const R: usize, const M: usize>(acc: &[[__m512; M]; R]) -> Sums<R, M> {
    let mut sums = [[0f32; M]; R];
    let mut r = 0;
    while r < R {
        let mut i = 0;
        while i < M {
            sums[r][i] = _mm512_reduce_add_ps(acc[r][i]);
            i += 1;
        }
        r += 1;
    }
    sums
}
