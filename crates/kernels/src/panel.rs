//! Packing of bf16 matrices into the panels that `tile_bf16` multiplies by: `panel[p · width + j]` holds elements `2p` and
//! `2p + 1` (low and high half) of the sum's dimension, for column `j`.
//!
//! Two ways in: from rows that are the columns of the panel ([`columns_from_rows`], `x·Wᵀ`), and from rows along the sum
//! ([`interleave`], `dy·W`). With AVX-512 F, BW, VL and BF16 where they are in force, else in plain code.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::simd::first;
use super::twin_bf16;
use super::weight::{RowOrder, Weight, WeightType};

/// Columns of the panels of matrices: three registers.
pub(super) const NR: usize = 48;

pub(super) use super::operands::RowPointer;

/// Packs up to `width` rows of `pairs` pairs as the columns of a panel; rows that `row` says are null become zeros.
///
/// # Safety
/// Every row is null or valid for `2 · pairs` elements; `panel` holds `pairs · width`, `width` is a multiple of 16.
pub(super) unsafe fn columns_from_rows(row: impl Fn(usize) -> RowPointer, width: usize, pairs: usize, panel: &mut [u32]) {
    assert!(width.is_multiple_of(16) && panel.len() >= pairs * width, "room for the panel");
    for j0 in (0..width).step_by(16) {
        let rows: [RowPointer; 16] = std::array::from_fn(|j| row(j0 + j));
        // SAFETY: as the contract says.
        unsafe { transpose_rows(&rows, pairs, panel.as_mut_ptr().add(j0), width) }
    }
}

/// `dst[p · stride + j] = rows[j][p]`, as pairs.
///
/// # Safety
/// Rows are null or hold `pairs` pairs; `dst` is valid for `pairs` rows of 16, `stride` apart.
unsafe fn transpose_rows(rows: &[RowPointer; 16], pairs: usize, dst: *mut u32, stride: usize) {
    // SAFETY: the instructions are in force, or not used; the contract is the same.
    unsafe {
        match twin_bf16::native() {
            true => transpose_run(rows, pairs, dst, stride),
            false => twin_bf16::transpose_rows(rows, pairs, dst, stride),
        }
    }
}

/// # Safety
/// As [`transpose_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transpose_run(rows: &[RowPointer; 16], pairs: usize, dst: *mut u32, stride: usize) {
    let mut p0 = 0;
    while p0 < pairs {
        let left = pairs - p0;
        let mask = first(left) as u16;
        let mut r = [_mm512_setzero_si512(); 16];
        let mut j = 0;
        while j < 16 {
            if !rows[j].is_null() {
                // SAFETY: the mask keeps to the pairs that exist.
                r[j] = unsafe { _mm512_maskz_loadu_epi32(mask, rows[j].cast::<i32>().wrapping_add(p0)) };
            }
            j += 1;
        }
        transpose_block(&mut r);
        let mut p = 0;
        while p < 16 && p < left {
            // SAFETY: row p0 + p of the destination exists.
            unsafe { _mm512_storeu_si512(dst.add((p0 + p) * stride).cast(), r[p]) };
            p += 1;
        }
        p0 += 16;
    }
}

/// Transposes a 16 × 16 block of 32-bit elements held in registers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_block(r: &mut [__m512i; 16]) {
    let mut t = [_mm512_setzero_si512(); 16];
    let mut i = 0;
    while i < 8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
        i += 1;
    }
}

/// One row of a panel from two rows along the sum: `dst[j] = (low[j], high[j])`; columns from `columns` up to the next
/// multiple of 16 become zero.
///
/// # Safety
/// Rows are null or hold `columns` elements; `dst` holds `columns` rounded up to a multiple of 16.
pub(super) unsafe fn interleave(low: RowPointer, high: RowPointer, columns: usize, dst: *mut u32) {
    // SAFETY: the instructions are in force, or not used; the contract is the same.
    unsafe {
        match twin_bf16::native() {
            true => interleave_run(low, high, columns, dst),
            false => twin_bf16::interleave(low, high, columns, dst),
        }
    }
}

/// # Safety
/// As [`interleave`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn interleave_run(low: RowPointer, high: RowPointer, columns: usize, dst: *mut u32) {
    let mut j = 0;
    while j < columns {
        let left = columns - j;
        let mask = first(left) as u16;
        // SAFETY: the mask keeps to the elements that exist; the destination holds whole sixteens.
        unsafe {
            let l = sixteen(low, j, mask);
            let h = sixteen(high, j, mask);
            _mm512_storeu_si512(dst.add(j).cast(), _mm512_or_si512(l, _mm512_slli_epi32::<16>(h)));
        }
        j += 16;
    }
}

/// [`interleave`] of `depth` rows, `stride` elements apart, for `count` whole panels side by side.
///
/// # Safety
/// The rows hold `count · NR` elements; `panels` holds `count · ⌈depth/2⌉ · NR`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn interleave_rows(rows: RowPointer, stride: usize, depth: usize, count: usize, panels: &mut [u32]) {
    /// Rows that are asked for ahead of their use.
    const AHEAD: usize = 16;
    let pairs = depth.div_ceil(2);
    for p in 0..pairs {
        let low = rows.wrapping_add(2 * p * stride);
        let high = low.wrapping_add(stride);
        let odd = 2 * p + 1 == depth;
        let mut j = 0;
        while j < count {
            let mut c = 0;
            while c < NR {
                let from = j * NR + c;
                // SAFETY: elements of rows that exist; a hint reads nothing; the destination is a row of panel j.
                unsafe {
                    if c % 32 == 0 {
                        _mm_prefetch::<_MM_HINT_T0>(low.wrapping_add(AHEAD * stride + from).cast());
                        _mm_prefetch::<_MM_HINT_T0>(high.wrapping_add(AHEAD * stride + from).cast());
                    }
                    let l = _mm512_cvtepu16_epi32(_mm256_loadu_si256(low.wrapping_add(from).cast()));
                    let h = match odd {
                        true => _mm512_setzero_si512(),
                        false => _mm512_cvtepu16_epi32(_mm256_loadu_si256(high.wrapping_add(from).cast())),
                    };
                    let both = _mm512_or_si512(l, _mm512_slli_epi32::<16>(h));
                    _mm512_storeu_si512(panels.as_mut_ptr().add((j * pairs + p) * NR + c).cast(), both);
                }
                c += 16;
            }
            j += 1;
        }
    }
}

/// Elements `j..j + 16` of a row, each in the low half of 32 bits.
///
/// # Safety
/// The row is null or holds the elements that the mask names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn sixteen(row: RowPointer, j: usize, mask: u16) -> __m512i {
    if row.is_null() {
        return _mm512_setzero_si512();
    }
    // SAFETY: as the contract says.
    _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, row.cast::<i16>().wrapping_add(j)) })
}

/// Rounds `x` to bf16 (nearest, ties to even).
pub(super) fn round(x: &[f32], out: &mut [bf16]) {
    assert!(out.len() >= x.len(), "room for every element");
    if !twin_bf16::native() {
        return x.iter().zip(out).for_each(|(x, out)| *out = bf16::from_f32(*x));
    }
    // SAFETY: the instructions are in force.
    unsafe { round_run(x, out) }
}

/// # Safety
/// Requires AVX-512 F, BW, VL and BF16; `out` is at least as long as `x`.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn round_run(x: &[f32], out: &mut [bf16]) {
    let mut at = 0;
    while at < x.len() {
        let left = x.len() - at;
        let mask = first(left) as u16;
        // SAFETY: the mask keeps to the elements that exist.
        unsafe {
            let v = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)));
            let v = std::mem::transmute::<__m256bh, __m256i>(v);
            _mm256_mask_storeu_epi16(out.as_mut_ptr().add(at).cast(), mask, v);
        }
        at += 16;
    }
}

/// Room for rows of a matrix that are not bf16 in the file.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    rows: Vec<bf16>,
    decoded: Vec<f32>,
}

impl Scratch {
    /// Elements `from..from + columns` of row `row`, in place where the file holds them as bf16 (and, when whole pairs
    /// are asked for, an even number), else decoded into slot `slot`, whose `padded` elements end in zeros.
    fn row(&mut self, w: &Weight, row: usize, from: usize, columns: usize, slot: usize, padded: usize) -> RowPointer {
        if w.dtype == WeightType::BF16 && columns == padded {
            return w.row_bytes(row)[from * 2..][..columns * 2].as_ptr().cast();
        }
        let Scratch { rows, decoded } = self;
        let need = (slot + 1) * padded;
        if rows.len() < need {
            rows.resize(need, bf16::ZERO);
        }
        decoded.resize(columns, 0.0);
        w.read(row, from, decoded);
        let out = &mut rows[slot * padded..need];
        round(decoded, out);
        out[columns..].fill(bf16::ZERO);
        out.as_ptr()
    }

    /// Row `row` as whole pairs.
    pub(super) fn whole_row(&mut self, w: &Weight, row: usize) -> RowPointer {
        self.row(w, row, 0, w.cols, 0, w.cols.next_multiple_of(2))
    }
}

/// Panel of rows `n0..n0 + NR` of `W` for `x·Wᵀ`; rows past the end are zero.
pub(super) fn pack_rows(w: &Weight, n0: usize, panel: &mut [u32], scratch: &mut Scratch) {
    let padded = w.cols.next_multiple_of(2);
    // Room for all sixteen first: growing it later would move rows already pointed at.
    if scratch.rows.len() < NR * padded {
        scratch.rows.resize(NR * padded, bf16::ZERO);
    }
    let mut rows = [std::ptr::null(); NR];
    for (j, slot) in rows.iter_mut().enumerate().take(w.rows - n0.min(w.rows)) {
        *slot = scratch.row(w, n0 + j, 0, w.cols, j, padded);
    }
    // SAFETY: each row holds whole pairs, padded with zero; the panel's size is checked inside.
    unsafe { columns_from_rows(|j| rows[j], NR, padded / 2, panel) }
}

/// Panels of the columns `at` of the rows `of` of `W` for `dy·W`: panel `j` of the group starts at
/// `j · pairs · NR`; columns and rows past the end are zero.
pub(super) fn pack_columns(w: &Weight, of: Range<usize>, at: Range<usize>, panels: &mut [u32], scratch: &mut Scratch) {
    let (n0, depth, c0, columns) = (of.start, of.len(), at.start, at.len());
    let (pairs, count) = (depth.div_ceil(2), columns.div_ceil(NR));
    assert!(panels.len() >= pairs * count * NR, "room for the panels");
    if twin_bf16::native() && w.dtype == WeightType::BF16 && w.order == RowOrder::Plain && columns.is_multiple_of(NR) {
        let rows = w.bytes_of(n0..n0 + depth);
        assert!(c0 + columns <= w.cols, "columns of the matrix");
        // SAFETY: depth rows of w.cols elements, of which these columns are; the panels' size was checked above.
        return unsafe { interleave_rows(rows.as_ptr().cast::<bf16>().add(c0), w.cols, depth, count, panels) };
    }
    if scratch.rows.len() < 2 * columns {
        scratch.rows.resize(2 * columns, bf16::ZERO);
    }
    for p in 0..pairs {
        let low = scratch.row(w, n0 + 2 * p, c0, columns, 0, columns);
        let high = match 2 * p + 1 < depth {
            true => scratch.row(w, n0 + 2 * p + 1, c0, columns, 1, columns),
            false => std::ptr::null(),
        };
        for j in 0..count {
            let width = NR.min(columns - j * NR);
            let dst = panels[(j * pairs + p) * NR..].as_mut_ptr();
            let at = |row: RowPointer| if row.is_null() { row } else { row.wrapping_add(j * NR) };
            // SAFETY: both rows hold the columns, dst a whole row of the panel.
            unsafe {
                interleave(at(low), at(high), width, dst);
                let written = width.next_multiple_of(16);
                std::slice::from_raw_parts_mut(dst.add(written), NR - written).fill(0);
            }
        }
    }
}
