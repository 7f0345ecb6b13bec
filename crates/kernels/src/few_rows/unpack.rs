//! GGUF blocks as whole numbers in i16, 32 at a time, and their scales (layouts: `kernels::blocks`), for AVX2.
//!
//! Refuses to know: products, rows of x.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

/// Elements that share a scale.
pub(super) const GROUP: usize = 32;

/// A block type: element = scale · number + added · offset, where number is what [`IntFormat::group`] gives.
pub(super) trait IntFormat {
    /// Elements and bytes of a block.
    const BLOCK: usize = 32;
    const BYTES: usize;
    /// What [`IntFormat::scales`] adds is multiplied with; 0 where nothing is added.
    const OFFSET: f32 = 0.0;

    /// The numbers of group `g` of a block, in order. Four products of them with i16 fit an i32.
    ///
    /// # Safety
    /// Requires AVX2, FMA and F16C, as all functions here; `block` points at a whole block.
    unsafe fn group(block: *const u8, g: usize) -> [__m256i; 2];

    /// Scale of group `g` in the even lanes, what is added in the odd ones.
    ///
    /// # Safety
    /// `block` points at a whole block.
    unsafe fn scales(block: *const u8, g: usize) -> __m256;
}

/// The f16 at `at` in all lanes.
///
/// # Safety
/// Two bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half(at: *const u8) -> __m256 {
    // SAFETY: as the contract says.
    _mm256_cvtph_ps(_mm_set1_epi16(unsafe { at.cast::<i16>().read_unaligned() }))
}

/// The two f16 at `at` in turn.
///
/// # Safety
/// Four bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_pair(at: *const u8) -> __m256 {
    // SAFETY: as the contract says.
    _mm256_cvtph_ps(_mm_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() }))
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
    unsafe fn scales(block: *const u8, _: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { half(block) }
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
    unsafe fn scales(block: *const u8, _: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { half_pair(block) }
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
    unsafe fn scales(block: *const u8, _: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { half(block) }
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
    unsafe fn scales(block: *const u8, _: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { half_pair(block) }
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
    unsafe fn scales(block: *const u8, _: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { half(block) }
    }
}

/// Scale and minimum of group `g` of a K block, from the twelve bytes behind its two f16 (`quantized::scale_min`).
///
/// # Safety
/// Sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale_min(block: *const u8, g: usize) -> __m256 {
    // SAFETY: as the contract says.
    unsafe {
        let at = |i: usize| u32::from(*block.add(4 + i));
        let (scale, min) = match g {
            ..4 => (at(g) & 63, at(g + 4) & 63),
            _ => ((at(g + 4) & 15) | ((at(g - 4) >> 6) << 4), (at(g + 4) >> 4) | ((at(g) >> 6) << 4)),
        };
        let pair = _mm256_set1_epi64x((u64::from(scale) | (u64::from(min) << 32)).cast_signed());
        _mm256_mul_ps(_mm256_cvtepi32_ps(pair), half_pair(block))
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
    unsafe fn scales(block: *const u8, g: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { scale_min(block, g) }
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
    unsafe fn scales(block: *const u8, g: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { scale_min(block, g) }
    }
}

/// Its numbers come multiplied with the scale of their sixteen: at most 32 · 128.
pub(super) struct Q6K;
impl IntFormat for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn group(block: *const u8, g: usize) -> [__m256i; 2] {
        let (side, run) = (g / 4, g % 4);
        // SAFETY: as the contract says.
        let (low, high, scales) = unsafe {
            (
                _mm256_loadu_si256(block.add(64 * side + 32 * (run % 2)).cast()),
                _mm256_loadu_si256(block.add(128 + 32 * side).cast()),
                block.add(192 + 2 * g).cast::<i8>(),
            )
        };
        let low = _mm256_srl_epi16(low, _mm_cvtsi32_si128((run / 2 * 4) as i32));
        let high = _mm256_srl_epi16(high, _mm_cvtsi32_si128((run * 2) as i32));
        let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
        let high = _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(3)));
        let [first, second] = widened(_mm256_or_si256(low, high));
        let scaled = |numbers, scale| {
            _mm256_mullo_epi16(_mm256_sub_epi16(numbers, _mm256_set1_epi16(32)), _mm256_set1_epi16(i16::from(scale)))
        };
        // SAFETY: as the contract says.
        unsafe { [scaled(first, *scales), scaled(second, *scales.add(1))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8, _: usize) -> __m256 {
        // SAFETY: as the contract says.
        unsafe { half(block.add(208)) }
    }
}
