//! From a recipe to an adapter that PEFT can load.
//!
//! `cargo run --release --example train [BASE [OUT]]`; without a base, a tiny random one of this repository.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use lorakit::Result;
use lorakit::job::{self, Control, JobEvent};
use lorakit::recipe::Recipe;
use lorakit::train::Event;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/models/llama");
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/recipe.toml");

/// Trains on the toy domain, leaves the adapter with its record in `out`, and returns the held-out loss before and after.
pub(crate) fn run(base: &str, out: &Path) -> Result<(f64, f64)> {
    let recipe = Recipe::load(Path::new(RECIPE), &[format!("base.model={base}")])?;
    let done = job::train(&recipe, out, &mut |event| {
        if let JobEvent::Training { event: Event::Step { step, loss, lr, .. }, .. } = event {
            println!("step {step:3}  loss {loss:.3}  lr {lr:.1e}");
        }
        Ok(Control::Go)
    })?;
    let loss = |who: &str| done.results[who]["loss"].as_f64().unwrap_or(f64::NAN);
    Ok((loss("base"), loss("adapter")))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let base = args.get(1).map_or(BASE, String::as_str);
    let out = args.get(2).map_or("runs/example", String::as_str);
    let (before, after) = run(base, Path::new(out))?;
    println!("held-out loss: base {before:.3}, adapter {after:.3}; the adapter is in {out}");
    Ok(())
}
