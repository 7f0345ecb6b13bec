//! Products with a model's frozen matrices, against the machine's limits.

use std::time::{Duration, Instant};

use super::made_up_weight;
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::engine::PreparedProducts;
use crate::kernels::linear::{Frozen, Side, product_slice};
use crate::kernels::peak::{self, StreamedMemory};
use crate::model::{Model, Site, SiteKind};

/// Products of at most this many rows are bound by reading the matrix: they are judged by bytes a second.
pub const FEW_ROWS: usize = 16;
/// Time for one direction of one shape, and the fewest rounds.
const SPEND: Duration = Duration::from_millis(150);
const ROUNDS: usize = 3;

/// Rates of one model's products.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Gemm {
    pub rows: usize,
    pub gemm_peak_gflops: f64,
    /// The limit of the bf16 instructions, from the first-level cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile_gflops: Option<f64>,
    /// What all threads together can read from memory, GB/s; only for few rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_gb_s: Option<f64>,
    /// One for each distinct matrix, the head last.
    pub shapes: Vec<MatrixShape>,
}

/// The matrices of one shape and type.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MatrixShape {
    pub outputs: usize,
    pub inputs: usize,
    #[serde(rename = "type")]
    pub dtype: &'static str,
    /// Last parts of the paths of its sites.
    pub sites: Vec<String>,
    /// Matrices that were multiplied in turn.
    pub matrices: usize,
    /// `x·Wᵀ`.
    pub forward: Rate,
    /// `dy·W`.
    pub backward: Rate,
}

/// Best rate of a direction.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Rate {
    pub gflops: f64,
    /// Bytes of the matrices as stored, a second.
    pub gb_s: f64,
    /// Of the limit that applies.
    pub share: f64,
}

/// Multiplies `rows` rows with each distinct frozen matrix of `model`, both ways. For few rows the caches are emptied
/// before each round, as they are when a whole model is read for every token.
///
/// # Errors
/// When the peak cannot be measured (see [`peak`]).
pub fn products(model: &Model, rows: usize, compute: Compute) -> Result<Gemm> {
    let stream = (rows <= FEW_ROWS).then(StreamedMemory::default);
    let read_gb_s = stream.as_ref().map(StreamedMemory::gb_s);
    let gemm_peak_gflops = peak(compute)?;
    let tile_gflops = peak::bf16_gflops(compute).map(|limit| limit.tile);
    let mut shapes: Vec<(MatrixShape, Vec<Site>)> = Vec::new();
    let linear = |kind| matches!(kind, SiteKind::Attention | SiteKind::Mlp | SiteKind::Expert | SiteKind::Head);
    for (i, info) in model.sites().iter().enumerate().filter(|(_, s)| linear(s.kind)) {
        let (weight, name) = (model.site_weight(Site(i)), info.path.rsplit('.').next().unwrap_or(&info.path));
        let same = |s: &MatrixShape| (s.outputs, s.inputs, s.dtype) == (info.outputs, info.inputs, weight.dtype.name());
        if !shapes.iter().any(|(s, _)| same(s)) {
            let none = Rate { gflops: 0.0, gb_s: 0.0, share: 0.0 };
            let (outputs, inputs, dtype) = (info.outputs, info.inputs, weight.dtype.name());
            let shape = MatrixShape { outputs, inputs, dtype, sites: Vec::new(), matrices: 0, forward: none, backward: none };
            shapes.push((shape, Vec::new()));
        }
        let Some((shape, sites)) = shapes.iter_mut().find(|(s, _)| same(s)) else { continue };
        if !shape.sites.iter().any(|s| s == name) {
            shape.sites.push(name.to_string());
        }
        shape.matrices += 1;
        sites.push(Site(i));
    }
    for (shape, sites) in &mut shapes {
        let frozen: Vec<_> = sites.iter().map(|s| Frozen::new(model.site_weight(*s).clone(), compute)).collect();
        let bytes: usize = sites.iter().map(|s| model.site_weight(*s).stored_bytes()).sum();
        let flops = 2.0 * (rows * shape.outputs * shape.inputs * shape.matrices) as f64;
        let forward = if model.sites()[sites[0].0].conv1d { Side::Plain } else { Side::Transposed };
        let rate = |side: Side, (from, to): (usize, usize)| {
            let (x, mut y) = (vec![0.5f32; rows * from], vec![0f32; rows * to]);
            let prepared = PreparedProducts::new(&frozen, side, &x).filter(|_| rows > FEW_ROWS);
            let mut half = vec![half::bf16::ZERO; if prepared.is_some() { rows * to } else { 0 }];
            let seconds = best(stream.as_ref(), || match &prepared {
                Some(prepared) => prepared.multiply(&mut half, &mut y),
                // From inside the pool, as passes of the model run.
                None => rayon::scope(|_| frozen.iter().for_each(|w| product_slice(&x, rows, w, side, &mut y))),
            });
            let (gflops, gb_s) = (flops / seconds / 1e9, bytes as f64 / seconds / 1e9);
            Rate { gflops, gb_s, share: read_gb_s.map_or(gflops / gemm_peak_gflops, |limit| gb_s / limit) }
        };
        shape.forward = rate(forward, (shape.inputs, shape.outputs));
        shape.backward = rate(forward.other(), (shape.outputs, shape.inputs));
    }
    Ok(Gemm { rows, gemm_peak_gflops, tile_gflops, read_gb_s, shapes: shapes.into_iter().map(|(shape, _)| shape).collect() })
}

/// Best time of `run` in seconds; with a `stream`, after the caches were emptied.
fn best(stream: Option<&StreamedMemory>, mut run: impl FnMut()) -> f64 {
    run();
    let (began, mut rounds, mut best) = (Instant::now(), 0, f64::INFINITY);
    while rounds < ROUNDS || began.elapsed() < SPEND {
        stream.into_iter().for_each(StreamedMemory::read);
        let started = Instant::now();
        run();
        best = best.min(started.elapsed().as_secs_f64());
        rounds += 1;
    }
    best
}

/// The machine's limit in GFLOP/s: that of its bf16 tiles where products use them, else the best rate of a product with
/// matrices of a small model's shapes, both ways, 512 rows.
///
/// # Errors
/// When a temporary file cannot be written.
pub fn peak(compute: Compute) -> Result<f64> {
    match peak::bf16_gflops(compute) {
        Some(limit) => Ok(limit.product),
        None => best_product(compute),
    }
}

fn best_product(compute: Compute) -> Result<f64> {
    const ROWS: usize = 512;
    let mut best = 0f64;
    for (n, k) in [(576, 576), (1536, 576), (576, 1536), (1536, 1536)] {
        let frozen = Frozen::new(made_up_weight(n, k)?, compute);
        let (x, mut y) = (vec![0.5f32; ROWS * k], vec![0f32; ROWS * n]);
        let (dy, mut dx) = (vec![0.5f32; ROWS * n], vec![0f32; ROWS * k]);
        let flops = 2.0 * (ROWS * n * k) as f64;
        for _ in 0..30 {
            let started = Instant::now();
            product_slice(&x, ROWS, &frozen, Side::Transposed, &mut y);
            best = best.max(flops / started.elapsed().as_nanos() as f64);
            let started = Instant::now();
            product_slice(&dy, ROWS, &frozen, Side::Plain, &mut dx);
            best = best.max(flops / started.elapsed().as_nanos() as f64);
        }
    }
    Ok(best)
}
