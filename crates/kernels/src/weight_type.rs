//! Element types of stored tensors: their names, their blocks, and plain floats as f32.
//!
//! Refuses to know: what is packed in a block (`quantized`), rows and files.

use candle_core::quantized::GgmlDType;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
    Mxfp4,
}

impl WeightType {
    /// Elements of one block (1 for plain floats).
    pub const fn block(self) -> usize {
        match self {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => 1,
            WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q5_0 | WeightType::Q5_1 | WeightType::Mxfp4 => {
                32
            }
            WeightType::Q4K | WeightType::Q5K | WeightType::Q6K => 256,
        }
    }

    /// candle's name of a block type; none for plain floats and what candle has not.
    pub const fn ggml(self) -> Option<GgmlDType> {
        Some(match self {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 | WeightType::Mxfp4 => return None,
            WeightType::Q8_0 => GgmlDType::Q8_0,
            WeightType::Q4_0 => GgmlDType::Q4_0,
            WeightType::Q4_1 => GgmlDType::Q4_1,
            WeightType::Q5_0 => GgmlDType::Q5_0,
            WeightType::Q5_1 => GgmlDType::Q5_1,
            WeightType::Q4K => GgmlDType::Q4K,
            WeightType::Q5K => GgmlDType::Q5K,
            WeightType::Q6K => GgmlDType::Q6K,
        })
    }

    /// Bytes of one block (ggml's `block_q*` structs).
    pub const fn block_bytes(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::F16 | WeightType::BF16 => 2,
            WeightType::Q8_0 => 34,
            WeightType::Q4_0 => 18,
            WeightType::Q4_1 => 20,
            WeightType::Q5_0 => 22,
            WeightType::Q5_1 => 24,
            WeightType::Q4K => 144,
            WeightType::Q5K => 176,
            WeightType::Q6K => 210,
            WeightType::Mxfp4 => 17,
        }
    }

    /// Name as the formats spell it.
    pub const fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "F32",
            WeightType::F16 => "F16",
            WeightType::BF16 => "BF16",
            WeightType::Q8_0 => "Q8_0",
            WeightType::Q4_0 => "Q4_0",
            WeightType::Q4_1 => "Q4_1",
            WeightType::Q5_0 => "Q5_0",
            WeightType::Q5_1 => "Q5_1",
            WeightType::Q4K => "Q4_K",
            WeightType::Q5K => "Q5_K",
            WeightType::Q6K => "Q6_K",
            WeightType::Mxfp4 => "MXFP4",
        }
    }

    /// Bytes of `n` elements, `None` on overflow or when `n` is not whole blocks.
    pub fn bytes(self, n: usize) -> Option<usize> {
        n.is_multiple_of(self.block()).then_some(n / self.block())?.checked_mul(self.block_bytes())
    }
}

/// Plain floats of `dtype` as f32; `false`, and nothing is read, where `dtype` is packed in blocks.
#[inline(always)]
pub(super) fn floats(dtype: WeightType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        WeightType::F32 => {
            for (b, o) in bytes.chunks_exact(4).zip(out) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        WeightType::F16 => {
            // A piece at a time: the processor's own conversion is looked for once a piece.
            let mut piece = [f16::ZERO; 64];
            for (bytes, out) in bytes.chunks(2 * piece.len()).zip(out.chunks_mut(piece.len())) {
                let piece = &mut piece[..out.len()];
                bytes.chunks_exact(2).zip(&mut *piece).for_each(|(b, p)| *p = f16::from_le_bytes([b[0], b[1]]));
                piece.convert_to_f32_slice(out);
            }
        }
        WeightType::BF16 => {
            for (b, o) in bytes.chunks_exact(2).zip(out) {
                // The upper half of an f32; `to_f32` would ask of each whether it is a number.
                *o = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
        }
        _ => return false,
    }
    true
}
