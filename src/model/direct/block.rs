//! One block, forward and backward.

use rayon::prelude::*;

use super::super::batch::Batch;
use super::super::decoder::{Block, Mlp, Norm, Qkv, Shared, SiteLinear};
use crate::error::Result;
use crate::kernels::adapted::{self, LowRankSlices, PairGradient};
use crate::kernels::attention::{Normalisers, Slices};
use crate::kernels::{glu, norm, rope};

/// Pairs and their gradients by site.
pub(super) type Pairs<'a> = [Option<LowRankSlices<'a>>];
pub(super) type Gradients = [Option<PairGradient>];

/// What all blocks are given.
pub(super) struct Rows<'a> {
    pub batch: &'a Batch,
    pub shared: &'a Shared,
}

/// What a block keeps for its backward pass.
pub(super) struct Kept {
    /// Input (n, d).
    x: Vec<f32>,
    /// Turned queries (n, h·e), turned keys and values (n, g·e).
    qkv: [Vec<f32>; 3],
    /// Attention's output (n, h·e).
    attended: Vec<f32>,
    normalisers: Normalisers,
    /// Between attention and feed-forward (n, d).
    middle: Vec<f32>,
    /// (n, f) each.
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl SiteLinear {
    /// `y (n, o)` for `x (n, i)`, with the pair's share and the frozen bias.
    fn direct(&self, pairs: &Pairs, x: &[f32]) -> Result<Vec<f32>> {
        let n = x.len() / self.linear.inputs();
        let mut y = vec![0f32; n * self.linear.outputs()];
        adapted::forward(x, &self.linear.matrix, self.linear.side, pairs[self.site.0], &mut y);
        if let Some(bias) = &self.linear.bias {
            let bias = bias.to_vec1::<f32>()?;
            y.par_chunks_exact_mut(bias.len()).for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
        }
        Ok(y)
    }

    /// Adds this site's pair gradient, and sets (or with `add`, adds to) the gradient of its input.
    fn direct_back(&self, pairs: &Pairs, gradients: &mut Gradients, x: &[f32], dy: &[f32], dx: Option<&mut [f32]>, add: bool) {
        let pair = pairs[self.site.0].zip(gradients[self.site.0].as_mut());
        adapted::backward((x, dy), &self.linear.matrix, self.linear.side, pair, dx, add);
    }
}

impl Norm {
    /// The norm's weight and epsilon; the direct path covers RMS norms only.
    fn rms(&self) -> Result<(Vec<f32>, f32)> {
        match self {
            Norm::Rms { weight, eps } => Ok((weight.to_vec1()?, *eps as f32)),
            Norm::Layer { .. } => unreachable!("`plain_pairs` covers RMS norms only"),
        }
    }
}

fn normed(norm: &Norm, x: &[f32]) -> Result<Vec<f32>> {
    let (weight, eps) = norm.rms()?;
    let mut out = vec![0f32; x.len()];
    norm::rms_forward(x, &weight, eps, &mut out);
    Ok(out)
}

/// `dx += ` the norm's gradient at `x`, given that of its result.
fn add_normed_back(norm: &Norm, x: &[f32], d_normed: &[f32], dx: &mut [f32]) -> Result<()> {
    let (weight, eps) = norm.rms()?;
    let mut through = vec![0f32; x.len()];
    norm::rms_backward(x, d_normed, &weight, eps, &mut through);
    add(dx, &through);
    Ok(())
}

/// `y += x`.
fn add(y: &mut [f32], x: &[f32]) {
    const TASK: usize = 1 << 14;
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y += x));
}

fn activated(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; gate.len()];
    glu::swiglu_forward(gate, up, &mut out);
    out
}

impl Block {
    fn projections(&self) -> [&SiteLinear; 6] {
        match (&self.qkv, &self.mlp) {
            (Qkv::Split { q, k, v }, Mlp::Gated { gate, up, down }) => [q, k, v, gate, up, down],
            _ => unreachable!("`plain_pairs` covers separate projections with a gate only"),
        }
    }

    /// `x (n, d)` → (n, d), and what the backward pass needs if `keep`.
    pub(super) fn direct_forward(&self, pairs: &Pairs, rows: &Rows, x: Vec<f32>, keep: bool) -> Result<(Vec<f32>, Option<Kept>)> {
        let [q, k, v, gate, up, down] = self.projections();
        let shared = rows.shared;
        let n1 = normed(&self.attention_norm, &x)?;
        let mut qkv = [q.direct(pairs, &n1)?, k.direct(pairs, &n1)?, v.direct(pairs, &n1)?];
        drop(n1);
        if let Some(table) = &shared.rope {
            let (q, rest) = qkv.split_at_mut(1);
            for part in [&mut q[0], &mut rest[0]] {
                rope::rope_in_place(part, table, &rows.batch.positions, shared.head_dim, false);
            }
        }
        let (attended, normalisers) = slices(&qkv, rows).forward();
        let mut middle = self.output.direct(pairs, &attended)?;
        add(&mut middle, &x);
        let n2 = normed(&self.mlp_norm, &middle)?;
        let (gate, up) = (gate.direct(pairs, &n2)?, up.direct(pairs, &n2)?);
        drop(n2);
        let mut y = down.direct(pairs, &activated(&gate, &up))?;
        add(&mut y, &middle);
        let kept = keep.then_some(Kept { x, qkv, attended, normalisers, middle, gate, up });
        Ok((y, kept))
    }

    /// Turns `dx (n, d)` from the gradient of the block's output into that of its input (unless nothing `below` wants
    /// it), and adds the gradients of its pairs.
    pub(super) fn direct_backward(
        &self,
        pairs: &Pairs,
        gradients: &mut Gradients,
        rows: &Rows,
        kept: Kept,
        dx: &mut [f32],
        below: bool,
    ) -> Result<()> {
        self.feed_back(pairs, gradients, &kept, dx)?;
        self.attend_back(pairs, gradients, rows, &kept, dx, below)
    }

    /// Feed-forward: `dx` becomes the gradient at `middle`.
    fn feed_back(&self, pairs: &Pairs, gradients: &mut Gradients, kept: &Kept, dx: &mut [f32]) -> Result<()> {
        let [.., gate, up, down] = self.projections();
        let act = activated(&kept.gate, &kept.up);
        let mut d_act = vec![0f32; act.len()];
        down.direct_back(pairs, gradients, &act, dx, Some(&mut d_act), false);
        drop(act);
        let (mut d_gate, mut d_up) = (vec![0f32; d_act.len()], vec![0f32; d_act.len()]);
        glu::swiglu_backward(&kept.gate, &kept.up, &d_act, &mut d_gate, &mut d_up);
        drop(d_act);
        let n2 = normed(&self.mlp_norm, &kept.middle)?;
        let mut d_n2 = vec![0f32; n2.len()];
        gate.direct_back(pairs, gradients, &n2, &d_gate, Some(&mut d_n2), false);
        up.direct_back(pairs, gradients, &n2, &d_up, Some(&mut d_n2), true);
        add_normed_back(&self.mlp_norm, &kept.middle, &d_n2, dx)
    }

    /// Attention: `dx` becomes the gradient at the block's input.
    fn attend_back(
        &self,
        pairs: &Pairs,
        gradients: &mut Gradients,
        rows: &Rows,
        kept: &Kept,
        dx: &mut [f32],
        below: bool,
    ) -> Result<()> {
        let [q, k, v, ..] = self.projections();
        let mut d_attended = vec![0f32; kept.attended.len()];
        self.output.direct_back(pairs, gradients, &kept.attended, dx, Some(&mut d_attended), false);
        let mut grads = slices(&kept.qkv, rows).backward(&kept.attended, &d_attended, &kept.normalisers);
        drop(d_attended);
        if let Some(table) = &rows.shared.rope {
            for part in &mut grads[..2] {
                rope::rope_in_place(part, table, &rows.batch.positions, rows.shared.head_dim, true);
            }
        }
        let n1 = normed(&self.attention_norm, &kept.x)?;
        let mut d_n1 = below.then(|| vec![0f32; n1.len()]);
        for (i, (site, grad)) in [q, k, v].into_iter().zip(&grads).enumerate() {
            site.direct_back(pairs, gradients, &n1, grad, d_n1.as_deref_mut(), i > 0);
        }
        match d_n1 {
            Some(d_n1) => add_normed_back(&self.attention_norm, &kept.x, &d_n1, dx),
            None => Ok(()),
        }
    }
}

fn slices<'a>(qkv: &'a [Vec<f32>; 3], rows: &Rows) -> Slices<'a> {
    let scale = 1.0 / (rows.shared.head_dim as f64).sqrt();
    Slices::new([&qkv[0], &qkv[1], &qkv[2]], rows.batch.rows, &rows.batch.starts, rows.shared.head_dim, scale)
}
