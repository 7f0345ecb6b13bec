//! The low-rank pair of a layer in bf16: the narrow products `x·Aᵀ` and `dy·B`, and the gradients, which sum over tokens.
//!
//! Legend: m tokens, i inputs, o outputs, r rank (rounded up to even; the extra row is zero).
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use half::bf16;
use rayon::prelude::*;

use super::host::SharedOutput;
use super::panel;
use super::simd::first;
use super::tile_bf16::{Into, Operands, TileOutput, as_bf16, narrow};
use super::twin_bf16;

/// Tokens of one task of [`thin`].
const TOKENS: usize = 64;
/// Columns of one task of [`outer`]: one register of bf16.
const COLUMNS: usize = 32;

/// A pair rounded to bf16, in both orders, the scale on `B`'s side.
#[derive(Debug)]
pub(super) struct HalfPair {
    pub rank: usize,
    /// A (r, i).
    pub a: Vec<bf16>,
    /// Aᵀ (i, r).
    pub a_t: Vec<bf16>,
    /// s·B (o, r).
    pub b: Vec<bf16>,
    /// s·Bᵀ (r, o).
    pub b_t: Vec<bf16>,
}

impl HalfPair {
    /// From `a` (rank, i) and `b` (o, rank).
    pub(super) fn new(a: &[f32], b: &[f32], rank: usize, scale: f32) -> HalfPair {
        let r = rank.next_multiple_of(2);
        let (inputs, outputs) = (a.len() / rank, b.len() / rank);
        let mut half = HalfPair {
            rank: r,
            a: vec![bf16::ZERO; r * inputs],
            a_t: vec![bf16::ZERO; r * inputs],
            b: vec![bf16::ZERO; r * outputs],
            b_t: vec![bf16::ZERO; r * outputs],
        };
        for k in 0..rank {
            for i in 0..inputs {
                let value = bf16::from_f32(a[k * inputs + i]);
                half.a[k * inputs + i] = value;
                half.a_t[i * r + k] = value;
            }
            for o in 0..outputs {
                let value = bf16::from_f32(scale * b[o * rank + k]);
                half.b[o * r + k] = value;
                half.b_t[k * outputs + o] = value;
            }
        }
        half
    }
}

/// One narrow product: `x (m, k) · eᵀ` for the few rows of `e (r, k)`; k and r are even.
#[derive(Clone, Copy)]
pub(super) struct Thin<'a> {
    pub x: &'a [bf16],
    pub e: &'a [bf16],
    pub r: usize,
}

impl Thin<'_> {
    fn depth(&self) -> usize {
        self.e.len() / self.r
    }

    /// `e` in panels of sixteen.
    fn pack(&self) -> Vec<Vec<u32>> {
        let (k, pairs) = (self.depth(), self.depth() / 2);
        assert!(k.is_multiple_of(2) && self.r.is_multiple_of(2) && self.x.len().is_multiple_of(k), "thin product: shapes");
        let panel = |r0: usize| {
            let mut panel = vec![0u32; pairs * 16];
            let row = |j: usize| self.e.get((r0 + j) * k..(r0 + j + 1) * k).map_or(std::ptr::null(), <[bf16]>::as_ptr);
            // SAFETY: AVX-512 was detected by the caller of this module; rows are null or whole rows of e.
            unsafe { panel::columns_from_rows(row, 16, pairs, &mut panel) };
            panel
        };
        (0..self.r).step_by(16).map(panel).collect()
    }
}

/// All of them at once: (m, r) each.
pub(super) fn thin(jobs: &[Thin]) -> Vec<Vec<bf16>> {
    let panels: Vec<Vec<Vec<u32>>> = jobs.iter().map(Thin::pack).collect();
    let mut outs: Vec<Vec<bf16>> = jobs.iter().map(|job| vec![bf16::ZERO; job.x.len() / job.depth() * job.r]).collect();
    let mut tasks = Vec::new();
    for ((job, panels), out) in jobs.iter().zip(&panels).zip(&mut outs) {
        let chunks = out.chunks_mut(TOKENS * job.r).zip(job.x.chunks(TOKENS * job.depth()));
        tasks.extend(chunks.map(|(out, x)| (job.r, panels, out, x)));
    }
    tasks.into_par_iter().for_each(|(r, panels, out, x)| {
        let rows = out.len() / r;
        let pairs = x.len() / rows / 2;
        for (j, panel) in panels.iter().enumerate() {
            let operands = Operands { a: x.as_ptr().cast(), lda: pairs, panel: panel.as_ptr(), pairs };
            let c = out[16 * j..].as_mut_ptr().cast();
            let output = TileOutput { c, ldc: r, width: 16.min(r - 16 * j), how: Into::Half };
            // SAFETY: AVX-512 BF16 was detected by the caller of this module; shapes were checked when packing.
            unsafe { narrow(rows, operands, Operands::NONE, output) }
        }
    });
    outs
}

/// One sum over tokens: `out (r, n) += gᵀ (r, m) · x (m, n)` in f32, for `g` (m, r), r even.
pub(super) struct Outer<'a> {
    pub g: &'a [bf16],
    pub r: usize,
    pub x: &'a [bf16],
    pub n: usize,
    pub out: &'a mut [f32],
}

/// All of them at once.
pub(super) fn outer(jobs: Vec<Outer>) {
    let left: Vec<Vec<u32>> = jobs.iter().map(|job| token_pairs(job.g, job.r)).collect();
    let mut tasks = Vec::new();
    for (job, left) in jobs.into_iter().zip(&left) {
        let Outer { g, r, x, n, out } = job;
        let m = g.len() / r;
        assert!(x.len() == m * n && out.len() == r * n && r.is_multiple_of(2), "outer product: shapes");
        let to = SharedOutput(out.as_mut_ptr());
        tasks.extend((0..n).step_by(COLUMNS).map(|c0| (left, (m, r, n), x, to, c0)));
    }
    tasks.into_par_iter().for_each(|(left, (m, r, n), x, to, c0)| {
        let pairs = m.div_ceil(2);
        let x = ColumnBlock { x: x[c0..].as_ptr(), m, n, width: COLUMNS.min(n - c0) };
        let mut k = 0;
        while k < r {
            let a = left[k * pairs..].as_ptr();
            let c = to.0.wrapping_add(k * n + c0);
            // SAFETY: the instructions are in force, or not used; rows k.. of left and out exist, and these columns of out are
            // this task's own.
            k += unsafe {
                match r - k {
                    left if !twin_bf16::native() => {
                        twin_bf16::outer(left, a, (x.m, x.n, x.width), x.x, c);
                        left
                    }
                    12.. => outer_tile::<12>(a, pairs, x, c),
                    8.. => outer_tile::<8>(a, pairs, x, c),
                    4.. => outer_tile::<4>(a, pairs, x, c),
                    _ => outer_tile::<2>(a, pairs, x, c),
                }
            };
        }
    });
}

/// `g` (m, r) as pairs of tokens: (r, ⌈m/2⌉).
fn token_pairs(g: &[bf16], r: usize) -> Vec<u32> {
    let pairs = (g.len() / r).div_ceil(2);
    let mut left = vec![0u32; r * pairs];
    for (p, rows) in g.chunks(2 * r).enumerate() {
        for k in 0..r {
            let high = rows.get(r + k).map_or(0, |v| u32::from(v.to_bits()));
            left[k * pairs + p] = u32::from(rows[k].to_bits()) | high << 16;
        }
    }
    left
}

/// Some columns of `x` (m, n).
#[derive(Clone, Copy)]
struct ColumnBlock {
    x: *const bf16,
    m: usize,
    n: usize,
    width: usize,
}

/// `c (R, width) += a (R, pairs) · columns`; returns R. Two rows of `x` are interleaved in registers, which leaves the
/// columns in another order until the end.
///
/// # Safety
/// Requires AVX-512 F, BW, VL and BF16; `a` holds R × pairs, `c` R rows of stride `x.n`.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn outer_tile<const R: usize>(a: *const u32, pairs: usize, x: ColumnBlock, c: *mut f32) -> usize {
    let mask = first(x.width);
    let mut acc = [[_mm512_setzero_ps(); 2]; R];
    for p in 0..pairs {
        let row = x.x.cast::<i16>().wrapping_add(2 * p * x.n);
        // SAFETY: the mask keeps to the columns that exist; the second row is read only where there is one.
        let (first, second) = unsafe {
            let first = _mm512_maskz_loadu_epi16(mask, row);
            (first, if 2 * p + 1 < x.m { _mm512_maskz_loadu_epi16(mask, row.wrapping_add(x.n)) } else { _mm512_setzero_si512() })
        };
        let low = as_bf16(_mm512_unpacklo_epi16(first, second));
        let high = as_bf16(_mm512_unpackhi_epi16(first, second));
        let mut i = 0;
        while i < R {
            // SAFETY: inside a.
            let g = as_bf16(_mm512_set1_epi32(unsafe { *a.add(i * pairs + p) }.cast_signed()));
            acc[i][0] = _mm512_dpbf16_ps(acc[i][0], g, low);
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], g, high);
            i += 1;
        }
    }
    let order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    let order = [order, _mm512_add_epi32(order, _mm512_set1_epi32(8))];
    let mut i = 0;
    while i < R {
        let mut j = 0;
        while j < 2 {
            let sums = _mm512_permutex2var_ps(acc[i][0], order[j], acc[i][1]);
            let mask = (mask >> (16 * j)) as u16;
            let at = c.wrapping_add(i * x.n + 16 * j);
            // SAFETY: the mask keeps to the columns that exist.
            unsafe { _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, at))) };
            j += 1;
        }
        i += 1;
    }
    R
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<bf16> {
        (0..n as u64).map(|i| bf16::from_f32((crate::random::indexed(seed, i) % 2001) as f32 / 1000.0 - 1.0)).collect()
    }

    #[test]
    fn narrow_and_outer_products_agree_with_plain_sums() {
        for (m, n, r) in [(1, 2, 2), (5, 34, 4), (130, 100, 8), (33, 64, 18), (64, 576, 30)] {
            let (x, e, g) = (numbers(m * n, 1), numbers(r * n, 2), numbers(m * r, 3));
            let got = thin(&[Thin { x: &x, e: &e, r }]).remove(0);
            let mut out = vec![1f32; r * n];
            outer(vec![Outer { g: &g, r, x: &x, n, out: &mut out }]);
            for k in 0..r {
                for t in 0..m {
                    let want: f32 = (0..n).map(|i| x[t * n + i].to_f32() * e[k * n + i].to_f32()).sum();
                    let got = got[t * r + k].to_f32();
                    assert!((got - want).abs() < 0.01 * (1.0 + want.abs()), "thin {m} {n} {r}: {got} {want}");
                }
                for i in 0..n {
                    let want: f32 = 1.0 + (0..m).map(|t| x[t * n + i].to_f32() * g[t * r + k].to_f32()).sum::<f32>();
                    let got = out[k * n + i];
                    assert!((got - want).abs() < 1e-4 * (1.0 + m as f32), "outer {m} {n} {r}: {got} {want}");
                }
            }
        }
    }
}
