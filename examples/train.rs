//! From a recipe to an adapter that PEFT can load.
//!
//! `cargo run --release --example train [BASE [OUT]]`; without a base, a tiny random one of this repository.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use lorakit::adapter::Adapter;
use lorakit::data::{self, Renderer};
use lorakit::model::{Adapt, Marked, Model, resolve::resolve, text};
use lorakit::recipe::Recipe;
use lorakit::train::{self, Control, Event, Job};
use lorakit::{Result, device};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/models/llama");
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/recipe.toml");

/// Trains on the toy domain, saves the adapter in `out`, and returns the held-out loss before and after.
pub(crate) fn run(base: &str, out: &Path) -> Result<(f64, f64)> {
    let recipe = Recipe::load(Path::new(RECIPE), &[format!("base.model={base}")])?;
    let found = resolve(&recipe.base, &mut |_| ())?;
    let model = Model::open(&found.path, recipe.base.compute, &device::best()?)?;
    let renderer = Renderer::new(text::tokenizer(&found.path)?, &recipe.template)?;
    let rows = data::load(&recipe.data, &renderer, recipe.train.max_length, recipe.train.seed)?;
    let adapter = Adapter::new(&recipe.adapter, found.id, &model, recipe.train.seed)?;

    let pad = renderer.tokenizer().pad_id();
    let ids: Vec<&[u32]> = rows.heldout.iter().map(|e| e.ids).collect();
    let texts = Marked { ids: &ids, trained: &|text, i| rows.heldout.get(text).trained.get(i) };
    let heldout = |adapt: &dyn Adapt| Ok::<_, lorakit::Error>(model.score(adapt, texts, 8, pad, &mut |_| Ok(()))?.loss());
    let job = Job {
        model: &model,
        adapter: &adapter,
        examples: &rows.train,
        mixture: &rows.mixture,
        heldout: &rows.heldout,
        settings: &recipe.train,
        pad,
    };
    train::run(&job, None, &mut |event| {
        if let Event::Step { step, loss, lr, .. } = event {
            println!("step {step:3}  loss {loss:.3}  lr {lr:.1e}");
        }
        Ok(Control::Go)
    })?;
    adapter.save(out)?;
    Ok((heldout(&())?, heldout(&adapter.frozen())?))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let base = args.get(1).map_or(BASE, String::as_str);
    let out = args.get(2).map_or("runs/example", String::as_str);
    let (before, after) = run(base, Path::new(out))?;
    println!("held-out loss: base {before:.3}, adapter {after:.3}; the adapter is in {out}");
    Ok(())
}
