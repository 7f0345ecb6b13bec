//! A training loop of one's own: loss with gradients, and the optimiser, are plain calls.
//!
//! `cargo run --release --example own_loop [BASE]`; without a base, a tiny random one of this repository.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use lorakit::Result;
use lorakit::adapter::Adapter;
use lorakit::device::{self, Compute};
use lorakit::model::{Model, Recompute, Workspace, text};
use lorakit::recipe::Recipe;
use lorakit::train::adamw;
use lorakit::train::optimizer::Optimizer;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/models/llama");
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/recipe.toml");
const TEXTS: [&str; 3] = ["After Monday comes Tuesday.", "After Tuesday comes Wednesday.", "After Sunday comes Monday."];

/// Learns three sentences by heart; the mean loss per token at each step.
pub(crate) fn run(base: &Path, steps: usize) -> Result<Vec<f32>> {
    let recipe = Recipe::load(Path::new(RECIPE), &[])?; // for its [adapter] and [train] sections
    let model = Model::open(base, Compute::F32, &device::best()?)?;
    let tokenizer = text::tokenizer(base)?;
    let adapter = Adapter::new(&recipe.adapter, None, &model, 1)?;
    let mut optim = Optimizer::new(&model, &adapter)?;

    let rows = TEXTS.iter().map(|t| tokenizer.encode(t)).collect::<Result<Vec<_>>>()?;
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let predicted: usize = rows.iter().map(|row| row.len() - 1).sum();
    let mut room = Workspace::new(Recompute::Never); // memory that steps share

    let mut losses = Vec::new();
    for step in 0..steps {
        let adapt = adapter.training(1, step as u64, 0); // with dropout, if the recipe says so
        let found = model.gradients(&mut room, &adapt, &rows, &|row, i| i < rows[row].len(), 1.0 / predicted as f64)?;
        optim.add(adapter.by_param(found.gradients)?)?;
        optim.step(&adamw::settings(&recipe.train, 5e-3, optim.norm()?))?; // clips as the recipe says
        losses.push(found.loss as f32);
    }
    Ok(losses)
}

fn main() -> Result<()> {
    let base = std::env::args().nth(1).unwrap_or_else(|| BASE.to_string());
    for (step, loss) in run(Path::new(&base), 30)?.iter().enumerate() {
        println!("step {step:2}  loss {loss:.3}");
    }
    Ok(())
}
