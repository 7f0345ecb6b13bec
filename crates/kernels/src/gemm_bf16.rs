//! Products with frozen matrices in bf16 (f32 sums) on CPUs with AVX-512 BF16.
//!
//! A matrix stays as it lies in the file. Panels of 48 of its rows (for `x·Wᵀ`) or columns (for `dy·W`) are packed as they
//! are needed and multiplied tile by tile. Work is split by panels, each summed in a fixed order by one task, so the
//! result does not depend on the number of threads. A low-rank delta `h·Eᵀ` joins the sum of the base product for free:
//! its few pairs are more of the same tile.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use half::bf16;
use rayon::prelude::*;

use super::host::SharedOutput;
use super::panel::{self, NR, Scratch};
use super::simd::first;
use super::tile_bf16::{Into, Operands, TileOutput, as_bf16, stripe};
use super::twin_bf16;
use super::weight::Weight;

/// Rows of `W` in one panel of `dy·W`: 48 × 1024 pairs of bf16 stay inside a core's second-level cache.
const DEPTH: usize = 2048;

/// A matrix of bf16, row by row; `width` is even.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bf16Matrix<'a> {
    pub data: &'a [bf16],
    pub width: usize,
}

/// Rows of a tile.
const TILE: usize = 8;
/// Columns that one task of `dy·W` packs: of each row it reads a run long enough for the memory to be fast.
const WIDE: usize = 2 * NR;

impl Bf16Matrix<'_> {
    pub(super) fn rows(self) -> usize {
        self.data.len() / self.width
    }

    fn operands(self, from: usize, panel: &[u32], pairs: usize) -> Operands {
        assert!(self.width.is_multiple_of(2) && from + 2 * pairs <= self.width && panel.len() >= pairs * NR, "operands");
        Operands { a: self.data[from..].as_ptr().cast(), lda: self.width / 2, panel: panel.as_ptr(), pairs }
    }
}

/// A low-rank delta of a product: `h (m, r) · eᵀ`, `e (columns of the product, r)`, r even.
#[derive(Debug, Clone, Copy)]
pub(super) struct LowRankDelta<'a> {
    pub h: &'a [bf16],
    pub e: &'a [bf16],
    pub rank: usize,
}

/// `a · Wᵀ` or `a · W`, and a low-rank delta.
#[derive(Debug, Clone, Copy)]
pub(super) struct GemmJob<'a> {
    pub a: Bf16Matrix<'a>,
    pub w: &'a Weight,
    pub transposed: bool,
    pub delta: Option<LowRankDelta<'a>>,
}

/// Where a product goes: all of it, row by row.
#[derive(Debug)]
pub(super) enum ProductTarget<'a> {
    Set(&'a mut [f32]),
    Add(&'a mut [f32]),
    Half(&'a mut [bf16]),
}

impl ProductTarget<'_> {
    fn parts(&mut self) -> (SharedOutput, usize, Into) {
        match self {
            ProductTarget::Set(y) => (SharedOutput(y.as_mut_ptr()), y.len(), Into::Set),
            ProductTarget::Add(y) => (SharedOutput(y.as_mut_ptr()), y.len(), Into::Add),
            ProductTarget::Half(y) => (SharedOutput(y.as_mut_ptr().cast()), y.len(), Into::Half),
        }
    }
}

impl GemmJob<'_> {
    fn columns(&self) -> usize {
        if self.transposed { self.w.rows } else { self.w.cols }
    }

    /// Length of the sum.
    fn depth(&self) -> usize {
        if self.transposed { self.w.cols } else { self.w.rows }
    }

    /// Columns that one task makes: whole panels, and whole blocks of a quantised type.
    fn step(&self) -> usize {
        if self.transposed { NR } else { lcm(WIDE, self.w.dtype.block()) }
    }
}

/// What a task packs into.
#[derive(Default)]
pub(super) struct GemmScratch {
    panels: Vec<u32>,
    delta: Vec<u32>,
    scratch: Scratch,
}

/// What the next task will most likely read of its matrix: fetched into the cache while this one computes, a few lines
/// with every tile. Memory then works all the time, not only between the tiles.
struct Ahead {
    /// First byte of the first row; only ever a hint to the processor.
    row: *const u8,
    stride: usize,
    rows: usize,
    bytes: usize,
    at: usize,
}

impl Ahead {
    const LINE: usize = 64;

    fn new(w: &Weight, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Ahead {
        let byte = |column: usize| column / w.dtype.block() * w.dtype.block_bytes();
        let (stride, bytes) = (byte(w.cols), byte(columns.end) - byte(columns.start));
        let row = w.data.bytes().as_ptr().wrapping_add(rows.start * stride + byte(columns.start));
        Ahead { row, stride, rows: if bytes == 0 { 0 } else { rows.len() }, bytes, at: 0 }
    }

    /// Lines left.
    fn left(&self) -> usize {
        self.rows * self.bytes.div_ceil(Self::LINE)
    }

    /// Asks for `lines` more.
    fn fetch(&mut self, lines: usize) {
        for _ in 0..lines {
            if self.rows == 0 {
                return;
            }
            // SAFETY: a hint that reads nothing; AVX-512 implies SSE.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.row.wrapping_add(self.at).cast()) };
            self.at += Self::LINE;
            if self.at >= self.bytes {
                self.rows -= 1;
                self.row = self.row.wrapping_add(self.stride);
                self.at = 0;
            }
        }
    }
}

/// Each job into a target of its own, all at once.
pub(super) fn each(jobs: &[GemmJob], targets: &mut [ProductTarget]) {
    let parts: Vec<(SharedOutput, usize, Into)> = targets.iter_mut().map(ProductTarget::parts).collect();
    let mut tasks = Vec::new();
    for (at, (job, (_, len, _))) in jobs.iter().zip(&parts).enumerate() {
        assert!(job.a.width == job.depth().next_multiple_of(2) && *len == job.a.rows() * job.columns(), "product: shapes");
        tasks.extend((0..job.columns()).step_by(job.step()).map(|c0| (at, c0)));
    }
    tasks.into_par_iter().for_each_init(GemmScratch::default, |scratch, (at, c0)| {
        let (job, (out, _, how)) = (&jobs[at], parts[at]);
        // SAFETY: AVX-512 BF16 was detected by the caller of this module; the target holds rows × columns, and the columns
        // from c0 on of this job are this task's own.
        unsafe { columns(job, c0, job.step().min(job.columns() - c0), out, how, scratch) }
    });
}

/// The sum of all jobs (of one shape of result) into one target.
pub(super) fn sum(jobs: &[GemmJob], target: &mut ProductTarget) {
    let Some(first) = jobs.first() else { return };
    let (out, len, how) = target.parts();
    let (rows, width) = (first.a.rows(), first.columns());
    for job in jobs {
        assert!(
            job.a.width == job.depth().next_multiple_of(2) && job.a.rows() == rows && job.columns() == width,
            "product: shapes"
        );
    }
    assert!(len == rows * width && (jobs.len() == 1 || how != Into::Half), "product: shapes");
    let step = jobs.iter().map(GemmJob::step).fold(1, lcm);
    (0..width.div_ceil(step)).into_par_iter().for_each_init(GemmScratch::default, |scratch, task| {
        let c0 = task * step;
        for (i, job) in jobs.iter().enumerate() {
            let how = if i > 0 { Into::Add } else { how };
            // SAFETY: as in `each`.
            unsafe { columns(job, c0, step.min(width - c0), out, how, scratch) }
        }
    });
}

/// One job on this thread.
pub(super) fn here(job: &GemmJob, target: &mut ProductTarget, scratch: &mut GemmScratch) {
    let (out, len, how) = target.parts();
    assert!(job.a.width == job.depth().next_multiple_of(2) && len == job.a.rows() * job.columns(), "product: shapes");
    for c0 in (0..job.columns()).step_by(job.step()) {
        // SAFETY: as in `each`; the target is borrowed exclusively.
        unsafe { columns(job, c0, job.step().min(job.columns() - c0), out, how, scratch) }
    }
}

/// `x · W[row]` for one row of x, of even length.
pub(super) fn row_dot(x: &[bf16], w: &Weight, row: usize, scratch: &mut Scratch) -> f32 {
    assert!(x.len() == w.cols && x.len().is_multiple_of(2), "row product: shapes");
    let row = scratch.whole_row(w, row).cast::<u32>();
    // SAFETY: both hold whole pairs.
    unsafe { dot(x.as_ptr().cast(), row, x.len() / 2) }
}

/// Columns `c0..c0 + width` of one product.
///
/// # Safety
/// Requires AVX-512 BF16; the output holds rows × columns of the job, and nobody else touches these columns.
unsafe fn columns(job: &GemmJob, c0: usize, width: usize, out: SharedOutput, how: Into, scratch: &mut GemmScratch) {
    let (m, ldc) = (job.a.rows(), job.columns());
    let whole = job.depth();
    // bf16 results are stored once: their sum is not cut.
    let depth = if job.transposed || how == Into::Half { whole } else { DEPTH.min(whole) };
    let count = width.div_ceil(NR);
    scratch.panels.resize(scratch.panels.len().max(depth.div_ceil(2) * NR * count), 0);
    let next = c0 + width..(c0 + 2 * width).min(ldc);
    let mut ahead = match job.transposed {
        true => Ahead::new(job.w, next, 0..whole),
        false => Ahead::new(job.w, 0..whole, next),
    };
    let lines = ahead.left().div_ceil((count * m.div_ceil(TILE) * whole.div_ceil(depth.max(1))).max(1));
    for d0 in (0..whole).step_by(depth.max(1)) {
        let cut = depth.min(whole - d0);
        let pairs = cut.div_ceil(2);
        match job.transposed {
            true => panel::pack_rows(job.w, c0, &mut scratch.panels, &mut scratch.scratch),
            false => panel::pack_columns(job.w, d0..d0 + cut, c0..c0 + width, &mut scratch.panels, &mut scratch.scratch),
        }
        for j in 0..count {
            let column = c0 + j * NR;
            let first = job.a.operands(d0, &scratch.panels[j * pairs * NR..], pairs);
            let second = match job.delta.filter(|_| d0 == 0) {
                Some(delta) => delta.operands(column, m, &mut scratch.delta),
                None => Operands::NONE,
            };
            let c = if how == Into::Half { out.0.cast::<u16>().wrapping_add(column).cast() } else { out.0.wrapping_add(column) };
            let how = if d0 > 0 { Into::Add } else { how };
            let output = TileOutput { c, ldc, width: NR.min(width - j * NR), how };
            for i in (0..m).step_by(TILE) {
                // SAFETY: the operands were checked against their slices; the output is as the contract says.
                unsafe { stripe(TILE.min(m - i), first.row(i), second.row(i), output.row(i)) }
                ahead.fetch(lines);
            }
        }
    }
}

impl LowRankDelta<'_> {
    /// Columns `column..column + NR` of the delta.
    fn operands(&self, column: usize, m: usize, scratch: &mut Vec<u32>) -> Operands {
        let (r, pairs) = (self.rank, self.rank / 2);
        assert!(r.is_multiple_of(2) && self.h.len() == m * r, "low-rank delta: shapes");
        scratch.resize(scratch.len().max(pairs * NR), 0);
        let rows = self.e.len() / r;
        let row = |j: usize| self.e.get((column + j) * r..(column + j + 1) * r).map_or(std::ptr::null(), <[bf16]>::as_ptr);
        debug_assert!(column < rows, "a column of the product");
        // SAFETY: AVX-512 was detected by the caller of this module; each row is null or a whole row of e.
        unsafe { panel::columns_from_rows(row, NR, pairs, scratch) };
        Operands { a: self.h.as_ptr().cast(), lda: pairs, panel: scratch.as_ptr(), pairs }
    }
}

/// `y (+)= x · Wᵀ` (`transposed`) or `x · W` for `m` rows of f32. Requires AVX-512 BF16.
pub(super) fn product(x: &[f32], m: usize, w: &Weight, transposed: bool, y: &mut [f32], add: bool) {
    let k = if transposed { w.cols } else { w.rows };
    assert!(x.len() == m * k, "product: shapes");
    let a = rounded(x, m, k);
    let a = Bf16Matrix { data: &a, width: k.next_multiple_of(2) };
    sum(&[GemmJob { a, w, transposed, delta: None }], &mut if add { ProductTarget::Add(y) } else { ProductTarget::Set(y) });
}

/// `x (m, k)` rounded to bf16, rows padded with zero to an even width.
fn rounded(x: &[f32], m: usize, k: usize) -> Vec<bf16> {
    const ROWS: usize = 16;
    let width = k.next_multiple_of(2);
    let mut a = vec![bf16::ZERO; m * width];
    a.par_chunks_mut((width * ROWS).max(1)).zip(x.par_chunks((k * ROWS).max(1))).for_each(|(a, x)| {
        for (a, x) in a.chunks_exact_mut(width).zip(x.chunks_exact(k)) {
            panel::round(x, &mut a[..k]);
        }
    });
    a
}

/// Dot product of `kp` bf16 pairs.
///
/// # Safety
/// Both point at `kp` pairs, at any alignment.
unsafe fn dot(a: *const u32, b: *const u32, kp: usize) -> f32 {
    // SAFETY: the instructions are in force, or not used; both hold the pairs.
    unsafe { if twin_bf16::native() { dot_run(a, b, kp) } else { twin_bf16::dot(a, b, kp) } }
}

/// # Safety
/// Requires AVX-512 BF16; both point at `kp` pairs, at any alignment.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw")]
unsafe fn dot_run(a: *const u32, b: *const u32, kp: usize) -> f32 {
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
            let mask = first(left) as u16;
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
