//! `lorakit bench` on the tiny model: every figure is there, and the steps it times are real ones.

use std::process::Command;

use crate::tiny_models;

fn bench(args: &[&str]) -> std::process::Output {
    let model = tiny_models::dir("llama");
    Command::new(env!("CARGO_BIN_EXE_lorakit"))
        .args(["bench", "train", "--model", model.to_str().unwrap(), "--compute", "f32"])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn every_figure_is_there_and_the_loss_falls() {
    let done = bench(&["--batch", "2", "--seq", "32", "--targets", "all-linear", "--rank", "4", "--steps", "6", "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    for figure in ["tok_s", "trained_tok_s", "ms_step", "ms_forward", "ms_backward", "ms_optimizer", "mfu", "gemm_peak_gflops"] {
        assert!(report[figure].as_f64().is_some_and(|v| v > 0.0), "{figure} in {report}");
    }
    let share = report["trained_tok_s"].as_f64().unwrap() / report["tok_s"].as_f64().unwrap();
    assert!((share - 0.5).abs() < 1e-6, "half of each row is trained, {share} was");
    let losses: Vec<f64> = report["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses.len() == 7 && losses[6] < losses[1], "{losses:?}");
}

#[test]
fn what_cannot_be_timed_is_one_error() {
    for (args, phrase) in [(["--trained", "0"], "share of a row"), (["--targets", "no_proj"], "matches no module")] {
        let done = bench(&args);
        assert_eq!(done.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&done.stderr).contains(phrase), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
