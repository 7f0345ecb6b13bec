//! How fast this machine trains: tokens a second, memory, and the share of the machine's own limit.
//!
//! Work is made up (random ids), weights and code are real. Refuses to know: recipes as files, data, printing.

pub mod gemm;
mod memory;

use std::time::{Duration, Instant};

use candle_core::Tensor;

use crate::adapter::Adapter;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::files::{self, Mapped};
use crate::kernels::weight::{RowOrder, Weight, WeightType};
use crate::model::{Model, Site, SiteKind};
use crate::train::optim::{self, AdamW};
use crate::{random, recipe};
use memory::{Sampler, status};

/// The work of one benchmark.
#[derive(Debug, Clone)]
pub struct Work {
    pub batch: usize,
    pub seq: usize,
    /// Share of each row, at its end, that carries loss.
    pub trained: f64,
    /// Steps that are timed, after one that is not.
    pub steps: usize,
    pub compute: Compute,
    pub adapter: recipe::Adapter,
}

/// What came out. Times are medians over the steps.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    pub tok_s: f64,
    pub trained_tok_s: f64,
    pub ms_step: f64,
    pub ms_forward: f64,
    pub ms_backward: f64,
    pub ms_optimizer: f64,
    /// Largest resident set, mapped weights included.
    pub peak_rss_mb: f64,
    /// Largest anonymous part of it (sampled).
    pub peak_anon_mb: f64,
    /// Model FLOPs of a step / its time / `gemm_peak_gflops`.
    pub mfu: f64,
    /// The machine's limit, see [`gemm::peak`].
    pub gemm_peak_gflops: f64,
    pub losses: Vec<f64>,
}

/// Times steps of training `model`.
///
/// # Errors
/// [`Error::Usage`] for a model or adapter that only autograd covers (gpt2, a GPU); whatever the model reports.
pub fn train(model: &Model, work: &Work) -> Result<Report> {
    let gemm_peak_gflops = gemm::peak(work.compute)?;
    let adapter = Adapter::new(&work.adapter, None, model, 0)?;
    let memory = Sampler::start();
    let rows: Vec<Vec<u32>> = (0..work.batch as u64).map(|r| ids(r, work.seq, model.config.vocab)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let first = ((1.0 - work.trained) * work.seq as f64).round() as usize;
    let trained = work.batch * (work.seq - first.max(1));
    let mut adamw = AdamW::new(adapter.params())?;
    let (mut losses, mut times) = (Vec::new(), Vec::new());
    for step in 0..=work.steps {
        let one = one_step(model, &adapter, &mut adamw, &rows, first, trained)?;
        losses.push(one.loss);
        if step > 0 {
            times.push(one);
        }
    }
    let ms = |pick: fn(&Step) -> Duration| median(times.iter().map(|s| pick(s).as_secs_f64() * 1e3).collect());
    let ms_step = ms(|s| s.forward + s.backward + s.optimizer);
    let tokens = (work.batch * work.seq) as f64;
    Ok(Report {
        tok_s: tokens / ms_step * 1e3,
        trained_tok_s: trained as f64 / ms_step * 1e3,
        ms_step,
        ms_forward: ms(|s| s.forward),
        ms_backward: ms(|s| s.backward),
        ms_optimizer: ms(|s| s.optimizer),
        peak_rss_mb: status("VmHWM:").unwrap_or(f64::NAN),
        peak_anon_mb: memory.stop(),
        mfu: flops(model, work, trained as f64) / (ms_step * 1e6) / gemm_peak_gflops,
        gemm_peak_gflops,
        losses,
    })
}

struct Step {
    loss: f64,
    forward: Duration,
    backward: Duration,
    optimizer: Duration,
}

fn one_step(model: &Model, adapter: &Adapter, adamw: &mut AdamW, rows: &[&[u32]], first: usize, trained: usize) -> Result<Step> {
    let started = Instant::now();
    let Some(got) = model.direct_gradients(adapter, rows, &|_, i| i >= first, 1.0 / trained as f64, 0)? else {
        return Err(Error::usage(
            "bench",
            "this model and adapter are not covered by the CPU engine",
            "use a llama or qwen2 model",
        ));
    };
    let whole = started.elapsed();
    let started = Instant::now();
    let mut grads: Vec<Option<Tensor>> = vec![None; adapter.params().len()];
    for (site, a, b) in got.pairs {
        if let Some((at_a, at_b)) = adapter.param_indices(site) {
            (grads[at_a], grads[at_b]) = (Some(a), Some(b));
        }
    }
    let norm = optim::norm(&grads)?;
    let settings = optim::Settings {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        clip: (1.0 / (norm + 1e-6)).min(1.0),
    };
    adamw.step(adapter.params(), &grads, &settings)?;
    let backward = whole.saturating_sub(got.times.forward);
    Ok(Step { loss: got.loss, forward: got.times.forward, backward, optimizer: started.elapsed() })
}

/// FLOPs of a step: `4 ·` matrix values `·` tokens (forward and input gradient), the head at trained positions only,
/// causal attention forward (4·t²·d/2) and backward (10·t²·d/2), and the pairs' own products.
fn flops(model: &Model, work: &Work, trained: f64) -> f64 {
    let tokens = (work.batch * work.seq) as f64;
    let size = |i: usize| (model.sites()[i].inputs * model.sites()[i].outputs) as f64;
    let of =
        |kind: fn(SiteKind) -> bool| -> f64 { (0..model.sites().len()).filter(|i| kind(model.sites()[*i].kind)).map(size).sum() };
    let blocks = of(|k| matches!(k, SiteKind::Attention | SiteKind::Mlp));
    let c = &model.config;
    let attention = 7.0 * (work.seq as f64).powi(2) * (c.heads * c.head_dim * c.layers * work.batch) as f64;
    4.0 * blocks * tokens + 4.0 * of(|k| k == SiteKind::Head) * trained + attention + pair_flops(model, work) * tokens
}

/// `6 · r · (inputs + outputs)` a token for every adapted site: the pair forward and its gradients.
fn pair_flops(model: &Model, work: &Work) -> f64 {
    let Ok(adapter) = Adapter::new(&work.adapter, None, model, 0) else { return 0.0 };
    let sites = model.sites().iter().enumerate();
    sites.filter_map(|(i, s)| Some(6.0 * (adapter.low_rank(Site(i))?.a.dim(0).ok()? * (s.inputs + s.outputs)) as f64)).sum()
}

/// A bf16 matrix in a mapped temporary file.
fn made_up(rows: usize, cols: usize) -> Result<Weight> {
    let dir = tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?;
    let path = dir.path().join("weight");
    let value = |i: usize| half::bf16::from_f32((random::indexed(7, i as u64) % 1000) as f32 / 1000.0 - 0.5);
    let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| value(i).to_le_bytes()).collect();
    files::write_atomic(&path, &bytes)?;
    Ok(Weight { data: Mapped::open(&path)?, dtype: WeightType::BF16, rows, cols, order: RowOrder::Plain })
}

fn ids(row: u64, len: usize, vocab: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (random::indexed(row, i) % vocab as u64) as u32).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
