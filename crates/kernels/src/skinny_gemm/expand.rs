//! GGUF blocks as whole numbers in bf16, 32 at a time, and their scales (layouts: `kernels::blocks`).
//!
//! A nibble becomes bf16 by looking it up in a register (`vpermw`), which reads five or six bits of a 16-bit lane and
//! ignores the others, so neighbours need not be masked off. Refuses to know: products, rows of x.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use crate::quantized;

/// Elements that one register of bf16 holds.
pub(super) const GROUP: usize = 32;

/// Room for the scales of a few rows of blocks.
#[derive(Default)]
pub(super) struct Scales {
    heads: Vec<u32>,
    pub scales: Vec<f32>,
    pub mins: Vec<f32>,
}

impl Scales {
    /// Scales and minima of `rows`, row after row: `groups · PER_GROUP` and `groups` of each.
    ///
    /// # Safety
    /// Requires AVX-512 F, BW, VL and DQ; each row points at `blocks` blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn fill<F: BlockFormat>(&mut self, rows: &[*const u8], blocks: usize) {
        let groups = rows.len() * blocks * F::BLOCK / GROUP;
        // They are made and read sixteen at a time.
        self.heads.resize((rows.len() * blocks).next_multiple_of(16), 0);
        self.scales.resize((groups * F::PER_GROUP).next_multiple_of(16), 0.0);
        self.mins.resize(groups.next_multiple_of(16), 0.0);
        // SAFETY: as the contract says, with room for all.
        unsafe { F::scales(rows, blocks, self) };
    }
}

/// A block type.
pub(super) trait BlockFormat {
    /// Elements and bytes of a block.
    const BLOCK: usize;
    const BYTES: usize;
    /// Scales of a group.
    const PER_GROUP: usize = 1;
    /// Whether something is added to every element of a group.
    const MINS: bool = false;
    /// The element of a group that lies at each place of the register.
    const ORDER: [u16; GROUP] = in_order();

    /// Registers that [`BlockFormat::group`] looks up.
    type Tables;

    /// # Safety
    /// Requires AVX-512 F, BW, VL and DQ, as all functions here.
    unsafe fn tables() -> Self::Tables;

    /// The whole numbers of group `g` of a block.
    ///
    /// # Safety
    /// `block` points at a whole block.
    unsafe fn group(tables: &Self::Tables, block: *const u8, g: usize) -> __m512i;

    /// Scales of all groups of all rows, and what is added to their elements, one row after another without gaps.
    ///
    /// # Safety
    /// Each row points at `blocks` blocks; there is room for all of them, rounded up to whole sixteens.
    unsafe fn scales(rows: &[*const u8], blocks: usize, to: &mut Scales);

    /// The scale of each of the sixteen sums of neighbouring products of a group.
    ///
    /// # Safety
    /// `scales` points at the first scale of the group.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scale(scales: *const f32) -> __m512 {
        // SAFETY: as the contract says.
        _mm512_set1_ps(unsafe { *scales })
    }
}

pub(super) const fn in_order() -> [u16; GROUP] {
    let mut order = [0; GROUP];
    let mut i = 0;
    while i < GROUP {
        order[i] = i as u16;
        i += 1;
    }
    order
}

/// Sixteen bytes of nibbles, read four times as eight 16-bit lanes, each time shifted by another nibble.
const fn by_shifts() -> [u16; GROUP] {
    let mut order = [0; GROUP];
    let mut i = 0;
    while i < GROUP {
        let (shift, lane) = (i / 8, i % 8);
        order[i] = (2 * lane + shift / 2 + 16 * (shift % 2)) as u16;
        i += 1;
    }
    order
}

/// 32 numbers from `from` on in bf16, starting again after `period`.
const fn table(from: i32, period: i32) -> [u16; 32] {
    let mut table = [0; 32];
    let mut i = 0;
    while i < 32 {
        table[i] = (((from + i as i32 % period) as f32).to_bits() >> 16) as u16;
        i += 1;
    }
    table
}

#[inline]
#[target_feature(enable = "avx512f")]
fn register(table: &[u16; 32]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

/// The scales, and with `MINS` what is added, at the start of each block of 32.
///
/// Numbers are picked from all rows first and made f32 afterwards: a vector read back right after its parts were written
/// would wait for them.
///
/// # Safety
/// As [`BlockFormat::scales`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn half_pairs<const BYTES: usize, const MINS: bool>(rows: &[*const u8], blocks: usize, to: &mut Scales) {
    let mut all = to.heads.iter_mut();
    for row in rows {
        for (b, head) in (0..blocks).zip(&mut all) {
            // SAFETY: a block holds at least four bytes.
            *head = unsafe { row.add(b * BYTES).cast::<u32>().read_unaligned() };
        }
    }
    let mut b = 0;
    while b < rows.len() * blocks {
        // SAFETY: all three have room for whole sixteens.
        unsafe {
            let pairs = _mm512_loadu_si512(to.heads.as_ptr().add(b).cast());
            _mm512_storeu_ps(to.scales.as_mut_ptr().add(b), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)));
            if MINS {
                let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs));
                _mm512_storeu_ps(to.mins.as_mut_ptr().add(b), _mm512_cvtph_ps(high));
            }
        }
        b += 16;
    }
}

/// Sixteen bytes of nibbles in the order of [`by_shifts`], each in the low bits of a lane.
///
/// # Safety
/// Sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn nibbles(from: *const u8) -> __m512i {
    // SAFETY: as the contract says.
    let bytes = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(from.cast()) });
    let shifts = _mm512_set_epi64(
        0x000c_000c_000c_000c,
        0x000c_000c_000c_000c,
        0x0008_0008_0008_0008,
        0x0008_0008_0008_0008,
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
        0,
        0,
    );
    _mm512_srlv_epi16(bytes, shifts)
}

/// The five-bit numbers of a block in order: nibbles from `low`, the fifth bits in `high`.
///
/// # Safety
/// Sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn five_bits(tables: &[__m512i; 2], low: *const u8, high: u32) -> __m512i {
    // SAFETY: as the contract says.
    let bytes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(low.cast()) });
    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(bytes), _mm256_srli_epi16::<4>(bytes));
    with_fifth(tables, both, high)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn with_fifth(tables: &[__m512i; 2], nibbles: __m512i, high: u32) -> __m512i {
    let small = _mm512_permutexvar_epi16(nibbles, tables[0]);
    _mm512_mask_permutexvar_epi16(small, high, nibbles, tables[1])
}

/// Scales (times `d`) and minima (times `−dmin`) of the eight groups of a K block whose head is at `block`.
///
/// # Safety
/// Sixteen bytes can be read; there is room for eight of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn k_scales(block: *const u8, scales: *mut f32, mins: *mut f32) {
    // SAFETY: as the contract says.
    unsafe {
        let head = block.cast::<u32>().read_unaligned();
        let [a, b, c] = block.add(4).cast::<[u32; 3]>().read_unaligned();
        let s = (a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | (((a >> 6) & 0x0303_0303) << 4));
        let m = (b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | (((b >> 6) & 0x0303_0303) << 4));
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(head.cast_signed()));
        let (d, dmin) = (_mm256_broadcastss_ps(both), _mm256_broadcastss_ps(_mm_movehdup_ps(both)));
        _mm256_storeu_ps(scales, _mm256_mul_ps(eight_bytes(s), d));
        _mm256_storeu_ps(mins, _mm256_sub_ps(_mm256_setzero_ps(), _mm256_mul_ps(eight_bytes(m), dmin)));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn eight_bytes((low, high): (u32, u32)) -> __m256 {
    let bytes = (u64::from(high) << 32 | u64::from(low)).cast_signed();
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes)))
}

/// Sixteen signed bytes as f32.
///
/// # Safety
/// Sixteen bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn sixteen_bytes(from: *const u8) -> __m512 {
    // SAFETY: as the contract says.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(from.cast()) }))
}

/// A block of 32 with its scale in front.
macro_rules! small {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $mins:literal, $order:expr, [$($table:expr),*] as $tables:ty, |$t:ident, $block:ident| $group:expr) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl BlockFormat for $name {
            const BLOCK: usize = 32;
            const BYTES: usize = $bytes;
            const MINS: bool = $mins;
            const ORDER: [u16; GROUP] = $order;
            type Tables = $tables;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn tables() -> $tables {
                [$(register(const { &$table })),*]
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
            unsafe fn group($t: &$tables, $block: *const u8, _: usize) -> __m512i {
                // SAFETY: as the contract says.
                unsafe { $group }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn scales(rows: &[*const u8], blocks: usize, to: &mut Scales) {
                // SAFETY: as the contract says.
                unsafe { half_pairs::<$bytes, $mins>(rows, blocks, to) }
            }
        }
    };
}

small! {
    /// `d·(q − 8)`.
    Q4_0, 18, false, by_shifts(), [table(-8, 16)] as [__m512i; 1],
    |t, block| _mm512_permutexvar_epi16(nibbles(block.add(2)), t[0])
}
small! {
    /// `d·q + m`.
    Q4_1, 20, true, by_shifts(), [table(0, 16)] as [__m512i; 1],
    |t, block| _mm512_permutexvar_epi16(nibbles(block.add(4)), t[0])
}
small! {
    /// `d·(q − 16)`.
    Q5_0, 22, false, in_order(), [table(-16, 16), table(0, 16)] as [__m512i; 2],
    |t, block| five_bits(t, block.add(6), block.add(2).cast::<u32>().read_unaligned())
}
small! {
    /// `d·q + m`.
    Q5_1, 24, true, in_order(), [table(0, 16), table(16, 16)] as [__m512i; 2],
    |t, block| five_bits(t, block.add(8), block.add(4).cast::<u32>().read_unaligned())
}
small! {
    /// `d·q`, q of eight bits: bf16 holds eight.
    Q8_0, 34, false, in_order(), [] as [__m512i; 0],
    |_t, block| {
        let both = _mm512_cvtne2ps_pbh(sixteen_bytes(block.add(18)), sixteen_bytes(block.add(2)));
        std::mem::transmute::<__m512bh, __m512i>(both)
    }
}

/// Twice the numbers of E2M1 in bf16, twice.
const E2M1: [u16; 32] = {
    let mut table = [0; 32];
    let mut i = 0;
    while i < 32 {
        table[i] = (quantized::E2M1[i % 16].to_bits() >> 16) as u16;
        i += 1;
    }
    table
};

/// `2^(e − 127)·E2M1(q)`.
pub(super) struct Mxfp4;

impl BlockFormat for Mxfp4 {
    const BLOCK: usize = 32;
    const BYTES: usize = 17;
    const ORDER: [u16; GROUP] = by_shifts();
    type Tables = [__m512i; 1];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn tables() -> [__m512i; 1] {
        [register(const { &E2M1 })]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
    unsafe fn group(tables: &[__m512i; 1], block: *const u8, _: usize) -> __m512i {
        // SAFETY: as the contract says.
        _mm512_permutexvar_epi16(unsafe { nibbles(block.add(1)) }, tables[0])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(rows: &[*const u8], blocks: usize, to: &mut Scales) {
        let mut scales = to.scales.iter_mut();
        for row in rows {
            for (b, scale) in (0..blocks).zip(&mut scales) {
                // SAFETY: as the contract says.
                *scale = quantized::half_scale(unsafe { *row.add(b * Self::BYTES) });
            }
        }
    }
}

/// 32 bytes, each in a 16-bit lane.
///
/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn wide_bytes(from: *const u8) -> __m512i {
    // SAFETY: as the contract says.
    _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(from.cast()) })
}

/// Group `g` of a K block: the low or the high nibbles of 32 bytes that it shares with its neighbour.
///
/// # Safety
/// `numbers` points at the 128 bytes of nibbles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn k_nibbles(numbers: *const u8, g: usize) -> __m512i {
    // SAFETY: as the contract says.
    let bytes = unsafe { wide_bytes(numbers.add(32 * (g / 2))) };
    if g.is_multiple_of(2) { bytes } else { _mm512_srli_epi16::<4>(bytes) }
}

/// A block of 256 in eight groups, each with a scale and a minimum.
macro_rules! k_block {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, [$($table:expr),+] as $tables:ty, |$t:ident, $block:ident, $g:ident| $group:expr) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl BlockFormat for $name {
            const BLOCK: usize = 256;
            const BYTES: usize = $bytes;
            const MINS: bool = true;
            type Tables = $tables;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn tables() -> $tables {
                [$(register(const { &$table })),+]
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl,avx512dq")]
            unsafe fn group($t: &$tables, $block: *const u8, $g: usize) -> __m512i {
                // SAFETY: as the contract says.
                unsafe { $group }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn scales(rows: &[*const u8], blocks: usize, to: &mut Scales) {
                let (mut scales, mut mins) = (to.scales.as_mut_ptr(), to.mins.as_mut_ptr());
                for row in rows {
                    for b in 0..blocks {
                        // SAFETY: as the contract says: eight scales and minima a block.
                        unsafe {
                            k_scales(row.add(b * $bytes), scales, mins);
                            (scales, mins) = (scales.add(8), mins.add(8));
                        }
                    }
                }
            }
        }
    };
}

k_block! {
    /// `d·s·q − dmin·m`.
    Q4K, 144, [table(0, 16)] as [__m512i; 1],
    |t, block, g| _mm512_permutexvar_epi16(k_nibbles(block.add(16), g), t[0])
}
k_block! {
    /// As Q4_K with a fifth bit: bit `g` of 32 bytes.
    Q5K, 176, [table(0, 16), table(16, 16)] as [__m512i; 2],
    |t, block, g| {
        let high = _mm256_loadu_si256(block.add(16).cast());
        let fifth = _mm256_test_epi8_mask(high, _mm256_set1_epi8((1u8 << g).cast_signed()));
        with_fifth(t, k_nibbles(block.add(48), g), fifth)
    }
}

/// `d·s·(q − 32)`, a scale for sixteen elements. A group is a run of 32 elements of a half of the block.
pub(super) struct Q6K;

impl BlockFormat for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const PER_GROUP: usize = 2;
    type Tables = [__m512i; 2];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn tables() -> [__m512i; 2] {
        [register(const { &table(-32, 32) }), register(const { &table(0, 32) })]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn group(tables: &[__m512i; 2], block: *const u8, g: usize) -> __m512i {
        let (half, run) = (g / 4, g % 4);
        // SAFETY: a block has 128 low and 64 high bytes.
        let (low, high) = unsafe { (wide_bytes(block.add(64 * half + 32 * (run % 2))), wide_bytes(block.add(128 + 32 * half))) };
        let low = if run < 2 { low } else { _mm512_srli_epi16::<4>(low) };
        let high = match run {
            0 => _mm512_slli_epi16::<4>(high),
            1 => _mm512_slli_epi16::<2>(high),
            2 => high,
            _ => _mm512_srli_epi16::<2>(high),
        };
        // Four bits of the one, the others of the other; only six are looked at.
        let six = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi16(15), low, high);
        _mm512_permutex2var_epi16(tables[0], six, tables[1])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(rows: &[*const u8], blocks: usize, to: &mut Scales) {
        let mut scales = to.scales.as_mut_ptr();
        for row in rows {
            for b in 0..blocks {
                // SAFETY: a block has sixteen scales at 192 and `d` at 208; as the contract says, there is room.
                unsafe {
                    let block = row.add(b * Self::BYTES);
                    let d = _mm_cvtsi32_si128(i32::from(block.add(208).cast::<u16>().read_unaligned()));
                    let d = _mm512_broadcastss_ps(_mm_cvtph_ps(d));
                    _mm512_storeu_ps(scales, _mm512_mul_ps(d, sixteen_bytes(block.add(192))));
                    scales = scales.add(16);
                }
            }
        }
    }

    /// Eight sums belong to the first sixteen elements, eight to the others.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scale(scales: *const f32) -> __m512 {
        // SAFETY: as the contract says, two scales.
        unsafe { _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(*scales), _mm512_set1_ps(*scales.add(1))) }
    }
}
