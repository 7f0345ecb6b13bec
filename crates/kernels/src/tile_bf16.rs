//! The one inner loop of every bf16 product: a tile of `R` rows by `16·C` columns (`vdpbf16ps`, f32 sums).
//!
//! The left operand lies row by row, two bf16 to a 32-bit pair; the right one is a panel of pairs by columns (see
//! `panel`). Refuses to know: where operands come from, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::simd::first;

/// How sums reach the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// Replace f32.
    Set,
    /// Add to f32.
    Add,
    /// Replace bf16.
    Half,
}

/// `a (rows, pairs) · panel (pairs, 16·C)`: `a` advances by `lda` pairs a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub a: *const u32,
    pub lda: usize,
    pub panel: *const u32,
    pub pairs: usize,
}

impl Operands {
    /// Adds nothing.
    pub(super) const NONE: Operands = Operands { a: std::ptr::null(), lda: 0, panel: std::ptr::null(), pairs: 0 };

    /// The same from row `i` of `a` on.
    pub(super) fn row(self, i: usize) -> Operands {
        Operands { a: self.a.wrapping_add(i * self.lda), ..self }
    }
}

/// Where `rows × width` sums go: `c` points at f32, or at bf16 for [`Into::Half`]; rows are `ldc` elements apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileOutput {
    pub c: *mut f32,
    pub ldc: usize,
    pub width: usize,
    pub how: Into,
}

impl TileOutput {
    pub(super) fn row(self, i: usize) -> TileOutput {
        let c = match self.how {
            Into::Half => self.c.cast::<u16>().wrapping_add(i * self.ldc).cast(),
            _ => self.c.wrapping_add(i * self.ldc),
        };
        TileOutput { c, ..self }
    }
}

macro_rules! by_rows {
    ($name:ident, $columns:literal: $($rows:literal),+) => {
        /// All `m` rows, in tiles as high as the registers allow.
        ///
        /// # Safety
        /// Requires AVX-512 F, BW, VL and BF16; operands and output are valid for `m` rows as their types say.
        pub(super) unsafe fn $name(m: usize, first: Operands, second: Operands, out: TileOutput) {
            let mut i = 0;
            while i < m {
                let (a, b, c) = (first.row(i), second.row(i), out.row(i));
                // SAFETY: the rows of this tile are among the m.
                unsafe {
                    $(if m - i >= $rows {
                        tile::<$rows, $columns>(a, b, c);
                        i += $rows;
                        continue;
                    })+
                }
            }
        }
    };
}
by_rows!(narrow, 1: 16, 8, 4, 2, 1);
by_rows!(stripe, 3: 8, 4, 2, 1);
by_rows!(wide, 4: 6, 4, 2, 1);

/// One tile: the sum of both products.
///
/// # Safety
/// As the functions above, for `R` rows.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn tile<const R: usize, const C: usize>(first: Operands, second: Operands, out: TileOutput) {
    // Plain loops only: a closure or an iterator adapter here is compiled without the features and is not inlined.
    // SAFETY: all offsets lie inside the shapes of the contract; partial columns are masked.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; R];
        let mut part = 0;
        while part < 2 {
            let Operands { a, lda, panel, pairs } = if part == 0 { first } else { second };
            for p in 0..pairs {
                let at = panel.add(p * 16 * C);
                let mut w = [_mm512_setzero_si512(); C];
                let mut j = 0;
                while j < C {
                    w[j] = _mm512_loadu_si512(at.add(16 * j).cast());
                    j += 1;
                }
                let mut i = 0;
                while i < R {
                    let pair = a.add(i * lda + p).read_unaligned();
                    let x = as_bf16(_mm512_set1_epi32(pair.cast_signed()));
                    let mut j = 0;
                    while j < C {
                        acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, as_bf16(w[j]));
                        j += 1;
                    }
                    i += 1;
                }
            }
            part += 1;
        }
        let mut i = 0;
        while i < R {
            let to = out.row(i);
            let mut j = 0;
            while j < C {
                put(acc[i][j], to, 16 * j);
                j += 1;
            }
            i += 1;
        }
    }
}

/// Sixteen sums to columns `column..` of a row, cut at its width.
///
/// # Safety
/// As [`tile`], for one row.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn put(sum: __m512, to: TileOutput, column: usize) {
    let left = to.width.saturating_sub(column);
    let mask = first(left) as u16;
    // SAFETY: the mask keeps to the columns that exist.
    unsafe {
        match to.how {
            Into::Set => _mm512_mask_storeu_ps(to.c.wrapping_add(column), mask, sum),
            Into::Add => {
                let at = to.c.wrapping_add(column);
                _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, at)));
            }
            Into::Half => {
                let half = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sum));
                _mm256_mask_storeu_epi16(to.c.cast::<i16>().wrapping_add(column), mask, half);
            }
        }
    }
}

/// The same register as bf16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn as_bf16(v: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits of plain data.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(v) }
}
