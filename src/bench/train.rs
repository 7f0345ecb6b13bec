//! Steps of training, timed: the loop that trains, on a recipe's rows or on made-up ones.

use super::memory::Sampler;
use super::{gemm, median};
use crate::adapter::Adapter;
use crate::data::{ExampleRef, Examples};
use crate::device::{self, Compute};
use crate::error::Result;
use crate::model::{MachineKind, Model, Site, SiteKind};
use crate::train::mixture::Mixture;
use crate::train::order::Order;
use crate::train::{self, Control, Event, StepSeconds, TrainSetup};
use crate::{machine, recipe};

/// What is trained for a benchmark.
pub struct BenchRun<'a> {
    pub model: &'a Model,
    /// Trained in place.
    pub adapter: &'a Adapter,
    pub examples: &'a Examples,
    pub settings: &'a recipe::Train,
    pub compute: Compute,
    /// Steps that are timed, after one that is not.
    pub steps: usize,
}

/// What came out. Times are medians over the steps, rates those of the median step.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BenchReport {
    /// As `--device` names it. How much of its memory was in use at most, candle does not tell.
    pub device: String,
    pub machine: MachineKind,
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
    /// Of kernels only.
    #[serde(flatten)]
    pub limit: Option<ShareOfLimit>,
    pub losses: Vec<f64>,
}

/// What was reached of what this CPU can.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct ShareOfLimit {
    /// Model FLOPs of a step / its time / `gemm_peak_gflops`.
    pub mfu: f64,
    /// The machine's limit, see [`gemm::peak`].
    pub gemm_peak_gflops: f64,
}

/// A step as it was.
struct Timed {
    tokens: f64,
    trained: f64,
    seconds: f64,
    parts: StepSeconds,
    flops: f64,
}

/// Times steps of training.
///
/// # Errors
/// Whatever training reports.
pub fn train(work: &BenchRun) -> Result<BenchReport> {
    let peak_gflops = match work.model.machine() {
        MachineKind::Kernels => Some(gemm::peak(work.compute)?),
        MachineKind::Tensors => None,
    };
    let settings =
        recipe::Train { steps: Some(work.steps + 1), eval_every: 0, save_every: 0, early_stop: None, ..work.settings.clone() };
    let flops = flops(work, &settings)?;
    let (model, adapter, examples) = (work.model, work.adapter, work.examples);
    let (none, mixture) = (Examples::default(), Mixture::plain(examples.len()));
    let job = TrainSetup { model, adapter, examples, mixture: &mixture, heldout: &none, settings: &settings };
    let (mut losses, mut timed, mut peak, mut memory) = (Vec::new(), Vec::new(), f64::NAN, Some(Sampler::start()));
    let mut peak_anon_mb = f64::NAN;
    train::run(&job, None, &mut |event| {
        let Event::Step { step, loss, tokens, trained, seconds, parts, .. } = event else { return Ok(Control::Go) };
        losses.push(loss);
        if step > 1 {
            let (tokens, trained) = (tokens as f64, trained as f64);
            timed.push(Timed { tokens, trained, seconds, parts, flops: flops[step - 1] });
        }
        if step > work.steps {
            // What comes now is the state being saved.
            peak = machine::resident().map_or(f64::NAN, |r| r.peak as f64 / 1e6);
            peak_anon_mb = memory.take().map_or(f64::NAN, Sampler::stop);
        }
        Ok(Control::Go)
    })?;
    let of = |figure: &dyn Fn(&Timed) -> f64| median(timed.iter().map(figure).collect());
    let share = |peak| ShareOfLimit { mfu: of(&|s| s.flops / s.seconds) / 1e9 / peak, gemm_peak_gflops: peak };
    Ok(BenchReport {
        device: device::name(&model.device),
        machine: model.machine(),
        tok_s: of(&|s| s.tokens / s.seconds),
        trained_tok_s: of(&|s| s.trained / s.seconds),
        ms_step: of(&|s| s.seconds * 1e3),
        ms_forward: of(&|s| s.parts.forward * 1e3),
        ms_backward: of(&|s| s.parts.backward * 1e3),
        ms_optimizer: of(&|s| s.parts.optimizer * 1e3),
        peak_rss_mb: peak,
        peak_anon_mb,
        limit: peak_gflops.map(share),
        losses,
    })
}

/// FLOPs of every step: `4 ·` matrix values `·` tokens (forward and input gradient), the head at trained positions only,
/// causal attention forward (4·t²·d/2) and backward (10·t²·d/2) of each example, and the pairs' own products.
fn flops(work: &BenchRun, settings: &recipe::Train) -> Result<Vec<f64>> {
    let (sites, c) = (work.model.sites(), &work.model.config);
    let size = |kinds: fn(SiteKind) -> bool| -> f64 {
        sites.iter().filter(|s| kinds(s.kind)).map(|s| (s.inputs * s.outputs) as f64).sum()
    };
    let blocks = size(|k| matches!(k, SiteKind::Attention | SiteKind::Mlp | SiteKind::Expert));
    let head = size(|k| k == SiteKind::Head);
    let pairs = pair_flops(work)?;
    let example = |e: ExampleRef| {
        let (tokens, trained) = (e.ids.len() as f64, e.targets() as f64);
        let attention = 7.0 * tokens * tokens * c.shapes.iter().map(|shape| shape.heads * shape.head_dim).sum::<usize>() as f64;
        (4.0 * blocks + pairs) * tokens + 4.0 * head * trained + attention
    };
    let mixture = Mixture::plain(work.examples.len());
    let order = Order::new(settings, &mixture, work.examples)?;
    let step = |step| order.micro_batches(step).iter().flatten().flatten().map(|i| example(work.examples.get(*i))).sum();
    Ok((0..order.steps).map(step).collect())
}

/// `6 · r · (inputs + outputs)` a token for every adapted site: the pair forward and its gradients.
fn pair_flops(work: &BenchRun) -> Result<f64> {
    let mut sum = 0.0;
    for (i, site) in work.model.sites().iter().enumerate() {
        if let Some(pair) = work.adapter.low_rank(Site(i)) {
            sum += 6.0 * (pair.a.dim(0)? * (site.inputs + site.outputs)) as f64;
        }
    }
    Ok(sum)
}
