//! A frozen matrix exactly as it lies in a mapped file, readable a piece of a row at a time.

use std::borrow::Cow;

use super::quantized;
pub use super::weight_type::WeightType;
use crate::files::Mapped;

/// Order of the rows in the file against the Hugging Face order that this crate (and every adapter) uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    Plain,
    /// llama.cpp's converter interleaves the two halves of every head of q and k
    /// (`LlamaModel.permute` in `convert_hf_to_gguf.py`): file row `h·dh + 2·i + j` is our row `h·dh + j·dh/2 + i`.
    Interleaved {
        heads: usize,
    },
    /// The file has two halves ([`Weight::second`]): row `i` of the first is our row `2·i`, row `i` of the second our row `2·i + 1`.
    InTurn,
    /// llama.cpp's converter puts value heads in turn of their key heads (`_LinearAttentionVReorderBase`): behind `first` rows as they
    /// are, the file has heads of `size` rows in the order that [`tiled`] says.
    Tiled {
        first: usize,
        groups: usize,
        size: usize,
    },
}

/// Where `groups` in turn have what is ours at `at`: our head `g·each + j` of `size` elements is their head `j·groups + g`. With the two
/// numbers exchanged, the way back.
pub fn tiled(at: usize, [groups, each]: [usize; 2], size: usize) -> usize {
    let (head, rest) = (at / size, at % size);
    (head % each * groups + head / each) * size + rest
}

/// A frozen matrix (or vector: one row) of `rows × cols`, row-major, in the type it is stored in.
#[derive(Debug, Clone)]
pub struct Weight {
    pub data: Mapped,
    /// The second half of the file's rows, of [`RowOrder::InTurn`].
    pub second: Option<Mapped>,
    pub dtype: WeightType,
    pub rows: usize,
    pub cols: usize,
    pub order: RowOrder,
}

impl Weight {
    /// The row in the file that holds our row `row`.
    pub fn file_row(&self, row: usize) -> usize {
        match self.order {
            RowOrder::Plain => row,
            RowOrder::Interleaved { heads } => {
                let dh = self.rows / heads;
                let (head, inner) = (row / dh, row % dh);
                let (j, i) = (inner / (dh / 2), inner % (dh / 2));
                head * dh + 2 * i + j
            }
            RowOrder::InTurn => row % 2 * (self.rows / 2) + row / 2,
            RowOrder::Tiled { first, groups, size } => match row.checked_sub(first) {
                None => row,
                Some(at) => first + tiled(at, [groups, self.each(first, groups, size)], size),
            },
        }
    }

    /// Heads of a group, of [`RowOrder::Tiled`].
    pub(super) fn each(&self, first: usize, groups: usize, size: usize) -> usize {
        (self.rows - first) / size / groups
    }

    /// Places in the file that hold its rows.
    pub(super) fn pieces(&self) -> usize {
        1 + usize::from(self.second.is_some())
    }

    /// The bytes that hold the file's row `file_row`, and which row of theirs it is.
    pub(super) fn holder(&self, file_row: usize) -> (&[u8], usize) {
        let half = self.rows / 2;
        match &self.second {
            Some(second) if file_row >= half => (second.bytes(), file_row - half),
            _ => (self.data.bytes(), file_row),
        }
    }

    /// Bytes that it takes in the file.
    pub fn stored_bytes(&self) -> usize {
        self.data.bytes().len() + self.second.as_ref().map_or(0, |second| second.bytes().len())
    }

    /// All rows in the file's order.
    pub(super) fn in_file_order(&self) -> Cow<'_, [u8]> {
        match &self.second {
            None => Cow::Borrowed(self.data.bytes()),
            Some(second) => Cow::Owned([self.data.bytes(), second.bytes()].concat()),
        }
    }

    /// Bytes of our row `row`.
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        let stride = self.cols / self.dtype.block() * self.dtype.block_bytes();
        let (bytes, row) = self.holder(self.file_row(row));
        &bytes[row * stride..][..stride]
    }

    /// Bytes of some rows; the order must be plain.
    pub(super) fn bytes_of(&self, rows: std::ops::Range<usize>) -> &[u8] {
        debug_assert!(self.order == RowOrder::Plain);
        let stride = self.cols / self.dtype.block() * self.dtype.block_bytes();
        &self.data.bytes()[rows.start * stride..rows.end * stride]
    }

    /// Some rows as a matrix of their own; the order must be plain.
    pub(super) fn part(&self, rows: std::ops::Range<usize>) -> Weight {
        let stride = self.cols / self.dtype.block() * self.dtype.block_bytes();
        let data = self.data.slice(rows.start * stride, rows.len() * stride).filter(|_| self.order == RowOrder::Plain);
        let data = data.unwrap_or_else(|| unreachable!("rows of a matrix in plain order"));
        Weight { data, rows: rows.len(), ..self.clone() }
    }

    /// Elements `start..start + out.len()` of our row `row` as f32. `start` and the length must be whole blocks.
    pub fn read(&self, row: usize, start: usize, out: &mut [f32]) {
        let block = self.dtype.block();
        debug_assert!(start.is_multiple_of(block) && out.len().is_multiple_of(block));
        let bytes =
            &self.row_bytes(row)[start / block * self.dtype.block_bytes()..][..out.len() / block * self.dtype.block_bytes()];
        decode(self.dtype, bytes, out);
    }

    /// The whole matrix as f32 in our row order.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.rows * self.cols];
        for (row, chunk) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.read(row, 0, chunk);
        }
        out
    }
}

/// Decodes whole blocks of `dtype` into f32.
pub fn decode(dtype: WeightType, bytes: &[u8], out: &mut [f32]) {
    quantized::decode(dtype, bytes, out);
}
