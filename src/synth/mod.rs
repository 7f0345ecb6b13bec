//! Instruction data that a model writes: Self-Instruct (Wang et al. 2022, arXiv:2212.10560; `bootstrap_instructions.py` …
//! `prepare_for_finetuning.py`) and Alpaca's variant with one call for whole tasks (Taori et al. 2023,
//! `generate_instruction.py`). The steps and their thresholds are theirs, every sentence of a prompt is ours.
//!
//! ```text
//! seeds ─► ask ─► generator ─► store ─► parse ─► filter ─► pool ─► store
//! 6 + 2           local, http  replies           form      alike?  candidates, rows
//!   ▲                                                        │
//!   └────────────────────── instructions ◄───────────────────┘
//! ```
//! A run is a function of its seeds, settings and replies: one that was killed reads the replies it has and goes on.
//! Refuses to know the terminal, recipes and training.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `seeds`, `pool` | tasks written by people; instructions so far, and the most similar |
//! | 1 | `ask`, `filter` | what is asked; what is not kept |
//! | 2 | `generator`, `parse` | who answers; what an answer says |
//! | 3 | `http`, `local`, `store` | behind an address; on this machine; the folder of a run |
//! | 4 | `run` | the loop |

mod ask;
mod filter;
mod generator;
mod http;
mod local;
mod parse;
mod pool;
mod run;
mod seeds;
mod store;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use ask::{Choice, Request};
pub use filter::Reason;
pub use generator::{Generator, GoOn, Identity, Reply, Style};
pub use http::{Endpoint, Http};
pub use local::Local;
pub use pool::{Pool, Similar};
pub use run::{Ended, Goal, Progress, Summary, run};
pub use seeds::{Instance, SeedTask, Seeds};
pub use store::{Stage, Store};

/// Which way rows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    SelfInstruct,
    Alpaca,
}

/// What the rows of a run depend on, beside the seeds and the generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub variant: Variant,
    pub seed: u64,
    /// Requests for instructions (or tasks) before what came is judged and may be shown itself.
    pub per_round: usize,
    /// Instances kept of one instruction.
    pub instances: usize,
    /// ROUGE-L from which an instruction is too similar to another: 0.7.
    pub threshold: f64,
    /// Requests that a local model works on at once, which decides the last bits of its sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// For instructions, and for whole tasks.
    pub tasks: Choice,
    /// For instances.
    pub answers: Choice,
}

impl Settings {
    /// The papers' settings, with `max_new_tokens` of their scripts.
    pub fn of(variant: Variant) -> Settings {
        let choice = |temperature, top_p, max_new_tokens| Choice { temperature, top_p, repetition_penalty: 1.0, max_new_tokens };
        let tasks = match variant {
            Variant::SelfInstruct => choice(0.7, 0.5, 1024),
            Variant::Alpaca => choice(1.0, 1.0, 3072),
        };
        let answers = choice(0.0, 1.0, 350);
        Settings { variant, seed: 0, per_round: 8, instances: 5, threshold: 0.7, batch: None, tasks, answers }
    }
}
