//! `lorakit train RECIPE`: the main job, from recipe to proven adapter.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::base::Opened;
use super::estimate;
use super::prepare::{self, Prepared};
use super::prove::{self, Proof};
use super::record::{MadeFrom, Record};
use super::{resume, stop};
use crate::adapter::Adapter;
use crate::adapter::peft::WEIGHTS;
use crate::artifact::card::{self, Card};
use crate::artifact::checkpoints::Checkpoints;
use crate::artifact::curve;
use crate::artifact::inputs::Inputs;
use crate::data::Loaded;
use crate::data::mixture::Share;
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::Recipe;
use crate::train::order::Order;
use crate::train::{self, Job, Reason, State};

/// Train an adapter, prove it against the base, and write it with its record.
#[derive(Debug, Args)]
pub struct TrainArgs {
    recipe: PathBuf,
    /// Replace a value, e.g. --set train.lr=1e-4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Directory for the adapter (default: output.dir of the recipe)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the output directory
    #[arg(long)]
    resume: bool,
    /// Replace an adapter that is there already
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Check everything up to the first step, say what would be trained and what it would take, and write nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// End with one JSON line on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base or data; [`Error::Interrupted`] or [`Error::Terminated`] after a signal, with
/// everything saved.
pub fn run(args: &TrainArgs) -> Result<()> {
    stop::listen();
    let recipe = super::base::recipe(&args.recipe, &args.set)?;
    let out = args.out.clone().unwrap_or_else(|| recipe.output.dir.clone());
    claim(&out, args)?;
    let prepared = prepare::prepare(&recipe, args.json && args.dry_run)?;
    if args.dry_run {
        return estimate::dry_run(&recipe, &prepared, &out, args.json);
    }
    let Prepared { opened, renderer, loaded, sets, adapter, parts } = prepared;
    let say = |line: &str| if args.json { eprintln!("{line}") } else { println!("{line}") };
    let started = Instant::now();
    let (recipe, out, opened, loaded, adapter) = (&recipe, out.as_path(), &opened, &loaded, &adapter);
    let run = Run { args, recipe, out, opened, loaded, adapter, parts, inputs: OnceCell::new() };
    let results = match run.already_complete()? {
        Some(trace) => {
            say(&format!("{} is complete: nothing is left to do", out.display()));
            trace["results"].clone()
        }
        None => {
            say(&run.what());
            let shares = super::data::planned(&loaded.mixture);
            if !shares.is_empty() {
                say(shares.trim_end());
            }
            if let Some(fill) = super::data::fill(&recipe.train, loaded) {
                say(&format!("packed {fill}"));
            }
            let made_from = || run.inputs_json();
            let record = run.train(&made_from)?;
            say(&format!("trained to step {} in {:.0} s; now the proof", record.step, started.elapsed().as_secs_f64()));
            let proof = prove::measure(recipe, opened, &renderer, (loaded, &sets), adapter).map_err(|e| run.stopped(e))?;
            let samples = proof.samples(recipe.eval.samples, opened, loaded)?;
            let drawn = run.drawn(record.step)?;
            run.finish(&record, &proof, &samples, &drawn, started.elapsed().as_secs_f64())?;
            if !drawn.is_empty() {
                say(&format!("\n{}", super::data::drawn(&loaded.mixture, &drawn).trim_end()));
            }
            say(&format!("\n{}{}", proof.table(), prove::before_and_after(&samples)));
            proof.json()
        }
    };
    say(&run.where_it_lies());
    if args.json {
        let mut line = results;
        line["adapter_dir"] = json!(out);
        println!("{line}");
    }
    Ok(())
}

/// Refuses to write over an adapter by accident.
fn claim(out: &Path, args: &TrainArgs) -> Result<()> {
    let taken = out.join(WEIGHTS).exists() || Checkpoints::any(out);
    if taken && !args.resume && !args.overwrite {
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

struct Run<'a> {
    args: &'a TrainArgs,
    recipe: &'a Recipe,
    out: &'a Path,
    opened: &'a Opened,
    loaded: &'a Loaded,
    adapter: &'a Adapter,
    /// Seconds by part of the start.
    parts: Vec<(&'static str, f64)>,
    inputs: OnceCell<Inputs>,
}

impl Run<'_> {
    fn what(&self) -> String {
        let report = &self.loaded.report.train;
        format!(
            "training {} values on {} rows, {} held out; {} tokens, {:.0} % of them trained",
            self.adapter.param_count(),
            self.loaded.train.len(),
            self.loaded.heldout.len(),
            report.tokens,
            report.share_trained() * 100.0
        )
    }

    /// What the run is made from. Hashing a large base takes a while, so it is done when it is first needed.
    fn inputs(&self) -> Result<&Inputs> {
        if self.inputs.get().is_none() {
            let made = Inputs::of(self.recipe, &self.opened.resolved.path, &self.opened.tokenizer, self.loaded)?;
            // Nobody else can have set it in between.
            let _ = self.inputs.set(made);
        }
        self.inputs.get().ok_or_else(|| Error::usage("inputs", "they are not known", "report this as a bug"))
    }

    fn inputs_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self.inputs()?).map_err(|e| Error::usage("inputs", e.to_string(), "report this as a bug"))
    }

    fn already_complete(&self) -> Result<Option<serde_json::Value>> {
        if self.args.resume { resume::complete(self.out, self.inputs()?) } else { Ok(None) }
    }

    /// Trains and leaves the adapter with the values that are kept: the best if evaluations chose one, else the last.
    fn train<'r>(&'r self, made_from: MadeFrom<'r>) -> Result<Record<'r>> {
        let began = Instant::now();
        let mut checkpoints = Checkpoints::take(self.out)?;
        let mut state = None;
        match (self.args.resume, self.args.overwrite) {
            (true, _) => {
                state = resume::newest(&mut checkpoints, self.inputs()?)?;
                eprintln!("{}", self.goes_on_from(state.as_ref()));
            }
            (_, true) => clear(self.out, &mut checkpoints)?,
            _ => {}
        }
        let mut record = Record::new(self.out, self.adapter, made_from, checkpoints, state.as_ref())?;
        record.ready = Some([self.parts.as_slice(), &[("checkpoints", began.elapsed().as_secs_f64())]].concat());
        let job = Job {
            model: &self.opened.model,
            adapter: self.adapter,
            examples: &self.loaded.train,
            mixture: &self.loaded.mixture,
            heldout: &self.loaded.heldout,
            settings: &self.recipe.train,
            pad: self.opened.tokenizer.pad_id(),
        };
        stop::save_first();
        let reason = train::run(&job, state, &mut |event| record.hear(event))?;
        if reason != Reason::Interrupted {
            self.keep(&record)?;
        }
        stop::go_on().map_err(|e| self.stopped(e))?;
        Ok(record)
    }

    fn goes_on_from(&self, state: Option<&State>) -> String {
        match state.map(|s| &s.progress) {
            None => format!("nothing was saved in {} yet: training from the beginning", self.out.display()),
            Some(p) if p.within.micro > 0 => {
                format!("going on after step {}, {} micro-steps into the next", p.step, p.within.micro)
            }
            Some(p) => format!("going on after step {}", p.step),
        }
    }

    /// How to go on, in place of what ended the work, if that was a signal.
    fn stopped(&self, error: Error) -> Error {
        if !matches!(error, Error::Interrupted { .. } | Error::Terminated { .. }) {
            return error;
        }
        let quoted = |word: &str| match word.chars().all(|c| c.is_alphanumeric() || "=./_-,:".contains(c)) {
            true => word.to_string(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        };
        let (recipe, out) = (self.recipe.path.display().to_string(), self.out.display().to_string());
        let set: String = self.args.set.iter().map(|s| format!(" --set {}", quoted(s))).collect();
        let (recipe, out) = (quoted(&recipe), quoted(&out));
        stop::stopped(format!("everything is saved; go on with: lorakit train {recipe}{set} --out {out} --resume"))
    }

    /// Saves the adapter: the best if evaluations chose one (the last then goes to `last/`), else the last.
    fn keep(&self, record: &Record) -> Result<()> {
        if record.best.is_some_and(|best| best != record.step) {
            self.adapter.save(&self.out.join("last"))?;
            for (param, value) in self.adapter.params().iter().zip(&record.best_values) {
                param.var.set(value)?;
            }
        }
        self.adapter.save(self.out)
    }

    /// What the first `steps` steps drew of each part of the mixture; empty where an epoch is every row once.
    fn drawn(&self, steps: usize) -> Result<Vec<Share>> {
        let mixture = &self.loaded.mixture;
        if mixture.is_plain() {
            return Ok(Vec::new());
        }
        Ok(Order::new(&self.recipe.train, mixture, &self.loaded.train)?.drawn(steps))
    }

    /// Recipe, trace, card and curve beside the adapter.
    fn finish(&self, record: &Record, proof: &Proof, samples: &[card::Sample], drawn: &[Share], seconds: f64) -> Result<()> {
        let write = |name: &str, text: &str| files::write_atomic(&self.out.join(name), text.as_bytes());
        write("recipe.toml", &self.recipe.to_toml_in(self.out))?;
        if let Some(svg) = curve::svg(&self.recipe.output.name, &record.losses, &record.evals) {
            write("loss.svg", &svg)?;
        }
        let (base, adapter) = ((&proof.heldout.base).into(), (&proof.heldout.adapter).into());
        let card = Card {
            recipe: self.recipe,
            base_id: self.opened.resolved.id.as_deref(),
            params: self.adapter.param_count(),
            steps: record.best.unwrap_or(record.step),
            trained_tokens: record.trained,
            heldout_rows: proof.heldout.base.rows,
            base: Some(&base),
            adapter: Some(&adapter),
            notes: &proof.notes(),
            samples,
        };
        write("README.md", &card.text())?;
        write(resume::TRACE, &format!("{:#}\n", self.trace(record, proof, drawn, seconds)?))
    }

    /// What went in, what it was made with, and what came out.
    fn trace(&self, record: &Record, proof: &Proof, drawn: &[Share], seconds: f64) -> Result<serde_json::Value> {
        let mixture = &self.loaded.mixture;
        let shares = (!mixture.is_plain()).then(|| json!({"epoch": mixture.planned(), "drawn": drawn}));
        Ok(json!({
            "lorakit": env!("CARGO_PKG_VERSION"),
            "base": {"id": self.opened.resolved.id, "file": self.opened.resolved.path.file_name().map(|f| f.to_string_lossy())},
            "inputs": self.inputs_json()?,
            "mixture": shares,
            "packing": super::data::fill(&self.recipe.train, self.loaded),
            "steps": record.step,
            "best_step": record.best,
            "trained_tokens": record.trained,
            "seconds": (seconds * 10.0).round() / 10.0,
            "final_loss": record.losses.last().map(|l| l.1),
            "results": proof.json(),
            "adapter_sha256": files::sha256_file(&self.out.join(WEIGHTS))?,
        }))
    }

    fn where_it_lies(&self) -> String {
        let (recipe, out) = (&self.args.recipe, self.out.display());
        format!(
            "\nadapter      {out}/adapter_model.safetensors\ncard         {out}/README.md\ntrace        {out}/trace.json\n\
             events       {out}/events.jsonl\ncurve        {out}/loss.svg\ncheckpoints  {out}/checkpoints\n\n\
             judge it     lorakit eval {} --adapter {out}\ntalk to it   lorakit chat --model {} --adapter {}={out}",
            recipe.display(),
            self.opened.resolved.path.display(),
            self.recipe.output.name
        )
    }
}
