//! The command line: wiring, printing and exit codes, one file a verb.
//!
//! The only module that writes to the terminal. Errors a user can fix end in exit code 2, an interrupt in 130, a failed
//! check in 1.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line talks to the terminal")]

mod base;
pub mod conform;
pub mod data;
pub mod eval;
pub mod merge;
mod progress;
mod prove;
pub mod recipe;
mod record;
mod stop;
pub mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::device;
use crate::error::Result;
use crate::model::text;

/// Low-rank adapters on a frozen, memory-mapped language model: train, prove, merge, talk.
#[derive(Debug, Parser)]
#[command(name = "lorakit", version, about, max_term_width = 110)]
struct Cli {
    /// Threads for all CPU work (default: all cores)
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train an adapter and prove it against the base: the main job
    Train(train::TrainArgs),
    /// Judge an adapter beside its base on held-out rows
    Eval(eval::EvalArgs),
    /// Merge an adapter into its base model
    Merge(merge::MergeArgs),
    /// Look at training data as the model will see it
    Data(data::DataArgs),
    /// List, show and check recipes; print their JSON Schema
    Recipe(recipe::RecipeArgs),
    /// Check golden cases computed by PyTorch and PEFT
    Conform(conform::ConformArgs),
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
    match run(&Cli::parse()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<Outcome> {
    if let Some(threads) = cli.threads {
        device::set_threads(threads)?;
    }
    match &cli.verb {
        Verb::Train(args) => train::run(args).map(|()| Outcome::Done),
        Verb::Eval(args) => eval::run(args).map(|()| Outcome::Done),
        Verb::Merge(args) => merge::run(args).map(|()| Outcome::Done),
        Verb::Data(args) => {
            data::run(args, |recipe| text::tokenizer(&base::find(&recipe.base, true)?.path)).map(|()| Outcome::Done)
        }
        Verb::Recipe(args) => recipe::run(args).map(|()| Outcome::Done),
        Verb::Conform(args) => conform::run(args),
    }
}
