//! Merges an adapter into its base and compares the logits of the result with those of base + adapter.
//!
//! `cargo run --release --example merge_and_compare [BASE ADAPTER [OUT]]`; OUT must not exist. Without a base, a tiny
//! random one of this repository.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use lorakit::adapter::Adapter;
use lorakit::artifact::merge::{self, Dtype, Merged};
use lorakit::device::{self, Compute};
use lorakit::model::{Adapt, Model};
use lorakit::{Error, Result};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/models/llama");
const ADAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/adapters/llama/all_linear");

/// Writes the merged model into `out`. Returns the largest difference of a logit between base and base + adapter (what
/// the adapter changes), and between merged and base + adapter (what merging lost).
pub(crate) fn run(base: &Path, adapter: &Path, out: &Path) -> Result<(f32, f32)> {
    let device = device::best()?;
    let model = Model::open(base, Compute::F32, &device)?;
    let adapter = Adapter::load(adapter, &model)?.frozen();
    let merged = Merged { model: &model, adapter: &adapter, base, dtype: Dtype::F32, spoken: None, card: None };
    merge::write(&merged, out, &mut |_, _| ())?;
    let merged = Model::open(out, Compute::F32, &device)?;

    let rows: [Vec<u32>; 2] = [(1..40).collect(), (100..120).collect()];
    let logits =
        |model: &Model, adapt: &dyn Adapt| -> Result<Vec<f32>> { Ok(model.text_logits(adapt, &[&rows[0], &rows[1]])?.concat()) };
    let want = logits(&model, &adapter)?;
    let largest = |got: Vec<f32>| got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
    Ok((largest(logits(&model, &())?), largest(logits(&merged, &())?)))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let base = args.get(1).map_or(BASE, String::as_str);
    let adapter = args.get(2).map_or(ADAPTER, String::as_str);
    let folder = tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?;
    let out = args.get(3).map_or_else(|| folder.path().join("merged"), |out| out.into());
    let (changed, lost) = run(Path::new(base), Path::new(adapter), &out)?;
    println!("the adapter changes a logit by up to {changed:.3}; merging loses at most {lost:.1e} of it");
    Ok(())
}
