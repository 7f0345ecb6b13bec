//! GGUF blocks as whole numbers in i16, 32 at a time, and their scales (layouts: `kernels::blocks`), for AVX2.
//!
//! Refuses to know: products, rows of x.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use crate::quantized::half_scale;

/// Elements that share a scale.
pub(super) const GROUP: usize = 32;

/// Rows of `W` side by side: 32-bit lanes.
pub(super) const SIDE: usize = 8;

/// A block type: element = scale · number + added · offset, where number is what [`IntFormat::group`] gives.
pub(super) trait IntFormat {
    /// Elements and bytes of a block.
    const BLOCK: usize = 32;
    const BYTES: usize;
    /// What [`IntFormat::scales`] adds is multiplied with; 0 where nothing is added.
    const OFFSET: f32 = 0.0;
    /// Parts of a group with a scale of their own: 1, or 2 where nothing is added.
    const PARTS: usize = 1;

    /// The numbers of group `g` of a block, in order. 32 products of them with i16 fit an i32.
    ///
    /// # Safety
    /// Requires AVX2, FMA and F16C, as all functions here; `block` points at a whole block.
    unsafe fn group(block: *const u8, g: usize) -> [__m256i; 2];

    /// The scales of group `g` of eight blocks and what is added; of two parts, their scales.
    ///
    /// # Safety
    /// `blocks` point at whole blocks.
    unsafe fn scales(blocks: &[*const u8; SIDE], g: usize) -> [__m256; 2];
}

/// Group `g` of eight blocks: their numbers in pairs, a block in each lane.
///
/// # Safety
/// As [`IntFormat::group`] for each block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn side_by_side<F: IntFormat>(blocks: &[*const u8; SIDE], g: usize) -> [__m256i; GROUP / 2] {
    let mut rows = [[_mm256_setzero_si256(); SIDE]; 2];
    for (r, block) in blocks.iter().enumerate() {
        // SAFETY: as the contract says.
        [rows[0][r], rows[1][r]] = unsafe { F::group(*block, g) };
    }
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (transposed(rows[0]), transposed(rows[1]));
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Rows and columns of 8 × 8 lanes swapped.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transposed(v: [__m256i; 8]) -> [__m256i; 8] {
    let four = |v: [__m256i; 4]| {
        let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
        let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
        let (low, high) = (|a, b| _mm256_unpacklo_epi64(a, b), |a, b| _mm256_unpackhi_epi64(a, b));
        [low(a, b), high(a, b), low(c, d), high(c, d)]
    };
    let (mut low, mut high) = ([v[0]; 4], [v[0]; 4]);
    let mut i = 0;
    while i < 4 {
        low[i] = _mm256_permute2x128_si256::<0x20>(v[i], v[i + 4]);
        high[i] = _mm256_permute2x128_si256::<0x31>(v[i], v[i + 4]);
        i += 1;
    }
    let (low, high) = (four(low), four(high));
    [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
}

/// The f16 at `at` in each of eight blocks.
///
/// # Safety
/// Two bytes can be read there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(blocks: &[*const u8; SIDE], at: usize) -> __m256 {
    let mut v = [0i16; SIDE];
    for (v, block) in v.iter_mut().zip(blocks) {
        // SAFETY: as the contract says.
        *v = unsafe { block.add(at).cast::<i16>().read_unaligned() };
    }
    _mm256_cvtph_ps(_mm_setr_epi16(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]))
}

/// The two f16 that each of eight blocks begins with.
///
/// # Safety
/// Four bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_pairs(blocks: &[*const u8; SIDE]) -> [__m256; 2] {
    let mut v = [0i32; SIDE];
    for (v, block) in v.iter_mut().zip(blocks) {
        // SAFETY: as the contract says.
        *v = unsafe { block.cast::<i32>().read_unaligned() };
    }
    let (a, b) = (_mm_setr_epi32(v[0], v[1], v[2], v[3]), _mm_setr_epi32(v[4], v[5], v[6], v[7]));
    let low = _mm_packus_epi32(_mm_blend_epi16::<0xaa>(a, _mm_setzero_si128()), _mm_blend_epi16::<0xaa>(b, _mm_setzero_si128()));
    let high = _mm_packus_epi32(_mm_srli_epi32::<16>(a), _mm_srli_epi32::<16>(b));
    [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
}

/// Sixteen bytes of nibbles: the low ones first.
///
/// # Safety
/// Sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibbles(from: *const u8) -> [__m256i; 2] {
    // SAFETY: as the contract says.
    let bytes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(from.cast()) });
    [_mm256_and_si256(bytes, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(bytes)]
}

/// 32 unsigned bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widened(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes)), _mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(bytes))]
}

/// Nibbles from `low`, the fifth bits from the four bytes at `high`.
///
/// # Safety
/// Four and sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn five_bits(high: *const u8, low: *const u8) -> [__m256i; 2] {
    // SAFETY: as the contract says.
    let (bits, low) = unsafe { (high.cast::<i32>().read_unaligned(), _mm_loadu_si128(low.cast())) };
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), _mm_srli_epi16::<4>(low));
    let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
    // Each byte gets the byte that holds its bit, and looks for the bit in it.
    let spread = _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let found = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), bit);
    let fifth = _mm256_and_si256(_mm256_cmpeq_epi8(found, bit), _mm256_set1_epi8(16));
    widened(_mm256_or_si256(low, fifth))
}

pub(super) struct Q4_0;
impl IntFormat for Q4_0 {
    const BYTES: usize = 18;
    const OFFSET: f32 = -8.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        unsafe { nibbles(block.add(2)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], _: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { [halves(blocks, 0); 2] }
    }
}

pub(super) struct Q4_1;
impl IntFormat for Q4_1 {
    const BYTES: usize = 20;
    const OFFSET: f32 = 1.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        unsafe { nibbles(block.add(4)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], _: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { half_pairs(blocks) }
    }
}

pub(super) struct Q5_0;
impl IntFormat for Q5_0 {
    const BYTES: usize = 22;
    const OFFSET: f32 = -16.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        unsafe { five_bits(block.add(2), block.add(6)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], _: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { [halves(blocks, 0); 2] }
    }
}

pub(super) struct Q5_1;
impl IntFormat for Q5_1 {
    const BYTES: usize = 24;
    const OFFSET: f32 = 1.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        unsafe { five_bits(block.add(4), block.add(8)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], _: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { half_pairs(blocks) }
    }
}

pub(super) struct Q8_0;
impl IntFormat for Q8_0 {
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        unsafe {
            let bytes = |at| _mm256_cvtepi8_epi16(_mm_loadu_si128(block.add(at).cast()));
            [bytes(2), bytes(18)]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], _: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { [halves(blocks, 0); 2] }
    }
}

pub(super) struct Mxfp4;
impl IntFormat for Mxfp4 {
    const BYTES: usize = 17;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        let bytes = unsafe { _mm_loadu_si128(block.add(1).cast()) };
        let twice = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
        let numbers = |nibbles| _mm256_cvtepi8_epi16(_mm_shuffle_epi8(twice, _mm_and_si128(nibbles, _mm_set1_epi8(15))));
        [numbers(bytes), numbers(_mm_srli_epi16::<4>(bytes))]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], _: usize) -> [__m256; 2] {
        let mut halves = [0.0; SIDE];
        for (half, block) in halves.iter_mut().zip(blocks) {
            // SAFETY: as the contract says.
            *half = half_scale(unsafe { **block });
        }
        // SAFETY: eight lanes.
        [unsafe { _mm256_loadu_ps(halves.as_ptr()) }; 2]
    }
}

/// Scales and minima of group `g` of K blocks, from the twelve bytes behind their two f16 (`quantized::scale_min`).
///
/// # Safety
/// Sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales_mins(blocks: &[*const u8; SIDE], g: usize) -> [__m256; 2] {
    let mut each = [[0.0; SIDE]; 2];
    for (r, block) in blocks.iter().enumerate() {
        // SAFETY: as the contract says.
        let at = |i: usize| unsafe { *block.add(4 + i) };
        let (scale, min) = match g {
            ..4 => (at(g) & 63, at(g + 4) & 63),
            _ => ((at(g + 4) & 15) | ((at(g - 4) >> 6) << 4), (at(g + 4) >> 4) | ((at(g) >> 6) << 4)),
        };
        (each[0][r], each[1][r]) = (f32::from(scale), f32::from(min));
    }
    // SAFETY: as the contract says; eight lanes.
    unsafe {
        let [scale, min] = half_pairs(blocks);
        [_mm256_mul_ps(scale, _mm256_loadu_ps(each[0].as_ptr())), _mm256_mul_ps(min, _mm256_loadu_ps(each[1].as_ptr()))]
    }
}

pub(super) struct Q4K;
impl IntFormat for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const OFFSET: f32 = -1.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, g: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        let bytes = unsafe { _mm256_loadu_si256(block.add(16 + g / 2 * 32).cast()) };
        let bytes = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((g % 2 * 4) as i32));
        widened(_mm256_and_si256(bytes, _mm256_set1_epi8(15)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], g: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { scales_mins(blocks, g) }
    }
}

pub(super) struct Q5K;
impl IntFormat for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
    const OFFSET: f32 = -1.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, g: usize) -> [__m256i; 2] {
        // SAFETY: as the contract says.
        let (bytes, top) =
            unsafe { (_mm256_loadu_si256(block.add(48 + g / 2 * 32).cast()), _mm256_loadu_si256(block.add(16).cast())) };
        let bytes = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((g % 2 * 4) as i32));
        let bit = _mm256_set1_epi8((1u8 << g).cast_signed());
        let fifth = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(top, bit), bit), _mm256_set1_epi8(16));
        widened(_mm256_or_si256(_mm256_and_si256(bytes, _mm256_set1_epi8(15)), fifth))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], g: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe { scales_mins(blocks, g) }
    }
}

pub(super) struct Q6K;
impl IntFormat for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const PARTS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, g: usize) -> [__m256i; 2] {
        let (side, run) = (g / 4, g % 4);
        // SAFETY: as the contract says.
        let (low, high) = unsafe {
            let low = _mm256_loadu_si256(block.add(64 * side + 32 * (run % 2)).cast());
            (low, _mm256_loadu_si256(block.add(128 + 32 * side).cast()))
        };
        let low = _mm256_srl_epi16(low, _mm_cvtsi32_si128((run / 2 * 4) as i32));
        let high = _mm256_srl_epi16(high, _mm_cvtsi32_si128((run * 2) as i32));
        let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
        let high = _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(3)));
        widened(_mm256_or_si256(low, high)).map(|numbers| _mm256_sub_epi16(numbers, _mm256_set1_epi16(32)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(blocks: &[*const u8; SIDE], g: usize) -> [__m256; 2] {
        // SAFETY: as the contract says.
        unsafe {
            let mut each = [[0.0; SIDE]; 2];
            for (r, block) in blocks.iter().enumerate() {
                for (part, each) in each.iter_mut().enumerate() {
                    each[r] = f32::from(*block.add(192 + 2 * g + part).cast::<i8>());
                }
            }
            let d = halves(blocks, 208);
            [_mm256_mul_ps(d, _mm256_loadu_ps(each[0].as_ptr())), _mm256_mul_ps(d, _mm256_loadu_ps(each[1].as_ptr()))]
        }
    }
}
