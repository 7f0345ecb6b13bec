//! What bf16 products read and write, as places in memory. Refuses to know: instructions.
#![cfg(target_arch = "x86_64")]

use half::bf16;

/// A row of bf16 that is read in place; null reads as zeros.
pub(super) type RowPointer = *const bf16;

/// How sums reach the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// Replace f32.
    Set,
    /// Add to f32.
    Add,
    /// Replace bf16.
    Half,
}

/// `a (rows, pairs) · panel (pairs, 16·C)`: `a` advances by `lda` pairs a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub a: *const u32,
    pub lda: usize,
    pub panel: *const u32,
    pub pairs: usize,
}

impl Operands {
    /// Adds nothing.
    pub(super) const NONE: Operands = Operands { a: std::ptr::null(), lda: 0, panel: std::ptr::null(), pairs: 0 };

    /// The same from row `i` of `a` on.
    pub(super) fn row(self, i: usize) -> Operands {
        Operands { a: self.a.wrapping_add(i * self.lda), ..self }
    }
}

/// Where `rows × width` sums go: `c` points at f32, or at bf16 for [`Into::Half`]; rows are `ldc` elements apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileOutput {
    pub c: *mut f32,
    pub ldc: usize,
    pub width: usize,
    pub how: Into,
}

impl TileOutput {
    pub(super) fn row(self, i: usize) -> TileOutput {
        let c = match self.how {
            Into::Half => self.c.cast::<u16>().wrapping_add(i * self.ldc).cast(),
            _ => self.c.wrapping_add(i * self.ldc),
        };
        TileOutput { c, ..self }
    }
}
