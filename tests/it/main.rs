//! Every integration test, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures of a test, and how a skipped one says so")]

mod answers;
mod bad_input;
mod before_training;
mod bench;
mod chat_templates;
mod compare;
mod conform;
mod curate;
mod dora;
mod encoder;
mod examples;
mod experts;
mod gguf_families;
mod gradients;
mod judging;
mod injected;
mod jinja;
mod job;
#[cfg(unix)]
mod hub;
mod kill;
mod losses;
mod multimodal;
mod oracle;
mod packing;
mod prepared;
mod readme_families;
mod real_weights;
mod real_generate;
mod real_model;
mod recipe_docs;
mod recipe_new;
mod real_tokenizers;
mod resume;
mod same_bits;
mod second_opinion;
#[cfg(unix)]
mod serve;
mod shapes;
mod shared;
mod smollm2_text;
mod snapshots;
mod synthesize;
mod talk;
mod templates;
mod tidy;
mod third_opinion;
mod tiny_folder;
mod tiny_models;
mod told;
mod training;
