//! What is written while a run goes on: `events.jsonl`, checkpoints, the best adapter so far, the bar.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde_json::Value;

use super::progress::{Progress, Unit};
use super::{prepare, stop};
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

/// Listens to a run and keeps its record in the adapter's directory.
pub(super) struct Record<'a> {
    out: &'a Path,
    adapter: &'a Adapter,
    /// Seconds by part of the start, until it is told at the first step.
    pub ready: Option<Vec<(&'static str, f64)>>,
    made_from: MadeFrom<'a>,
    checkpoints: Checkpoints,
    /// When the last state was saved, and how long that took.
    saved: (Instant, Duration),
    events: PathBuf,
    bar: Option<Progress>,
    total: u64,
    seconds: f64,
    tokens: u64,
    heldout: Option<f64>,
    /// (step, loss) of every step and of every evaluation.
    pub losses: Vec<(usize, f64)>,
    pub evals: Vec<(usize, f64)>,
    /// Step of the best adapter, if evaluations chose one, and at the end its values.
    pub best: Option<usize>,
    pub best_values: Vec<Tensor>,
    /// The last step done.
    pub step: usize,
    /// Tokens that carried loss.
    pub trained: u64,
}

impl<'a> Record<'a> {
    /// A record in `out`; `keep` the events up to that step (resuming).
    ///
    /// # Errors
    /// When the files of an earlier run cannot be read or written.
    pub(super) fn new(
        out: &'a Path,
        adapter: &'a Adapter,
        made_from: MadeFrom<'a>,
        checkpoints: Checkpoints,
        resume: Option<&State>,
    ) -> Result<Record<'a>> {
        let events = out.join("events.jsonl");
        let mut record = Record {
            out,
            adapter,
            ready: None,
            made_from,
            checkpoints,
            saved: (Instant::now(), Duration::ZERO),
            events,
            bar: None,
            total: 0,
            seconds: 0.0,
            tokens: 0,
            heldout: None,
            losses: Vec::new(),
            evals: Vec::new(),
            best: resume.and_then(|s| s.progress.best).map(|(step, _)| step),
            best_values: Vec::new(),
            step: resume.map_or(0, |s| s.progress.step),
            trained: resume.map_or(0, |s| s.progress.trained),
        };
        let kept = match resume {
            Some(state) => record.replay(&state.progress)?,
            None => String::new(),
        };
        files::write_atomic(&record.events, kept.as_bytes())?;
        Ok(record)
    }

    /// The lines of an earlier record that belong to what `done` tells of; their losses go into the curves.
    fn replay(&mut self, done: &train::Progress) -> Result<String> {
        let written = if self.events.is_file() { files::read_text(&self.events)? } else { String::new() };
        let mut kept = String::new();
        for line in written.lines() {
            // A line that a killed process left unfinished.
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let step = value["step"].as_u64().unwrap_or(0) as usize;
            let loss = exact(line, "loss").map(|loss| (step, loss));
            match value["event"].as_str() {
                Some("step") if step <= done.step => self.losses.extend(loss),
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
            eprintln!("warning: {name} holds {has} of the {} steps done; the curve will lack the others", done.step);
        }
        Ok(kept)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn hear(&mut self, event: Event) -> Result<Control> {
        match event {
            Event::Micro { .. } | Event::Judging { .. } => {}
            Event::Save { step, best, state } => return self.save(step, best, state),
            ref lasting => self.append(lasting)?,
        }
        match event {
            Event::Started { steps, .. } => {
                self.total = steps as u64;
                self.tell_ready()?;
                self.bar = Some(Progress::new("training", self.total, Unit::Items));
            }
            Event::Step { step, loss, tokens, trained, seconds, .. } => {
                self.losses.push((step, loss));
                self.step = step;
                self.trained += trained as u64;
                self.seconds += seconds;
                self.tokens += tokens as u64;
                self.show(step, loss);
            }
            Event::Eval { step, loss, best } => {
                self.evals.push((step, loss));
                self.heldout = Some(loss);
                self.best = if best { Some(step) } else { self.best };
            }
            Event::Finished { best, .. } => {
                self.best_values = best;
                self.bar = None;
            }
            Event::Micro { .. } | Event::Judging { .. } | Event::Save { .. } => {}
        }
        Ok(self.control())
    }

    fn control(&self) -> Control {
        let (at, took) = self.saved;
        match () {
            () if stop::asked() => Control::Stop,
            () if at.elapsed() >= SAVE_AFTER.max(took * SAVE_SHARE) => Control::Save,
            () => Control::Go,
        }
    }

    /// The record first, then the checkpoint that relies on it, then the best adapter for whoever looks at it meanwhile
    /// (a resumed run has it from the checkpoint).
    fn save(&mut self, step: usize, best: bool, mut state: Box<State>) -> Result<Control> {
        let started = Instant::now();
        state.inputs = (self.made_from)()?;
        let lines = OpenOptions::new().append(true).open(&self.events).and_then(|file| file.sync_all());
        lines.map_err(Error::io("write", &self.events))?;
        self.checkpoints.save(&state.to_bytes()?, step, state.progress.within.micro)?;
        if best {
            self.adapter.save(self.out)?;
        }
        self.append(&Event::Save { step, best, state })?;
        self.saved = (Instant::now(), started.elapsed());
        Ok(self.control())
    }

    /// How long the start took, said and written.
    fn tell_ready(&mut self) -> Result<()> {
        let Some(parts) = self.ready.take() else { return Ok(()) };
        let seconds = prepare::since_start().as_secs_f64();
        let said: Vec<String> = parts.iter().map(|(what, seconds)| format!("{what} {seconds:.2}")).collect();
        eprintln!("ready in {seconds:.2} s ({})", said.join(", "));
        let parts: serde_json::Map<String, Value> = parts.into_iter().map(|(k, s)| (k.into(), s.into())).collect();
        self.line(&serde_json::json!({"event": "ready", "seconds": seconds, "parts": parts}).to_string())
    }

    fn show(&mut self, step: usize, loss: f64) {
        let heldout = self.heldout.map(|l| format!(", held out {l:.4}")).unwrap_or_default();
        let rate = self.tokens as f64 / self.seconds.max(1e-9);
        if let Some(bar) = &mut self.bar {
            bar.set(step as u64, &format!("loss {loss:.4}{heldout}, {rate:.0} tokens/s"));
        }
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
