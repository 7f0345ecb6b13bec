//! What happens between the products, 48 queries at a time.

use std::arch::x86_64::*;

use half::bf16;

use super::super::super::panel::transpose_block;
use super::super::super::simd::{Avx512, Simd, first};
use super::super::super::twin_bf16::native;
use super::super::Scores;
pub(super) use super::columns::{Corner, QueryColumns, Slopes, Softmax};
use super::columns::{UNSEEN, exponent_scale, inside_and_outside};
use super::{QUERIES, twin};

/// Registers of a block of queries.
const REGISTERS: usize = QUERIES / 16;
fn token() -> Avx512 {
    // AVX-512 BF16, which this is a part of, is in force wherever this is called.
    Avx512::detect().unwrap_or_else(|| unreachable!("a part of what is in force"))
}

impl Softmax {
    /// Turns `scores` (keys, queries) of the keys and queries from `first` on into `weights`, pairs of keys;
    /// `sums` (e, queries), gathered with an earlier maximum, are scaled to the new one.
    pub(super) fn weigh(
        &mut self,
        scores: &mut [f32],
        weights: &mut [u32],
        first: Corner,
        how: Scores,
        sums: Option<&mut [f32]>,
    ) {
        assert!(weights.len() >= scores.len().div_ceil(2 * QUERIES) * QUERIES, "attention: room for the weights");
        if !native() {
            return twin::weigh(self, scores, weights, first, how, sums);
        }
        // SAFETY: the instructions are in force.
        unsafe {
            match how.cap {
                None => weigh::<false>(token(), self, scores, weights, first, how, sums),
                Some(_) => weigh::<true>(token(), self, scores, weights, first, how, sums),
            }
        }
    }

    /// The logarithm of what normalises each query.
    pub(super) fn logarithms(&self, scores: Scores) -> [f32; QUERIES] {
        let scale = exponent_scale(scores);
        std::array::from_fn(|q| self.largest[q] * scale + self.sum[q].ln())
    }

    /// `sums` (e, queries) over the normaliser, turned into `count` rows of `e`, `stride` apart.
    ///
    /// # Safety
    /// `out` is valid for these rows; `sums` holds e rounded up to 16 rows of queries.
    pub(super) unsafe fn finish(&self, sums: &mut [f32], e: usize, count: usize, out: *mut bf16, stride: usize) {
        assert!(sums.len() >= e.next_multiple_of(16) * QUERIES, "attention: sums");
        if !native() {
            // SAFETY: these rows, as the contract says.
            let put = |q: usize, i: usize, x: f32| unsafe { *out.add(q * stride + i) = bf16::from_f32(x) };
            return twin::rows_of(sums, e, count, |q| 1.0 / self.sum[q], put);
        }
        // SAFETY: the instructions are in force.
        unsafe { finish(&self.sum, sums, e, count, out, stride) }
    }
}

/// Lanes of register `c` that see key `k` of a block: bit l is query `16·c + l` of it, see [`Corner::sees`].
#[inline]
fn sees(first: Corner, window: Option<usize>, k: usize, c: usize) -> u16 {
    let (key, query) = (first.key + k, first.query + 16 * c);
    // Lanes before the key, and those up to the last that it is near enough to.
    let before = key.saturating_sub(query).min(16);
    let near = window.map_or(16, |window| key.saturating_add(window).saturating_sub(query).min(16));
    (((1u32 << near) - 1) & (0xffff << before)) as u16
}

#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
fn weigh<const CAPPED: bool>(
    s: Avx512,
    softmax: &mut Softmax,
    scores: &mut [f32],
    weights: &mut [u32],
    first: Corner,
    how: Scores,
    mut sums: Option<&mut [f32]>,
) {
    let (len, scale) = (scores.len() / QUERIES, exponent_scale(how));
    let mut c = 0;
    while c < REGISTERS {
        // SAFETY: every access is to row k < len, or pair of rows, and columns 16·c..16·c + 16 of it.
        unsafe {
            let old = _mm512_loadu_ps(softmax.largest.as_ptr().add(16 * c));
            let largest = cap_and_mask::<CAPPED>(s, scores, old, first, how, c);
            let scale_v = _mm512_set1_ps(scale);
            let shift = _mm512_mul_ps(largest, _mm512_set1_ps(-scale));
            let factor = s.exp_rough(_mm512_fmadd_ps(old, scale_v, shift));
            let mut sum = _mm512_mul_ps(_mm512_loadu_ps(softmax.sum.as_ptr().add(16 * c)), factor);
            let mut k = 0;
            while k < len {
                let at = scores.as_ptr().add(k * QUERIES + 16 * c);
                let low = s.exp_rough(_mm512_fmadd_ps(_mm512_loadu_ps(at), scale_v, shift));
                sum = _mm512_add_ps(sum, low);
                let mut pair = wide(low);
                if k + 1 < len {
                    let high = s.exp_rough(_mm512_fmadd_ps(_mm512_loadu_ps(at.add(QUERIES)), scale_v, shift));
                    sum = _mm512_add_ps(sum, high);
                    pair = _mm512_or_si512(pair, _mm512_slli_epi32::<16>(wide(high)));
                }
                _mm512_storeu_si512(weights.as_mut_ptr().add(k / 2 * QUERIES + 16 * c).cast(), pair);
                k += 2;
            }
            _mm512_storeu_ps(softmax.sum.as_mut_ptr().add(16 * c), sum);
            _mm512_storeu_ps(softmax.largest.as_mut_ptr().add(16 * c), largest);
            if let Some(sums) = sums.as_deref_mut() {
                let rows = sums.len() / QUERIES;
                for row in 0..rows {
                    let at = sums.as_mut_ptr().add(row * QUERIES + 16 * c);
                    _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
                }
            }
        }
        c += 1;
    }
}

/// Caps the raw scores of register `c`, where they are to be, and hides those of keys that a query does not see; returns the
/// largest of each query and `largest`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
fn cap_and_mask<const CAPPED: bool>(
    s: Avx512,
    scores: &mut [f32],
    mut largest: __m512,
    first: Corner,
    how: Scores,
    c: usize,
) -> __m512 {
    let seen_by_all = first.seen_by_all(how.window, 16 * c..16 * (c + 1));
    let [inside, outside] = how.cap.map_or([0.0; 2], |cap| inside_and_outside(cap, how));
    for k in 0..scores.len() / QUERIES {
        // SAFETY: row k exists, and columns 16·c..16·c + 16 of it.
        unsafe {
            let at = scores.as_mut_ptr().add(k * QUERIES + 16 * c);
            let mut score = _mm512_loadu_ps(at);
            if CAPPED {
                score = s.mul(s.tanh(s.mul(score, s.splat(inside))), s.splat(outside));
            }
            let hides = !seen_by_all.contains(&k);
            if hides {
                score = _mm512_mask_mov_ps(_mm512_set1_ps(UNSEEN), sees(first, how.window, k, c), score);
            }
            if CAPPED || hides {
                _mm512_storeu_ps(at, score);
            }
            largest = _mm512_max_ps(largest, score);
        }
    }
    largest
}

/// Sixteen numbers as bf16 in the low halves of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn wide(v: __m512) -> __m512i {
    _mm512_cvtepu16_epi32(narrow(v))
}

/// Sixteen numbers as bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn narrow(v: __m512) -> __m256i {
    // SAFETY: both are 256 bits of plain data.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
}

/// # Safety
/// As [`Softmax::finish`].
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn finish(sum: &[f32; QUERIES], sums: &[f32], e: usize, count: usize, out: *mut bf16, stride: usize) {
    let mut c = 0;
    while c < REGISTERS {
        // SAFETY: sums holds whole sixteens of rows; only rows below count and elements below e are written.
        unsafe {
            let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_loadu_ps(sum.as_ptr().add(16 * c)));
            for e0 in (0..e).step_by(16) {
                let r = sixteen_rows(sums, e0, c, inverse);
                let mut i = 0;
                while i < 16 && 16 * c + i < count {
                    let at = out.add((16 * c + i) * stride + e0);
                    _mm256_mask_storeu_epi16(at.cast(), first(e - e0) as u16, narrow(_mm512_castsi512_ps(r[i])));
                    i += 1;
                }
            }
        }
        c += 1;
    }
}

/// `count` rows of `e` numbers from sums (e, queries), as f32, `stride` apart.
///
/// # Safety
/// `out` is valid for these rows; `sums` holds e rounded up to 16 rows of queries.
pub(super) unsafe fn rows_of(sums: &[f32], e: usize, count: usize, out: *mut f32, stride: usize) {
    assert!(sums.len() >= e.next_multiple_of(16) * QUERIES, "attention: sums");
    // SAFETY: the instructions are in force, or not used; these rows, as the contract says.
    unsafe {
        match native() {
            true => rows_run(sums, e, count, out, stride),
            false => twin::rows_of(sums, e, count, |_| 1.0, |q, i, x| *out.add(q * stride + i) = x),
        }
    }
}

/// # Safety
/// As [`rows_of`].
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn rows_run(sums: &[f32], e: usize, count: usize, out: *mut f32, stride: usize) {
    let mut c = 0;
    while c < REGISTERS {
        for e0 in (0..e).step_by(16) {
            // SAFETY: as in `finish`.
            unsafe {
                let r = sixteen_rows(sums, e0, c, _mm512_set1_ps(1.0));
                let mut i = 0;
                while i < 16 && 16 * c + i < count {
                    let at = out.add((16 * c + i) * stride + e0);
                    _mm512_mask_storeu_ps(at, first(e - e0) as u16, _mm512_castsi512_ps(r[i]));
                    i += 1;
                }
            }
        }
        c += 1;
    }
}

/// Elements `e0..e0 + 16` of the queries of register `c`, times a factor a query, a register a query.
///
/// # Safety
/// `sums` holds sixteen rows of queries from `e0` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn sixteen_rows(sums: &[f32], e0: usize, c: usize, factor: __m512) -> [__m512i; 16] {
    let mut r = [_mm512_setzero_si512(); 16];
    let mut i = 0;
    while i < 16 {
        // SAFETY: as the contract says.
        let row = unsafe { _mm512_loadu_ps(sums.as_ptr().add((e0 + i) * QUERIES + 16 * c)) };
        r[i] = _mm512_castps_si512(_mm512_mul_ps(row, factor));
        i += 1;
    }
    transpose_block(&mut r);
    r
}

/// From raw scores and dp (keys, queries): p = exp(scale · score − normaliser), ds = scale · p · (dp − delta), both zero
/// where a query does not see a key; under a soft cap p is that of the capped score, and ds is times 1 − tanh².
pub(super) fn slopes(scores: &[f32], dp: &[f32], columns: &QueryColumns, first: Corner, how: Scores, out: &mut Slopes) {
    let rows = scores.len() / QUERIES;
    let fits = out.weights.len() >= scores.len() && out.rows.len() >= scores.len();
    assert!(dp.len() >= scores.len() && fits && out.pairs.len() >= rows.div_ceil(2) * QUERIES, "attention: slopes");
    if !native() {
        return twin::slopes(scores, dp, columns, first, how, out);
    }
    // SAFETY: the instructions are in force; sizes were checked above.
    unsafe {
        match how.cap {
            None => slopes_run::<false>(token(), scores, dp, columns, first, how, out),
            Some(_) => slopes_run::<true>(token(), scores, dp, columns, first, how, out),
        }
    }
}

/// # Safety
/// As [`slopes`].
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
unsafe fn slopes_run<const CAPPED: bool>(
    s: Avx512,
    scores: &[f32],
    dp: &[f32],
    columns: &QueryColumns,
    first: Corner,
    how: Scores,
    out: &mut Slopes,
) {
    let (len, scale) = (scores.len() / QUERIES, how.scale as f32);
    let [inside, outside] = how.cap.map_or([0.0; 2], |cap| inside_and_outside(cap, how));
    let mut c = 0;
    while c < REGISTERS {
        let seen_by_all = first.seen_by_all(how.window, 16 * c..16 * (c + 1));
        // SAFETY: every access is to row k < len, or pair of rows, and columns 16·c..16·c + 16 of it.
        unsafe {
            let scale_v = _mm512_set1_ps(scale);
            let normaliser = _mm512_loadu_ps(columns.normaliser.as_ptr().add(16 * c));
            let delta = _mm512_loadu_ps(columns.delta.as_ptr().add(16 * c));
            let mut k = 0;
            while k < len {
                let mut pair = [_mm256_setzero_si256(); 2];
                let mut half = 0;
                while half < 2 && k + half < len {
                    let at = (k + half) * QUERIES + 16 * c;
                    let raw = _mm512_loadu_ps(scores.as_ptr().add(at));
                    let (exponent, slope) = if CAPPED {
                        let tanh = s.tanh(s.mul(raw, s.splat(inside)));
                        let slope = s.mul(scale_v, s.sub(s.splat(1.0), s.mul(tanh, tanh)));
                        (_mm512_fmsub_ps(tanh, s.splat(outside), normaliser), slope)
                    } else {
                        (_mm512_fmsub_ps(raw, scale_v, normaliser), scale_v)
                    };
                    let mut p = s.exp_rough(exponent);
                    if !seen_by_all.contains(&(k + half)) {
                        p = _mm512_maskz_mov_ps(sees(first, how.window, k + half, c), p);
                    }
                    let difference = _mm512_sub_ps(_mm512_loadu_ps(dp.as_ptr().add(at)), delta);
                    pair[half] = narrow(_mm512_mul_ps(_mm512_mul_ps(p, slope), difference));
                    _mm256_storeu_si256(out.weights.as_mut_ptr().add(at).cast(), narrow(p));
                    _mm256_storeu_si256(out.rows.as_mut_ptr().add(at).cast(), pair[half]);
                    half += 1;
                }
                let (low, high) = (_mm512_cvtepu16_epi32(pair[0]), _mm512_cvtepu16_epi32(pair[1]));
                let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                _mm512_storeu_si512(out.pairs.as_mut_ptr().add(k / 2 * QUERIES + 16 * c).cast(), both);
                k += 2;
            }
        }
        c += 1;
    }
}

/// Transposes `count ≤ 16` of sixteen rows of `e` pairs: `out[i · stride + p] = rows[p · e + i]`; e is a multiple of 16.
pub(super) fn turn(rows: &[u32], e: usize, count: usize, out: &mut [u32], stride: usize) {
    assert!(rows.len() >= 16 * e && e.is_multiple_of(16) && out.len() >= (e - 1) * stride + count, "attention: turn");
    if !native() {
        return twin::turn(rows, e, count, out, stride);
    }
    // SAFETY: the instructions are in force; sizes were checked above.
    unsafe { turn_run(rows, e, count, out, stride) }
}

/// # Safety
/// As [`turn`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn turn_run(rows: &[u32], e: usize, count: usize, out: &mut [u32], stride: usize) {
    let mask = first(count) as u16;
    for e0 in (0..e).step_by(16) {
        let mut r = [_mm512_setzero_si512(); 16];
        let mut p = 0;
        while p < 16 {
            // SAFETY: sixteen rows of e pairs.
            r[p] = unsafe { _mm512_loadu_si512(rows.as_ptr().add(p * e + e0).cast()) };
            p += 1;
        }
        transpose_block(&mut r);
        let mut i = 0;
        while i < 16 {
            // SAFETY: the mask keeps to the pairs that exist.
            unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().add((e0 + i) * stride).cast(), mask, r[i]) };
            i += 1;
        }
    }
}

/// Σ a ∘ b of each pair of rows.
pub(super) fn deltas<'a>(rows: impl Fn(usize) -> (&'a [bf16], &'a [bf16]), out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let (a, b) = rows(i);
        // SAFETY: the instructions are in force where they are used.
        *out = if native() { unsafe { dot_run(token(), a, b) } } else { twin::dot(a, b) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn dot_run(s: Avx512, a: &[bf16], b: &[bf16]) -> f32 {
    let mut sum = s.splat(0.0);
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        sum = s.mul_add(s.load_half(a), s.load_half(b), sum);
    }
    s.sum(sum)
}
