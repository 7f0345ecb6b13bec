//! Memory of a run at its peak, by what it is for, from the sizes of model, adapter and rows.

use std::collections::HashSet;

use super::DeviceMemory;
use crate::machine;
use crate::model::{Adapt, BatchTokens, MachineKind, Site, SiteKind, Term};
use crate::train::TrainSetup;
use crate::{recipe, train};

/// Bytes of an f32.
const F32: u64 = 4;
/// A page of a mapped file.
const PAGE: u64 = 4096;
/// Rows whose logits the loss holds at once.
const LOGIT_ROWS: usize = crate::kernels::linear_cross_entropy::CHUNK;

/// Bytes at the peak of a run, by part. Parts are there at the same time: they add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryEstimate {
    /// Weights of the base that are read, in the mapped file. The system can take these pages back.
    pub weights: u64,
    /// Program, tokenizer, rows: what this process holds before the first step.
    pub program: u64,
    /// Values of the adapter, their copies for the kernels, their gradients.
    pub adapter: u64,
    /// Moments of the optimiser, and the best adapter so far.
    pub optimizer: u64,
    /// Kept from the forward for the backward pass.
    pub activations: u64,
    /// Logits, and the other buffers of a step.
    pub workspace: u64,
    /// What an evaluation, a checkpoint being written, or the answers of the proof need beyond what is free by then.
    pub besides: u64,
    /// Whether blocks run again on the way back instead of keeping what they computed.
    pub recomputed: bool,
    /// What is on a device instead, where tensor operations compute.
    #[serde(skip)]
    pub device: Option<DeviceMemory>,
}

impl MemoryEstimate {
    /// Names and bytes of the parts.
    pub fn parts(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights),
            ("program", self.program),
            ("adapter", self.adapter),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("workspace", self.workspace),
            ("besides", self.besides),
        ]
    }

    /// The peak.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Of `run` (with `run.settings`), whose process holds `program` bytes before the first step (see [`program`]).
    pub fn of(run: &TrainSetup, eval: &recipe::Eval, program: u64) -> MemoryEstimate {
        let params = run.adapter.param_count() as u64 * F32;
        let rows = RowSizes::of(run);
        let best = if super::evaluations(run, 1) > 0 { params } else { 0 };
        // What is saved is copied, and written into one buffer.
        let saved = 2 * (3 * params + best);
        if run.model.machine() == MachineKind::Tensors {
            let device =
                DeviceMemory::of(run, (rows.micro_batch.longest, rows.micro_batch.batch, rows.trained), best, answers(run, eval));
            return MemoryEstimate {
                weights: weights(run),
                program,
                workspace: device.on_host,
                besides: saved.saturating_sub(device.on_host),
                recomputed: device.recomputed,
                device: Some(device),
                ..MemoryEstimate::default()
            };
        }
        let step = step(run, &rows);
        let judged = judged(run, &rows);
        // Between two steps, copies and gradients are free again; after the last one, so is all that steps use.
        let between = step.adapter - params;
        let after = between + step.activations + step.workspace;
        let besides = saved.max(judged).saturating_sub(between).max(answers(run, eval).saturating_sub(after));
        MemoryEstimate {
            weights: weights(run),
            program,
            adapter: step.adapter,
            optimizer: 2 * params + best,
            activations: step.activations,
            workspace: step.workspace,
            besides,
            recomputed: step.recomputed,
            device: None,
        }
    }
}

/// What this process holds, without the values of the adapter, which [`MemoryEstimate`] counts apart; 0 where the system does not
/// tell.
pub fn program(run: &TrainSetup) -> u64 {
    let held = machine::resident().map_or(0, |r| r.now);
    let values = if run.model.device.is_cpu() { run.adapter.param_count() as u64 * F32 } else { 0 };
    held.saturating_sub(values)
}

/// Sizes of the rows.
struct RowSizes {
    micro_batch: BatchTokens,
    /// Share of tokens that carry loss.
    trained: f64,
    /// Longest held-out row.
    heldout: usize,
}

impl RowSizes {
    fn of(run: &TrainSetup) -> RowSizes {
        let most = run.settings.max_length;
        let tokens: usize = (0..run.examples.len()).map(|i| run.examples.length(i)).sum();
        let trained: usize = run.examples.iter().map(|e| e.targets()).sum();
        let micro_batch = train::largest_batch(run);
        let heldout = train::longest(run.heldout, most);
        RowSizes { micro_batch, trained: trained as f64 / tokens.max(1) as f64, heldout }
    }
}

struct StepMemory {
    adapter: u64,
    activations: u64,
    workspace: u64,
    recomputed: bool,
}

fn step(run: &TrainSetup, rows: &RowSizes) -> StepMemory {
    let recompute = train::recompute(run.settings.recomputation);
    let m = run.model.pass_memory(rows.micro_batch, rows.trained, &run.adapter.training(0, 0, 0), recompute);
    StepMemory { adapter: values(run), activations: m.activations, workspace: m.logits + m.workspace, recomputed: m.recomputed }
}

/// Bytes of what is trained, in every form that a step has it in. Of pairs: values, two copies of them in the kernels' forms,
/// gradients of a group and of the step. Of full matrices: values, one copy (two of a head while it is made), gradients.
fn values(run: &TrainSetup) -> u64 {
    let full = |i: usize| match run.adapter.term(Site(i)) {
        Some(Term::Full(full)) => full.elem_count() as u64 * F32,
        _ => 0,
    };
    let full: u64 = (0..run.model.sites().len()).map(full).sum();
    let params = run.adapter.param_count() as u64 * F32;
    5 * (params - full) + 4 * full
}

/// Bytes of an evaluation: one block's buffers for a batch of held-out rows, and logits.
fn judged(run: &TrainSetup, rows: &RowSizes) -> u64 {
    if super::evaluations(run, 1) == 0 {
        return 0;
    }
    let c = &run.model.config;
    let n = (run.settings.batch_size * rows.heldout) as u64;
    let logits = (LOGIT_ROWS as u64).min((n as f64 * rows.trained.max(0.05)) as u64) * c.vocab as u64;
    (n * (4 * c.width + 3 * c.ffn) as u64 + logits) * F32
}

/// Bytes of the proof's answers: keys and values of a batch of prompts and their answers, and one pass over the prompts.
fn answers(run: &TrainSetup, eval: &recipe::Eval) -> u64 {
    if !eval.generates() || run.heldout.is_empty() {
        return 0;
    }
    let c = &run.model.config;
    let judged = eval.limit.unwrap_or(usize::MAX).min(run.heldout.len());
    let (rows, longest) = (eval.batch_size.min(judged), (0..judged).map(|i| run.heldout.length(i)).max().unwrap_or(0));
    let cached = rows * (longest + eval.max_new_tokens) * c.cached_width();
    let states = rows * c.delta_layers().flatten().map(|sizes| sizes.state()).sum::<usize>();
    let pass = rows * longest * (4 * c.width + 3 * c.ffn) + rows * c.vocab;
    (cached + states + pass) as u64 * F32
}

/// Bytes of the weights that a run reads: all matrices of its linear layers, and of the embedding the rows of its tokens.
fn weights(run: &TrainSetup) -> u64 {
    let model = run.model;
    let mut seen = HashSet::new();
    let mut sum = 0;
    let embedding = |i: usize| model.sites()[i].kind == SiteKind::Embedding;
    // The embedding last: where it is the head as well, it is read whole.
    let order = (0..model.sites().len()).filter(|i| !embedding(*i)).chain((0..model.sites().len()).filter(|i| embedding(*i)));
    for i in order {
        let weight = model.site_weight(Site(i));
        if seen.insert(weight.data.bytes().as_ptr() as usize) {
            let whole = weight.stored_bytes() as u64;
            sum +=
                if embedding(i) { whole.min(used_rows(run) * PAGE.max(whole / model.config.vocab as u64 + PAGE)) } else { whole };
        }
    }
    sum
}

fn used_rows(run: &TrainSetup) -> u64 {
    let mut used = vec![false; run.model.config.vocab];
    for id in run.examples.iter().chain(run.heldout.iter()).flat_map(|e| e.ids) {
        used.get_mut(*id as usize).into_iter().for_each(|seen| *seen = true);
    }
    used.into_iter().filter(|used| *used).count() as u64
}
