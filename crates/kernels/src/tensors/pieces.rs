//! Operations on rows, a piece of the rows at a time, so that what they make on the way in f32 stays small.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// Elements of one piece: 64 MB in f32.
pub(super) const ELEMENTS: usize = 1 << 24;

/// `f` over pieces of the rows (dimension 0) of `inputs`; its results, rows of as many tokens, are joined.
pub(super) fn by_rows<const K: usize>(
    inputs: &[&Tensor],
    elements: usize,
    f: impl Fn(&[Tensor]) -> Result<[Tensor; K]>,
) -> Result<[Tensor; K]> {
    let (n, all) = (inputs[0].dim(0)?, inputs[0].elem_count());
    let rows = (elements * n / all.max(1)).max(1);
    let part = |start: usize| -> Result<[Tensor; K]> {
        let len = rows.min(n - start);
        f(&inputs.iter().map(|x| x.narrow(0, start, len)).collect::<candle_core::Result<Vec<_>>>()?)
    };
    let first = part(0)?;
    if rows >= n {
        return Ok(first);
    }
    let whole = |piece: &Tensor| -> Result<Tensor> {
        let dims: Vec<usize> = std::iter::once(n).chain(piece.dims()[1..].iter().copied()).collect();
        let whole = Tensor::zeros(dims, piece.dtype(), piece.device())?;
        whole.slice_set(&piece.contiguous()?, 0, 0)?;
        Ok(whole)
    };
    let joined: Vec<Tensor> = first.iter().map(whole).collect::<Result<_>>()?;
    drop(first);
    for start in (rows..n).step_by(rows) {
        for (whole, piece) in joined.iter().zip(part(start)?) {
            whole.slice_set(&piece.contiguous()?, 0, start)?;
        }
    }
    joined.try_into().map_err(|_| candle_core::Error::Msg("rows: as many results as asked for".to_string()).into())
}

/// In f32; the tensor itself where it is already.
pub(super) fn full(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(DType::F32)?)
}
