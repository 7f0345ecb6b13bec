//! GGUF block formats: how ggml packs 32 or 256 weights and their scales into one block.
//!
//! Written from the layouts of ggml's `block_q*` structs (`ggml-common.h`) and the meaning of their fields
//! (`dequantize_row_q*`, `ggml-quants.c`). All numbers are little-endian; `d` and `m` are f16.
//! Refuses to know: files, shapes, rows.

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::cpu::{Level, level};
use super::weight_type::{WeightType, floats};

/// Runs `$block` over pairs of `$b` packed bytes and `$n` numbers. A macro and an index, because a function handed over as
/// a value, or an iterator, is compiled without the features of the caller and not inlined.
macro_rules! each {
    ($bytes:expr, $out:expr, $b:literal, $n:literal, $block:ident) => {{
        let (packed, numbers) = ($bytes.as_chunks::<$b>().0, $out.as_chunks_mut::<$n>().0);
        let mut i = 0;
        while i < packed.len().min(numbers.len()) {
            $block(&packed[i], &mut numbers[i]);
            i += 1;
        }
    }};
}

/// Decodes `out.len()` elements, which must be whole blocks, from `bytes`, which must hold exactly those blocks.
pub fn decode(dtype: WeightType, bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: the level is in force only where its features were detected.
        Level::Avx512 | Level::Avx512Bf16 => return unsafe { decode_avx512(dtype, bytes, out) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { decode_avx2(dtype, bytes, out) },
        Level::Portable => {}
    }
    decode_blocks(dtype, bytes, out);
}

/// [`decode_blocks`] compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2")]
fn decode_avx512(dtype: WeightType, bytes: &[u8], out: &mut [f32]) {
    decode_blocks(dtype, bytes, out);
}

/// [`decode_blocks`] compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2(dtype: WeightType, bytes: &[u8], out: &mut [f32]) {
    decode_blocks(dtype, bytes, out);
}

#[inline(always)]
fn decode_blocks(dtype: WeightType, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(dtype.bytes(out.len()), Some(bytes.len()));
    match dtype {
        WeightType::Q8_0 => each!(bytes, out, 34, 32, q8_0),
        WeightType::Q4_0 => each!(bytes, out, 18, 32, q4_0),
        WeightType::Q4_1 => each!(bytes, out, 20, 32, q4_1),
        WeightType::Q5_0 => each!(bytes, out, 22, 32, q5_0),
        WeightType::Q5_1 => each!(bytes, out, 24, 32, q5_1),
        WeightType::Q4K => each!(bytes, out, 144, 256, q4_k),
        WeightType::Q5K => each!(bytes, out, 176, 256, q5_k),
        WeightType::Q6K => each!(bytes, out, 210, 256, q6_k),
        WeightType::Mxfp4 => each!(bytes, out, 17, 32, mxfp4),
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => _ = floats(dtype, bytes, out),
    }
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// `d`, 32 × i8: `x = d·q`.
#[inline(always)]
fn q8_0(b: &[u8; 34], x: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (x, q) in x.iter_mut().zip(&b[2..]) {
        *x = f32::from(q.cast_signed()) * d;
    }
}

/// `d`, 16 bytes of nibbles (low: elements 0–15, high: 16–31): `x = d·(q − 8)`.
#[inline(always)]
fn q4_0(b: &[u8; 18], x: &mut [f32; 32]) {
    let d = half_at(b, 0);
    let (low, high) = x.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[2..]) {
        *low = f32::from((q & 15).cast_signed() - 8) * d;
        *high = f32::from((q >> 4).cast_signed() - 8) * d;
    }
}

/// `d`, `m`, nibbles as in Q4_0: `x = d·q + m`.
#[inline(always)]
fn q4_1(b: &[u8; 20], x: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    let (low, high) = x.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[4..]) {
        *low = f32::from(q & 15) * d + m;
        *high = f32::from(q >> 4) * d + m;
    }
}

/// The 32 five-bit numbers of a Q5 block: nibbles from `low`, bit `i` of `high` on top of element `i`.
#[inline(always)]
fn five_bits(high: &[u8], low: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    std::array::from_fn(|i| {
        let nibble = if i < 16 { low[i] & 15 } else { low[i - 16] >> 4 };
        let top = ((high >> i) & 1) as u8;
        nibble | (top << 4)
    })
}

/// `d`, 32 high bits, nibbles: `x = d·(q − 16)`.
#[inline(always)]
fn q5_0(b: &[u8; 22], x: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (x, q) in x.iter_mut().zip(five_bits(&b[2..6], &b[6..])) {
        *x = f32::from(q.cast_signed() - 16) * d;
    }
}

/// `d`, `m`, 32 high bits, nibbles: `x = d·q + m`.
#[inline(always)]
fn q5_1(b: &[u8; 24], x: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (x, q) in x.iter_mut().zip(five_bits(&b[4..8], &b[8..])) {
        *x = f32::from(q) * d + m;
    }
}

/// Scale and minimum of sub-block `j` (0–7) of a K block: six bits each in twelve bytes. Sub-blocks 0–3 lie in the low
/// six bits of bytes `j` and `j + 4`; those of 4–7 have four bits in byte `j + 4` and two on top of the earlier ones.
#[inline(always)]
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(min))
}

/// `d`, `dmin`, 12 bytes of scales, 128 bytes of nibbles: `x = d·s_j·q − dmin·m_j` for eight sub-blocks of 32;
/// the nibbles of sub-blocks `2k` (low) and `2k + 1` (high) share 32 bytes.
#[inline(always)]
fn q4_k(b: &[u8; 144], x: &mut [f32; 256]) {
    let (d, dmin, scales) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
    for (k, (x, q)) in x.chunks_exact_mut(64).zip(b[16..].chunks_exact(32)).enumerate() {
        let ((s0, m0), (s1, m1)) = (scale_min(scales, 2 * k), scale_min(scales, 2 * k + 1));
        let (d0, d1, m0, m1) = (d * s0, d * s1, dmin * m0, dmin * m1);
        let (low, high) = x.split_at_mut(32);
        for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
            *low = d0 * f32::from(q & 15) - m0;
            *high = d1 * f32::from(q >> 4) - m1;
        }
    }
}

/// As Q4_K with a fifth bit: bit `j` of `high[i]` belongs to element `i` of sub-block `j`.
#[inline(always)]
fn q5_k(b: &[u8; 176], x: &mut [f32; 256]) {
    let (d, dmin, scales, top) = (half_at(b, 0), half_at(b, 2), &b[4..16], &b[16..48]);
    for (k, (x, q)) in x.chunks_exact_mut(64).zip(b[48..].chunks_exact(32)).enumerate() {
        let ((s0, m0), (s1, m1)) = (scale_min(scales, 2 * k), scale_min(scales, 2 * k + 1));
        let (d0, d1, m0, m1) = (d * s0, d * s1, dmin * m0, dmin * m1);
        let (low, high) = x.split_at_mut(32);
        for (((low, high), q), top) in low.iter_mut().zip(high).zip(q).zip(top) {
            *low = d0 * f32::from((q & 15) | (((top >> (2 * k)) & 1) << 4)) - m0;
            *high = d1 * f32::from((q >> 4) | (((top >> (2 * k + 1)) & 1) << 4)) - m1;
        }
    }
}

/// 128 bytes of low nibbles, 64 of high pairs of bits, 16 × i8 scales, `d`: `x = d·s·(q − 32)`, a scale for 16 elements.
/// Each half of the block (128 elements in four runs of 32) has 64 low bytes, 32 high bytes and 8 scales.
#[inline(always)]
fn q6_k(b: &[u8; 210], x: &mut [f32; 256]) {
    let d = half_at(b, 208);
    for (half, x) in x.chunks_exact_mut(128).enumerate() {
        let (low, high, scales) = (&b[64 * half..][..64], &b[128 + 32 * half..][..32], &b[192 + 8 * half..][..8]);
        for (run, x) in x.chunks_exact_mut(32).enumerate() {
            let (from, nibble, pair) = (32 * (run % 2), 4 * (run / 2), 2 * run);
            for (i, x) in x.iter_mut().enumerate() {
                let q = ((low[from + i] >> nibble) & 15) | (((high[i] >> pair) & 3) << 4);
                let scale = f32::from(scales[2 * run + i / 16].cast_signed());
                *x = d * scale * f32::from(q.cast_signed() - 32);
            }
        }
    }
}

/// Twice the numbers of four bits: a sign, two bits of exponent, one of mantissa (E2M1).
pub(super) const E2M1: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, -0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Half of a scale `2^(e − 127)`. Of the two smallest the halves are no normal numbers.
#[inline(always)]
pub(super) fn half_scale(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

/// A byte `e` (E8M0), 16 bytes of nibbles as in Q4_0: `x = 2^(e − 127)·E2M1(q)` (Open Compute Project, "Microscaling formats", 5.3.3).
#[inline(always)]
fn mxfp4(b: &[u8; 17], x: &mut [f32; 32]) {
    let d = half_scale(b[0]);
    let (low, high) = x.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[1..]) {
        *low = E2M1[usize::from(q & 15)] * d;
        *high = E2M1[usize::from(q >> 4)] * d;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    use candle_core::{Device, Tensor};
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Every type of blocks, as candle calls it.
    pub(crate) const KINDS: [(WeightType, GgmlDType); 8] = [
        (WeightType::Q8_0, GgmlDType::Q8_0),
        (WeightType::Q4_0, GgmlDType::Q4_0),
        (WeightType::Q4_1, GgmlDType::Q4_1),
        (WeightType::Q5_0, GgmlDType::Q5_0),
        (WeightType::Q5_1, GgmlDType::Q5_1),
        (WeightType::Q4K, GgmlDType::Q4K),
        (WeightType::Q5K, GgmlDType::Q5K),
        (WeightType::Q6K, GgmlDType::Q6K),
    ];

    /// Our decoding of the tensor's bytes against candle's: equal but for one rounding of a product.
    fn agree(ours: WeightType, tensor: &QTensor) {
        let expected: Vec<f32> = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mut got = vec![0f32; expected.len()];
        decode(ours, &tensor.data().unwrap(), &mut got);
        assert!(expected.iter().any(|x| *x != 0.0));
        for (i, (got, want)) in got.iter().zip(&expected).enumerate() {
            assert!((got - want).abs() <= want.abs() * f32::EPSILON, "{} element {i}: {got} for {want}", ours.name());
        }
    }

    #[test]
    fn quantised_numbers_come_back_as_candle_reads_them() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let numbers: Vec<f32> = (0..8 * 512).map(|_| rng.random_range(-3.0..2.0)).collect();
        let source = Tensor::from_vec(numbers, (8, 512), &Device::Cpu).unwrap();
        for (ours, theirs) in KINDS {
            agree(ours, &QTensor::quantize(&source, theirs).unwrap());
        }
    }

    #[test]
    fn every_bit_of_a_block_is_read() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        for (ours, theirs) in KINDS {
            let blocks = 64;
            let mut bytes: Vec<u8> = (0..blocks * ours.block_bytes()).map(|_| rng.random()).collect();
            for block in bytes.chunks_exact_mut(ours.block_bytes()) {
                // Random bytes can be infinite or NaN as f16: keep the scales ordinary numbers.
                let scales: &[usize] = match ours {
                    WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 => &[0],
                    WeightType::Q6K => &[208],
                    _ => &[0, 2],
                };
                for at in scales {
                    block[*at..*at + 2].copy_from_slice(&f16::from_f32(rng.random_range(-2.0..2.0)).to_le_bytes());
                }
            }
            let storage = QStorage::from_data(bytes.into(), &Device::Cpu, theirs).unwrap();
            agree(ours, &QTensor::new(storage, (blocks, ours.block())).unwrap());
        }
    }

    /// Every scale with every number, by the definition of both; the bytes of one block against `gguf.quants.dequantize`.
    #[test]
    fn mxfp4_is_what_its_definition_says() {
        let number = |q: i32| {
            let (exponent, mantissa) = (q >> 1 & 3, f64::from(q & 1));
            let size = if exponent == 0 { mantissa / 2.0 } else { (1.0 + mantissa / 2.0) * f64::from(1 << (exponent - 1)) };
            if q & 8 == 0 { size } else { -size }
        };
        // Beyond, the largest number is no f32.
        for e in 0..=251u8 {
            let mut block = [e; 17];
            // Element i is number i, element 16 + i number 15 - i.
            block[1..].iter_mut().zip(0..).for_each(|(b, i): (&mut u8, u8)| *b = i | (15 - i) << 4);
            let mut got = [0f32; 32];
            decode(WeightType::Mxfp4, &block, &mut got);
            let order = (0..16).chain((0..16).rev());
            for (i, (got, q)) in got.iter().zip(order).enumerate() {
                assert_eq!(f64::from(*got), number(q) * 2f64.powi(i32::from(e) - 127), "scale {e}, element {i}");
            }
        }
        let block = [121, 0x80, 0x19, 0x2a, 0x3b, 0x4c, 0x5d, 0x6e, 0x7f, 0xf8, 0xe1, 0xd2, 0xc3, 0xb4, 0xa5, 0x96, 0x07];
        let mut got = [0f32; 32];
        decode(WeightType::Mxfp4, &block, &mut got);
        let half = [0, -1, -2, -3, -4, -6, -8, -12, 0, 1, 2, 3, 4, 6, 8, 12].map(|x| x as f32);
        let other = [0, 1, 2, 3, 4, 6, 8, 12, -12, -8, -6, -4, -3, -2, -1, 0].map(|x| x as f32);
        assert_eq!(got.map(|x| x * 128.0).as_slice(), [half, other].concat());
    }

    #[test]
    fn block_sizes_are_ggmls() {
        for (ours, theirs) in KINDS {
            assert_eq!((ours.block(), ours.block_bytes()), (theirs.block_size(), theirs.type_size()));
        }
    }
}
