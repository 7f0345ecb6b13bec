//! lorakit: low-rank adapters on a frozen, memory-mapped language model.
//!
//! ```text
//! recipe ─► data ─► model ◄─ adapter ─► train ─► artifact (merge, card, trace)
//!  TOML     rows     frozen   low-rank   loop,     files others can read
//!  checked  → tokens mapped   per site   losses
//!           → mask   weights
//! ```
//!
//! # Layout
//! Modules in reading order; a module uses only modules with a smaller number (a test enforces it). What stands below the
//! models changes less often than what stands on them, so it is compiled apart: number 0 is the crate `lorakit-base`
//! (`crates/base`), 1 and 2 are `lorakit-data`, 3 is `lorakit-kernels`, all under the names that they have here.
//!
//! | # | module | knows |
//! |---|---|---|
//! | 0 | [`error`], [`device`], [`files`], [`random`], [`machine`], [`rouge`], [`hub`], [`piped`] | errors by what a user can fix; accelerators; atomic writes; named random streams; memory; how alike two texts are; the hub's cache; standard input |
//! | 1 | [`json`], [`recipe`] | JSON whose numbers keep their text; the TOML file, checked |
//! | 2 | [`tokenizer`], [`data`], [`curate`] | sources, shapes, templates, tokens and loss mask; what rows are worth |
//! | 3 | [`kernels`] | CPU kernels with their backward, and the same on any device |
//! | 4 | [`model`] | files of weights, the one pass, `FrozenLinear`, `Site`, `Adapt` |
//! | 5 | [`adapter`] | low-rank maths, targeting, PEFT files |
//! | 6 | [`generate`] | sampling, the loop that answers, batches, conversations |
//! | 7 | [`train`], [`eval`], [`artifact`], [`synth`] | each its own job; none uses another |
//! | 8 | [`conform`], [`bench`], [`estimate`] | golden cases; how fast this machine trains; what a run will take |
//! | 9 | [`job`] | whole jobs with their events: train, evaluate, merge, estimate, answer |
//! | 10 | [`serve`] | one base and many adapters over HTTP, exchanged while it runs |
//! | 11 | [`cli`] | one file a verb |
//!
//! # Invariants
//! 1. The adapter is an argument of every pass, never surgery on the model; a `Model` holds no trainable variable.
//! 2. Frozen weights are read in place from the mapped file; no gradient of them is made.
//! 3. Every random number is a function of the seed and of what it is for.
//! 4. Loading consumes every tensor and matches every target, or says which one is left over.
//! 5. Files are written atomically; adapters are PEFT directories.
//! 6. `train` and the passes of `model` print nothing and write nothing.

pub use lorakit_base::{device, error, files, hub, machine, piped, random, rouge};
pub use lorakit_data::{curate, data, json, recipe, tokenizer};
pub use lorakit_kernels as kernels;

pub mod model;
pub mod adapter;
pub mod generate;
pub mod train;
pub mod eval;
pub mod artifact;
pub mod synth;
pub mod conform;
pub mod bench;
pub mod estimate;
pub mod job;
pub mod serve;
pub mod cli;

pub use error::{Error, Result};
