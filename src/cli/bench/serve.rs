//! `lorakit bench serve`: how fast a server answers under load.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::load_lines::{Measuring, lines};
use super::values::api;
use crate::bench::serve::{self, Api, Load, LoadRun, Prompts, Target, Until};
use crate::cli::{print, stop};
use crate::error::{Error, Result};
use crate::files;

/// Requests of a load point, where nothing else ends it.
const REQUESTS: usize = 100;
#[derive(Debug, Args)]
pub(super) struct BenchServeArgs {
    /// Where the server is: http://HOST:PORT
    #[arg(long)]
    url: String,
    /// Model or adapter, as the server names it; of several, requests are spread over them in turn
    #[arg(long = "model", value_name = "NAME", required = true)]
    models: Vec<String>,
    /// Which endpoint is asked: completions or chat
    #[arg(long, default_value = "completions", value_parser = api())]
    api: Api,
    /// Prompts, one a line: {"prompt": "…"}, for chat also {"messages": […]}
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "prompt_tokens")]
    prompts: Option<PathBuf>,
    /// Words of made-up prompts, about a token each
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompt_tokens: u32,
    /// Longest answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Let answers go on to their longest (vLLM and llama.cpp know how)
    #[arg(long)]
    ignore_eos: bool,
    /// Requests at once, a load point each (closed loop; default: 1)
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', conflicts_with = "rate")]
    concurrency: Vec<u16>,
    /// Requests a second that arrive on average, a load point each (open loop, Poisson)
    #[arg(long, value_name = "R[,R…]", value_delimiter = ',')]
    rate: Vec<f64>,
    /// Requests of a load point (default: 100, unless --seconds is given)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// Seconds in which the requests of a load point begin
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Requests before the first load point that are not measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: u32,
    /// Seed of arrivals and made-up prompts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Environment variable that holds the server's key
    #[arg(long, value_name = "VAR")]
    key_env: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw throughput and latencies over load
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the arguments; a server that gives no answer; the user asked to stop, after what was measured is told.
pub(super) fn run(args: &BenchServeArgs) -> Result<()> {
    let unset = |name: &String| Error::usage("--key-env", format!("{name} is not set"), format!("export {name}=KEY"));
    let key = args.key_env.as_ref().map(|name| std::env::var(name).map_err(|_| unset(name))).transpose()?;
    let mut target = Target::new(&args.url, args.api, args.models.clone(), args.max_tokens as usize, key)?;
    let prompts = match &args.prompts {
        Some(path) => Prompts::read(path, args.api)?,
        None => Prompts::MadeUp { words: args.prompt_tokens as usize },
    };
    let closed: &[u16] = if args.concurrency.is_empty() { &[1] } else { &args.concurrency[..] };
    let loads = match args.rate.is_empty() {
        true => closed.iter().map(|n| Load::Closed { concurrency: (*n).into() }).collect(),
        false => args.rate.iter().map(|rate| Load::Open { rate: *rate }).collect(),
    };
    let requests = args.requests.map(|n| n as usize).or(args.seconds.is_none().then_some(REQUESTS));
    let until = Until { requests, seconds: args.seconds };
    target.ignore_eos = args.ignore_eos;
    let load = LoadRun { target, prompts, loads, until, warmup: args.warmup as usize, seed: args.seed };
    stop::save_first();
    let mut measuring = Measuring::new(load.loads.len());
    let report = serve::run(&load, &stop::asked, &mut |p| measuring.show(p))?;
    drop(measuring);
    print(&if args.json { format!("{}\n", json!(report)) } else { lines(&report) })?;
    if let Some(path) = &args.plot {
        let none = || Error::usage("--plot", "no request was answered: there is nothing to draw", "see the errors above");
        files::write_atomic(path, serve::svg(&args.models.join(", "), &report.points).ok_or_else(none)?.as_bytes())?;
    }
    if report.stopped { Err(stop::stopped("the figures are of what had ended by then".into())) } else { Ok(()) }
}
