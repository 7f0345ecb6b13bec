//! A few rows of bf16 times rows of a frozen matrix where they lie (`vdpbf16ps`, f32 sums).
//!
//! Numbers of quantised blocks become whole numbers in bf16, which is exact; the sum over a block is scaled by its own
//! scale, so `W` is not rounded anywhere. Every result is summed in one order, whatever rows are worked on beside it.
//! Refuses to know: row orders, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use half::bf16;

use super::expand::{Format, GROUP};
use crate::kernels::simd::first;
use crate::kernels::tile_bf16::as_bf16;

/// A few rows of x, each element rounded to bf16: groups of 32 elements, in each group row after row (`height` of them,
/// those beyond the given ones zero), in each row the order that the format's numbers are unpacked in.
pub(super) struct Rows {
    lines: Vec<[bf16; GROUP]>,
    /// Sums of the groups, row after row, `padded` of them a row.
    sums: Vec<f32>,
    padded: usize,
    pub height: usize,
}

impl Rows {
    /// `x` (m, k) in `height` rows; `order[i]` is the element of a group that lies at place `i`.
    pub(super) fn new(x: &[f32], k: usize, height: usize, order: &[u8; GROUP]) -> Rows {
        let groups = k.div_ceil(GROUP);
        let padded = groups.next_multiple_of(16);
        let mut lines = vec![[bf16::ZERO; GROUP]; groups * height];
        let mut sums = vec![0f32; padded * height];
        for (i, x) in x.chunks_exact(k).enumerate() {
            for (g, x) in x.chunks(GROUP).enumerate() {
                let mut rounded = [bf16::ZERO; GROUP];
                crate::kernels::panel::round(x, &mut rounded);
                sums[i * padded + g] = rounded.iter().map(|v| v.to_f32()).sum();
                let line = &mut lines[g * height + i];
                line.iter_mut().zip(order).for_each(|(to, from)| *to = rounded[usize::from(*from)]);
            }
        }
        Rows { lines, sums, padded, height }
    }

    fn lines(&self, groups: usize, height: usize) -> *const [bf16; GROUP] {
        assert!(self.height == height && self.lines.len() == groups * height && self.padded >= groups, "a few rows: shapes");
        self.lines.as_ptr()
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
    x: &Rows,
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

/// Room for the scales of a run of rows.
#[derive(Default)]
pub(super) struct Scales {
    heads: Vec<u32>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Scales {
    /// Scales and minima of `R` rows; how far apart those of one row and the next begin.
    ///
    /// # Safety
    /// As [`quantised`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn fill<F: Format, const R: usize>(&mut self, rows: &[*const u8; R], blocks: usize) -> (usize, usize) {
        let groups = blocks * F::BLOCK / GROUP;
        // They are made sixteen at a time, so there is room for sixteen more.
        let apart = |n: usize| n.next_multiple_of(16) + 16;
        let (scales, mins) = (apart(groups * F::PER_GROUP), apart(groups));
        self.heads.resize(blocks.next_multiple_of(16), 0);
        self.scales.resize(scales * R, 0.0);
        self.mins.resize(mins * R, 0.0);
        for (r, row) in rows.iter().enumerate() {
            let (scales, mins) = (&mut self.scales[r * scales..][..scales], &mut self.mins[r * mins..][..mins]);
            // SAFETY: the row holds these blocks; there is room for all of their scales.
            unsafe { F::scales(*row, blocks, &mut self.heads, scales, mins) };
            mins[groups..].fill(0.0);
        }
        (scales, mins)
    }
}

/// What is added to every element of a group, times the sum of x over the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn add_mins<const M: usize>(mins: &[f32], sums: &[f32], acc: &mut [__m512; M]) {
    let padded = mins.len();
    assert!(padded.is_multiple_of(16) && sums.len() >= padded * M, "sums of groups: shapes");
    for at in (0..padded).step_by(16) {
        // SAFETY: sixteen of each from here on, by the assertion.
        unsafe {
            let min = _mm512_loadu_ps(mins.as_ptr().add(at));
            let mut i = 0;
            while i < M {
                acc[i] = _mm512_fmadd_ps(min, _mm512_loadu_ps(sums.as_ptr().add(i * padded + at)), acc[i]);
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
pub(super) unsafe fn quantised<F: Format, const R: usize, const M: usize>(
    rows: [*const u8; R],
    k: usize,
    ahead: usize,
    x: &Rows,
    room: &mut Scales,
) -> Sums<R, M> {
    let (blocks, groups, each) = (k / F::BLOCK, k / GROUP, F::BLOCK / GROUP);
    let lines = x.lines(groups, M);
    // SAFETY: as the contract says.
    let (scales, mins) = unsafe { room.fill::<F, R>(&rows, blocks) };
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
                    let scale = F::scale(room.scales.as_ptr().add(r * scales + at * F::PER_GROUP));
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
                add_mins(&room.mins[r * mins..][..x.padded], &x.sums, &mut acc[r]);
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
