//! The training loop: one [`run`] that yields events.
//!
//! Prints nothing and writes nothing; whoever listens to the events does. Every number depends on the settings, the
//! examples and the step only, so a run that is stopped and resumed does what an undisturbed one does.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `adamw`, `pack`, `schedule` | AdamW; several examples in a row; the learning rate |
//! | 0 | `mixture` | how often an epoch has which examples |
//! | 1 | `order` | which examples a step sees |
//! | 1 | `optimizer` | gradients, moments and the update, on this machine |
//! | 2 | `state` | a run between two micro-steps, as bytes |

pub mod adamw;
pub mod pack;
pub mod mixture;
pub mod optimizer;
pub mod order;
pub mod schedule;
pub mod state;

use std::time::Instant;

use candle_core::Tensor;

pub use state::{Exact, State, TrainProgress, Within};

use crate::adapter::Adapter;
use crate::data::{ExampleRef, Examples};
use crate::error::{Error, Result};
use crate::model::{Adapt, BatchTokens, Marked, Model, Recompute, Workspace};
use crate::recipe;
use mixture::Mixture;
use optimizer::Optimizer;
use order::{Micro, Order};
use state::Carried;

/// What a run trains, on what, and how.
#[derive(Clone, Copy)]
pub struct TrainSetup<'a> {
    pub model: &'a Model,
    pub adapter: &'a Adapter,
    pub examples: &'a Examples,
    /// How often an epoch has which of `examples`.
    pub mixture: &'a Mixture,
    /// Judged by every `eval_every` steps; may be empty.
    pub heldout: &'a Examples,
    pub settings: &'a recipe::Train,
}

/// What happened. Serialised as one line of `events.jsonl` each, but for those of a moment ([`Event::Micro`] and
/// [`Event::Judging`]), which are there to be answered.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Before the first step.
    Started {
        steps: usize,
        first_step: usize,
        examples: usize,
        heldout: usize,
        params: usize,
        /// Steps between evaluations; 0: there are none.
        #[serde(skip)]
        eval_every: usize,
    },
    /// A micro-step is done, and its step is not: `micro` of `of` in step `step` (from 1).
    Micro { step: usize, micro: usize, of: usize },
    /// An optimiser step is done. `loss` is the mean per trained token in nats, before the step; `balance` what transformers calls the
    /// router's auxiliary loss, which is not trained ([`crate::model::ExpertBalance::loss`]), a mean over the micro-steps' tokens.
    Step {
        step: usize,
        loss: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        balance: Option<f64>,
        lr: f64,
        grad_norm: f64,
        tokens: usize,
        trained: usize,
        seconds: f64,
        #[serde(skip)]
        parts: StepSeconds,
    },
    /// The held-out loss is being measured: `done` of `all` rows.
    Judging { step: usize, done: usize, all: usize },
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
    Finished {
        step: usize,
        reason: StopReason,
        /// The values of the best adapter, in the order of [`Adapter::params`]; empty when no evaluation chose one.
        #[serde(skip)]
        best: Vec<Tensor>,
    },
}

/// Where the seconds of a step went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepSeconds {
    /// With head and loss.
    pub forward: f64,
    pub backward: f64,
    pub optimizer: f64,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
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
    /// Offer the state after the micro-step or evaluation in progress, and go on.
    Save,
    /// Finish the micro-step, leave an evaluation as it is, offer the state, end.
    Stop,
}

/// Trains `job.adapter` in place, from the beginning or from `resume`.
///
/// # Errors
/// [`Error::NonFinite`] when the loss or a gradient is not a number, and errors of the model (the last good state was offered by a
/// `Save` event before); whatever the listener returns.
pub fn run(job: &TrainSetup, resume: Option<State>, listen: &mut dyn FnMut(Event) -> Result<Control>) -> Result<StopReason> {
    let order = Order::new(job.settings, job.mixture, job.examples)?;
    let carried = match &resume {
        Some(state) => state.restore(job.model, job.adapter)?,
        None => Carried::fresh(job.model, job.adapter)?,
    };
    let saved = resume.map(|state| state.progress);
    let mut run = Loop {
        job,
        order,
        carried,
        saved,
        plan: None,
        seconds: 0.0,
        parts: StepSeconds::default(),
        found_best: false,
        asked: Control::Go,
        deaf: false,
        scratch: scratch(job),
        listen,
    };
    run.tell(Event::Started {
        steps: run.order.steps,
        first_step: run.carried.progress.step,
        examples: job.examples.len(),
        heldout: job.heldout.len(),
        params: job.adapter.param_count(),
        eval_every: if job.heldout.is_empty() { 0 } else { job.settings.eval_every },
    })?;
    let reason = loop {
        match run.next() {
            Next::Done(reason) => break reason,
            _ if run.asked == Control::Stop => break StopReason::Interrupted,
            Next::Judge => run.judge()?,
            Next::Micro => run.micro()?,
        }
        if run.should_save() {
            run.save()?;
        }
    };
    run.save()?;
    let (step, best) = (run.carried.progress.step, std::mem::take(&mut run.carried.best));
    listen(Event::Finished { step, reason, best })?;
    Ok(reason)
}

/// What a run does next; a function of its progress, so that a resumed run goes on with the same.
enum Next {
    Judge,
    Micro,
    Done(StopReason),
}

struct Loop<'a> {
    job: &'a TrainSetup<'a>,
    order: Order<'a>,
    carried: Carried,
    /// Progress of the newest state that was offered, or resumed from.
    saved: Option<TrainProgress>,
    /// The step in progress and its micro-batches.
    plan: Option<(usize, Vec<Micro>)>,
    /// Time spent on the step in progress, and on what.
    seconds: f64,
    parts: StepSeconds,
    /// The last evaluation was the best, and no state was offered since.
    found_best: bool,
    asked: Control,
    /// The listener ended the run with an error of its own.
    deaf: bool,
    /// Memory that steps share.
    scratch: Workspace,
    listen: &'a mut dyn FnMut(Event) -> Result<Control>,
}

impl Loop<'_> {
    fn next(&self) -> Next {
        let (p, s) = (&self.carried.progress, self.job.settings);
        let due = s.eval_every > 0 && (p.step.is_multiple_of(s.eval_every) || p.step == self.order.steps);
        match () {
            () if p.within.micro > 0 => Next::Micro,
            () if due && p.judged < p.step && !self.job.heldout.is_empty() => Next::Judge,
            () if s.early_stop.is_some_and(|patience| p.stale >= patience) => Next::Done(StopReason::EarlyStop),
            () if p.step >= self.order.steps => Next::Done(StopReason::Complete),
            () => Next::Micro,
        }
    }

    /// Hands an event over and remembers what was asked for in return.
    fn tell(&mut self, event: Event) -> Result<()> {
        match (self.listen)(event).inspect_err(|_| self.deaf = true)? {
            Control::Go => {}
            answer if self.asked != Control::Stop => self.asked = answer,
            _ => {}
        }
        Ok(())
    }

    /// One micro-step. The gradient of a step is that of the mean over all its trained tokens, however they fall into
    /// micro-batches; after the last one follows the update.
    fn micro(&mut self) -> Result<()> {
        let started = Instant::now();
        let (job, step, micro) = (self.job, self.carried.progress.step, self.carried.progress.within.micro);
        let micros = match self.plan.take() {
            Some((planned, micros)) if planned == step => micros,
            _ => self.order.micro_batches(step),
        };
        let trained: usize = micros.iter().flatten().flatten().map(|i| job.examples.targets(*i)).sum();
        let row = |row: &Vec<usize>| row.iter().map(|i| job.examples.get(*i)).collect();
        let rows: Vec<Vec<ExampleRef>> = micros[micro].iter().map(row).collect();
        let adapt = job.adapter.training(job.settings.seed, step as u64, micro as u64);
        let found = accumulate(job, &mut self.scratch, &adapt, &rows, trained, &mut self.carried.optim, &mut self.parts);
        let (loss, balance) = found.or_else(|error| self.saved_first(error))?;
        let of = micros.len();
        self.plan = Some((step, micros));
        let within = &mut self.carried.progress.within;
        within.micro += 1;
        within.loss.0 += loss;
        let tokens = rows.iter().flatten().map(|e| e.ids.len()).sum::<usize>();
        within.tokens += tokens;
        within.balance.0 += balance.unwrap_or(0.0) * tokens as f64;
        self.seconds += started.elapsed().as_secs_f64();
        match micro + 1 < of {
            true => self.tell(Event::Micro { step: step + 1, micro: micro + 1, of }),
            false => self.update(trained),
        }
    }

    /// The optimiser's part of a step, from the gradients gathered.
    fn update(&mut self, trained: usize) -> Result<()> {
        let (started, step, s) = (Instant::now(), self.carried.progress.step, self.job.settings);
        let Within { loss: Exact(loss), balance: Exact(balance), tokens, .. } = std::mem::take(&mut self.carried.progress.within);
        let grad_norm = self.carried.optim.norm()?;
        if !loss.is_finite() || !grad_norm.is_finite() {
            self.carried.optim.clear();
            self.save()?;
            return Err(Error::NonFinite {
                step: step + 1,
                why: format!("the loss is {loss} and the gradient's norm {grad_norm}"),
                help: "the state before this step was saved; lower train.lr, set train.clip, or look at the rows of this step"
                    .into(),
            });
        }
        let lr = s.lr * schedule::factor(s.schedule, s.warmup, step, self.order.steps);
        self.carried.optim.step(&adamw::settings(s, lr, grad_norm))?;
        // What was only ordered of a device belongs to the time of this step.
        self.job.model.device.synchronize()?;
        let progress = &mut self.carried.progress;
        progress.step += 1;
        progress.tokens += tokens as u64;
        progress.trained += trained as u64;
        let optimizer = started.elapsed().as_secs_f64();
        let parts = StepSeconds { optimizer, ..std::mem::take(&mut self.parts) };
        let seconds = std::mem::take(&mut self.seconds) + optimizer;
        let balance = self.job.model.config.experts.as_ref().map(|_| balance / tokens as f64);
        self.tell(Event::Step { step: step + 1, loss, balance, lr, grad_norm, tokens, trained, seconds, parts })
    }

    /// Measures the held-out loss. A stop leaves it unmeasured; a resumed run begins with it then.
    fn judge(&mut self) -> Result<()> {
        let (job, step, all) = (self.job, self.carried.progress.step, self.job.heldout.len());
        let adapt = job.adapter.frozen();
        let ids: Vec<&[u32]> = job.heldout.iter().map(|e| e.ids).collect();
        let texts = Marked { ids: &ids, trained: &|text, i| job.heldout.get(text).trained.get(i) };
        let score = job.model.score(&adapt, texts, job.settings.batch_size, &mut |done| {
            self.tell(Event::Judging { step, done, all })?;
            match self.asked {
                Control::Stop if done < all => Err(Error::Interrupted { what: format!("the evaluation of step {step}") }),
                _ => Ok(()),
            }
        });
        let loss = match score {
            Err(Error::Interrupted { .. }) if self.asked == Control::Stop => return Ok(()),
            score => score.or_else(|error| self.saved_first(error))?.loss(),
        };
        let progress = &mut self.carried.progress;
        progress.judged = step;
        // What is no number is no better than anything: else nothing after it would be.
        let best = loss.is_finite() && progress.best.is_none_or(|(_, Exact(lowest))| loss < lowest);
        progress.stale = if best { 0 } else { progress.stale + 1 };
        if best {
            progress.best = Some((step, Exact(loss)));
            let copies = job.adapter.params().iter().map(|p| Ok(p.var.as_tensor().detach().copy()?));
            self.carried.best = copies.collect::<Result<_>>()?;
            self.found_best = true;
        }
        self.tell(Event::Eval { step, loss, best })
    }

    /// Whether a state is to be offered now: asked for, due by its step (after the evaluation), or a new best.
    fn should_save(&self) -> bool {
        let (p, every) = (&self.carried.progress, self.job.settings.save_every);
        let whole = p.within.micro == 0 && !matches!(self.next(), Next::Judge);
        let due = whole && every > 0 && p.step.is_multiple_of(every);
        self.asked == Control::Save || self.found_best || due
    }

    /// An error of the model that ends the run, after what was trained so far is offered.
    fn saved_first<T>(&mut self, error: Error) -> Result<T> {
        if !self.deaf {
            // The error counts, whatever becomes of the state.
            let _ = self.save();
        }
        Err(error)
    }

    /// Offers the state, unless nothing happened since the last one.
    fn save(&mut self) -> Result<()> {
        if self.asked == Control::Save {
            self.asked = Control::Go;
        }
        let best = std::mem::take(&mut self.found_best);
        if self.saved.as_ref() == Some(&self.carried.progress) {
            return Ok(());
        }
        self.saved = Some(self.carried.progress.clone());
        let state = Box::new(State::capture(self.job.adapter, &self.carried)?);
        self.tell(Event::Save { step: self.carried.progress.step, best, state })
    }
}

/// Most tokens of a micro-batch, and how long the examples in it are.
pub fn largest_batch(job: &TrainSetup) -> BatchTokens {
    let most = job.settings.max_length;
    let longest = longest(job.examples, most);
    let shortest = (0..job.examples.len()).map(|i| job.examples.length(i)).min().unwrap_or(0);
    BatchTokens { batch: job.settings.batch_size * if job.settings.packing { most } else { longest }, shortest, longest }
}

/// Tokens of the longest of `rows`, which are cut at `most`.
pub fn longest(rows: &Examples, most: usize) -> usize {
    (0..rows.len()).map(|i| rows.length(i).min(most)).max().unwrap_or(0)
}

/// Memory for the micro-batches of a run.
fn scratch(job: &TrainSetup) -> Workspace {
    Workspace::sized(recompute(job.settings.recomputation), largest_batch(job))
}

/// What a recipe's word for it means on this machine, now.
pub fn recompute(recomputation: recipe::Recomputation) -> Recompute {
    match recomputation {
        recipe::Recomputation::Auto => Recompute::within_memory(),
        recipe::Recomputation::None => Recompute::Never,
        recipe::Recomputation::Block => Recompute::Always,
    }
}

/// Adds the gradient of one micro-batch's share of the step's mean loss to those that `optim` gathers; returns that share, and how the
/// experts were met.
fn accumulate(
    job: &TrainSetup,
    scratch: &mut Workspace,
    adapt: &dyn Adapt,
    rows: &[Vec<ExampleRef>],
    trained: usize,
    optim: &mut Optimizer,
    parts: &mut StepSeconds,
) -> Result<(f64, Option<f64>)> {
    let examples: Vec<ExampleRef> = rows.concat();
    let ids: Vec<&[u32]> = examples.iter().map(|e| e.ids).collect();
    let is_target = |example: usize, i: usize| examples[example].trained.get(i);
    let factor = 1.0 / trained.max(1) as f64;
    let found = job.model.gradients(scratch, adapt, &ids, &is_target, factor)?;
    optim.add(job.adapter.by_param(found.gradients)?)?;
    parts.forward += found.times.forward.as_secs_f64();
    parts.backward += found.times.backward.as_secs_f64();
    Ok((found.loss, found.balance.loss()))
}
