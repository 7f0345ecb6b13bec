//! Output head and cross-entropy: logits exist for a piece of the rows at a time, never for all.

use std::ops::Range;

use candle_core::Tensor;

use crate::error::Result;

/// Logits held at once: 256 MB in f32.
const ELEMENTS: usize = 1 << 26;

/// The head of a model, whatever it is made of.
pub struct Head<'a> {
    /// Rows of `x` (c, d) to their logits (c, v) in f32.
    pub logits: &'a dyn Fn(&Tensor) -> Result<Tensor>,
    pub vocabulary: usize,
    /// Soft cap of what `logits` gives.
    pub cap: Option<f64>,
}

impl Head<'_> {
    fn pieces(&self, n: usize, elements: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = (elements / self.vocabulary.max(1)).max(1);
        (0..n).step_by(rows).map(move |start| start..(start + rows).min(n))
    }
}

/// Bytes of what [`loss_and_gradient`] holds of logits of `n` rows at once: these, exponentials and gradient, and `more` of their size.
pub fn working_bytes(n: usize, vocabulary: usize, more: usize) -> u64 {
    let rows = n.min((ELEMENTS / vocabulary.max(1)).max(1));
    (rows * vocabulary * (3 + more) * size_of::<f32>()) as u64
}

/// `cap · tanh(logits / cap)` where there is a cap.
pub fn capped(logits: Tensor, cap: Option<f64>) -> Result<Tensor> {
    Ok(match cap {
        None => logits,
        Some(cap) => ((logits / cap)?.tanh()? * cap)?,
    })
}

/// What a gradient of logits, before the cap, is handed to: the rows it is of, and itself (rows, v) in f32.
pub type TakesGradient<'a> = &'a mut dyn FnMut(Range<usize>, &Tensor) -> Result<()>;

/// `log softmax(logits)[target]` of every row, in nats, (n) f32; `x` (n, d), `targets` (n) u32.
pub fn logps(x: &Tensor, head: &Head, targets: &Tensor) -> Result<Tensor> {
    logps_in(x, head, targets, ELEMENTS)
}

/// `−log softmax(logits)[target]` of every row in nats, read once at the end, and the gradient of their sum by `weights` of each
/// piece of logits handed to `take`; `x` (n, d), `targets` (n) u32, `weights` (n) f32.
pub fn losses_and_gradient(x: &Tensor, head: &Head, targets: &Tensor, weights: &Tensor, take: TakesGradient) -> Result<Vec<f32>> {
    losses_and_gradient_in(x, head, (targets, weights), ELEMENTS, take)
}

pub(super) fn logps_in(x: &Tensor, head: &Head, targets: &Tensor, elements: usize) -> Result<Tensor> {
    let mut all = Vec::new();
    for rows in head.pieces(x.dim(0)?, elements) {
        let piece = Piece::new(x, head, targets, &rows)?;
        all.push(piece.logps);
    }
    Ok(Tensor::cat(&all, 0)?)
}

pub(super) fn losses_and_gradient_in(
    x: &Tensor,
    head: &Head,
    (targets, weights): (&Tensor, &Tensor),
    elements: usize,
    take: TakesGradient,
) -> Result<Vec<f32>> {
    let mut losses = Vec::new();
    for rows in head.pieces(x.dim(0)?, elements) {
        let Piece { logps, exponentials, sums, ids, slope } = Piece::new(x, head, targets, &rows)?;
        let weights = weights.narrow(0, rows.start, rows.len())?;
        losses.push(logps.neg()?);
        let weights = weights.unsqueeze(1)?; // (c, 1)
        // weight · (softmax − one at the target); one target a row, so nothing is added twice.
        let gradient = exponentials.broadcast_mul(&(&weights / sums)?)?;
        drop(exponentials);
        gradient.scatter_add_set(&ids, &weights.neg()?, 1)?;
        let gradient = match slope {
            None => gradient,
            Some(slope) => (gradient * slope)?,
        };
        take(rows, &gradient)?;
    }
    Ok(Tensor::cat(&losses, 0)?.to_vec1()?)
}

/// Some rows with their logits.
struct Piece {
    /// (c)
    logps: Tensor,
    /// Of the logits less the row's largest, (c, v).
    exponentials: Tensor,
    /// Of the exponentials of a row, (c, 1).
    sums: Tensor,
    /// Targets (c, 1).
    ids: Tensor,
    /// Of the cap, `1 − (capped / cap)²` (c, v), where there is one.
    slope: Option<Tensor>,
}

impl Piece {
    fn new(x: &Tensor, head: &Head, targets: &Tensor, rows: &Range<usize>) -> Result<Piece> {
        let logits = capped((head.logits)(&x.narrow(0, rows.start, rows.len())?)?, head.cap)?;
        let slope = head.cap.map(|cap| (&logits / cap)?.sqr()?.affine(-1.0, 1.0)).transpose()?;
        let ids = targets.narrow(0, rows.start, rows.len())?.unsqueeze(1)?.contiguous()?;
        let largest = logits.max_keepdim(1)?; // (c, 1)
        let picked = (logits.gather(&ids, 1)? - &largest)?;
        let shifted = logits.broadcast_sub(&largest)?;
        drop(logits);
        let exponentials = shifted.exp()?;
        let sums = exponentials.sum_keepdim(1)?;
        Ok(Piece { logps: (picked - sums.log()?)?.squeeze(1)?, exponentials, sums, ids, slope })
    }
}
