//! [`crate::attention::over`] on any device: a block of queries at a time, over all keys of their text.
//!
//! What is added to scores depends on the distance of key and query alone: one row of numbers a text and head goes over, and blocks
//! are made of it there. Scores and all that is made of them are f32.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::sight::{TILE, wrong};
use crate::attention::over::{Over, Seen};
use crate::error::Result;

/// Texts of [`Over`] as a device sees them.
#[derive(Debug)]
pub struct OverTexts {
    texts: Vec<Text>,
    scale: f64,
    /// Queries whose scores are made at once.
    tile: usize,
}

#[derive(Debug)]
struct Text {
    seen: Seen,
    /// By key less query, from the last query's first key on, (h, queries + keys); −1e30 where a query does not see.
    added: Option<Tensor>,
}

impl OverTexts {
    /// # Errors
    /// When a text has no key, or the device no memory.
    pub fn new(over: &Over, device: &Device) -> Result<OverTexts> {
        OverTexts::of(over, device, TILE)
    }

    pub(super) fn of(over: &Over, device: &Device, tile: usize) -> Result<OverTexts> {
        let text = |seen: &Seen| -> Result<Text> {
            if seen.keys.is_empty() || seen.queries.is_empty() {
                return Err(wrong(format!("queries {:?} over keys {:?}", seen.queries, seen.keys)));
            }
            Ok(Text { added: added(over, seen, device)?, seen: seen.clone() })
        };
        Ok(OverTexts { texts: over.texts.iter().map(text).collect::<Result<_>>()?, scale: over.scale, tile })
    }

    /// Attention (n, h, e) in the dtype of `q` (n, h, e) over `k` and `v` (m, h, e), and what normalises each row: its largest score and
    /// the sum of exponentials, (2, h, n) f32. Kept apart so that large scores cost no digits.
    pub fn forward(&self, [q, k, v]: [&Tensor; 3]) -> Result<(Tensor, Tensor)> {
        let (mut outs, mut normalisers) = (Vec::new(), Vec::new());
        for text in &self.texts {
            let [k, v] = [by_head(k, &text.seen.keys)?, by_head(v, &text.seen.keys)?];
            for block in self.blocks(text) {
                let scores = self.scores(text, &self.queries(q, text, &block)?, &k, &block)?;
                let max = scores.max_keepdim(D::Minus1)?;
                let p = scores.broadcast_sub(&max)?.exp()?;
                let sum = p.sum_keepdim(D::Minus1)?;
                outs.push(by_token(&p.matmul(&v)?.broadcast_div(&sum)?, q.dtype())?); // (h, b, m) · (h, m, e)
                normalisers.push(Tensor::stack(&[max.squeeze(2)?, sum.squeeze(2)?], 0)?);
            }
        }
        Ok((Tensor::cat(&outs, 0)?, Tensor::cat(&normalisers, 2)?))
    }

    /// The gradients of q (n, h, e), k and v (m, h, e) in the dtype of `q`, of what [`OverTexts::forward`] gave; the formulas are those of
    /// [`Over::backward`], with `Σ p∘(g·vᵀ)` for `Σ g∘o`, which is the same.
    pub fn backward(&self, [q, k, v]: [&Tensor; 3], normalisers: &Tensor, gradient: &Tensor) -> Result<[Tensor; 3]> {
        let mut grads: [Vec<Tensor>; 3] = Default::default();
        for text in &self.texts {
            let [k, v] = [by_head(k, &text.seen.keys)?, by_head(v, &text.seen.keys)?];
            let [mut dk, mut dv] = [k.zeros_like()?, v.zeros_like()?];
            for block in self.blocks(text) {
                let at = text.seen.queries.start + block.start..text.seen.queries.start + block.end;
                let scaled = self.queries(q, text, &block)?;
                let d_out = by_head(gradient, &at)?;
                let rows = normalisers.narrow(2, at.start, at.len())?.unsqueeze(3)?;
                let p =
                    self.scores(text, &scaled, &k, &block)?.broadcast_sub(&rows.get(0)?)?.exp()?.broadcast_div(&rows.get(1)?)?;
                let dp = d_out.matmul(&v.t()?)?; // (h, b, e) · (h, e, m)
                let ds = (dp.broadcast_sub(&(&dp * &p)?.sum_keepdim(D::Minus1)?)? * &p)?;
                dv = (dv + p.transpose(1, 2)?.matmul(&d_out)?)?; // (h, m, b) · (h, b, e)
                dk = (dk + ds.transpose(1, 2)?.matmul(&scaled)?)?;
                grads[0].push(by_token(&(ds.matmul(&k)? * self.scale)?, q.dtype())?); // (h, b, m) · (h, m, e)
            }
            grads[1].push(by_token(&dk, q.dtype())?);
            grads[2].push(by_token(&dv, q.dtype())?);
        }
        let [dq, dk, dv] = grads;
        Ok([Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?])
    }

    fn blocks(&self, text: &Text) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n, tile) = (text.seen.queries.len(), self.tile);
        (0..n).step_by(tile).map(move |first| first..n.min(first + tile))
    }

    /// A block's queries by the scale, (h, b, e).
    fn queries(&self, q: &Tensor, text: &Text, block: &Range<usize>) -> Result<Tensor> {
        let first = text.seen.queries.start;
        Ok((by_head(q, &(first + block.start..first + block.end))? * self.scale)?)
    }

    /// (h, b, m), −1e30 where a query does not see.
    fn scores(&self, text: &Text, scaled: &Tensor, k: &Tensor, block: &Range<usize>) -> Result<Tensor> {
        let scores = scaled.matmul(&k.t()?)?; // (h, b, e) · (h, e, m)
        let Some(added) = &text.added else { return Ok(scores) };
        let (h, b, m) = scores.dims3()?;
        // Row i begins at `last − i`: written b times one after another, rows of one number less begin so.
        let own = added.narrow(1, text.seen.queries.len() - block.end, b + m)?;
        let many = own.unsqueeze(1)?.broadcast_as((h, b, b + m))?.contiguous()?.reshape((h, b * (b + m)))?;
        let rows = many.narrow(1, b - 1, b * (b + m - 1))?.contiguous()?.reshape((h, b, b + m - 1))?;
        Ok((scores + rows.narrow(2, 0, m)?)?)
    }
}

fn added(over: &Over, seen: &Seen, device: &Device) -> Result<Option<Tensor>> {
    let (n, m) = (seen.queries.len(), seen.keys.len());
    let nearest = -((seen.past + n - 1) as i64);
    let biased = match over.bias {
        None if !over.causal => return Ok(None),
        None => Tensor::zeros((over.heads, n + m), DType::F32, device)?,
        Some(bias) => {
            let (table, heads) = bias.table();
            let table = Tensor::from_slice(table, (table.len() / heads, heads), device)?;
            table.index_select(&Tensor::from_vec(bias.buckets(nearest, n + m), n + m, device)?, 0)?.t()?.contiguous()?
        }
    };
    if !over.causal {
        return Ok(Some(biased));
    }
    let hidden: Vec<f32> = (nearest..).take(n + m).map(|relative| if relative > 0 { -1e30 } else { 0.0 }).collect();
    Ok(Some(biased.broadcast_add(&Tensor::from_vec(hidden, n + m, device)?)?))
}

/// Some tokens of (n, h, e) as (h, tokens, e) in f32.
fn by_head(x: &Tensor, tokens: &Range<usize>) -> Result<Tensor> {
    Ok(x.narrow(0, tokens.start, tokens.len())?.transpose(0, 1)?.contiguous()?.to_dtype(DType::F32)?)
}

/// The other way.
fn by_token(x: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(x.to_dtype(dtype)?.transpose(0, 1)?.contiguous()?)
}
