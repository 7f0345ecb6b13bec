//! What is written while a run goes on: `events.jsonl`, checkpoints, the best adapter so far, the bar.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::progress::{Progress, Unit};
use super::{prepare, stop};
use crate::adapter::Adapter;
use crate::artifact::checkpoints::Checkpoints;
use crate::error::{Error, Result};
use crate::files;
use crate::train::{Control, Event, State};

/// Listens to a run and keeps its record in the adapter's directory.
pub(super) struct Record<'a> {
    out: &'a Path,
    adapter: &'a Adapter,
    /// Seconds by part of the start, until it is told at the first step.
    pub ready: Option<Vec<(&'static str, f64)>>,
    /// Hashes of what the run was made from, written into every checkpoint.
    pub fingerprint: BTreeMap<String, String>,
    events: PathBuf,
    bar: Option<Progress>,
    total: u64,
    seconds: f64,
    tokens: u64,
    heldout: Option<f64>,
    /// (step, loss) of every step and of every evaluation.
    pub losses: Vec<(usize, f64)>,
    pub evals: Vec<(usize, f64)>,
    /// Step of the best adapter written, if evaluations chose one.
    pub best: Option<usize>,
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
        fingerprint: BTreeMap<String, String>,
        resume: Option<&State>,
    ) -> Result<Record<'a>> {
        let events = out.join("events.jsonl");
        let mut record = Record {
            out,
            adapter,
            ready: None,
            fingerprint,
            events,
            bar: None,
            total: 0,
            seconds: 0.0,
            tokens: 0,
            heldout: None,
            losses: Vec::new(),
            evals: Vec::new(),
            best: resume.and_then(|s| s.progress.best).map(|(step, _)| step),
            trained: resume.map_or(0, |s| s.progress.trained),
        };
        let kept = match resume {
            Some(state) => record.replay(state.progress.step)?,
            None => String::new(),
        };
        files::write_atomic(&record.events, kept.as_bytes())?;
        Ok(record)
    }

    /// The lines of an earlier record that belong to steps up to `last`; their losses go into the curves.
    fn replay(&mut self, last: usize) -> Result<String> {
        if !self.events.is_file() {
            return Ok(String::new());
        }
        let mut kept = String::new();
        for line in files::read_text(&self.events)?.lines() {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let step = value["step"].as_u64().unwrap_or(0) as usize;
            if step > last || value["event"] == "finished" {
                continue;
            }
            match (value["event"].as_str(), value["loss"].as_f64()) {
                (Some("step"), Some(loss)) => self.losses.push((step, loss)),
                (Some("eval"), Some(loss)) => self.evals.push((step, loss)),
                _ => {}
            }
            kept += line;
            kept.push('\n');
        }
        Ok(kept)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn hear(&mut self, event: Event) -> Result<Control> {
        self.append(&event)?;
        match event {
            Event::Started { steps, .. } => {
                self.total = steps as u64;
                self.tell_ready()?;
                self.bar = Some(Progress::new("training", self.total, Unit::Items));
            }
            Event::Step { step, loss, tokens, trained, seconds, .. } => {
                self.losses.push((step, loss));
                self.trained += trained as u64;
                self.seconds += seconds;
                self.tokens += tokens as u64;
                self.show(step, loss);
            }
            Event::Eval { step, loss, .. } => {
                self.evals.push((step, loss));
                self.heldout = Some(loss);
            }
            Event::Save { step, best, mut state } => {
                state.fingerprint.clone_from(&self.fingerprint);
                Checkpoints::of(self.out).save(step, &state.to_bytes()?)?;
                if best {
                    self.adapter.save(self.out)?;
                    self.best = Some(step);
                }
            }
            Event::Finished { .. } => self.bar = None,
        }
        Ok(if stop::asked() { Control::Stop } else { Control::Go })
    }

    /// How long the start took, said and written.
    fn tell_ready(&mut self) -> Result<()> {
        let Some(parts) = self.ready.take() else { return Ok(()) };
        let seconds = prepare::since_start().as_secs_f64();
        let said: Vec<String> = parts.iter().map(|(what, seconds)| format!("{what} {seconds:.2}")).collect();
        eprintln!("ready in {seconds:.2} s ({})", said.join(", "));
        let parts: serde_json::Map<String, serde_json::Value> = parts.into_iter().map(|(k, s)| (k.into(), s.into())).collect();
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
