//! The command line: wiring, printing and exit codes, one file a verb.
//!
//! The only module that writes to the terminal. Errors a user can fix end in exit code 2, an interrupt in 130, a
//! termination (SIGTERM) in 75, a failed check in 1.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `progress`, `stop`, `machine`, `input_lines`, `mixture_shares`, `adapter_lines`, `model_lines`, `recipe_lines`, `forecast`, `run_clock`, `template_arg`, `machine_arg`, `ignore_arg` | drawing; signals; what this machine has; lines that are typed; a mixture, adapters, a base, recipes and what a run will take, in words; how long it still takes; a chat template that is asked for; what computes; keys of a base that are left out of account |
//! | 1 | `event_printer` | the events of a job, drawn |
//! | 2 | `base` | an open model |
//! | 3 | `generation_args`, `proposal` | which base and adapters talk; a recipe for rows that have none |
//! | 4 | `chat_commands`, `serve_args` | what `chat` does with a line; what `serve` is asked for |
//! | 5 | `adapter`, `bench`, `chat`, `compare`, `conform`, `data`, `doctor`, `estimate`, `eval`, `generate`, `merge`, `model`, `recipe`, `serve`, `train` | a verb each; none uses another |

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line talks to the terminal")]

pub mod adapter;
mod adapter_lines;
mod base;
pub mod chat;
mod chat_commands;
pub mod compare;
pub mod bench;
pub mod conform;
pub mod data;
pub mod doctor;
pub mod estimate;
pub mod eval;
mod forecast;
pub mod generate;
mod ignore_arg;
mod input_lines;
mod machine;
mod machine_arg;
pub mod merge;
mod mixture_shares;
pub mod model;
mod model_lines;
mod progress;
mod proposal;
pub mod recipe;
mod recipe_lines;
mod run_clock;
pub mod serve;
mod serve_args;
mod event_printer;
mod stop;
mod generation_args;
mod template_arg;
pub mod train;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::device;
use crate::error::{Error, Result};
use crate::model::text;

/// Low-rank adapters on a frozen, memory-mapped language model: train, prove, merge, talk.
#[derive(Debug, Parser)]
#[command(name = "lorakit", version, about, max_term_width = 110)]
struct Cli {
    /// Threads for all CPU work (default: all cores)
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where models run: auto, cpu, cuda, cuda:N or metal
    #[arg(long, global = true, value_name = "DEVICE", default_value = "auto")]
    device: device::Choice,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train an adapter and prove it against the base: the main job
    Train(train::TrainArgs),
    /// What a run will take: memory by part, tokens, steps, time; and the setting that fits
    Estimate(estimate::EstimateArgs),
    /// Judge an adapter beside its base on held-out rows
    Eval(eval::EvalArgs),
    /// Merge an adapter into its base model
    Merge(merge::MergeArgs),
    /// Continue a text or answer a message
    Generate(generate::GenerateArgs),
    /// Talk to a base and to adapters on it, switching between them
    Chat(chat::ChatArgs),
    /// Serve a base and many adapters over HTTP
    Serve(serve::ServeArgs),
    /// List adapters, or look into one
    Adapter(adapter::AdapterArgs),
    /// Look into a base model: family, sizes, sites, memory, which verbs work
    Model(model::ModelArgs),
    /// Look at training data as the model will see it
    Data(data::DataArgs),
    /// List, show and check recipes; print their JSON Schema
    Recipe(recipe::RecipeArgs),
    /// Write what another implementation needs to be compared with this one
    Compare(compare::CompareArgs),
    /// Check golden cases computed by PyTorch and PEFT
    Conform(conform::ConformArgs),
    /// How fast this machine trains, and its limit; how fast a server answers
    Bench(bench::BenchArgs),
    /// What this machine has, and whether the base model is at hand
    Doctor(doctor::DoctorArgs),
}

/// What a verb ends with when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Done,
    /// A check did not pass: exit code 1.
    Failed,
}

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    base::started();
    crate::kernels::cpu::quiet_candle_pool();
    let outcome = run(&Cli::parse());
    crate::piped::forget();
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<Outcome> {
    // Ctrl-C means something else in a conversation, and to a server.
    if !matches!(cli.verb, Verb::Chat(_) | Verb::Serve(_)) {
        stop::listen();
    }
    device::choose(match &cli.verb {
        Verb::Conform(args) => args.machine.device(cli.device)?,
        Verb::Bench(args) => args.machine().map_or(Ok(cli.device), |machine| machine.device(cli.device))?,
        _ => cli.device,
    });
    if let Some(threads) = cli.threads {
        device::set_threads(threads.into())?;
    }
    match &cli.verb {
        Verb::Train(args) => train::run(args).map(|()| Outcome::Done),
        Verb::Estimate(args) => estimate::run(args).map(|()| Outcome::Done),
        Verb::Eval(args) => eval::run(args).map(|()| Outcome::Done),
        Verb::Merge(args) => merge::run(args).map(|()| Outcome::Done),
        Verb::Generate(args) => generate::run(args).map(|()| Outcome::Done),
        Verb::Chat(args) => chat::run(args).map(|()| Outcome::Done),
        Verb::Serve(args) => serve::run(args).map(|()| Outcome::Done),
        Verb::Adapter(args) => adapter::run(args).map(|()| Outcome::Done),
        Verb::Model(args) => model::run(args).map(|()| Outcome::Done),
        Verb::Data(args) => {
            data::run(args, |recipe| text::tokenizer(&base::find(&recipe.base, true)?.path)).map(|()| Outcome::Done)
        }
        Verb::Recipe(args) => recipe::run(args).map(|()| Outcome::Done),
        Verb::Compare(args) => compare::run(args).map(|()| Outcome::Done),
        Verb::Conform(args) => conform::run(args),
        Verb::Bench(args) => bench::run(args).map(|()| Outcome::Done),
        Verb::Doctor(args) => doctor::run(args),
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<()> {
    write(&mut std::io::stdout().lock(), text)
}

/// Writes and flushes; a reader that has seen enough (`| head`) is not an error.
fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Error::io("write", Path::new("standard output"))),
    }
}
