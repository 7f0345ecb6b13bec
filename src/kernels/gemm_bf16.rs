//! Products with a frozen matrix in bf16 (f32 in, f32 sums, f32 out) on CPUs with AVX-512 BF16.
//!
//! The matrix stays as it lies in the file. Panels of 48 of its rows (for `x·Wᵀ`) or columns (for `dy·W`) are packed
//! into pairs as they are needed and multiplied by tiles of up to 8 × 48 (`vdpbf16ps`). Work is split by panels, each
//! summed in a fixed order by one task, so the result does not depend on the number of threads.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::host::Out;
use super::weight::{Weight, WeightType};

/// Columns of a panel: three registers of sixteen f32.
const NR: usize = 48;
/// Rows of a tile.
const MR: usize = 8;
/// Rows of `W` in one panel of [`nn`]: a panel of 48 × 1024 pairs of bf16 stays inside a core's second-level cache.
const DEPTH: usize = 2048;

/// `y[m, n] (+)= x[m, k] · W[n, k]ᵀ`. Requires AVX-512 BF16.
pub(super) fn nt(x: &[f32], m: usize, w: &Weight, y: &mut [f32], add: bool) {
    let (n, k) = (w.rows, w.cols);
    assert!(x.len() == m * k && y.len() == m * n, "nt: shapes disagree");
    let kp = k.div_ceil(2);
    let a = round(x, m, k);
    let out = Out(y.as_mut_ptr());
    if m <= 4 && !add {
        return rows_by_dot(&a, m, w, out);
    }
    (0..n.div_ceil(NR)).into_par_iter().for_each_init(
        || (vec![0u32; kp * NR], Vec::new()),
        |(panel, scratch), p| {
            let n0 = p * NR;
            pack_nt(w, n0, kp, panel, scratch);
            // SAFETY: AVX-512 BF16 was detected by the caller of this module; a has m rows of kp pairs, panel kp × NR,
            // and columns n0..n0+NR (cut at n) of y are this task's own.
            unsafe { stripe(&a, m, kp, 0, kp, panel, { out }.0.add(n0), n, NR.min(n - n0), add) }
        },
    );
}

/// `dx[m, k] (+)= dy[m, n] · W[n, k]`. Requires AVX-512 BF16.
pub(super) fn nn(dy: &[f32], m: usize, w: &Weight, dx: &mut [f32], add: bool) {
    let (n, k) = (w.rows, w.cols);
    assert!(dy.len() == m * n && dx.len() == m * k, "nn: shapes disagree");
    let np = n.div_ceil(2);
    let a = round(dy, m, n);
    let out = Out(dx.as_mut_ptr());
    // A group is the least number of columns that is whole panels and whole blocks of a quantised type.
    let group = lcm(NR, w.dtype.block());
    (0..k.div_ceil(group)).into_par_iter().for_each_init(
        || (vec![0u32; (DEPTH / 2) * group], Vec::new()),
        |(panels, scratch), g| {
            let (c0, cols) = (g * group, group.min(k - g * group));
            for n0 in (0..n).step_by(DEPTH) {
                let depth = DEPTH.min(n - n0);
                let pairs = depth.div_ceil(2);
                pack_nn(w, n0, depth, c0, cols, panels, scratch);
                for (j, panel) in panels.chunks_exact(pairs * NR).take(cols.div_ceil(NR)).enumerate() {
                    let width = NR.min(cols - j * NR);
                    // SAFETY: as in nt; pairs n0/2..n0/2+pairs of each row of a are inside it.
                    unsafe { stripe(&a, m, np, n0 / 2, pairs, panel, { out }.0.add(c0 + j * NR), k, width, add || n0 > 0) }
                }
            }
        },
    );
}

/// `x[m, k]` rounded to bf16 pairs `[m, ceil(k/2)]`, padded with zero.
fn round(x: &[f32], m: usize, k: usize) -> Vec<u32> {
    let kp = k.div_ceil(2);
    let mut a = vec![0u32; m * kp];
    a.par_chunks_mut(kp * 16).zip(x.par_chunks(k * 16)).for_each(|(a, x)| {
        for (a, x) in a.chunks_exact_mut(kp).zip(x.chunks_exact(k)) {
            // SAFETY: AVX-512 BF16 was detected by the caller of this module.
            unsafe { round_row(x, a) }
        }
    });
    a
}

/// One row to bf16 pairs.
///
/// # Safety
/// Requires AVX-512 F and BF16; `out` holds `ceil(x.len() / 2)` pairs.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw")]
unsafe fn round_row(x: &[f32], out: &mut [u32]) {
    assert!(out.len() >= x.len().div_ceil(2), "room for every pair");
    let tail = &x[x.len() / 16 * 16..];
    let mut at = 0;
    while at + 16 <= x.len() {
        // SAFETY: 16 floats from `at` on, and room for their 8 pairs.
        unsafe {
            let v: __m256i = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr().add(at))));
            _mm256_storeu_si256(out.as_mut_ptr().add(at / 2).cast(), v);
        }
        at += 16;
    }
    let done = x.len() / 16 * 8;
    for (pair, d) in tail.chunks(2).zip(&mut out[done..]) {
        let low = u32::from(half::bf16::from_f32(pair[0]).to_bits());
        let high = pair.get(1).map_or(0, |v| u32::from(half::bf16::from_f32(*v).to_bits()));
        *d = low | high << 16;
    }
}

/// Row `row` of `w`, elements `k0..k0+cols`, as bf16 into `out` (of at least `cols` elements).
fn row_bf16(w: &Weight, row: usize, k0: usize, cols: usize, out: &mut [u16], scratch: &mut Vec<f32>) {
    if w.dtype == WeightType::BF16 {
        let bytes = &w.row_bytes(row)[k0 * 2..][..cols * 2];
        for (b, o) in bytes.chunks_exact(2).zip(out) {
            *o = u16::from_le_bytes([b[0], b[1]]);
        }
        return;
    }
    scratch.resize(cols, 0.0);
    w.read(row, k0, scratch);
    // SAFETY: AVX-512 BF16 was detected by the caller of this module; out holds cols (even, or one more) elements.
    unsafe { round_to_u16(scratch, out) }
}

/// # Safety
/// Requires AVX-512 F and BF16; `out` is at least as long as `x`.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw")]
unsafe fn round_to_u16(x: &[f32], out: &mut [u16]) {
    assert!(out.len() >= x.len(), "room for every element");
    let mut at = 0;
    while at + 16 <= x.len() {
        // SAFETY: 16 floats from `at` on, and room for as many halves.
        unsafe {
            let v: __m256i = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr().add(at))));
            _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), v);
        }
        at += 16;
    }
    while at < x.len() {
        out[at] = half::bf16::from_f32(x[at]).to_bits();
        at += 1;
    }
}

/// Panel of rows `n0..n0+NR` of `W` for `x·Wᵀ`: pairs run along k. Rows past the end are zero.
fn pack_nt(w: &Weight, n0: usize, kp: usize, panel: &mut [u32], scratch: &mut Vec<f32>) {
    const GROUP: usize = 16;
    let mut rows = vec![0u16; GROUP * kp * 2];
    for j0 in (0..NR).step_by(GROUP) {
        for (j, row) in rows.chunks_exact_mut(kp * 2).enumerate() {
            match n0 + j0 + j {
                r if r < w.rows => row_bf16(w, r, 0, w.cols, row, scratch),
                _ => row.fill(0),
            }
        }
        // SAFETY: rows holds GROUP rows of kp pairs; panel kp × NR; AVX-512 was detected by the caller of this module.
        unsafe { transpose16(rows.as_ptr().cast(), kp, panel.as_mut_ptr().add(j0)) }
    }
}

/// Sixteen rows of `kp` pairs into sixteen columns of a panel: `dst[p · NR + j] = src[j · kp + p]`.
///
/// # Safety
/// Requires AVX-512 F; `src` holds 16·kp pairs, `dst` reaches `(kp − 1)·NR + 16`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose16(src: *const u32, kp: usize, dst: *mut u32) {
    let full = kp / 16 * 16;
    for p0 in (0..full).step_by(16) {
        // SAFETY: reads 16 × 16 pairs at column p0, writes 16 rows of 16.
        unsafe {
            let mut r = [_mm512_setzero_si512(); 16];
            let mut j = 0;
            while j < 16 {
                r[j] = _mm512_loadu_si512(src.add(j * kp + p0).cast());
                j += 1;
            }
            transpose_block(&mut r);
            let mut p = 0;
            while p < 16 {
                _mm512_storeu_si512(dst.add((p0 + p) * NR).cast(), r[p]);
                p += 1;
            }
        }
    }
    for p in full..kp {
        for j in 0..16 {
            // SAFETY: inside both, as the contract says.
            unsafe { *dst.add(p * NR + j) = *src.add(j * kp + p) };
        }
    }
}

/// Transposes a 16 × 16 block of 32-bit elements held in registers.
#[target_feature(enable = "avx512f")]
fn transpose_block(r: &mut [__m512i; 16]) {
    let mut t = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for i in 0..4 {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/// Panels of columns `c0..c0+cols`, rows `n0..n0+depth` of `W` for `dy·W`: pairs run along n, two rows interleaved.
/// Panel `j` of the group starts at `j · pairs · NR`; columns and rows past the end are zero.
fn pack_nn(w: &Weight, n0: usize, depth: usize, c0: usize, cols: usize, panels: &mut [u32], scratch: &mut Vec<f32>) {
    let pairs = depth.div_ceil(2);
    let width = cols.div_ceil(NR) * NR;
    let mut rows = [vec![0u16; width], vec![0u16; width]];
    for p in 0..pairs {
        let [low, high] = &mut rows;
        row_bf16(w, n0 + 2 * p, c0, cols, low, scratch);
        match 2 * p + 1 < depth {
            true => row_bf16(w, n0 + 2 * p + 1, c0, cols, high, scratch),
            false => high.fill(0),
        }
        for (j, (low, high)) in low.chunks_exact(NR).zip(high.chunks_exact(NR)).enumerate() {
            let out = &mut panels[(j * pairs + p) * NR..][..NR];
            for ((o, l), h) in out.iter_mut().zip(low).zip(high) {
                *o = u32::from(*l) | u32::from(*h) << 16;
            }
        }
    }
}

/// All rows of `a` times one panel: `c[m, width] (+)= a[m, p0..p0+pairs] · panel[pairs, NR]`.
///
/// # Safety
/// Requires AVX-512 BF16; `a` is `m × lda` pairs, `c` is valid for `m` rows of stride `ldc`, `width ≤ NR` of each.
#[allow(clippy::too_many_arguments, reason = "the matrices and the sizes of one product")]
unsafe fn stripe(
    a: &[u32],
    m: usize,
    lda: usize,
    p0: usize,
    pairs: usize,
    panel: &[u32],
    c: *mut f32,
    ldc: usize,
    width: usize,
    add: bool,
) {
    let mut i = 0;
    while i < m {
        // SAFETY: rows i..i+MR (or the rest) of a and c are inside them.
        unsafe {
            let (a, c) = (a.as_ptr().add(i * lda + p0), c.add(i * ldc));
            match m - i {
                8.. => tile::<8>(a, lda, panel.as_ptr(), pairs, c, ldc, width, add),
                4.. => tile::<4>(a, lda, panel.as_ptr(), pairs, c, ldc, width, add),
                2.. => tile::<2>(a, lda, panel.as_ptr(), pairs, c, ldc, width, add),
                _ => tile::<1>(a, lda, panel.as_ptr(), pairs, c, ldc, width, add),
            }
        }
        i += match m - i {
            8.. => MR,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
    }
}

/// One tile: `c[R, width] (+)= a[R, kp] · w[kp, NR]`.
///
/// # Safety
/// As [`stripe`].
#[allow(clippy::too_many_arguments, reason = "the matrices and the sizes of one product")]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw")]
unsafe fn tile<const R: usize>(
    a: *const u32,
    lda: usize,
    w: *const u32,
    kp: usize,
    c: *mut f32,
    ldc: usize,
    width: usize,
    add: bool,
) {
    // Plain loops only: a closure or an iterator adapter here is compiled without the features and is not inlined.
    // SAFETY: all offsets lie inside the shapes of the contract; partial columns are masked.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 3]; R];
        for p in 0..kp {
            let at = w.add(p * NR);
            let w0 = as_bf16(_mm512_loadu_si512(at.cast()));
            let w1 = as_bf16(_mm512_loadu_si512(at.add(16).cast()));
            let w2 = as_bf16(_mm512_loadu_si512(at.add(32).cast()));
            let mut i = 0;
            while i < R {
                let b = as_bf16(_mm512_set1_epi32((*a.add(i * lda + p)).cast_signed()));
                acc[i][0] = _mm512_dpbf16_ps(acc[i][0], b, w0);
                acc[i][1] = _mm512_dpbf16_ps(acc[i][1], b, w1);
                acc[i][2] = _mm512_dpbf16_ps(acc[i][2], b, w2);
                i += 1;
            }
        }
        let mut i = 0;
        while i < R {
            let mut j = 0;
            while j < 3 {
                let left = width.saturating_sub(j * 16);
                let mask = if left >= 16 { 0xffff } else { ((1u32 << left) - 1) as u16 };
                let at = c.add(i * ldc + j * 16);
                let sum = if add { _mm512_add_ps(acc[i][j], _mm512_maskz_loadu_ps(mask, at)) } else { acc[i][j] };
                _mm512_mask_storeu_ps(at, mask, sum);
                j += 1;
            }
            i += 1;
        }
    }
}

/// The same register as bf16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_bf16(v: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits of plain data.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(v) }
}

/// A few rows (decoding): every row of `W` is read once, in the order of the file, bound by memory bandwidth.
fn rows_by_dot(a: &[u32], m: usize, w: &Weight, out: Out) {
    const TASK: usize = 128;
    let (n, kp) = (w.rows, w.cols.div_ceil(2));
    (0..n.div_ceil(TASK)).into_par_iter().for_each_init(
        || (vec![0u16; kp * 2], Vec::new()),
        |(row, scratch), task| {
            for j in task * TASK..(task * TASK + TASK).min(n) {
                let w_row: *const u32 = if w.dtype == WeightType::BF16 && w.cols.is_multiple_of(2) {
                    w.row_bytes(j).as_ptr().cast()
                } else {
                    row_bf16(w, j, 0, w.cols, row, scratch);
                    row.as_ptr().cast()
                };
                for i in 0..m {
                    // SAFETY: AVX-512 BF16 was detected by the caller of this module; both hold kp pairs (unaligned
                    // loads); element (i, j) of the output is this task's own.
                    unsafe { *{ out }.0.add(i * n + j) = dot(a.as_ptr().add(i * kp), w_row, kp) };
                }
            }
        },
    );
}

/// Dot product of `kp` bf16 pairs.
///
/// # Safety
/// Requires AVX-512 BF16; both point at `kp` pairs, at any alignment.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw")]
unsafe fn dot(a: *const u32, b: *const u32, kp: usize) -> f32 {
    // SAFETY: the masked load of the tail touches only the pairs that exist.
    unsafe {
        let (mut even, mut odd) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        let mut at = 0;
        while at + 32 <= kp {
            even = _mm512_dpbf16_ps(
                even,
                as_bf16(_mm512_loadu_si512(a.add(at).cast())),
                as_bf16(_mm512_loadu_si512(b.add(at).cast())),
            );
            let next = at + 16;
            odd = _mm512_dpbf16_ps(
                odd,
                as_bf16(_mm512_loadu_si512(a.add(next).cast())),
                as_bf16(_mm512_loadu_si512(b.add(next).cast())),
            );
            at += 32;
        }
        while at < kp {
            let left = kp - at;
            let mask = if left >= 16 { 0xffff } else { ((1u32 << left) - 1) as u16 };
            let (x, y) = (_mm512_maskz_loadu_epi32(mask, a.add(at).cast()), _mm512_maskz_loadu_epi32(mask, b.add(at).cast()));
            even = _mm512_dpbf16_ps(even, as_bf16(x), as_bf16(y));
            at += 16;
        }
        _mm512_reduce_add_ps(_mm512_add_ps(even, odd))
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}
