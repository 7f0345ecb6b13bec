//! The four examples, run on the tiny model of the repository.

use std::path::Path;

use crate::tiny_models;

#[path = "../../examples/hot_swap.rs"]
#[allow(dead_code, reason = "`main` and what only it uses")]
mod hot_swap;
#[path = "../../examples/merge_and_compare.rs"]
#[allow(dead_code, reason = "`main` and what only it uses")]
mod merge_and_compare;
#[path = "../../examples/own_loop.rs"]
#[allow(dead_code, reason = "`main` and what only it uses")]
mod own_loop;
#[path = "../../examples/train.rs"]
#[allow(dead_code, reason = "`main` and what only it uses")]
mod train;

fn adapter(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/adapters").join(name)
}

#[test]
fn train_lowers_the_heldout_loss_and_leaves_an_adapter() {
    let out = tempfile::tempdir().unwrap();
    let (before, after) = train::run(tiny_models::dir("llama").to_str().unwrap(), out.path()).unwrap();
    println!("held-out loss {before} → {after}");
    assert!(after < before / 2.0, "{before} → {after}");
    let model = tiny_models::open("llama");
    let loaded = lorakit::adapter::Adapter::load(out.path(), &model).unwrap();
    assert_eq!(loaded.params().len(), 3 * 7 * 2);
}

#[test]
fn merging_keeps_what_the_adapter_changed() {
    let out = tempfile::tempdir().unwrap();
    for (base, name) in [("llama", "llama/all_linear"), ("qwen2", "qwen2/plain"), ("gpt2", "gpt2/all_linear")] {
        let merged = out.path().join(base);
        let (changed, lost) = merge_and_compare::run(&tiny_models::dir(base), &adapter(name), &merged).unwrap();
        assert!(changed > 0.1 && lost < 1e-4, "{name}: {changed} changed, {lost} lost");
    }
}

#[test]
fn adapters_are_swapped_a_call_without_disturbing_another_thread() {
    let (first, second) = (adapter("llama/plain"), adapter("llama/all_linear"));
    let (alone, wrong) = hot_swap::run(&tiny_models::dir("llama"), [&first, &second]).unwrap();
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "{alone:?}");
    assert_eq!(wrong, 0);
}

#[test]
fn a_loop_of_ones_own_learns() {
    let losses = own_loop::run(&tiny_models::dir("llama"), 30).unwrap();
    assert!(losses[29] < losses[0] / 4.0, "{losses:?}");
}
