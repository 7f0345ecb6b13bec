//! Dropout with the bits of [`crate::dropout`], whose hash the host makes: candle's integer operations know no shifts and no exclusive
//! or, and put together from what they know it would be hundreds of operations. What crosses over is a bit an element, those of all
//! sites at once; a look-up makes factors of them, there and back.

use candle_core::{DType, Device, Tensor};

use crate::dropout::TokenMask;
use crate::error::Result;

/// Which elements each site drops of what it reads.
pub struct Masks(Vec<Option<Mask>>);

struct Mask {
    /// Eight elements a byte, (n, ⌈width / 8⌉).
    bits: Tensor,
    /// What the eight elements of each byte there is are multiplied with, (256, 8).
    factors: Tensor,
    width: usize,
}

impl Masks {
    /// Of sites with these masks over inputs of these widths, in one transfer.
    pub fn new(sites: &[Option<(TokenMask, usize)>], dtype: DType, device: &Device) -> Result<Masks> {
        let bytes: Vec<u8> = sites.iter().flatten().flat_map(|(mask, width)| mask.bits(*width)).collect();
        if bytes.is_empty() {
            return Ok(Masks(Vec::new()));
        }
        let (all, mut end) = (Tensor::from_slice(&bytes, bytes.len(), device)?, 0);
        let mut mask = |(mask, width): (TokenMask, usize)| -> Result<Mask> {
            let (first, shape) = (end, (mask.rows.len(), width.div_ceil(8)));
            end += shape.0 * shape.1;
            // A byte of ones is no index to candle, which gives zeros for it: what eight dropped elements are.
            let kept = (0..256 * 8).map(|at| if (at / 8) >> (at % 8) & 1 == 1 { 0.0 } else { mask.mask.keep() });
            let factors = Tensor::from_iter(kept, device)?.reshape((256, 8))?.to_dtype(dtype)?;
            Ok(Mask { bits: all.narrow(0, first, end - first)?.reshape(shape)?, factors, width })
        };
        Ok(Masks(sites.iter().map(|site| site.map(&mut mask).transpose()).collect::<Result<_>>()?))
    }

    /// What the input of a site is multiplied with, (c, width): of the tokens `at` (c) u32, or of all. `None` without dropout there.
    pub fn factors(&self, site: usize, at: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(Mask { bits, factors, width }) = self.0.get(site).and_then(Option::as_ref) else { return Ok(None) };
        let bits = at.map_or(Ok(bits.clone()), |at| bits.index_select(at, 0))?;
        let (n, bytes) = bits.dims2()?;
        let all = factors.index_select(&bits.flatten_all()?, 0)?.reshape((n, bytes * 8))?;
        Ok(Some(all.narrow(1, 0, *width)?.contiguous()?))
    }
}
