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
//! | 1 | `prompts` | what is asked |
//! | 2 | `generator`, `settings` | who answers; what the rows depend on |
//! | 3 | `filter`, `http`, `local`, `store` | what is not kept; behind an address; on this machine; the folder of a run |
//! | 4 | `parse` | what an answer says |
//! | 5 | `run` | the loop |

mod prompts;
mod filter;
mod generator;
mod http;
mod local;
mod parse;
mod pool;
mod run;
mod seeds;
mod settings;
mod store;
#[cfg(test)]
mod tests;

pub use filter::RejectReason;
pub use generator::{Generator, GoOn, Identity, PromptStyle, Reply};
pub use http::{Endpoint, Http};
pub use local::Local;
pub use pool::{InstructionPool, Similar};
pub use prompts::{Choice, Request};
pub use run::{Ended, SynthesisProgress, SynthesisSummary, run};
pub use seeds::{Instance, SeedTask, Seeds};
pub use settings::{Goal, SynthesisSettings, Variant};
pub use store::{Stage, Store};
