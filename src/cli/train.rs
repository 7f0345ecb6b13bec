//! `lorakit train RECIPE`: the main job, from recipe to proven adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::base::Opened;
use super::prepare::{self, Prepared};
use super::prove::{self, Proof};
use super::record::Record;
use super::stop;
use crate::adapter::Adapter;
use crate::artifact::card::{self, Card};
use crate::artifact::checkpoints::Checkpoints;
use crate::artifact::curve;
use crate::data::Loaded;
use crate::error::{Error, Result};
use crate::files;
use crate::model::resolve::{self, Places};
use crate::recipe::Recipe;
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
    /// End with one JSON line on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base or data; [`Error::Interrupted`] after Ctrl-C, with everything saved.
pub fn run(args: &TrainArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let out = args.out.clone().unwrap_or_else(|| recipe.output.dir.clone());
    claim(&out, args)?;
    let Prepared { opened, renderer, loaded, adapter, parts } = prepare::prepare(&recipe, false)?;
    let say = |line: &str| if args.json { eprintln!("{line}") } else { println!("{line}") };
    say(&format!(
        "training {} values on {} rows, {} held out; {} tokens, {:.0} % of them trained",
        adapter.param_count(),
        loaded.train.len(),
        loaded.heldout.len(),
        loaded.report.train.tokens,
        loaded.report.train.share_trained() * 100.0
    ));
    if let Some(fill) = super::data::fill(&recipe.train, &loaded.train) {
        say(&format!("packed {fill}"));
    }
    let started = Instant::now();
    let run = Run { recipe: &recipe, out: &out, opened: &opened, loaded: &loaded, adapter: &adapter };
    if args.overwrite {
        Checkpoints::of(&out).clear()?;
    }
    let record = run.train(args.resume, &parts)?;
    say(&format!("trained {} steps in {:.0} s; now the proof", record.losses.len(), started.elapsed().as_secs_f64()));
    let proof = prove::measure(&recipe, &opened, &renderer, &loaded, &adapter)?;
    let samples = proof.samples(recipe.eval.samples, &opened, &loaded)?;
    run.finish(&record, &proof, &samples, started.elapsed().as_secs_f64())?;
    say(&format!("\n{}{}", proof.table(), prove::before_and_after(&samples)));
    say(&run.where_it_lies(&args.recipe));
    if args.json {
        let mut line = proof.json();
        line["adapter_dir"] = json!(out);
        println!("{line}");
    }
    Ok(())
}

/// Refuses to write over an adapter by accident.
fn claim(out: &Path, args: &TrainArgs) -> Result<()> {
    let taken = out.join("adapter_model.safetensors").exists() || out.join("checkpoints").exists();
    if taken && !args.resume && !args.overwrite {
        return Err(Error::usage(
            out.display().to_string(),
            "there is a run here already",
            "pass --resume to go on with it, --overwrite to replace it, or --out DIR for another place",
        ));
    }
    Ok(())
}

struct Run<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    opened: &'a Opened,
    loaded: &'a Loaded,
    adapter: &'a Adapter,
}

impl Run<'_> {
    /// Trains and leaves the adapter with the values that are kept: the best if evaluations chose one, else the last.
    fn train(&self, resume: bool, parts: &[(&'static str, f64)]) -> Result<Record<'_>> {
        let began = Instant::now();
        let fingerprint = self.fingerprint()?;
        let state = if resume { Some(self.newest(&fingerprint)?) } else { None };
        let mut record = Record::new(self.out, self.adapter, fingerprint, state.as_ref())?;
        let job = Job {
            model: &self.opened.model,
            adapter: self.adapter,
            examples: &self.loaded.train,
            heldout: &self.loaded.heldout,
            settings: &self.recipe.train,
            pad: self.opened.tokenizer.pad_id(),
        };
        let parts = [parts, &[("fingerprint", began.elapsed().as_secs_f64())]].concat();
        record.ready = Some(parts);
        stop::listen();
        let reason = train::run(&job, state, &mut |event| record.hear(event))?;
        if reason != Reason::Interrupted {
            self.keep(&record)?;
        }
        stop::at_once();
        if reason == Reason::Interrupted || stop::asked() {
            let (recipe, out) = (self.recipe.path.display(), self.out.display());
            return Err(Error::Interrupted {
                what: format!("everything is saved; go on with: lorakit train {recipe} --resume --out {out}"),
            });
        }
        Ok(record)
    }

    /// Saves the adapter: the best if evaluations chose one (the last then goes to `last/`), else the last.
    fn keep(&self, record: &Record) -> Result<()> {
        match record.best {
            Some(step) if record.losses.last().is_some_and(|(last, _)| *last != step) => {
                self.adapter.save(&self.out.join("last"))?;
                let best = self.out.join(crate::adapter::peft::WEIGHTS);
                let bytes = std::fs::read(&best).map_err(Error::io("read", &best))?;
                self.adapter.set_from_safetensors(&bytes, &best)
            }
            _ => self.adapter.save(self.out),
        }
    }

    /// Hashes of everything a step depends on.
    fn fingerprint(&self) -> Result<BTreeMap<String, String>> {
        let mut rows = blake3::Hasher::new();
        for e in self.loaded.train.iter().chain(&self.loaded.heldout) {
            rows.update(&(e.ids.len() as u64).to_le_bytes());
            e.ids.iter().zip(&e.trained).for_each(|(id, t)| {
                rows.update(&(id << 1 | u32::from(*t)).to_le_bytes());
            });
        }
        let mut recipe = self.recipe.to_json();
        if let Some(sections) = recipe.as_object_mut() {
            sections.retain(|name, _| matches!(name.as_str(), "adapter" | "train"));
        }
        let base = &self.opened.resolved.path;
        let weights = if base.is_dir() { base.join("config.json") } else { base.clone() };
        Ok(BTreeMap::from([
            ("adapter and train sections".to_string(), files::sha256(recipe.to_string().as_bytes())),
            ("tokenised data and template".to_string(), rows.finalize().to_string()),
            ("base".to_string(), resolve::sha256(&Places::from_env(), &weights)?),
        ]))
    }

    fn newest(&self, fingerprint: &BTreeMap<String, String>) -> Result<State> {
        let state = Checkpoints::of(self.out).newest(State::from_bytes, &mut |path, error| {
            eprintln!("warning: {} is skipped: {error}", path.display());
        })?;
        match fingerprint.iter().find(|(k, v)| state.fingerprint.get(*k) != Some(v)) {
            None => Ok(state),
            Some((what, _)) => Err(Error::usage(
                "--resume",
                format!("the {what} of this run changed since the checkpoint of step {}", state.progress.step),
                "undo the change, or start anew with --overwrite",
            )),
        }
    }

    /// Recipe, trace, card and curve beside the adapter.
    fn finish(&self, record: &Record, proof: &Proof, samples: &[card::Sample], seconds: f64) -> Result<()> {
        let write = |name: &str, text: &str| files::write_atomic(&self.out.join(name), text.as_bytes());
        write("recipe.toml", &self.recipe.to_toml_in(self.out))?;
        if let Some(svg) = curve::svg(&self.recipe.output.name, &record.losses, &record.evals) {
            write("loss.svg", &svg)?;
        }
        let (base, adapter) = ((&proof.base).into(), (&proof.adapter).into());
        let card = Card {
            recipe: self.recipe,
            base_id: self.opened.resolved.id.as_deref(),
            params: self.adapter.param_count(),
            steps: record.best.unwrap_or_else(|| record.losses.last().map_or(0, |l| l.0)),
            trained_tokens: record.trained,
            heldout_rows: proof.base.rows,
            base: Some(&base),
            adapter: Some(&adapter),
            samples,
        };
        write("README.md", &card.text())?;
        write("trace.json", &format!("{:#}\n", self.trace(record, proof, seconds)?))
    }

    /// What went in, what it was made with, and what came out.
    fn trace(&self, record: &Record, proof: &Proof, seconds: f64) -> Result<serde_json::Value> {
        let sources =
            self.recipe.data.train.iter().map(|s| ("train", s)).chain(self.recipe.data.heldout.iter().map(|s| ("heldout", s)));
        let sources: Vec<_> = sources
            .map(|(split, s)| Ok(json!({"split": split, "file": s.path.file_name().map(|f| f.to_string_lossy()), "sha256": files::sha256_file(&s.path)?})))
            .collect::<Result<_>>()?;
        Ok(json!({
            "lorakit": env!("CARGO_PKG_VERSION"),
            "base": {"id": self.opened.resolved.id, "file": self.opened.resolved.path.file_name().map(|f| f.to_string_lossy())},
            "fingerprint": record.fingerprint,
            "data": {"sources": sources, "train_rows": self.loaded.train.len(), "heldout_rows": self.loaded.heldout.len()},
            "packing": super::data::fill(&self.recipe.train, &self.loaded.train),
            "steps": record.losses.last().map(|l| l.0),
            "best_step": record.best,
            "trained_tokens": record.trained,
            "seconds": (seconds * 10.0).round() / 10.0,
            "final_loss": record.losses.last().map(|l| l.1),
            "results": proof.json(),
            "adapter_sha256": files::sha256_file(&self.out.join(crate::adapter::peft::WEIGHTS))?,
        }))
    }

    fn where_it_lies(&self, recipe: &Path) -> String {
        let out = self.out.display();
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
