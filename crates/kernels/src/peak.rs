//! The machine's own limits, against which products are judged: multiply-adds a second, and bytes read a second.
//!
//! Measured apart from the kernels, so that a slow kernel does not lower the bar. Refuses to know: matrices of a model.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::cpu::{Level, level};
use crate::device::Compute;

/// Time spent on one measurement.
const SPEND: Duration = Duration::from_millis(200);

/// What bf16 products can reach, GFLOP/s of all threads at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bf16 {
    /// One tile over and over, from the first-level cache: the instructions' own limit.
    pub tile: f64,
    /// A whole product of 512 rows with a matrix that was packed beforehand: what is left of the limit once operands and
    /// results come from and go to the caches. The best rate of a matrix product on this machine.
    pub product: f64,
}

/// `None` where products are not computed with bf16 instructions.
pub fn bf16_gflops(compute: Compute) -> Option<Bf16> {
    let native = compute != Compute::F32 && level() == Level::Avx512Bf16;
    #[cfg(target_arch = "x86_64")]
    if native {
        return Some(Bf16 { tile: tiles::gflops(), product: packed::gflops() });
    }
    debug_assert!(!native, "bf16 instructions are x86's here");
    None
}

#[cfg(target_arch = "x86_64")]
mod packed {
    use super::super::tile_bf16::{Into, Operands, TileOutput, stripe};

    const ROWS: usize = 512;
    /// Pairs along the sum: a width of 576.
    const PAIRS: usize = 288;
    /// Panels of a thread, 48 columns each.
    const PANELS: usize = 6;

    pub(super) fn gflops() -> f64 {
        let a = vec![0x3c00_3c00u32; ROWS * PAIRS];
        let threads = rayon::current_num_threads();
        let flops = (2 * ROWS * 2 * PAIRS * 48 * PANELS * threads) as f64;
        let scratch: Vec<_> =
            (0..threads).map(|_| (vec![0x3f80_3f80u32; PANELS * PAIRS * 48], vec![0f32; ROWS * PANELS * 48])).collect();
        let scratch: Vec<_> = scratch.into_iter().map(std::sync::Mutex::new).collect();
        let best = super::best(|| {
            rayon::broadcast(|context| {
                // Each thread has its own; a lock that a panic poisoned still holds the numbers.
                let mut scratch = scratch[context.index()].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (panels, out) = &mut *scratch;
                for (at, panel) in panels.chunks_exact(PAIRS * 48).enumerate() {
                    let operands = Operands { a: a.as_ptr(), lda: PAIRS, panel: panel.as_ptr(), pairs: PAIRS };
                    let c = out[at * 48..].as_mut_ptr();
                    // SAFETY: AVX-512 BF16 was detected by the caller; sizes are those of the vectors above.
                    unsafe {
                        stripe(ROWS, operands, Operands::NONE, TileOutput { c, ldc: PANELS * 48, width: 48, how: Into::Set })
                    }
                }
            });
        });
        flops / best / 1e9
    }
}

/// Best time of `run` within [`SPEND`], at least five runs, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    let (began, mut runs, mut best) = (Instant::now(), 0, f64::INFINITY);
    while runs < 5 || began.elapsed() < SPEND {
        let started = Instant::now();
        run();
        best = best.min(started.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Memory larger than any cache, to be read through.
pub struct StreamedMemory(Vec<u64>);

impl Default for StreamedMemory {
    fn default() -> StreamedMemory {
        const BYTES: usize = 256 << 20;
        // Written once, so that every page is there.
        StreamedMemory((0..BYTES as u64 / 8).collect())
    }
}

impl StreamedMemory {
    /// Reads all of it; whatever was in the caches is in them no more.
    pub fn read(&self) {
        use rayon::prelude::*;
        const TASK: usize = 1 << 16;
        let sum = |part: &[u64]| part.iter().fold(0u64, |sum, v| sum.wrapping_add(*v));
        black_box(self.0.par_chunks(TASK).map(sum).reduce(|| 0, u64::wrapping_add));
    }

    /// Bytes a second, in GB/s (10^9), all threads reading.
    pub fn gb_s(&self) -> f64 {
        (self.0.len() * 8) as f64 / best(|| self.read()) / 1e9
    }
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Rows and registers of a tile: 24 sums, 3 columns and a broadcast row are 28 of 32 registers.
    const ROWS: usize = 8;
    const REGISTERS: usize = 3;
    /// Pairs along the sum: the panel is 18 KiB.
    const PAIRS: usize = 96;
    /// Tiles of one timed run: about a millisecond.
    const TILES: usize = 4000;

    pub(super) fn gflops() -> f64 {
        let panel = vec![0x3f80_3f80u32; PAIRS * REGISTERS * 16];
        let rows = vec![0x3c00_3c00u32; ROWS * PAIRS];
        let flops = (2 * 2 * PAIRS * ROWS * REGISTERS * 16 * TILES * rayon::current_num_threads()) as f64;
        let best = super::best(|| {
            rayon::broadcast(|_| {
                for _ in 0..TILES {
                    // SAFETY: AVX-512 BF16 was detected by the caller; the slices are as long as the tile reads.
                    black_box(unsafe { tile(black_box(&rows), black_box(&panel)) });
                }
            });
        });
        flops / best / 1e9
    }

    /// Sum of all elements of `rows (ROWS, 2·PAIRS) · panel (2·PAIRS, 48)`.
    ///
    /// # Safety
    /// Requires AVX-512 F and BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn tile(rows: &[u32], panel: &[u32]) -> f32 {
        assert!(rows.len() == ROWS * PAIRS && panel.len() == PAIRS * REGISTERS * 16);
        let (a, w) = (rows.as_ptr(), panel.as_ptr());
        let mut sums = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        let mut p = 0;
        while p < PAIRS {
            // SAFETY: the assertion bounds row p of the panel and element p of every row.
            unsafe {
                let at = w.add(p * REGISTERS * 16);
                let w0 = bf16(_mm512_loadu_si512(at.cast()));
                let w1 = bf16(_mm512_loadu_si512(at.add(16).cast()));
                let w2 = bf16(_mm512_loadu_si512(at.add(32).cast()));
                let mut i = 0;
                while i < ROWS {
                    let b = bf16(_mm512_set1_epi32((*a.add(i * PAIRS + p)).cast_signed()));
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], b, w0);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], b, w1);
                    sums[i][2] = _mm512_dpbf16_ps(sums[i][2], b, w2);
                    i += 1;
                }
            }
            p += 1;
        }
        let mut all = _mm512_setzero_ps();
        let mut i = 0;
        while i < ROWS {
            all = _mm512_add_ps(all, _mm512_add_ps(sums[i][0], _mm512_add_ps(sums[i][1], sums[i][2])));
            i += 1;
        }
        _mm512_reduce_add_ps(all)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16(v: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits of plain data.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(v) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_tile_is_a_product() {
            if crate::cpu::lacks_bf16("the tile is a product") {
                return;
            }
            let rows: Vec<u32> = (0..ROWS * PAIRS).map(|i| u32::from(half::bf16::from_f32((i % 5) as f32).to_bits())).collect();
            let panel: Vec<u32> = (0..PAIRS * 48).map(|i| u32::from(half::bf16::from_f32((i % 3) as f32).to_bits())).collect();
            let want: usize = (0..ROWS)
                .flat_map(|i| (0..PAIRS).map(move |p| (i * PAIRS + p) % 5 * (0..48).map(|j| (p * 48 + j) % 3).sum::<usize>()))
                .sum();
            // SAFETY: the level was checked above.
            assert_eq!(unsafe { tile(&rows, &panel) }, want as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_has_no_bf16_limit() {
        assert_eq!(bf16_gflops(Compute::F32), None);
    }
}
