//! What is written while a run goes on: `events.jsonl`, checkpoints, the best adapter so far. Refuses to know who else hears.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde_json::Value;

use super::events::{JobEvent, Listener, tell};
use crate::adapter::Adapter;
use crate::artifact::checkpoints::Checkpoints;
use crate::error::{Error, Result};
use crate::files;
use crate::train::{self, Control, Event, State};

/// A state is saved at least this often, whatever the recipe says…
const SAVE_AFTER: Duration = Duration::from_secs(60);
/// …unless that would cost more than one part in this many of the time.
const SAVE_SHARE: u32 = 100;

/// What a run was made from; asked for once, when it is first written.
pub(super) type MadeFrom<'a> = &'a dyn Fn() -> Result<Value>;

/// Listens to a run, keeps its record in the adapter's directory, and passes on what it heard.
pub(super) struct RunRecord<'a> {
    out: &'a Path,
    adapter: &'a Adapter,
    /// Seconds by part of the start, until it is told at the first step.
    pub ready: Option<Vec<(&'static str, f64)>>,
    /// When the job began.
    began: Instant,
    made_from: MadeFrom<'a>,
    checkpoints: Checkpoints,
    /// The listener asked to stop.
    pub asked: bool,
    /// When the last state was saved, and how long that took.
    saved: (Instant, Duration),
    events: PathBuf,
    seconds: f64,
    tokens: u64,
    heldout: Option<f64>,
    /// (step, loss) of every step and of every evaluation.
    pub losses: Vec<(usize, f64)>,
    pub evals: Vec<(usize, f64)>,
    /// (step, learning rate) of every step.
    pub rates: Vec<(usize, f64)>,
    /// Step of the best adapter, if evaluations chose one, and at the end its values.
    pub best: Option<usize>,
    pub best_values: Vec<Tensor>,
    /// The last step done.
    pub step: usize,
    /// Tokens that carried loss.
    pub trained: u64,
}

impl<'a> RunRecord<'a> {
    /// A record in `out` of a job that began at `began`, with the events up to `resume`.
    ///
    /// # Errors
    /// When the files of an earlier run cannot be read or written; when the listener ends the job.
    pub(super) fn new(
        out: &'a Path,
        began: Instant,
        adapter: &'a Adapter,
        made_from: MadeFrom<'a>,
        checkpoints: Checkpoints,
        resume: Option<&State>,
        listener: &mut Listener<'_>,
    ) -> Result<RunRecord<'a>> {
        let events = out.join("events.jsonl");
        let mut record = RunRecord {
            out,
            adapter,
            ready: None,
            began,
            made_from,
            checkpoints,
            asked: false,
            saved: (Instant::now(), Duration::ZERO),
            events,
            seconds: 0.0,
            tokens: 0,
            heldout: None,
            losses: Vec::new(),
            evals: Vec::new(),
            rates: Vec::new(),
            best: resume.and_then(|s| s.progress.best).map(|(step, _)| step),
            best_values: Vec::new(),
            step: resume.map_or(0, |s| s.progress.step),
            trained: resume.map_or(0, |s| s.progress.trained),
        };
        let kept = match resume {
            Some(state) => record.replay(&state.progress, listener)?,
            None => String::new(),
        };
        files::write_atomic(&record.events, kept.as_bytes())?;
        Ok(record)
    }

    /// The lines of an earlier record that belong to what `done` tells of; their losses go into the curves.
    fn replay(&mut self, done: &train::TrainProgress, listener: &mut Listener<'_>) -> Result<String> {
        let written = if self.events.is_file() { files::read_text(&self.events)? } else { String::new() };
        let mut kept = String::new();
        for line in written.lines() {
            // A line that a killed process left unfinished.
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let step = value["step"].as_u64().unwrap_or(0) as usize;
            let loss = exact(line, "loss").map(|loss| (step, loss));
            match value["event"].as_str() {
                Some("step") if step <= done.step => {
                    self.losses.extend(loss);
                    self.rates.extend(exact(line, "lr").map(|lr| (step, lr)));
                }
                Some("eval") if step <= done.judged => self.evals.extend(loss),
                Some("save") if step <= done.step => {}
                Some("started" | "ready") => {}
                _ => continue,
            }
            kept += line;
            kept.push('\n');
        }
        self.heldout = self.evals.last().map(|e| e.1);
        if self.losses.len() != done.step {
            let (has, name) = (self.losses.len(), self.events.display());
            let lacks = format!("{name} holds {has} of the {} steps done; the curve will lack the others", done.step);
            tell(listener, JobEvent::Warning(lacks))?;
        }
        Ok(kept)
    }

    /// Takes one event and passes it on.
    ///
    /// # Errors
    /// When a file cannot be written, and what the listener returns.
    pub(super) fn hear(&mut self, event: Event, listener: &mut Listener<'_>) -> Result<Control> {
        let event = match event {
            Event::Save { step, best, state } => self.save(step, best, state)?,
            momentary @ (Event::Micro { .. } | Event::Judging { .. }) => momentary,
            lasting => {
                self.append(&lasting)?;
                lasting
            }
        };
        match &event {
            Event::Started { .. } => self.tell_ready(listener)?,
            Event::Step { step, loss, lr, tokens, trained, seconds, .. } => {
                self.losses.push((*step, *loss));
                self.rates.push((*step, *lr));
                self.step = *step;
                self.trained += *trained as u64;
                self.seconds += seconds;
                self.tokens += *tokens as u64;
            }
            Event::Eval { step, loss, best } => {
                self.evals.push((*step, *loss));
                self.heldout = Some(*loss);
                self.best = if *best { Some(*step) } else { self.best };
            }
            Event::Finished { best, .. } => self.best_values.clone_from(best),
            Event::Micro { .. } | Event::Judging { .. } | Event::Save { .. } => {}
        }
        if let Event::Eval { step, loss, .. } = &event
            && !loss.is_finite()
        {
            let told = format!("the held-out loss after step {step} is {loss}: it counts as no improvement");
            self.asked |= listener(JobEvent::Warning(told))? == Control::Stop;
        }
        let tokens_per_second = self.tokens as f64 / self.seconds.max(1e-9);
        let answer = listener(JobEvent::Training { event: &event, heldout: self.heldout, tokens_per_second })?;
        Ok(self.control(answer))
    }

    fn control(&mut self, answer: Control) -> Control {
        let (at, took) = self.saved;
        self.asked |= answer == Control::Stop;
        match () {
            () if self.asked => Control::Stop,
            () if answer == Control::Save || at.elapsed() >= SAVE_AFTER.max(took * SAVE_SHARE) => Control::Save,
            () => Control::Go,
        }
    }

    /// The record first, then the checkpoint that relies on it, then the best adapter for whoever looks at it meanwhile
    /// (a resumed run has it from the checkpoint).
    fn save(&mut self, step: usize, best: bool, mut state: Box<State>) -> Result<Event> {
        let started = Instant::now();
        state.inputs = (self.made_from)()?;
        let lines = OpenOptions::new().append(true).open(&self.events).and_then(|file| file.sync_all());
        lines.map_err(Error::io("write", &self.events))?;
        self.checkpoints.save(&state.to_bytes()?, step, state.progress.within.micro)?;
        if best {
            self.adapter.save(self.out)?;
        }
        let saved = Event::Save { step, best, state };
        self.append(&saved)?;
        self.saved = (Instant::now(), started.elapsed());
        Ok(saved)
    }

    /// How long the start took, told and written.
    fn tell_ready(&mut self, listener: &mut Listener<'_>) -> Result<()> {
        let Some(parts) = self.ready.take() else { return Ok(()) };
        let seconds = self.began.elapsed().as_secs_f64();
        self.asked |= listener(JobEvent::Ready { seconds, parts: &parts })? == Control::Stop;
        let parts: serde_json::Map<String, Value> = parts.into_iter().map(|(k, s)| (k.into(), s.into())).collect();
        self.line(&serde_json::json!({"event": "ready", "seconds": seconds, "parts": parts}).to_string())
    }

    fn append(&self, event: &Event) -> Result<()> {
        let line =
            serde_json::to_string(event).map_err(|e| Error::usage("events.jsonl", e.to_string(), "report this as a bug"))?;
        self.line(&line)
    }

    fn line(&self, line: &str) -> Result<()> {
        let mut file =
            OpenOptions::new().append(true).create(true).open(&self.events).map_err(Error::io("write", &self.events))?;
        writeln!(file, "{line}").map_err(Error::io("write", &self.events))
    }
}

/// A number of a line of the record, to its last bit (which reading it as JSON may change).
fn exact(line: &str, key: &str) -> Option<f64> {
    let (_, after) = line.split_once(&format!("\"{key}\":"))?;
    after.split([',', '}']).next()?.parse().ok()
}
