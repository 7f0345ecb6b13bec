//! One model, two adapters, four threads: each call says which adapter it is under, and no call disturbs another.
//!
//! `cargo run --release --example hot_swap [BASE ADAPTER ADAPTER]`; without a base, a tiny random one of this repository.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::sync::Arc;
use std::thread;

use lorakit::Result;
use lorakit::adapter::Adapter;
use lorakit::device::{self, Compute};
use lorakit::generate::{Limits, Sampling, batch};
use lorakit::model::{Adapt, Model};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/models/llama");
const FIRST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/adapters/llama/plain");
const SECOND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/adapters/llama/all_linear");

/// The greedy continuation of three ids under an adapter (`&()` is the base alone).
fn answer(model: &Model, adapt: &dyn Adapt) -> Result<Vec<u32>> {
    let limits = Limits { min_new_tokens: 0, max_new_tokens: 12, stop: Vec::new() };
    Ok(batch(model, adapt, &[vec![5, 6, 7]], &Sampling::GREEDY, &limits, 1, &mut |_| Ok(()))?.remove(0))
}

/// What the base and each adapter answer alone, and how many answers of the threads differed from that.
pub(crate) fn run(base: &Path, adapters: [&Path; 2]) -> Result<([Vec<u32>; 3], usize)> {
    let model = Arc::new(Model::open(base, Compute::F32, &device::best()?)?);
    let [a, b] = [Adapter::load(adapters[0], &model)?.frozen(), Adapter::load(adapters[1], &model)?.frozen()];
    let table: Arc<[Arc<dyn Adapt + Send + Sync>; 3]> = Arc::new([Arc::new(()), Arc::new(a), Arc::new(b)]);
    let alone = [answer(&model, &*table[0])?, answer(&model, &*table[1])?, answer(&model, &*table[2])?];

    let threads: Vec<_> = (0..4)
        .map(|t| {
            let (model, table, alone) = (model.clone(), table.clone(), alone.clone());
            let wrong = move |i: usize| Ok(usize::from(answer(&model, &*table[i % 3])? != alone[i % 3]));
            thread::spawn(move || (t..t + 9).map(wrong).sum::<Result<usize>>())
        })
        .collect();
    let wrong: Result<usize> = threads.into_iter().map(|t| t.join().unwrap_or(Ok(9))).sum();
    Ok((alone, wrong?))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let arg = |i: usize, default: &'static str| args.get(i).map_or(default, String::as_str).to_string();
    let (base, first, second) = (arg(1, BASE), arg(2, FIRST), arg(3, SECOND));
    let (alone, wrong) = run(Path::new(&base), [Path::new(&first), Path::new(&second)])?;
    for (who, ids) in ["base", "first", "second"].iter().zip(alone) {
        println!("{who:7} {ids:?}");
    }
    println!("{wrong} of 36 answers from four threads differed");
    Ok(())
}
