//! AVX2 and AVX-512 vectors. The tokens are private to this file, so that only `detect` makes one.

use std::arch::x86_64::*;

use half::bf16;

use super::Simd;

/// One bit for each of the first `n` lanes, of 32 (or of 16: the low half).
#[inline(always)]
pub(crate) const fn first(n: usize) -> u32 {
    if n >= 32 { u32::MAX } else { (1 << n) - 1 }
}

/// Proof that this processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that this processor has AVX-512 F, VL, BW and DQ, AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }

    /// All bits set in the first `n` lanes.
    #[inline(always)]
    fn mask(self, n: usize) -> __m256i {
        const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        let from = &ONES_THEN_ZEROS[8 - n.min(8)..][..8];
        // SAFETY: the token proves the feature; `from` has eight elements.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }
}

impl Avx512 {
    pub(crate) fn detect() -> Option<Avx512> {
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        (wide && Avx2::detect().is_some()).then_some(Avx512(()))
    }

    #[inline(always)]
    fn mask(n: usize) -> __mmask16 {
        first(n) as __mmask16
    }
}

/// A method of no memory access: the token is all that its instruction needs.
macro_rules! arithmetic {
    ($($name:ident($($arg:ident),+) = $intrinsic:ident;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: Self::V),+) -> Self::V {
                // SAFETY: the token proves that the processor has the feature.
                unsafe { $intrinsic($($arg),+) }
            }
        )*
    };
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        // SAFETY: the token proves the feature; eight elements are there, or the mask stops at the end.
        unsafe {
            if from.len() >= 8 {
                _mm256_loadu_ps(from.as_ptr())
            } else {
                _mm256_maskload_ps(from.as_ptr(), self.mask(from.len()))
            }
        }
    }
    #[inline(always)]
    fn store(self, v: __m256, to: &mut [f32]) {
        // SAFETY: the token proves the feature; eight elements are there, or the mask stops at the end.
        unsafe {
            if to.len() >= 8 {
                _mm256_storeu_ps(to.as_mut_ptr(), v)
            } else {
                _mm256_maskstore_ps(to.as_mut_ptr(), self.mask(to.len()), v)
            }
        }
    }
    #[inline(always)]
    fn load_half(self, from: &[bf16]) -> __m256 {
        let mut some = [bf16::ZERO; 8];
        // SAFETY: the token proves the feature; eight elements are there, or copied to where eight are.
        unsafe {
            let bits = if from.len() >= 8 {
                _mm_loadu_si128(from.as_ptr().cast())
            } else {
                from.iter().zip(&mut some).for_each(|(x, to)| *to = *x);
                _mm_loadu_si128(some.as_ptr().cast())
            };
            let low = _mm256_cvtepu16_epi32(bits);
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low))
        }
    }
    #[inline(always)]
    fn store_half(self, v: __m256, to: &mut [bf16]) {
        let mut lanes = [0.0; 8];
        self.store(v, &mut lanes);
        to.iter_mut().zip(lanes).for_each(|(to, x)| *to = bf16::from_f32(x));
    }
    #[inline(always)]
    fn first(self, v: __m256, n: usize) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_and_ps(v, _mm256_castsi256_ps(self.mask(n))) }
    }
    arithmetic! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        min(a, b) = _mm256_min_ps;
        max(a, b) = _mm256_max_ps;
        mul_add(a, b, c) = _mm256_fmadd_ps;
    }
    #[inline(always)]
    fn power_of_two(self, magic: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(magic));
            _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(v, &mut lanes);
        super::Portable.sum(lanes)
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const COLUMNS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        // SAFETY: the token proves the feature; sixteen elements are there, or the mask stops at the end.
        unsafe {
            if from.len() >= 16 {
                _mm512_loadu_ps(from.as_ptr())
            } else {
                _mm512_maskz_loadu_ps(Self::mask(from.len()), from.as_ptr())
            }
        }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32]) {
        // SAFETY: the token proves the feature; sixteen elements are there, or the mask stops at the end.
        unsafe {
            if to.len() >= 16 {
                _mm512_storeu_ps(to.as_mut_ptr(), v)
            } else {
                _mm512_mask_storeu_ps(to.as_mut_ptr(), Self::mask(to.len()), v)
            }
        }
    }
    #[inline(always)]
    fn load_half(self, from: &[bf16]) -> __m512 {
        // SAFETY: the token proves the feature; sixteen elements are there, or the mask stops at the end.
        unsafe {
            let bits = if from.len() >= 16 {
                _mm256_loadu_si256(from.as_ptr().cast())
            } else {
                _mm256_maskz_loadu_epi16(Self::mask(from.len()), from.as_ptr().cast())
            };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
    }
    #[inline(always)]
    fn store_half(self, v: __m512, to: &mut [bf16]) {
        // SAFETY: the token proves the features; sixteen elements are there, or the mask stops at the end. Without the
        // BF16 feature, rounding is done in whole numbers: add 0x7fff and the lowest bit kept; what is no number stays so.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
            let half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
            if to.len() >= 16 {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), half)
            } else {
                _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), Self::mask(to.len()), half)
            }
        }
    }
    #[inline(always)]
    fn first(self, v: __m512, n: usize) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_maskz_mov_ps(Self::mask(n), v) }
    }
    arithmetic! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        min(a, b) = _mm512_min_ps;
        max(a, b) = _mm512_max_ps;
        mul_add(a, b, c) = _mm512_fmadd_ps;
    }
    /// 2ᵗ = 2ⁿ·2ʳ, |r| ≤ ½; the polynomial is the Taylor series of 2ʳ, its last term a little larger for those that follow.
    #[inline(always)]
    fn exp_rough(self, x: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe {
            let t = _mm512_max_ps(_mm512_set1_ps(-126.0), _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
            let t = _mm512_min_ps(_mm512_set1_ps(128.0), t);
            let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(t);
            let r = _mm512_sub_ps(t, n);
            let mut p = _mm512_set1_ps(1.342_7e-3);
            for c in [9.618_1e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
            }
            _mm512_scalef_ps(p, n)
        }
    }
    #[inline(always)]
    fn reciprocal_rough(self, x: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_rcp14_ps(x) }
    }
    #[inline(always)]
    fn power_of_two(self, magic: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(magic));
            _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23)))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_reduce_add_ps(v) }
    }
}
