//! How fast an OpenAI-compatible server answers under load: rates, and times to the first token, between tokens and to the end.
//!
//! Works on any server (this one, vLLM, llama.cpp) and knows it by its address alone. A closed loop keeps a number of requests
//! under way; an open loop sends them at times that are fixed beforehand and counts from those, so that a server that falls
//! behind is not measured at its own pace (coordinated omission). Refuses to know: files of results, printing.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `event_stream`, `exchange`, `quantiles`, `schedule`, `target` | server-sent events; what a request came to; order statistics; when requests begin; where the server is |
//! | 1 | `prompts`, `report`, `transcript` | what is asked; figures; a streamed completion |
//! | 2 | `client`, `plot` | requests, timed; figures over load as an SVG |
//! | 3 | `drive` | one load point |

mod event_stream;
mod exchange;
mod quantiles;
mod schedule;
mod target;
mod prompts;
mod report;
mod transcript;
mod client;
mod plot;
mod drive;
#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;

use std::sync::Arc;

use serde::Serialize;

use self::client::Client;
use self::drive::Watch;
use self::report::Measured;
use self::schedule::Schedule;
use crate::error::{Error, Result};

pub use self::drive::LoadProgress;
pub use self::plot::svg;
pub use self::prompts::Prompts;
pub use self::quantiles::Quantiles;
pub use self::report::{CountedBy, ErrorCount, Figures, ModelFigures, PointReport};
pub use self::schedule::{Load, Until};
pub use self::target::{Api, Target};

/// Most requests that an open loop's load point may plan.
const MOST: f64 = 1e7;

/// What is measured.
#[derive(Clone)]
pub struct LoadRun {
    pub target: Target,
    pub prompts: Prompts,
    /// One after the other.
    pub loads: Vec<Load>,
    pub until: Until,
    /// Requests before the first load point that are in no figure.
    pub warmup: usize,
    /// Of arrivals and made-up prompts.
    pub seed: u64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    pub url: String,
    pub api: Api,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    pub seed: u64,
    /// The user asked to stop: the last load point is not whole, and further ones are missing.
    pub stopped: bool,
    pub points: Vec<PointReport>,
}

/// Measures each load in turn, until `stop` says so; what was measured until then is kept.
///
/// # Errors
/// [`Error::Usage`] for a load that is none or has no end; [`Error::Fetch`] when the warm-up or the first load point gets no
/// answer and no refusal, but failures.
pub fn run(run: &LoadRun, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(LoadProgress)) -> Result<LoadReport> {
    run.loads.iter().try_for_each(|load| checked(*load, run.until))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|e| Error::usage("bench serve", format!("cannot wait for sockets: {e}"), "close other programs"))?;
    let client = Arc::new(Client::new(run.target.clone(), run.prompts.clone(), run.seed));
    let mut watch = Watch { stop, progress };
    let LoadRun { target, loads, until, warmup, seed, .. } = run;
    let mut report = LoadReport {
        url: target.url().to_string(),
        api: target.api,
        max_tokens: target.max_tokens,
        seed: *seed,
        stopped: false,
        points: Vec::new(),
    };
    if *warmup > 0 {
        let concurrency = loads.first().map_or(1, |load| if let Load::Closed { concurrency } = load { *concurrency } else { 1 });
        let until = Until { requests: Some(*warmup), seconds: None };
        let schedule = Schedule::new(Load::Closed { concurrency }, until, *seed, 0);
        let measured = runtime.block_on(drive::drive(&client, &schedule, 0, &mut watch));
        report.stopped = measured.stopped.is_some();
        answers(&measured, target)?;
    }
    for (i, load) in loads.iter().enumerate() {
        if report.stopped {
            break;
        }
        let schedule = Schedule::new(*load, *until, *seed, i + 1);
        let measured = runtime.block_on(drive::drive(&client, &schedule, i + 1, &mut watch));
        report.stopped = measured.stopped.is_some();
        if i == 0 {
            answers(&measured, target)?;
        }
        report.points.push(measured.report(*load, &target.models));
    }
    Ok(report)
}

/// Refuses loads that cannot be planned.
fn checked(load: Load, until: Until) -> Result<()> {
    let fail = |what: &str, why: String, help: &str| Err(Error::usage(what, why, help));
    if until.seconds.is_some_and(|s| !(s > 0.0 && s <= 1e6)) {
        return fail("--seconds", "it is no time that one can wait".into(), "give more than 0, up to 1000000");
    }
    if (until.requests, until.seconds) == (None, None) || until.requests == Some(0) {
        return fail("the load", "it has no end, or no requests".into(), "give --requests or --seconds");
    }
    match load {
        Load::Closed { concurrency: 0 } => fail("--concurrency", "0 requests at once are none".into(), "give at least 1"),
        Load::Open { rate } if !(rate > 0.0 && rate.is_finite()) => {
            fail("--rate", format!("{rate} is no number of requests a second"), "give more than 0")
        }
        Load::Open { rate }
            if until.requests.map_or(f64::INFINITY, |n| n as f64).min(rate * until.seconds.unwrap_or(f64::INFINITY)) > MOST =>
        {
            fail(
                "--rate",
                format!("more than {MOST:.0} requests would be planned"),
                "give a lower rate, or less time or requests",
            )
        }
        _ => Ok(()),
    }
}

/// An error when there were failures and nothing else.
fn answers(measured: &Measured, target: &Target) -> Result<()> {
    let figures = measured.report(Load::Closed { concurrency: 1 }, &target.models).all;
    let (Some(error), 0) = (figures.errors.first(), figures.answered + figures.refused) else { return Ok(()) };
    let help = match error.kind.as_str() {
        "connect" | "timeout" => "check the address, and that the server runs",
        "status 401" | "status 403" => "name the variable that holds your key with --key-env",
        "status 404" => "check --url, --api and --model",
        _ => "check --api, --model and the prompts, and what the server says about it",
    };
    let why = format!("no request was answered; the first: {}: {}", error.kind, error.first);
    Err(Error::Fetch { what: target.url().into(), why, help: help.into() })
}
