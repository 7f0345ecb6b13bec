//! `x·Wᵀ` for a few rows of x, as decoding makes them: bound by reading `W`, which is read once (once for every 16 rows of x,
//! where these are not whole numbers), in the order of the file, several rows at a time, the rows to come fetched ahead.
//!
//! Work is split by rows of `W` in pieces whose size depends on `W` alone, and every result is summed in one order
//! whatever else is in the call: the number of threads changes nothing, and neither does the number of rows of x.
//! Refuses to know: tensors, models.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `lanes`, `expand`, `unpack` | rows of f32; GGUF blocks as whole numbers in bf16, in i16 |
//! | 1 | `pair`, `bf16`, `int16`, `vnni` | the low-rank delta; rows of bf16, of whole numbers, of these in bytes |

mod lanes;
mod pair;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod expand;
#[cfg(target_arch = "x86_64")]
mod int16;
#[cfg(target_arch = "x86_64")]
mod unpack;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(test)]
mod tests;

pub(super) use pair::{narrow, widen};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::cpu;
use super::host::SharedOutput;
use super::simd::Lanes;
use super::weight::{RowOrder, Weight, WeightType, tiled};

/// Rows of x that go through `W` together at most; where they are whole numbers, all of them do.
const MOST: usize = 16;
/// Bytes of `W` that one task reads at most, about.
const TASK: usize = 64 * 1024;
/// Bytes between what is read and what is fetched ahead, at least.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 16 * 1024;
/// Rows of `W` of a task are a multiple of this (but for the last).
const TOGETHER: usize = 16;

/// `y (m, n) (+)= x (m, k) · Wᵀ` for any number of rows; `rounded` lets x be rounded to what this processor multiplies faster
/// than f32: to 2⁻¹⁶ of the largest of 32 beside blocks (AVX2; with AVX-512 VNNI those that `vnni` takes), to bf16 beside others and
/// bf16 (AVX-512 BF16).
pub(super) fn product(x: &[f32], m: usize, w: &Weight, rounded: bool, y: &mut [f32], add: bool) {
    assert!(x.len() == m * w.cols && y.len() == m * w.rows, "a few rows: shapes disagree");
    if x.is_empty() || y.is_empty() {
        return if !add {
            y.fill(0.0)
        };
    }
    #[cfg(target_arch = "x86_64")]
    if rounded && int16::takes(w.dtype) {
        return int16::product(x, &SkinnyOutput { out: SharedOutput(y.as_mut_ptr()), m, w, add });
    }
    #[cfg(target_arch = "x86_64")]
    if rounded && vnni::takes(w.dtype) {
        return vnni::product(x, &SkinnyOutput { out: SharedOutput(y.as_mut_ptr()), m, w, add });
    }
    for (x, y) in x.chunks(MOST * w.cols).zip(y.chunks_mut(MOST * w.rows)) {
        let to = SkinnyOutput { out: SharedOutput(y.as_mut_ptr()), m: y.len() / w.rows, w, add };
        #[cfg(target_arch = "x86_64")]
        if rounded && cpu::level() == cpu::Level::Avx512Bf16 && !matches!(w.dtype, WeightType::F32 | WeightType::F16) {
            rounded::product(x, &to);
            continue;
        }
        let _ = rounded;
        with_lanes(Lanes::in_force(), x, &to);
    }
}

/// Where results go: row `j` of `W` (in our order) with row `i` of x to element (i, j).
struct SkinnyOutput<'a> {
    out: SharedOutput,
    m: usize,
    w: &'a Weight,
    add: bool,
}

impl SkinnyOutput<'_> {
    /// Our row of row `file_row` of the file: what [`Weight::file_row`] undoes.
    fn our_row(&self, file_row: usize) -> usize {
        match self.w.order {
            RowOrder::Plain => file_row,
            RowOrder::Interleaved { heads } => {
                let dh = self.w.rows / heads;
                let (head, inner) = (file_row / dh, file_row % dh);
                head * dh + inner % 2 * (dh / 2) + inner / 2
            }
            RowOrder::InTurn => {
                let half = self.w.rows / 2;
                2 * (file_row % half) + file_row / half
            }
            RowOrder::Tiled { first, groups, size } => match file_row.checked_sub(first) {
                None => file_row,
                Some(at) => first + tiled(at, [self.w.each(first, groups, size), groups], size),
            },
        }
    }

    /// What row `file_row` gives with the rows of x from `first` on; each row of the file is put once.
    fn put(&self, file_row: usize, first: usize, sums: &[f32]) {
        let j = self.our_row(file_row);
        for (i, sum) in (first..self.m).zip(sums) {
            // SAFETY: the output holds m × rows elements, and those of this row belong to the task that reads it.
            unsafe {
                let at = { self.out }.0.add(i * self.w.rows + j);
                *at = if self.add { *at + sum } else { *sum };
            }
        }
    }

    /// What the rows `file_rows` give with each row of x from `first` on, eight to an array; each row of the file is put once.
    #[cfg(target_arch = "x86_64")]
    fn put_lanes<const N: usize>(&self, file_rows: std::ops::Range<usize>, first: usize, sums: &[[[f32; 8]; N]]) {
        let mut to = [0; 16];
        to.iter_mut().zip(file_rows.clone()).for_each(|(to, row)| *to = self.our_row(row));
        for (i, sums) in (first..self.m).zip(sums) {
            for (j, sum) in to[..file_rows.len()].iter().zip(sums.as_flattened()) {
                // SAFETY: as for `put`.
                unsafe {
                    let at = { self.out }.0.add(i * self.w.rows + j);
                    *at = if self.add { *at + sum } else { *sum };
                }
            }
        }
    }

    /// Bytes of a row.
    fn stride(&self) -> usize {
        self.w.cols / self.w.dtype.block() * self.w.dtype.block_bytes()
    }

    /// Runs `f` on every task's rows of the file, which lie one after another.
    fn tasks<T>(&self, scratch: impl Fn() -> T + Sync + Send, f: impl Fn(&mut T, std::ops::Range<usize>) + Sync + Send) {
        let pieces = self.w.pieces();
        let n = self.w.rows / pieces;
        // Two to a power: any number of threads that is such a power gets equal shares.
        let parts = (n * self.stride()).div_ceil(TASK).next_power_of_two();
        let rows = n.div_ceil(parts).next_multiple_of(TOGETHER);
        let tasks = n.div_ceil(rows);
        (0..pieces * tasks).into_par_iter().for_each_init(scratch, |scratch, t| {
            let (first, t) = (t / tasks * n, t % tasks);
            f(scratch, first + t * rows..first + ((t + 1) * rows).min(n));
        });
    }

    /// The bytes from row `file_row` on that lie together.
    fn bytes(&self, file_row: usize) -> &[u8] {
        let (bytes, row) = self.w.holder(file_row);
        &bytes[row * self.stride()..self.w.rows / self.w.pieces() * self.stride()]
    }
}

fn with_lanes(level: Lanes, x: &[f32], to: &SkinnyOutput) {
    to.tasks(Vec::new, |decoded, rows| lanes::rows(level, x, to, rows, decoded));
}

/// The bf16 path: number of rows and type of the blocks become constants.
#[cfg(target_arch = "x86_64")]
mod rounded {
    use super::bf16::{Bf16Rows, Sums, floats, quantised};
    use super::expand::{self, BlockFormat, Scales};
    use super::{AHEAD, SkinnyOutput, WeightType};

    /// `R` rows of `W`, their strides apart, with `M` rows of x.
    type RunKernel<const R: usize, const M: usize> =
        unsafe fn([*const u8; R], usize, usize, &Bf16Rows, &mut Scales) -> Sums<R, M>;

    pub(super) fn product(x: &[f32], to: &SkinnyOutput) {
        match to.w.dtype {
            WeightType::Q4_0 => blocks::<expand::Q4_0>(x, to),
            WeightType::Q4_1 => blocks::<expand::Q4_1>(x, to),
            WeightType::Q5_0 => blocks::<expand::Q5_0>(x, to),
            WeightType::Q5_1 => blocks::<expand::Q5_1>(x, to),
            WeightType::Q8_0 => blocks::<expand::Q8_0>(x, to),
            WeightType::Q4K => blocks::<expand::Q4K>(x, to),
            WeightType::Q5K => blocks::<expand::Q5K>(x, to),
            WeightType::Q6K => blocks::<expand::Q6K>(x, to),
            WeightType::Mxfp4 => blocks::<expand::Mxfp4>(x, to),
            WeightType::BF16 => plain(x, to),
            WeightType::F32 | WeightType::F16 => unreachable!("the caller multiplies these in f32"),
        }
    }

    /// Rows of x and of `W` at once: sums for as many as there are registers, few loads a multiplication.
    fn plain(x: &[f32], to: &SkinnyOutput) {
        let x = |height| Bf16Rows::each(x, to.w.cols, height, &expand::in_order());
        match to.m {
            1 => each::<8, 1>(&x(1), to, float_rows, float_rows),
            2 => each::<8, 2>(&x(2), to, float_rows, float_rows),
            3 => each::<4, 3>(&x(3), to, float_rows, float_rows),
            4 | 7 | 8 | 13.. => each::<4, 4>(&x(4), to, float_rows, float_rows),
            5 => each::<4, 5>(&x(5), to, float_rows, float_rows),
            6 | 9..=12 => each::<4, 6>(&x(6), to, float_rows, float_rows),
            0 => {}
        }
    }

    fn blocks<F: BlockFormat>(x: &[f32], to: &SkinnyOutput) {
        let x = |height| Bf16Rows::each(x, to.w.cols, height, &F::ORDER);
        match to.m {
            0 => {}
            1 => each::<8, 1>(&x(1), to, quantised::<F, 8, 1>, quantised::<F, 1, 1>),
            2 => each::<8, 2>(&x(2), to, quantised::<F, 8, 2>, quantised::<F, 1, 2>),
            3 | 4 => each::<4, 4>(&x(4), to, quantised::<F, 4, 4>, quantised::<F, 1, 4>),
            5 | 6 | 9..=12 => each::<2, 6>(&x(6), to, quantised::<F, 2, 6>, quantised::<F, 1, 6>),
            _ => each::<2, 8>(&x(8), to, quantised::<F, 2, 8>, quantised::<F, 1, 8>),
        }
    }

    /// [`floats`] as a [`RunKernel`].
    ///
    /// # Safety
    /// As [`floats`].
    unsafe fn float_rows<const R: usize, const M: usize>(
        rows: [*const u8; R],
        k: usize,
        ahead: usize,
        x: &Bf16Rows,
        _: &mut Scales,
    ) -> Sums<R, M> {
        // SAFETY: as the contract says.
        unsafe { floats(rows, k, ahead, x) }
    }

    /// All of `x`, `M` rows of it after another while the rows of `W` are in the first-level cache.
    fn each<const R: usize, const M: usize>(x: &[Bf16Rows], to: &SkinnyOutput, run: RunKernel<R, M>, one: RunKernel<1, M>) {
        let (k, stride) = (to.w.cols, to.stride());
        let ahead = (R * stride).max(AHEAD);
        to.tasks(Scales::default, |scratch, rows| {
            let mut row = rows.start;
            while row < rows.end {
                let together = if rows.end - row >= R { R } else { 1 };
                let at = to.bytes(row)[..together * stride].as_ptr();
                for (part, x) in x.iter().enumerate() {
                    // SAFETY: AVX-512 BF16 was found by whoever made the matrix one of bf16 products; the slice holds
                    // these whole rows of k elements, and quantised rows are whole blocks.
                    unsafe {
                        if together == R {
                            let each = std::array::from_fn(|r| at.wrapping_add(r * stride));
                            let sums = run(each, k, ahead, x, scratch);
                            sums.iter().enumerate().for_each(|(r, sums)| to.put(row + r, part * M, sums));
                        } else {
                            to.put(row, part * M, &one([at], k, ahead, x, scratch)[0]);
                        }
                    }
                }
                row += together;
            }
        });
    }
}
