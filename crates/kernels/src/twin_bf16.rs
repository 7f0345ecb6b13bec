//! What the bf16 engine asks of AVX-512 BF16, in plain code with the same meaning: for tests of everything built on it (packing,
//! products, heads, attention, gradients) on CPUs without these instructions. Slow; never chosen for people's runs.
//!
//! A product of two bf16 is exact in f32, so only the order of additions may differ from the hardware's, which also flushes
//! denormals to zero; exponentials are exact here and rough there. Refuses to know: what is packed, who calls.
#![cfg(target_arch = "x86_64")]

use half::bf16;

use super::cpu::{Level, level};
use super::operands::{Into, Operands, RowPointer, TileOutput};

/// Whether the instructions are there and in force.
pub(super) fn native() -> bool {
    level() == Level::Avx512Bf16
}

/// The two numbers of a pair.
fn numbers(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
}

/// `sum + x₀·w₀ + x₁·w₁` (`vdpbf16ps`).
pub(super) fn add_products(sum: f32, x: u32, w: u32) -> f32 {
    let ([x0, x1], [w0, w1]) = (numbers(x), numbers(w));
    sum + x1 * w1 + x0 * w0
}

/// `m` rows of a tile that is `columns` wide.
///
/// # Safety
/// As for the tiles of `tile_bf16`, without their features.
pub(super) unsafe fn tile(m: usize, columns: usize, operands: [Operands; 2], out: TileOutput) {
    let mut sums = vec![0f32; columns];
    for i in 0..m {
        sums.fill(0.0);
        for Operands { a, lda, panel, pairs } in operands {
            for p in 0..pairs {
                // SAFETY: inside the operands of the contract.
                let x = unsafe { a.add(i * lda + p).read_unaligned() };
                for (j, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *sum = add_products(*sum, x, unsafe { *panel.add(p * columns + j) });
                }
            }
        }
        let to = out.row(i);
        for (j, sum) in sums.iter().enumerate().take(to.width) {
            // SAFETY: a column of this row of the output.
            unsafe {
                match to.how {
                    Into::Set => *to.c.add(j) = *sum,
                    Into::Add => *to.c.add(j) += sum,
                    Into::Half => *to.c.cast::<bf16>().add(j) = bf16::from_f32(*sum),
                }
            }
        }
    }
}

/// `Σ a ∘ b` of `pairs` pairs.
///
/// # Safety
/// Both point at as many pairs, at any alignment.
pub(super) unsafe fn dot(a: *const u32, b: *const u32, pairs: usize) -> f32 {
    // SAFETY: as the contract says.
    (0..pairs).fold(0.0, |sum, p| unsafe { add_products(sum, a.add(p).read_unaligned(), b.add(p).read_unaligned()) })
}

/// `dst[p · stride + j] = rows[j][p]`, as pairs; null rows read as zeros.
///
/// # Safety
/// Rows are null or hold `pairs` pairs; `dst` is valid for `pairs` rows of 16, `stride` apart.
pub(super) unsafe fn transpose_rows(rows: &[RowPointer; 16], pairs: usize, dst: *mut u32, stride: usize) {
    for p in 0..pairs {
        for (j, row) in rows.iter().enumerate() {
            // SAFETY: as the contract says.
            unsafe { *dst.add(p * stride + j) = if row.is_null() { 0 } else { row.cast::<u32>().add(p).read_unaligned() } };
        }
    }
}

/// `dst[j] = (low[j], high[j])`; columns from `columns` up to the next multiple of 16 become zero.
///
/// # Safety
/// Rows are null or hold `columns` elements; `dst` holds `columns` rounded up to a multiple of 16.
pub(super) unsafe fn interleave(low: RowPointer, high: RowPointer, columns: usize, dst: *mut u32) {
    let at = |row: RowPointer, j: usize| {
        if row.is_null() || j >= columns {
            return 0;
        }
        // SAFETY: as the contract says.
        u32::from(unsafe { row.add(j).read_unaligned() }.to_bits())
    };
    for j in 0..columns.next_multiple_of(16) {
        // SAFETY: as the contract says.
        unsafe { *dst.add(j) = at(low, j) | at(high, j) << 16 };
    }
}

/// `c (r, width) += a (r, pairs) · x`, where x has `m` rows, `n` elements apart.
///
/// # Safety
/// `a` holds r × pairs; `x` m rows of `width`; `c` r rows of `width`, `n` apart.
pub(super) unsafe fn outer(r: usize, a: *const u32, (m, n, width): (usize, usize, usize), x: RowPointer, c: *mut f32) {
    for i in 0..r {
        for j in 0..width {
            // SAFETY: as the contract says; an odd last row has no second.
            unsafe {
                let pair = |p: usize| {
                    let at = |row: usize| if row < m { u32::from((*x.add(row * n + j)).to_bits()) } else { 0 };
                    at(2 * p) | at(2 * p + 1) << 16
                };
                let pairs = m.div_ceil(2);
                let sum = (0..pairs).fold(0.0, |sum, p| add_products(sum, *a.add(i * pairs + p), pair(p)));
                *c.add(i * n + j) += sum;
            }
        }
    }
}
