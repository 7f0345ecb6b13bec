//! The main job, from recipe to an adapter that is trained, evaluated and written with its record. Refuses to know what is
//! shown of it meanwhile.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::evaluate::{Evaluation, Judged, Rows};
use super::events::{JobEvent, Listener, interrupted, tell};
use super::prepare::{self, Prepared};
use super::record::{MadeFrom, RunRecord};
use super::{feasible, packing, resume};
use crate::adapter::peft::WEIGHTS;
use crate::artifact::card::{self, Card, CardFile};
use crate::artifact::chat_template;
use crate::artifact::checkpoints::Checkpoints;
use crate::artifact::curve;
use crate::artifact::curve::Curve;
use crate::artifact::fingerprint::{Fingerprint, SourceDigest};
use crate::data::{Loaded, Report, Split};
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::{Recipe, TemplateKind};
use crate::train::mixture::{Mixture, Share};
use crate::train::order::Order;
use crate::train::{self, StopReason};

/// What becomes of a run that is in the directory already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// It stays: the job is refused.
    #[default]
    Refuse,
    /// It goes on from its newest checkpoint.
    Resume,
    /// It is replaced.
    Replace,
}

/// A recipe to train, and where its adapter goes.
#[derive(Debug, Clone, Copy)]
pub struct TrainJob<'a> {
    pub recipe: &'a Recipe,
    /// Directory for the adapter.
    pub out: &'a Path,
    pub existing: Existing,
    /// From when on the start is timed.
    pub began: Instant,
}

/// What came of a [`TrainJob`].
pub struct TrainResult {
    /// The file or directory of the base.
    pub base: PathBuf,
    /// As in `trace.json`.
    pub results: Value,
    /// `None` where the run was complete before.
    pub fresh: Option<FreshRun>,
}

/// What a run that was trained now leaves besides its files.
pub struct FreshRun {
    pub evaluation: Evaluation,
    /// As many prompts with both answers as the recipe asks for.
    pub samples: Vec<card::Sample>,
    pub loaded: Loaded,
    pub mixture: Mixture,
    /// What was drawn of each part of the mixture; empty where an epoch is every row once.
    pub drawn: Vec<Share>,
}

/// Trains `recipe` anew, evaluates the adapter beside the base, and writes it to `out` with its record; a run that is there
/// already is refused.
///
/// # Errors
/// As [`TrainJob::run`].
pub fn train(recipe: &Recipe, out: &Path, listener: &mut Listener<'_>) -> Result<TrainResult> {
    TrainJob { recipe, out, existing: Existing::Refuse, began: Instant::now() }.run(listener)
}

impl TrainJob<'_> {
    /// Trains, evaluates and writes.
    ///
    /// # Errors
    /// Whatever is wrong with the recipe, base or data; when the directory is taken; what the listener returns, and
    /// [`Error::Interrupted`] when it asks to stop. From [`JobEvent::Stoppable`] on everything is saved then.
    pub fn run(&self, listener: &mut Listener<'_>) -> Result<TrainResult> {
        claim(self.out, self.existing)?;
        let prepared = prepare::prepare(self.recipe, self.began, listener)?;
        let started = Instant::now();
        let run = TrainRun { job: self, prepared: &prepared, inputs: OnceCell::new() };
        let Prepared { opened, renderer, loaded, mixture, sets, questions, adapter, .. } = &prepared;
        let base = opened.resolved.path.clone();
        if let Some(trace) = run.already_complete()? {
            tell(listener, JobEvent::Complete(self.out))?;
            return Ok(TrainResult { base, results: trace["results"].clone(), fresh: None });
        }
        let packing = packing(&self.recipe.train, &loaded.train, mixture);
        tell(listener, JobEvent::Prepared { adapter, loaded, mixture, packing })?;
        let made_from = || run.inputs_json();
        let record = run.train(&made_from, listener)?;
        tell(listener, JobEvent::Trained { step: record.step, seconds: started.elapsed().as_secs_f64() })?;
        let (frozen, recipe) = (adapter.frozen(), self.recipe);
        let judged = Judged { name: "adapter", model: &opened.model, adapt: &frozen };
        let rows = Rows { recipe, opened, renderer, loaded, sets, questions };
        let evaluation = rows.measure(&[judged], listener).map(|mut all| all.swap_remove(0));
        let evaluation = evaluation.or_else(|error| run.lost(error, listener))?;
        let samples = evaluation.samples(self.recipe.eval.samples, opened, loaded)?;
        let drawn = run.drawn(record.step)?;
        run.finish(&record, &evaluation, &samples, &drawn, started.elapsed().as_secs_f64())?;
        let results = evaluation.json();
        drop(record);
        let Prepared { loaded, mixture, .. } = prepared;
        Ok(TrainResult { base, results, fresh: Some(FreshRun { evaluation, samples, drawn, loaded, mixture }) })
    }
}

/// Refuses to write over an adapter by accident.
///
/// # Errors
/// [`Error::Usage`] when there is a run in `out` that is neither to go on nor to be replaced.
pub fn claim(out: &Path, existing: Existing) -> Result<()> {
    let taken = out.join(WEIGHTS).exists() || Checkpoints::any(out);
    if taken && existing == Existing::Refuse {
        return Err(Error::usage(
            out.display().to_string(),
            "there is a run here already",
            "pass --resume to go on with it, --overwrite to replace it, or --out DIR for another place",
        ));
    }
    Ok(())
}

/// Removes an earlier run: first what says that it is complete, then its result, then what it could go on from.
fn clear(out: &Path, checkpoints: &mut Checkpoints) -> Result<()> {
    for file in [out.join(resume::TRACE), out.join(WEIGHTS), out.join("last").join(WEIGHTS)] {
        if file.is_file() {
            std::fs::remove_file(&file).map_err(Error::io("remove", &file))?;
        }
    }
    checkpoints.clear()
}

/// A job with everything that is ready for it.
struct TrainRun<'a> {
    job: &'a TrainJob<'a>,
    prepared: &'a Prepared,
    inputs: OnceCell<Fingerprint>,
}

impl TrainRun<'_> {
    /// What the run is made from. Hashing a large base takes a while, so it is done when it is first needed.
    fn inputs(&self) -> Result<&Fingerprint> {
        if self.inputs.get().is_none() {
            let made = Fingerprint::of(
                self.job.recipe,
                &self.prepared.opened.resolved.path,
                &self.prepared.opened.tokenizer,
                &self.prepared.loaded,
            )?;
            // Nobody else can have set it in between.
            let _ = self.inputs.set(made);
        }
        self.inputs.get().ok_or_else(|| Error::usage("inputs", "they are not known", "report this as a bug"))
    }

    fn inputs_json(&self) -> Result<Value> {
        serde_json::to_value(self.inputs()?).map_err(|e| Error::usage("inputs", e.to_string(), "report this as a bug"))
    }

    fn already_complete(&self) -> Result<Option<Value>> {
        if self.job.existing == Existing::Resume { resume::complete(self.job.out, self.inputs()?) } else { Ok(None) }
    }

    /// Trains and leaves the adapter with the values that are kept: the best if evaluations chose one, else the last.
    fn train<'r>(&'r self, made_from: MadeFrom<'r>, listener: &mut Listener<'_>) -> Result<RunRecord<'r>> {
        let (began, out, recipe) = (Instant::now(), self.job.out, self.job.recipe);
        let mut checkpoints = Checkpoints::take(out)?;
        let mut state = None;
        match self.job.existing {
            Existing::Resume => {
                state = resume::newest(&mut checkpoints, self.inputs()?, listener)?;
                tell(listener, JobEvent::Resuming { out, progress: state.as_ref().map(|s| &s.progress) })?;
            }
            Existing::Replace => clear(out, &mut checkpoints)?,
            Existing::Refuse => {}
        }
        // Before the first adapter is there, so that none is ever without.
        chat_template::keep(&self.prepared.renderer, out)?;
        let mut record =
            RunRecord::new(out, self.job.began, &self.prepared.adapter, made_from, checkpoints, state.as_ref(), listener)?;
        record.ready = Some([self.prepared.parts.as_slice(), &[("checkpoints", began.elapsed().as_secs_f64())]].concat());
        let setup = self.prepared.setup(&recipe.train);
        tell(listener, JobEvent::Stoppable)?;
        let reason = train::run(&setup, state, &mut |event| record.hear(event, listener));
        let reason = reason.or_else(|error| self.lost(error, listener))?;
        if reason != StopReason::Interrupted {
            self.keep(&record)?;
            tell(listener, JobEvent::AdapterSaved(out))?;
        }
        if record.asked { Err(interrupted()) } else { Ok(record) }
    }

    /// Says what is saved of a run that an error ends.
    fn lost<T>(&self, error: Error, listener: &mut Listener<'_>) -> Result<T> {
        let out = self.job.out;
        if Checkpoints::any(out) && !matches!(error, Error::Interrupted { .. }) {
            let saved = format!(
                "what was trained until the error below is saved in {}/checkpoints; --resume goes on from there",
                out.display()
            );
            // The error counts, whatever the listener makes of this.
            let _ = listener(JobEvent::Warning(saved));
        }
        Err(error)
    }

    /// Saves the adapter: the best if evaluations chose one (the last then goes to `last/`), else the last.
    fn keep(&self, record: &RunRecord) -> Result<()> {
        if record.best.is_some_and(|best| best != record.step) {
            let last = self.job.out.join("last");
            chat_template::keep(&self.prepared.renderer, &last)?;
            self.prepared.adapter.save(&last)?;
            for (param, value) in self.prepared.adapter.params().iter().zip(&record.best_values) {
                param.var.set(value)?;
            }
        }
        self.prepared.adapter.save(self.job.out)
    }

    /// What the first `steps` steps drew of each part of the mixture; empty where an epoch is every row once.
    fn drawn(&self, steps: usize) -> Result<Vec<Share>> {
        if self.prepared.mixture.is_plain() {
            return Ok(Vec::new());
        }
        Ok(Order::new(&self.job.recipe.train, &self.prepared.mixture, &self.prepared.loaded.train)?.drawn(steps))
    }

    /// Recipe, trace, card and curve beside the adapter.
    fn finish(
        &self,
        record: &RunRecord,
        evaluation: &Evaluation,
        samples: &[card::Sample],
        drawn: &[Share],
        seconds: f64,
    ) -> Result<()> {
        let write = |name: &str, text: &str| files::write_atomic(&self.job.out.join(name), text.as_bytes());
        write("recipe.toml", &self.recipe_beside()?.to_toml_in(self.job.out))?;
        let (train, heldout, rates) = (&record.losses, &record.evals, &record.rates);
        let base = (!heldout.is_empty()).then_some(evaluation.heldout.base.loss);
        if let Some(svg) = curve::svg(&self.job.recipe.output.name, &Curve { train, heldout, base, rates }) {
            write("loss.svg", &svg)?;
        }
        let (base, adapter) = ((&evaluation.heldout.base).into(), (&evaluation.heldout.adapter).into());
        let measured = evaluation.heldout.base.rows > 0;
        let card = Card {
            recipe: self.job.recipe,
            base_id: self.prepared.opened.resolved.id.as_deref(),
            base_told: &self.prepared.opened.model.config.notes,
            adapter_told: self.prepared.adapter.told(&self.prepared.opened.model),
            params: self.prepared.adapter.param_count(),
            steps: record.best.unwrap_or(record.step),
            trained_tokens: record.trained,
            heldout_rows: evaluation.heldout.base.rows,
            base: Some(&base).filter(|_| measured),
            adapter: Some(&adapter).filter(|_| measured),
            files: &self.files()?,
            told: &feasible::said(&self.prepared.loaded, &self.prepared.sets, &name_alone),
            notes: &evaluation.notes(),
            samples,
        };
        write("README.md", &card.text())?;
        write(resume::TRACE, &format!("{:#}\n", self.trace(record, evaluation, drawn, seconds)?))
    }

    /// The files of the rows, for the card.
    fn files(&self) -> Result<Vec<CardFile>> {
        let file = |s: &SourceDigest| CardFile {
            name: s.file.clone(),
            heldout: s.split == Split::Heldout,
            rows: s.rows,
            sha256: s.sha256.clone(),
        };
        Ok(self.inputs()?.data.sources.iter().map(file).collect())
    }

    /// What became of the rows.
    fn rows(&self) -> Value {
        let Prepared { loaded, sets, .. } = self.prepared;
        let of = |report: &Report| json!({"read": report.rows_read(), "used": report.rows_used(), "dropped": report.dropped_rows(&name_alone)});
        let mut rows = of(&loaded.report);
        rows["told"] = json!(feasible::said(loaded, sets, &name_alone));
        rows["sets"] = sets.iter().map(|(set, loaded)| (set.name.clone(), of(&loaded.report))).collect::<Map<_, _>>().into();
        rows
    }

    /// The recipe as it is kept: a template file is the one that is kept beside it.
    fn recipe_beside(&self) -> Result<Recipe> {
        let mut recipe = self.job.recipe.clone();
        if matches!(recipe.template.kind, TemplateKind::File(_)) {
            let out = std::path::absolute(self.job.out).map_err(Error::io("find", self.job.out))?;
            recipe.template.kind = TemplateKind::File(out.join(chat_template::FILE));
        }
        Ok(recipe)
    }

    /// What went in, what it was made with, and what came out.
    fn trace(&self, record: &RunRecord, evaluation: &Evaluation, drawn: &[Share], seconds: f64) -> Result<Value> {
        let Prepared { mixture, opened, .. } = self.prepared;
        let shares = (!mixture.is_plain()).then(|| json!({"epoch": mixture.planned(), "drawn": drawn}));
        Ok(json!({
            "lorakit": env!("CARGO_PKG_VERSION"),
            "base": {"id": opened.resolved.id, "file": opened.resolved.path.file_name().map(|f| f.to_string_lossy()), "told": opened.model.config.notes},
            "inputs": self.inputs_json()?,
            "rows": self.rows(),
            "mixture": shares,
            "packing": packing(&self.job.recipe.train, &self.prepared.loaded.train, mixture),
            "steps": record.step,
            "best_step": record.best,
            "trained_tokens": record.trained,
            "seconds": (seconds * 10.0).round() / 10.0,
            "final_loss": record.losses.last().map(|l| l.1),
            "results": evaluation.json(),
            "adapter_sha256": files::sha256_file(&self.job.out.join(WEIGHTS))?,
        }))
    }
}

/// A file as files that leave this machine name it.
fn name_alone(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
