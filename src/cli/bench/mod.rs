//! `lorakit bench train | decode | gemm | serve`: how fast this machine trains and decodes, its limit, and how fast a server
//! answers. One file a verb.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `load_lines`, `tables`, `values` | a load run in words; figures in columns; values of arguments |
//! | 1 | `decode`, `gemm`, `serve`, `train` | the verbs |

mod decode;
mod gemm;
mod load_lines;
mod serve;
mod tables;
mod train;
mod values;

use clap::{Args, Subcommand};

use super::machine_arg::MachineArg;
use crate::error::Result;

/// Time training steps, on made-up rows or a recipe's, decoding, the matrix products alone, or a server under load.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Steps of training: tokens a second, memory, share of the machine's limit
    Train(train::BenchTrainArgs),
    /// Greedy decoding: tokens a second
    Decode(decode::DecodeArgs),
    /// The machine's limit for products with frozen matrices, and what a model's own reach of it
    Gemm(gemm::GemmArgs),
    /// Any OpenAI-compatible server under load: tokens a second, times to the first token, between tokens and to the end
    Serve(serve::BenchServeArgs),
}

impl BenchArgs {
    /// What is to compute, where the verb lets one choose.
    pub(super) fn machine(&self) -> Option<MachineArg> {
        match &self.verb {
            Verb::Train(args) => Some(args.machine),
            Verb::Decode(args) => Some(args.machine),
            Verb::Gemm(_) | Verb::Serve(_) => None,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the model, the server or the arguments.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.verb {
        Verb::Train(args) => train::run(args),
        Verb::Decode(args) => decode::run(args),
        Verb::Gemm(args) => gemm::run(args),
        Verb::Serve(args) => serve::run(args),
    }
}
