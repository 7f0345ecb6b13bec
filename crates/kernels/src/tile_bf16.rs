//! The one inner loop of every bf16 product: a tile of `R` rows by `16·C` columns (`vdpbf16ps`, f32 sums).
//!
//! The left operand lies row by row, two bf16 to a 32-bit pair; the right one is a panel of pairs by columns (see
//! `panel`). Refuses to know: where operands come from, threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

pub(super) use super::operands::{Into, Operands, TileOutput};
use super::simd::first;
use super::twin_bf16;

macro_rules! by_rows {
    ($name:ident, $columns:literal: $($rows:literal),+) => {
        /// All `m` rows, in tiles as high as the registers allow.
        ///
        /// # Safety
        /// Operands and output are valid for `m` rows as their types say.
        pub(super) unsafe fn $name(m: usize, first: Operands, second: Operands, out: TileOutput) {
            if !twin_bf16::native() {
                // SAFETY: the contract is the same.
                return unsafe { twin_bf16::tile(m, 16 * $columns, [first, second], out) };
            }
            let mut i = 0;
            while i < m {
                let (a, b, c) = (first.row(i), second.row(i), out.row(i));
                // SAFETY: the features are in force; the rows of this tile are among the m.
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
/// Requires AVX-512 F, BW, VL and BF16; otherwise as the functions above, for `R` rows.
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn instructions_and_plain_code_agree() {
        if crate::cpu::lacks_bf16("instructions for tiles in bf16 agree with plain code") {
            return;
        }
        let pairs_of = |n: usize, seed: u64| -> Vec<u32> {
            (0..n as u64).map(|i| crate::random::indexed(seed, i) as u32 & 0x3fff_3fff | 0x3000_3000).collect()
        };
        type Run = unsafe fn(usize, Operands, Operands, TileOutput);
        for (columns, run) in [(16, narrow as Run), (48, stripe), (64, wide)] {
            for (m, pairs, width) in [(1, 1, columns), (7, 5, columns - 3), (19, 40, columns)] {
                for how in [Into::Set, Into::Add, Into::Half] {
                    let (a, panel) = (pairs_of(m * pairs, 1), pairs_of(pairs * columns, 2));
                    let (b, small) = (pairs_of(m, 3), pairs_of(columns, 4));
                    let first = Operands { a: a.as_ptr(), lda: pairs, panel: panel.as_ptr(), pairs };
                    let second = Operands { a: b.as_ptr(), lda: 1, panel: small.as_ptr(), pairs: 1 };
                    let [mut got, mut want] = [(); 2].map(|()| vec![1f32; m * width]);
                    // SAFETY: the instructions are there; operands and outputs hold what they say.
                    unsafe {
                        run(m, first, second, TileOutput { c: got.as_mut_ptr(), ldc: width, width, how });
                        let out = TileOutput { c: want.as_mut_ptr(), ldc: width, width, how };
                        twin_bf16::tile(m, columns, [first, second], out);
                    }
                    let numbers = |x: &[f32]| -> Vec<f32> {
                        let halves = x.iter().flat_map(|x| [x.to_bits() << 16, x.to_bits() & 0xffff_0000]).map(f32::from_bits);
                        if how == Into::Half { halves.take(m * width).collect() } else { x.to_vec() }
                    };
                    for (got, want) in numbers(&got).into_iter().zip(numbers(&want)) {
                        let allowed = if how == Into::Half { f32::from(bf16::EPSILON) } else { 1e-5 };
                        assert!((got - want).abs() <= allowed * want.abs(), "{columns} {m} {pairs} {how:?}: {got} {want}");
                    }
                }
            }
        }
    }
}
