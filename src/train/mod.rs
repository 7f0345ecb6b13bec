//! The training loop: one [`run`] that yields events.
//!
//! Prints nothing and writes nothing; whoever listens to the events does. Every number depends on the settings, the
//! examples and the step only, so a run that is stopped and resumed does what an undisturbed one does.

pub mod optim;
pub mod order;
pub mod schedule;
pub mod state;

use std::time::Instant;

use candle_core::Tensor;

pub use state::{Progress, State};

use crate::adapter::Adapter;
use crate::data::Example;
use crate::error::{Error, Result};
use crate::model::{Adapt, Batch, Ctx, Model, Targets};
use crate::recipe;
use optim::AdamW;
use order::Order;

/// What a run trains, on what, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    pub adapter: &'a Adapter,
    pub examples: &'a [Example],
    /// Judged by every `eval_every` steps; may be empty.
    pub heldout: &'a [Example],
    pub settings: &'a recipe::Train,
    /// Id that fills short rows.
    pub pad: u32,
}

/// What happened. Serialised as one line of `events.jsonl` each.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Before the first step.
    Started { steps: usize, first_step: usize, examples: usize, heldout: usize, params: usize },
    /// An optimiser step is done. `loss` is the mean per trained token in nats, before the step.
    Step { step: usize, loss: f64, lr: f64, grad_norm: f64, tokens: usize, trained: usize, seconds: f64 },
    /// Held-out loss per trained token in nats, after `step` steps.
    Eval { step: usize, loss: f64, best: bool },
    /// A good moment to keep the state; `best` when the held-out loss is the lowest so far.
    Save {
        step: usize,
        best: bool,
        #[serde(skip)]
        state: Box<State>,
    },
    /// The run is over.
    Finished { step: usize, reason: Reason },
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// All steps were done.
    Complete,
    /// The held-out loss stopped falling.
    EarlyStop,
    /// The listener asked for it.
    Interrupted,
}

/// The listener's answer to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    Go,
    /// Finish the step, save, end.
    Stop,
}

/// Trains `job.adapter` in place, from the beginning or from `resume`.
///
/// # Errors
/// [`Error::NonFinite`] when the loss or a gradient is not a number (the last good state was offered by a `Save` event
/// before), and whatever the listener returns.
pub fn run(job: &Job, resume: Option<State>, listen: &mut dyn FnMut(Event) -> Result<Control>) -> Result<Reason> {
    let order = Order::new(job.settings, job.examples)?;
    let mut loop_ = Loop { job, optim: AdamW::new(job.adapter.params())?, progress: Progress::default(), order };
    if let Some(state) = resume {
        loop_.progress = state.restore(job.adapter, &mut loop_.optim)?;
    }
    let first_step = loop_.progress.step;
    let steps = loop_.order.steps;
    let (examples, heldout, params) = (job.examples.len(), job.heldout.len(), job.adapter.param_count());
    let mut control = listen(Event::Started { steps, first_step, examples, heldout, params })?;
    let mut reason = Reason::Complete;
    while loop_.progress.step < steps {
        if control == Control::Stop {
            reason = Reason::Interrupted;
            break;
        }
        let stepped = loop_.step(listen)?;
        control = listen(stepped)?;
        let judged = loop_.judge(steps, listen)?;
        let due = job.settings.save_every > 0 && loop_.progress.step.is_multiple_of(job.settings.save_every);
        if due || judged == Some(true) {
            listen(loop_.save(judged == Some(true))?)?;
        }
        if job.settings.early_stop.is_some_and(|patience| loop_.progress.stale >= patience) {
            reason = Reason::EarlyStop;
            break;
        }
    }
    listen(loop_.save(false)?)?;
    listen(Event::Finished { step: loop_.progress.step, reason })?;
    Ok(reason)
}

struct Loop<'a> {
    job: &'a Job<'a>,
    optim: AdamW,
    progress: Progress,
    order: Order,
}

impl Loop<'_> {
    /// One optimiser step over `accumulate` micro-batches, weighted by tokens: the gradient is that of the mean over all
    /// trained tokens of the step, however they fall into micro-batches.
    fn step(&mut self, listen: &mut dyn FnMut(Event) -> Result<Control>) -> Result<Event> {
        let (started, step, s) = (Instant::now(), self.progress.step, self.job.settings);
        let micros = self.order.micro_batches(step);
        let trained: usize = micros.iter().flatten().flatten().map(|i| trained_len(&self.job.examples[*i])).sum();
        let mut sums = vec![None; self.job.adapter.params().len()];
        let (mut loss, mut tokens) = (0f64, 0usize);
        for (micro, rows) in micros.iter().enumerate() {
            let row = |row: &Vec<usize>| row.iter().map(|i| &self.job.examples[*i]).collect();
            let rows: Vec<Vec<&Example>> = rows.iter().map(row).collect();
            let adapt = self.job.adapter.training(s.seed, step as u64, micro as u64);
            loss += accumulate(self.job, &adapt, &rows, trained, &mut sums)?;
            tokens += rows.iter().flatten().map(|e| e.ids.len()).sum::<usize>();
        }
        let grad_norm = optim::norm(&sums)?;
        if !loss.is_finite() || !grad_norm.is_finite() {
            listen(self.save(false)?)?;
            return Err(Error::NonFinite {
                step: step + 1,
                why: format!("the loss is {loss} and the gradient's norm {grad_norm}"),
                help: "the state before this step was saved; lower train.lr, set train.clip, or look at the rows of this step"
                    .into(),
            });
        }
        let lr = s.lr * schedule::factor(s.schedule, s.warmup, step, self.order.steps);
        self.optim.step(self.job.adapter.params(), &sums, &optim::Settings::new(s, lr, grad_norm))?;
        self.progress.step += 1;
        self.progress.tokens += tokens as u64;
        self.progress.trained += trained as u64;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Event::Step { step: step + 1, loss, lr, grad_norm, tokens, trained, seconds })
    }

    /// Held-out loss when it is due; `Some(true)` when it is the best so far.
    fn judge(&mut self, steps: usize, listen: &mut dyn FnMut(Event) -> Result<Control>) -> Result<Option<bool>> {
        let (step, every) = (self.progress.step, self.job.settings.eval_every);
        let due = every > 0 && (step.is_multiple_of(every) || step == steps);
        if !due || self.job.heldout.is_empty() {
            return Ok(None);
        }
        let score = self.job.model.score(
            &self.job.adapter.frozen(),
            self.job.heldout,
            self.job.settings.batch_size,
            self.job.pad,
            &mut |_| (),
        )?;
        let loss = score.loss();
        let best = self.progress.best.is_none_or(|(_, b)| loss < b);
        if best {
            self.progress.best = Some((step, loss));
            self.progress.stale = 0;
        } else {
            self.progress.stale += 1;
        }
        listen(Event::Eval { step, loss, best })?;
        Ok(Some(best))
    }

    fn save(&self, best: bool) -> Result<Event> {
        let state = State::capture(self.job.adapter, &self.optim, &self.progress)?;
        Ok(Event::Save { step: self.progress.step, best, state: Box::new(state) })
    }
}

/// Tokens of an example that carry loss; the first token of a row has nothing to be predicted from.
fn trained_len(example: &Example) -> usize {
    example.trained.iter().skip(1).filter(|t| **t).count()
}

/// Adds the gradient of one micro-batch's share of the step's mean loss to `sums`; returns that share. Written out where
/// the model covers it (example by example), through autograd elsewhere (in packed rows).
fn accumulate(job: &Job, adapt: &dyn Adapt, rows: &[Vec<&Example>], trained: usize, sums: &mut [Option<Tensor>]) -> Result<f64> {
    let examples: Vec<&Example> = rows.concat();
    let ids: Vec<&[u32]> = examples.iter().map(|e| e.ids.as_slice()).collect();
    let is_target = |example: usize, i: usize| examples[example].trained.get(i).copied().unwrap_or(false);
    let factor = 1.0 / trained.max(1) as f64;
    if let Some(direct) = job.model.direct_gradients(adapt, &ids, &is_target, factor, job.pad)? {
        for (site, a, b) in direct.pairs {
            if let Some((at_a, at_b)) = job.adapter.param_indices(site) {
                add(&mut sums[at_a], &a)?;
                add(&mut sums[at_b], &b)?;
            }
        }
        return Ok(direct.loss);
    }
    let (batch, targets) = batch(rows, job.pad);
    if targets.is_empty() {
        return Ok(0.0);
    }
    let loss = (job.model.loss_sum(&mut Ctx::new(adapt), &batch, &targets)? * factor)?;
    let grads = loss.backward()?;
    for (sum, param) in sums.iter_mut().zip(job.adapter.params()) {
        if let Some(grad) = grads.get(&param.var) {
            add(sum, grad)?;
        }
    }
    Ok(f64::from(loss.to_scalar::<f32>()?))
}

/// Rows of examples as the decoder takes them.
fn batch(rows: &[Vec<&Example>], pad: u32) -> (Batch, Targets) {
    let ids: Vec<Vec<&[u32]>> = rows.iter().map(|row| row.iter().map(|e| e.ids.as_slice()).collect()).collect();
    let masks: Vec<Vec<bool>> = rows.iter().map(|row| row.iter().flat_map(|e| e.trained.iter().copied()).collect()).collect();
    let batch = Batch::packed(&ids, pad);
    let targets = Targets::shifted(&batch, |row, i| masks[row].get(i).copied().unwrap_or(false));
    (batch, targets)
}

/// `sum += grad`.
fn add(sum: &mut Option<Tensor>, grad: &Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + grad)?,
        None => grad.clone(),
    });
    Ok(())
}
